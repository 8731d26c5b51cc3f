"""Lambda Engine: AWS Lambda on one machine, without Docker."""

__version__ = "0.1.0"
