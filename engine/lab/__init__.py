"""engine.lab"""
