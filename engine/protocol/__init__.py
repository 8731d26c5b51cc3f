"""engine.protocol"""
