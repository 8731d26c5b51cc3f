"""The broker's keeper, started: the only process that stays root, from the moment it is executed until a link takes it over.

The engine's own interpreter without site-packages; start it before this process gives up its powers. It waits for its configuration.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from engine.config import Settings
from engine.errors import SandboxUnavailable
from engine.sandbox import packets

_ENGINE_ROOT = Path(__file__).resolve().parent.parent.parent
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from engine.sandbox.broker import main; main(int(sys.argv[2]))"
_NICE = 10
# What /var/runtime offers besides the bootstrap; msgpack becomes the bootstrap's private copy.
_SDK = ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six", "msgpack")


class Keeper:
    """One that runs. Raises SandboxUnavailable when it cannot be executed."""

    def __init__(self, settings: Settings, *, bootstrap_dir: Path | None = None) -> None:
        self._config = broker_config(settings, bootstrap_dir=bootstrap_dir)
        self._sock: socket.socket | None
        self._sock, theirs = packets.pair()
        try:
            self._process = spawn_broker(theirs)
        except OSError as e:
            self._sock.close()
            raise SandboxUnavailable(f"cannot start the sandbox broker: {e}") from e
        finally:
            theirs.close()

    def configure(self, *beside: int) -> None:
        """Tell it what to be; it starts. ``beside``: processes of the engine besides this one."""
        assert self._sock is not None  # noqa: S101 - it has just been started
        try:
            packets.send(self._sock, ["config", {**self._config, "beside": list(beside)}])
        except OSError as e:
            raise SandboxUnavailable(f"the sandbox broker does not start: {type(e).__name__} {e}") from e

    def take(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """The process and the socket to it, the caller's from now on."""
        sock, self._sock = self._sock, None
        assert sock is not None  # noqa: S101 - it is taken once
        return self._process, sock

    def let_go(self) -> None:
        """End it unless somebody has taken it."""
        if self._sock is not None:
            self._sock.close()
            self._process.wait()


def broker_config(
    settings: Settings, *, probe: bool = False, bootstrap_dir: Path | None = None
) -> dict[str, Any]:
    """What the broker is told first. Another ``bootstrap_dir`` than the engine's own brings everything it needs itself."""
    sdk = {}
    for name in _SDK if bootstrap_dir is None else ():
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            origin = Path(spec.origin)
            place = origin.parent if origin.name == "__init__.py" else origin
            sdk[name] = str(place)
            # Instrumentation asks for the versions of what it finds.
            sdk.update((found, str(place.parent / found)) for found in _metadata(place.parent, name))
    versions = [f"{name}={_version(name)}" for name in ("boto3", "botocore", "msgpack")]
    return {
        "level": settings.sandbox.value,
        "network": settings.network.value,
        "data_dir": str(settings.data_dir),
        "file_systems": {arn: [str(s.path), -1 if s.uid is None else s.uid, -1 if s.gid is None else s.gid] for arn, s in settings.file_systems.items()},
        "cache_dir": str(settings.cache_dir()),
        "mountpoint": str(settings.data_dir / "empty"),
        "engine_root": str(_ENGINE_ROOT),
        "bootstrap_dir": str(bootstrap_dir or _ENGINE_ROOT / "runtime_bootstrap"),
        "sdk": sdk,
        "sdk_version": " ".join(versions),
        "supervisor_pid": os.getpid(),
        "nice": _NICE,
        "probe": probe,
    }


def _metadata(folder: Path, name: str) -> list[str]:
    """The directory beside an installed package that says its version; not asked of importlib, which reads whole lists of files."""
    if name == "msgpack":
        return []
    start = f"{'python_dateutil' if name == 'dateutil' else name}-"
    return [entry for entry in os.listdir(folder) if entry.startswith(start) and entry.endswith(".dist-info")]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "?"


def spawn_broker(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Start the broker program on its end of the socket."""
    argv = [sys.executable, "-I", "-S", "-c", _BOOT, str(_ENGINE_ROOT), str(theirs.fileno())]
    return subprocess.Popen(  # noqa: S603 - the engine's own program
        argv, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
    )
