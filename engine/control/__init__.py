"""engine.control"""
