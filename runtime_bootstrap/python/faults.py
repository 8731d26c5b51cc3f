"""The failures that the runtime itself names."""

from __future__ import annotations

from typing import Optional


class Fault(Exception):
    """``error_type`` is AWS's name for what went wrong, ``trace`` the stack trace to report with it."""

    def __init__(self, error_type: str, message: str, trace: "Optional[list[str]]" = None) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.message = message
        self.trace = trace or []
