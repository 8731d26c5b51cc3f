"""The first moments of an engine: what takes root's powers, then what can go on beside the supervisor's own imports.

The order matters. The port, the lock and the interpreters come first. The broker is started, for nobody else stays root; then this process
gives root's powers up, and the control plane is started within the fences that makes for both. The two get ready while this process
imports the rest of itself, which takes as long as they do.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, SecretStr

from engine.config import ENV_PREFIX, Settings
from engine.core.runtimes import CUSTOM
from engine.data_dir import held, make
from engine.errors import ConfigurationError
from engine.sandbox import descriptors, toolchains
from engine.sandbox.interpreters import discover
from engine.sandbox.keeper import Keeper
from engine.sandbox.renounce import renounce

# The engine waits for its imports, a tenth of which would go into looking for garbage among them; it turns that on again when it has loaded.
# On a busy machine they take many seconds: whose child it is it asks before, or it would outlive an engine that was killed by as much.
_CONTROL = (
    "import gc, sys; gc.disable(); from engine import parent; parent.end_with(int(sys.argv[1])) or sys.exit(0); "
    "from engine import control_app; raise SystemExit(control_app.main())"
)
INTERPRETERS = "interpreters.json"


class Runtime(NamedTuple):
    """An installed runtime; the members are those of the supervisor's ``Interpreter``."""

    path: str
    version: str
    shows: tuple[str, ...] = ()
    client: str = ""


class Begun(NamedTuple):
    """What stands already. ``rights``: what the supervisor still may, None when it was not root."""

    listener: socket.socket
    runtimes: dict[str, Runtime]
    keeper: Keeper
    control: subprocess.Popen[bytes]
    rights: str | None


@contextlib.contextmanager
def begun(settings: Settings) -> Iterator[Begun]:
    """Begin; what nobody has taken over ends with the block.

    Raises ConfigurationError when the port or the data directory is taken or not to be had, SandboxUnavailable when the broker cannot be
    executed.
    """
    make(settings.data_dir)
    run_dir = settings.run_dir()
    try:
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as e:
        raise ConfigurationError(f"cannot make {run_dir}, where the engine's sockets go: {e.strerror}. Set --data-dir.") from e
    owners = {os.geteuid(), *(path.stat().st_uid for path in (settings.data_dir,) if path.exists())}
    if run_dir.is_symlink() or run_dir.stat().st_uid not in owners:
        raise ConfigurationError(f"{run_dir}, where the engine's sockets go, belongs to somebody else")
    descriptors.raise_limit()
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(settings.data_dir))
        listener = stack.enter_context(contextlib.closing(_bind(settings)))
        runtimes = _runtimes(settings)
        keeper = Keeper(settings)
        stack.callback(keeper.let_go)
        rights = _renounce(settings)
        argv, env = control_command(settings, listener.getsockname()[1])
        control = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL)  # noqa: S603 - our own program
        stack.callback(_end, control)
        keeper.configure(control.pid)
        yield Begun(listener, runtimes, keeper, control, rights)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        process.wait()


def _runtimes(settings: Settings) -> dict[str, Runtime]:
    """What is installed here, the one that is prepared for first. Raises ConfigurationError without any Python."""
    pythons = {k: v for k, v in settings.runtimes.items() if k.startswith("python")}
    runtimes = {k: Runtime(str(v.path), v.version, v.prefixes) for k, v in discover(pythons, settings.cache_dir() / INTERPRETERS).items()}
    own = f"python3.{sys.version_info.minor}"
    if not runtimes:
        raise ConfigurationError("no Python interpreter (3.9 to 3.14) was found: install one or set LAMBDA_ENGINE_RUNTIMES")
    first = own if own in runtimes else next(iter(runtimes))
    # Custom runtimes need nothing of the host but the agent, which is Python.
    others = {k: Runtime(v.path, v.version, v.shows) for k, v in toolchains.discover(settings.runtimes).items()}
    if settings.java_client is not None:
        jars = str(settings.java_client.expanduser().absolute())
        if not any(Path(jars).glob("*.jar")):
            raise ConfigurationError(f"java_client: there are no jars in {jars}")
        others |= {k: Runtime(v.path, v.version, (*v.shows, jars), f"{jars}/*") for k, v in toolchains.java().items()}
    for name, path in settings.runtimes.items():
        if name not in runtimes and name not in others:
            raise ConfigurationError(f"runtimes: {path} is not {name}, or does not run" if path.exists() else f"runtimes: {name}: {path} does not exist")
    custom = {name: Runtime("", name.partition(".")[2]) for name in CUSTOM}
    return {first: runtimes[first], **runtimes, **others, **custom}


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


def control_command(settings: Settings, port: int) -> tuple[list[str], dict[str, str]]:
    """How a control plane is started, as this process's: it is told whose, since this one may be gone before it can ask."""
    return [sys.executable, "-c", _CONTROL, str(os.getpid())], child_environment(settings, port)


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
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


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
