"""The data plane: one process, one loop, the only writer of instance state."""
