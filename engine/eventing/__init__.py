"""engine.eventing"""
