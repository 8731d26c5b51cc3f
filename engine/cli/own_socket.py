"""What only the engine's own user may ask of it: over its Unix socket, which nobody else can open."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.output import CliError
from engine.cli.session import settings_of

TIMEOUT_S = 60.0
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="The running engine's data directory, when it is not the configured one.")]


class _Socket(http.client.HTTPConnection):
    """HTTP over the engine's own Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("engine", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(
    data_dir: Path | None, method: str, path: str, body: bytes | Iterable[bytes] | None = None, *, timeout_s: float = TIMEOUT_S
) -> dict[str, Any]:
    """The engine's answer. Raises CliError with its reason, or when there is no engine."""
    settings = settings_of(data_dir=data_dir)
    connection = _Socket(settings.run_dir() / "http.sock", timeout_s)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        found: dict[str, Any] = json.loads(answer.read())
    except PermissionError as e:
        raise CliError(f"only the user who runs the engine of {settings.data_dir} may do this") from e
    except (OSError, ValueError, http.client.HTTPException) as e:
        raise CliError(f"no engine runs on {settings.data_dir}: name its directory with --data-dir ({e})") from e
    finally:
        connection.close()
    if answer.status != 200:
        raise CliError(str(found.get("message", found)))
    return found
