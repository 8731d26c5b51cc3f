"""The engine's own Unix socket, which its commands speak to."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.error
import urllib.request
from datetime import datetime
from typing import Any

from tests.framework.engine import Engine


class _Socket(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(120)
        self.sock.connect(self._path)


def ask(running: Engine, method: str, path: str, document: Any = None) -> tuple[int, Any]:
    """(status, the answer's JSON)."""
    connection = _Socket(str(running.run_dir() / "http.sock"))
    try:
        connection.request(method, path, None if document is None else json.dumps(document))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def advance(running: Engine, seconds: float) -> dict[str, Any]:
    """Put the engine's time forward."""
    status, answer = ask(running, "POST", "/_engine/time", {"advance_s": seconds})
    assert status == 200, answer
    return dict(answer)


def seconds_to(now: str, then: str) -> float:
    """Between two moments written as ``2026-01-31T12:00:00Z``."""
    return (datetime.fromisoformat(then) - datetime.fromisoformat(now)).total_seconds()


def through_the_port(running: Engine, path: str) -> int:
    """The status of a POST by anybody."""
    request = urllib.request.Request(running.url + path, data=b"{}", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        with e:
            return int(e.code)
