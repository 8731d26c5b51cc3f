"""The paths beside the API: ``/metrics``, ``/_engine/version``, ``/_engine/code/<token>`` and ``/_engine/bytecode/<sha256>/<runtime>``."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

import engine
from engine.protocol.serialize import JSON

MetricsSource = Callable[[str], tuple[bytes, str] | Awaitable[tuple[bytes, str]]]
Code = Path | bytes | None
CodeSource = Callable[[str], Code | Awaitable[Code]]
BytecodeSource = Callable[[str], Mapping[str, int] | None]
_Send = Callable[[dict[str, Any]], Awaitable[None]]

VERSION_PATH = "/_engine/version"
CODE_PREFIX = "/_engine/code/"
BYTECODE_PREFIX = "/_engine/bytecode/"
METRICS_PATH = "/metrics"
CHUNK = 1 << 18
_log = logging.getLogger(__name__)


class Admin:
    """Serves the administration paths; a path under ``/_engine/`` that nobody serves is 404 in JSON."""

    def __init__(
        self,
        metrics: MetricsSource | None,
        code: CodeSource | None,
        bytecode: BytecodeSource | None,
        runtimes: Callable[[], Mapping[str, str]],
        executor: Executor,
    ) -> None:
        self._metrics = metrics
        self._code = code
        self._bytecode = bytecode
        self._runtimes = runtimes
        self._executor = executor

    @staticmethod
    def owns(path: str) -> bool:
        """Whether ``path`` is one of these and not the API's."""
        return path == METRICS_PATH or path.startswith("/_engine/")

    async def serve(self, method: str, path: str, headers: Mapping[str, str], request_id: str, send: Any) -> None:
        """Answer one request. A source that raises is logged and answered with 500."""
        reply = _Reply(send, request_id, method == "HEAD")
        if method not in ("GET", "HEAD"):
            await reply.json(405, {"message": f"{method} is not allowed on {path}"}, [(b"Allow", b"GET, HEAD")])
            return
        try:
            if path == METRICS_PATH and self._metrics is not None:
                body, content_type = await self._run(self._metrics, headers.get("accept", ""))
                await reply.whole(200, body, content_type)
            elif path == VERSION_PATH:
                await reply.json(200, {"name": "lambda-engine", "version": engine.__version__, "runtimes": dict(self._runtimes())})
            elif path.startswith(CODE_PREFIX) and self._code is not None:
                await self._send_code(path[len(CODE_PREFIX) :], reply)
            elif path.startswith(BYTECODE_PREFIX) and self._bytecode is not None:
                found = await self._run(self._bytecode, path[len(BYTECODE_PREFIX) :])
                await reply.json(*((404, {"message": f"Not found: {path}"}) if found is None else (200, dict(found))))
            else:
                await reply.json(404, {"message": f"Not found: {path}"})
        except Exception:  # noqa: BLE001 - whatever a source raises is logged and becomes the 500
            _log.exception("%s %s failed, request id %s", method, path, request_id)
            if not reply.started:
                await reply.json(500, {"message": "The engine could not answer; its log says why.", "requestId": request_id})

    async def _send_code(self, token: str, reply: _Reply) -> None:
        assert self._code is not None  # noqa: S101 - the caller checked
        found = await self._run(self._code, token)
        if found is None:
            await reply.json(404, {"message": "Not found: no code is offered under this token, or it has expired."})
        elif isinstance(found, bytes):
            await reply.whole(200, found, "application/zip")
        else:
            await self._send_file(found, reply)

    async def _send_file(self, path: Path, reply: _Reply) -> None:
        loop = asyncio.get_running_loop()
        file: BinaryIO = await loop.run_in_executor(self._executor, path.open, "rb")
        try:
            size = await loop.run_in_executor(self._executor, lambda: path.stat().st_size)
            await reply.start(200, "application/zip", size)
            left = 0 if reply.head else size
            while left > 0:
                chunk = await loop.run_in_executor(self._executor, file.read, min(CHUNK, left))
                if not chunk:
                    raise EOFError(f"{path} shrank while it was sent")
                left -= len(chunk)
                await reply.part(chunk)
            await reply.end()
        finally:
            file.close()

    async def _run(self, source: Callable[[str], Any], argument: str) -> Any:
        if inspect.iscoroutinefunction(source):
            return await source(argument)
        outcome = await asyncio.get_running_loop().run_in_executor(self._executor, source, argument)
        return await outcome if inspect.isawaitable(outcome) else outcome


class _Reply:
    """One answer being sent."""

    def __init__(self, send: _Send, request_id: str, head: bool) -> None:
        self._send = send
        self._request_id = request_id
        self.head = head
        self.started = False

    async def json(self, status: int, document: dict[str, Any], extra: list[tuple[bytes, bytes]] | None = None) -> None:
        await self.whole(status, msgspec.json.encode(document), JSON, extra)

    async def whole(self, status: int, body: bytes, content_type: str, extra: list[tuple[bytes, bytes]] | None = None) -> None:
        await self.start(status, content_type, len(body), extra)
        if not self.head:
            await self.part(body)
        await self.end()

    async def start(self, status: int, content_type: str, size: int, extra: list[tuple[bytes, bytes]] | None = None) -> None:
        headers = [
            (b"Content-Type", content_type.encode("latin-1")),
            (b"Content-Length", str(size).encode("latin-1")),
            (b"x-amzn-RequestId", self._request_id.encode("latin-1")),
            *(extra or []),
        ]
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def part(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})
