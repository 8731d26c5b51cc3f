"""A registry of container images on loopback: a real HTTP server with tokens and redirects, and what may go wrong with one."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.framework import images


class _Handler(BaseHTTPRequestHandler):
    """``blobs``, ``tags``, ``password``, ``gate``, ``refused`` and what came are attributes of the server."""

    server: Any

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server, path = self.server, self.path
        server.came.append((path, self.headers.get("Authorization")))
        if path.startswith("/token"):
            asked = self.headers.get("Authorization") or ""
            right = not server.password or asked == "Basic " + base64.b64encode(f"me:{server.password}".encode()).decode()
            self._send(200 if right else 401, b'{"token": "T"}', "application/json")
        elif path.startswith("/elsewhere/"):
            server.gate.wait(60)
            self._send(200, server.blobs[path[11:]], "application/octet-stream")
        elif self.headers.get("Authorization") != "Bearer T":
            realm = f'Bearer realm="{server.url}/token",service="registry",scope="repository:team/app:pull"'
            self._send(401, b"", "text/plain", **{"WWW-Authenticate": realm})
        elif path.startswith("/v2/team/app/manifests/"):
            which = path.rpartition("/")[2]
            data = server.blobs.get(server.tags.get(which, which))
            status = 404 if data is None else server.refused.get("manifests", 200)
            self._send(status, data or b"", images.INDEX if which == "many" else images.MANIFEST)
        elif "blobs" in server.refused:
            self._send(server.refused["blobs"], b"", "text/plain")
        else:
            # Blobs lie somewhere else, as they do at all big registries.
            self._send(307, b"", "text/plain", Location=f"{server.url}/elsewhere/{path.rpartition('/')[2]}")

    def _send(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)


@contextlib.contextmanager
def registry(blobs: dict[str, bytes], tags: dict[str, str]) -> Iterator[Any]:
    """``team/app`` with these blobs by digest and manifests by tag. While ``gate`` is not set blobs do not come; ``refused`` has statuses."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.came, server.password, server.refused = [], "", {}
    server.blobs, server.tags = dict(blobs), dict(tags)
    server.gate = threading.Event()
    server.gate.set()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
