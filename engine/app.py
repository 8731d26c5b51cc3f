"""Composition root of the server: builds each part from the settings and hands it what it needs. Nothing else wires."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import resource
import secrets
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import structlog
import uvloop
from pydantic import BaseModel, SecretStr

from engine.auth.identity import root_of
from engine.auth.principals import Credential, KeyRing
from engine.aws import embedded
from engine.clock import SystemClock
from engine.config import ENV_PREFIX, AuthMode, Settings
from engine.core.runtimes import CUSTOM
from engine.data_dir import held
from engine.errors import ConfigurationError
from engine.sandbox import toolchains
from engine.sandbox.api import SandboxReport
from engine.sandbox.interpreters import discover
from engine.sandbox.link import BrokerLink
from engine.sandbox.renounce import renounce
from engine.supervisor.guard import Guard
from engine.supervisor.supervisor import Commands, Supervisor
from engine.supervisor.zygotes import Interpreter

# The engine waits for its imports, a tenth of which would go into looking for garbage among them; it turns that on again when it has loaded.
_CONTROL = "import gc; gc.disable(); from engine import control_app; raise SystemExit(control_app.main())"
log = structlog.get_logger("engine")

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def serve(settings: Settings) -> int:
    """Run the engine until it is told to stop; the exit status.

    Raises ConfigurationError when the port or the data directory is taken, SandboxUnavailable when the isolation level asked for
    cannot be had.
    """
    _tune()
    run_dir = settings.run_dir()
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    owners = {os.geteuid(), *(path.stat().st_uid for path in (settings.data_dir,) if path.exists())}
    if run_dir.is_symlink() or run_dir.stat().st_uid not in owners:
        raise ConfigurationError(f"{run_dir}, where the engine's sockets go, belongs to somebody else")
    with held(settings.data_dir), contextlib.closing(_bind(settings)) as listener, asyncio.Runner(
        loop_factory=uvloop.new_event_loop
    ) as runner:
        return runner.run(_main(settings, listener))


async def _main(settings: Settings, listener: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    clock = SystemClock()
    port = listener.getsockname()[1]
    function_key = (settings.account_id, secrets.token_hex(20), secrets.token_hex(16))
    if settings.auth is not AuthMode.OFF:
        function_key = (f"ASIA{secrets.token_hex(8).upper()}", function_key[1], function_key[2])
    pythons = {k: v for k, v in settings.runtimes.items() if k.startswith("python")}
    runtimes = {k: Interpreter(str(v.path), v.version, v.prefixes) for k, v in discover(pythons).items()}
    own = f"python3.{sys.version_info.minor}"
    if not runtimes:
        raise ConfigurationError("no Python interpreter (3.9 to 3.14) was found: install one or set LAMBDA_ENGINE_RUNTIMES")
    guard = _guard(loop, settings, function_key)
    first = own if own in runtimes else next(iter(runtimes))
    # Custom runtimes need nothing of the host but the agent, which is Python.
    others = {k: Interpreter(v.path, v.version, v.shows) for k, v in toolchains.discover(settings.runtimes).items()}
    if settings.java_client is not None:
        jars = str(settings.java_client.expanduser().absolute())
        others |= {k: Interpreter(v.path, v.version, (*v.shows, jars), f"{jars}/*") for k, v in toolchains.java().items()}
    custom = {name: Interpreter("", name.partition(".")[2]) for name in CUSTOM}
    runtimes = {first: runtimes[first], **runtimes, **others, **custom}
    commands = Commands(
        control=lambda: ([sys.executable, "-c", _CONTROL], child_environment(settings, port)),
        embedded=lambda at, inside: embedded.command(
            settings,
            at,
            "" if guard is None else guard.token,
            f"http://{'127.0.0.1' if settings.host in ('0.0.0.0', 'localhost') else settings.host}:{port}",  # noqa: S104 - compared
            None if guard is None else function_key,
            inside,
        ),
        embedded_unavailable=embedded.available() if settings.aws_endpoint == "embedded" else None,
    )
    supervisor = Supervisor(
        loop,
        clock,
        settings,
        listeners=[listener],
        runtimes=runtimes,
        commands=commands,
        guard=guard,
        function_key=function_key,
    )
    link = BrokerLink(loop, settings, supervisor)
    try:
        report = await link.start()
        rights = _renounce(settings)
        if rights is not None:
            report.mechanisms["supervisor"] = rights
            link.renounced = supervisor.fail
        for warning in risks(settings, report):
            log.warning(warning)
        supervisor.attach(link, report, lambda: {"broker": link.broker_pid} if link.broker_pid else {})
        gc.collect()
        gc.freeze()
        # An invocation makes no cycles and its objects live until the logs are written: the default thresholds would walk
        # thousands of live objects dozens of times a second (3 ms at p99) to find nothing.
        gc.set_threshold(100_000, 20, 50)
        return await supervisor.run(first)
    finally:
        await link.close()


def _renounce(settings: Settings) -> str | None:
    """From here on only the broker and its keeper are root, if anybody was."""
    temporary = Path(tempfile.gettempdir())
    writable = [settings.run_dir(), temporary, Path("/dev/shm")]  # noqa: S108 - not used: allowed
    if settings.port_file is not None:
        settings.port_file.touch()
        writable.append(settings.port_file)
    owner = settings.data_dir.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        ours = [settings.run_dir(), *settings.run_dir().iterdir(), *settings.data_dir.glob("engine.*")]
        for path in (*ours, *([settings.port_file] if settings.port_file else [])):
            os.chown(path, owner.st_uid, owner.st_gid)
    return renounce(settings.data_dir, writable, [Path(sys.executable), Path(__file__).parent])


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


def child_environment(settings: Settings, port: int) -> dict[str, str]:
    """This process's environment with every effective setting in it, for a child that reads the same class."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(ENV_PREFIX)}
    for name in type(settings).model_fields:
        value: Any = getattr(settings, name)
        if value is None:
            continue
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if isinstance(value, dict):
            value = json.dumps({k: _plain(v) for k, v in value.items()})
        env[f"{ENV_PREFIX}{name.upper()}"] = str(value)
    env[f"{ENV_PREFIX}PORT"] = str(port)
    return env


def _plain(value: Any) -> Any:
    """A member of a setting as JSON has it."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return value.model_dump() if isinstance(value, BaseModel) else str(value)


def _bind(settings: Settings) -> socket.socket:
    """The HTTP port. Raises ConfigurationError naming it when it is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, settings.port))
        sock.listen(1024)
    except OSError as e:
        sock.close()
        raise ConfigurationError(
            f"cannot listen on {settings.host}:{settings.port}: {e.strerror}. Is another engine running? Set --port."
        ) from e
    return sock


def _tune() -> None:
    """Room for descriptors, and malloc settings under which big reads do not return memory to the kernel on each request."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 256 * 1024 * 1024)
        libc.mallopt(M_TRIM_THRESHOLD, 256 * 1024 * 1024)
        libc.mallopt(M_TOP_PAD, 16 * 1024 * 1024)
