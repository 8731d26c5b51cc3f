"""Measurements: load generators, scenarios, peers and the report. ``python -m bench --help``."""
