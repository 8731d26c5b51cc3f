"""Composition root of the server: builds each part from the settings and hands it what it needs. Nothing else wires."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import secrets

import structlog
import uvloop

from engine import turns
from engine.auth.identity import root_of
from engine.auth.principals import Credential, KeyRing
from engine.aws import embedded
from engine.clock import SystemClock
from engine.config import AuthMode, Settings
from engine.sandbox.api import SandboxReport
from engine.sandbox.link import BrokerLink
from engine.start import Begun, control_command
from engine.supervisor.guard import Guard
from engine.supervisor.supervisor import Commands, Supervisor
from engine.supervisor.zygotes import Interpreter

log = structlog.get_logger("engine")

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def serve(settings: Settings, begun: Begun) -> int:
    """Run the engine until it is told to stop; the exit status.

    Raises SandboxUnavailable when the isolation level asked for cannot be had.
    """
    _tune()
    turns.short()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_main(settings, begun))


async def _main(settings: Settings, begun: Begun) -> int:
    loop = asyncio.get_running_loop()
    clock = SystemClock()
    port = begun.listener.getsockname()[1]
    function_key = (settings.account_id, secrets.token_hex(20), secrets.token_hex(16))
    if settings.auth is not AuthMode.OFF:
        function_key = (f"ASIA{secrets.token_hex(8).upper()}", function_key[1], function_key[2])
    runtimes = {name: Interpreter(*runtime) for name, runtime in begun.runtimes.items()}
    guard = _guard(loop, settings, function_key)
    commands = Commands(
        control=lambda: control_command(settings, port),
        embedded=lambda at, inside: embedded.command(
            settings,
            at,
            "" if guard is None else guard.token,
            f"http://{'127.0.0.1' if settings.host in ('0.0.0.0', 'localhost') else settings.host}:{port}",  # noqa: S104 - compared
            None if guard is None else function_key,
            inside,
        ),
        embedded_unavailable=embedded.available() if settings.aws_endpoint == "embedded" else None,
        control_begun=begun.control,
    )
    supervisor = Supervisor(
        loop,
        clock,
        settings,
        listeners=[begun.listener],
        runtimes=runtimes,
        commands=commands,
        guard=guard,
        function_key=function_key,
    )
    link = BrokerLink(loop, settings, supervisor, keeper=begun.keeper)
    try:
        report = await link.start()
        if begun.rights is not None:
            report.mechanisms["supervisor"] = begun.rights
            link.renounced = supervisor.fail
        for warning in risks(settings, report):
            log.warning(warning)
        supervisor.attach(link, report, lambda: {"broker": link.broker_pid} if link.broker_pid else {})
        gc.collect()
        gc.freeze()
        # An invocation makes no cycles and its objects live until the logs are written: the default thresholds would walk
        # thousands of live objects dozens of times a second (3 ms at p99) to find nothing.
        gc.set_threshold(100_000, 20, 50)
        return await supervisor.run(next(iter(runtimes)))
    finally:
        await link.close()


def risks(settings: Settings, report: SandboxReport) -> list[str]:
    """What the operator accepted, or has to live with here; said at every start."""
    found = []
    if settings.insecure and settings.auth is AuthMode.OFF:
        found.append(
            f"INSECURE: anybody who reaches {settings.host}:{settings.port} can run code here (insecure=true, auth=off); "
            "set auth=sigv4 and access_keys, or bind 127.0.0.1"
        )
    if report.level == "process":
        found.append(
            "NO ISOLATION: at sandbox level process, functions can read and change what the engine's user can; "
            "'lambda-engine doctor' says how to get a better level"
        )
    return found


def _guard(loop: asyncio.AbstractEventLoop, settings: Settings, function_key: tuple[str, str, str]) -> Guard | None:
    """Checks requests signed with the configured keys, with the engine's own, or with one of the embedded IAM's."""
    if settings.auth is AuthMode.OFF:
        return None
    secret = {k: v.get_secret_value() for k, v in settings.access_keys.items()}
    enforce = settings.auth is AuthMode.IAM
    ring = KeyRing.of_secrets(secret, settings.account_id, root_of if enforce else None)
    owner = root_of(settings.account_id) if enforce else None
    ring.put(Credential(function_key[0], function_key[1], settings.account_id, function_key[2], identity=owner))
    return Guard(
        loop,
        ring,
        token=secrets.token_hex(32),
        enforce=enforce,
        region=settings.region,
        engine_key=function_key[0],
    )


def _tune() -> None:
    """Malloc settings under which big reads do not return memory to the kernel on each request."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 256 * 1024 * 1024)
        libc.mallopt(M_TRIM_THRESHOLD, 256 * 1024 * 1024)
        libc.mallopt(M_TOP_PAD, 16 * 1024 * 1024)
