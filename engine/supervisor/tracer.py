"""Tracing of functions whose TracingConfig is Active: the trace header each invocation gets, and segments for an X-Ray daemon.

Everything here is for those functions only; the others' invocations pass it by. Without a daemon configured the header says all the
same whether an invocation is sampled, and the segments are not made.
"""

from __future__ import annotations

import contextlib
import random
import socket

from engine.arn import function_arn
from engine.clock import Clock
from engine.core import tracing
from engine.core.invocation import Outcome
from engine.errors import ConfigurationError
from engine.supervisor.request import Request

# Sampled invocations under way; one that was refused after it got its header is never heard of again.
MAX_OPEN = 10_000
MAX_PORT = 65_535


class Tracer:
    """For one event loop. ``daemon``: where an X-Ray daemon takes segments, host and port of UDP; None: nowhere."""

    def __init__(self, clock: Clock, region: str, daemon: str | None) -> None:
        """Raises ConfigurationError when the daemon's host is not known."""
        self.daemon = daemon
        self._clock = clock
        self._region = region
        self._sampler = tracing.Sampler()
        self._random = random.Random(random.SystemRandom().getrandbits(64))  # noqa: S311 - ids are names, not secrets
        # By the id of the function's segment: that of the service's, and of whoever called.
        self._open: dict[str, tuple[str, str]] = {}
        self._socket = None if daemon is None else _connected(daemon)

    def begin(self, trace: bytes | None) -> bytes:
        """The header that the function gets for the one that came with the invocation, if one did."""
        given = tracing.read("" if trace is None else trace.decode("latin-1"))
        epoch_s = self._clock.epoch_ms() // 1000
        sampled = self._sampler.decide(epoch_s, self._random.random()) if given.sampled is None else given.sampled
        root = given.root or f"1-{epoch_s:08x}-{self._random.getrandbits(96):024x}"
        own, service = f"{self._random.getrandbits(64):016x}", f"{self._random.getrandbits(64):016x}"
        if sampled and self._socket is not None:
            if len(self._open) >= MAX_OPEN:
                self._open.clear()
            self._open[own] = (service, given.parent)
        return tracing.Header(root, own, sampled, given.more).text().encode("latin-1", "replace")[:255]

    def end(self, request: Request, outcome: Outcome, init_ms: float | None) -> None:
        """An invocation has been answered; ``init_ms``: what its instance's init took, if it was the first there."""
        if self._socket is None:
            return
        header = tracing.read(request.trace_id.decode("latin-1"))
        ids = self._open.pop(header.parent, None)
        if ids is None:
            return
        # Monotonic times as those of the wall clock.
        shift_s = self._clock.epoch_ms() / 1000 - self._clock.monotonic()
        started_s = request.started_s + shift_s
        config = request.version.config
        told = tracing.Told(
            header,
            service_id=ids[0],
            caller_id=ids[1],
            request_id=request.request_id,
            account=config.account,
            name=config.name,
            function_arn=function_arn(self._region, config.account, config.name, None),
            received_s=request.received_s + shift_s,
            started_s=started_s,
            ended_s=(request.settled_s or request.started_s) + shift_s,
            initialised_s=None if init_ms is None else (started_s - init_ms / 1000, started_s),
            error_type=outcome.error_type,
        )
        for segment in tracing.segments(told):
            # As any client of the daemon's: what it does not take is lost.
            with contextlib.suppress(OSError):
                self._socket.send(tracing.datagram(segment))


def _connected(daemon: str) -> socket.socket:
    host, _, port = daemon.rpartition(":")
    try:
        if not 0 < int(port) <= MAX_PORT:
            raise ValueError(f"there is no port {port}")
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        sock.connect(address)
    except (OSError, ValueError) as e:
        raise ConfigurationError(f"xray_daemon {daemon} cannot be used: {e}") from e
    return sock
