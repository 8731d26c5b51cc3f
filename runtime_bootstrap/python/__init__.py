"""The Python runtime: loads a handler and serves its events over frames."""
