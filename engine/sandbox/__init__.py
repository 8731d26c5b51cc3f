"""engine.sandbox"""
