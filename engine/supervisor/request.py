"""An invocation as the shell carries it: what to run, whom to answer, where its log goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from engine.core.invocation import Invocation, Outcome
from engine.errors import AwsError

if TYPE_CHECKING:
    from engine.supervisor.catalogue import Version


class ReplyTo(Protocol):
    """Who asked. Exactly one of the two is called, once."""

    def answered(self, request: Request, outcome: Outcome) -> None: ...

    def failed(self, request: Request, error: AwsError) -> None: ...


class Request(Invocation):
    """``started_ms`` is ``started_s`` on the wall clock. ``middle`` is the encoded part of INVOKE between deadline and payload; ``tail`` collects log lines when
    asked for; ``start_logged`` says whether START is in the log already; ``provisioned`` that it holds no on-demand lease.

    The constructor sets everything itself instead of calling its base: it runs once per invocation.
    """

    __slots__ = ("middle", "provisioned", "reply_to", "start_logged", "started_ms", "tail", "trace_id", "version")

    def __init__(
        self,
        request_id: str,
        payload: bytes,
        received_s: float,
        received_ms: int,
        version: Version,
        middle: bytes,
        trace_id: bytes,
        reply_to: ReplyTo,
        *,
        want_tail: bool,
    ) -> None:
        self.request_id = request_id
        self.payload = payload
        self.received_s = received_s
        self.started_s = received_s
        self.settled_s = None
        self.outcome = None
        self.version = version
        self.middle = middle
        self.trace_id = trace_id
        self.reply_to = reply_to
        self.tail: list[str] | None = [] if want_tail else None
        self.started_ms = received_ms
        self.start_logged = False
        self.provisioned = False

    def log_tail(self) -> bytes | None:
        """The last 4 KB of this invocation's log, or None when it was not asked for."""
        if self.tail is None:
            return None
        return "".join(f"{line}\n" for line in self.tail).encode("utf-8", "replace")[-4096:]
