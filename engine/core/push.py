"""Events that other services push to functions, as they travel from the embedded AWS to the control plane. Pure."""

from __future__ import annotations

import msgspec

PATH = "/_engine/push"
MAX_BATCH = 256


class Push(msgspec.Struct, frozen=True, array_like=True):
    """One event for a function.

    ``request_id``: the invocation's; an event whose id is known already is not taken again. ``principal``: the service that pushes
    (``s3.amazonaws.com``), whose permission in the function's policy is checked for the source; several separated by a blank: one will do; empty for a
    caller whose own rights were checked. ``payload`` None only asks whether an event would be taken. ``trace``: an ``X-Amzn-Trace-Id``.
    """

    request_id: str
    function: str
    principal: str
    source_arn: str
    source_account: str
    payload: bytes | None
    trace: str | None


class Verdict(msgspec.Struct, frozen=True, array_like=True):
    """What became of one. ``code`` is empty for an accepted event, else an AWS error code."""

    code: str
    message: str

    @property
    def accepted(self) -> bool:
        return not self.code
