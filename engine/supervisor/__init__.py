"""engine.supervisor"""
