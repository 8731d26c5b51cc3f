"""What a function's owner wants of its asynchronous invocations.

Source: docs.aws.amazon.com/lambda/latest/dg/invocation-async-configuring.html and invocation-async-retain-records.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

MAX_RETRIES = 2
MAX_AGE_MS = 6 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Policy:
    """For one qualifier of a function; the defaults are AWS's.

    ``on_success``, ``on_failure`` and ``dead_letter`` are ARNs. ``role`` is the execution role, with whose rights records are sent.
    ``closed``: no concurrency is left to the function (reserved 0), so that nothing is even tried.
    """

    max_retries: int = MAX_RETRIES
    max_age_ms: int = MAX_AGE_MS
    on_success: str | None = None
    on_failure: str | None = None
    dead_letter: str | None = None
    role: str = ""
    closed: bool = False


DEFAULT = Policy()


class Policies(Protocol):
    """Knows the policies; in memory."""

    def policy(self, account: str, function: str, qualifier: str | None) -> Policy | None:
        """None when there is no such function."""
