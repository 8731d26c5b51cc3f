"""Pollers of event sources: what an event source mapping does, in a process of their own."""
