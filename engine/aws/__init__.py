"""engine.aws"""
