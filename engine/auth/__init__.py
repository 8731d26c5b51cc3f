"""engine.auth"""
