"""The rules of the engine as values and state: no I/O, no clock, no threads."""
