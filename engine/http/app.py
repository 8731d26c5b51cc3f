"""The control plane's HTTP application: a plain ASGI callable.

A request passes, in this order: mounted applications and administration paths; the model's routes (404 for none);
the body, cut off at the operation's limit (413); the signature, when authentication is on; the operation's handler.
Every answer carries ``x-amzn-RequestId``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from engine import ids
from engine.auth.principals import Principal
from engine.auth.sigv4 import Verifier, claimed_access_key, credential_account
from engine.config import AuthMode, Settings
from engine.errors import AwsError, ConfigurationError, UnrecognizedClient
from engine.http.admin import Admin, BytecodeSource, CodeSource, MetricsSource
from engine.http.operations import Authorize, Operations, Registry, RequestContext, body_limit, too_large
from engine.http.regions import Regions
from engine.protocol import faults
from engine.protocol.model import load
from engine.protocol.serialize import Response

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
# (access key or None: none yet, the request's headers) -> whether the key is known now.
Learn = Callable[[str | None, Mapping[str, str]], Awaitable[bool]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

LAMBDA = b"lambda"
PEER_HEADER = "x-lambda-engine-peer"
THREADS = 8
DISCARDED = 64 << 20
_log = logging.getLogger(__name__)


def build_app(
    registry: Registry,
    settings: Settings,
    verifier: Verifier | None = None,
    *,
    learn: Learn | None = None,
    authorize: Authorize | None = None,
    metrics: MetricsSource | None = None,
    code: CodeSource | None = None,
    bytecode: BytecodeSource | None = None,
    runtimes: Callable[[], Mapping[str, str]] = dict,
    extra_routes: Mapping[str, ASGIApp] | None = None,
    now: Callable[[], float] = time.time,
    threads: int = THREADS,
) -> App:
    """The application uvicorn serves (``lifespan`` may be on or off; call ``App.close`` when it is off).

    ``registry``: ``Registry(load())`` of this package and ``engine.protocol.model``, filled by the control plane's modules.
    ``verifier``: needed with ``settings.auth`` = sigv4, ignored otherwise.
    ``learn``: asked for an access key that the verifier does not know, with the request's headers; whether to verify once more.
    ``authorize``: with ``settings.auth`` = iam, called with the request's context and members before its handler; raises AccessDenied.
    ``metrics``: ``(accept header) -> (body, content type)``, sync (run in the thread pool) or async, for ``GET /metrics``.
    ``code``: ``(token) -> path | bytes | None``, sync (thread pool) or async, for ``GET /_engine/code/<token>``; the token
    itself is the permission, as in a presigned URL, so no signature is asked for.
    ``bytecode``: ``(<sha256>/<runtime>) -> figures | None``, for ``GET /_engine/bytecode/<sha256>/<runtime>``.
    ``runtimes``: those that can be chosen and their versions, for ``GET /_engine/version``.
    ``extra_routes``: ASGI applications by path prefix (``{"/console": app}``); the longest matching prefix wins, the path is not
    rewritten, and they do their own authentication.
    ``now``: epoch seconds, for signatures. ``threads``: size of the pool in which blocking handlers run.
    Raises ConfigurationError when authentication is on and there is no verifier.
    """
    if settings.auth is not AuthMode.OFF and verifier is None:
        raise ConfigurationError(f"auth={settings.auth} needs a verifier with the access keys")
    if settings.auth is AuthMode.IAM and authorize is None:
        raise ConfigurationError("auth=iam needs somebody who decides")
    checking = verifier if settings.auth is not AuthMode.OFF else None
    return App(registry, settings, checking, learn, authorize, (metrics, code, bytecode, runtimes), dict(extra_routes or {}), now, threads)


class App:
    """The ASGI callable ``build_app`` makes."""

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        verifier: Verifier | None,
        learn: Learn | None,
        authorize: Authorize | None,
        shown: tuple[MetricsSource | None, CodeSource | None, BytecodeSource | None, Callable[[], Mapping[str, str]]],
        mounts: dict[str, ASGIApp],
        now: Callable[[], float],
        threads: int,
    ) -> None:
        self._settings = settings
        self._regions = Regions(settings.region)
        self._verifier = verifier
        self._learn = learn
        self._now = now
        self._mounts = sorted(mounts.items(), key=lambda item: -len(item[0]))
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="operation")
        self._operations = Operations(load(), registry, self._executor, authorize)
        self._admin = Admin(*shown, self._executor)

    def close(self) -> None:
        """Wait for running blocking handlers and end the thread pool."""
        self._executor.shutdown(wait=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        path = _raw_path(scope)
        for prefix, app in self._mounts:
            if path == prefix or path.startswith(prefix.rstrip("/") + "/"):
                await app(scope, receive, send)
                return
        if scope["type"] != "http":
            raise RuntimeError(f"this application does not speak {scope['type']}")
        request_id = ids.request_id()
        if self._admin.owns(path):
            await self._admin.serve(scope["method"], path, _headers(scope), request_id, send)
            return
        response = await self._answer(scope, path, request_id, receive)
        if response is not None:
            await send_response(send, response, request_id)

    async def _answer(self, scope: Scope, path: str, request_id: str, receive: Receive) -> Response | None:
        """The answer of the API, or None when the client went away while sending."""
        query = scope["query_string"].decode("latin-1")
        try:
            match = self._operations.match(scope["method"], path, query)
            headers = _headers(scope)
            body = await _read_body(match.operation, headers.get("content-length"), receive)
            if body is None:
                return None
            principal = await self._principal(scope, path, query, body, headers)
        except AwsError as e:
            return faults.render(e)
        self._regions.met(headers, query)
        context = RequestContext(
            operation=match.operation,
            request_id=request_id,
            account=principal.account,
            region=self._settings.region,
            principal=principal,
            method=scope["method"],
            raw_path=path,
            raw_query=query,
            headers=headers,
            body=body,
            peer=headers.get(PEER_HEADER, ""),
        )
        return await self._operations.answer(match, context)

    async def _principal(self, scope: Scope, path: str, query: str, body: bytes, named: Mapping[str, str]) -> Principal:
        headers, verifier = scope["headers"], self._verifier
        if verifier is None:
            account = credential_account(headers, self._settings.account_id, query)
            return Principal(claimed_access_key(headers, query), account, verified=False)
        if self._learn is not None:
            await self._learn(None, named)
        try:
            return verifier.verify(scope["method"], path, query, headers, body, self._now(), LAMBDA)
        except UnrecognizedClient as e:
            if e.access_key is None or self._learn is None or not await self._learn(e.access_key, named):
                raise
        return verifier.verify(scope["method"], path, query, headers, body, self._now(), LAMBDA)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


async def send_response(send: Send, response: Response, request_id: str) -> None:
    """Send a complete answer with its length and request id."""
    headers = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in response.headers]
    headers.append((b"x-amzn-RequestId", request_id.encode("latin-1")))
    if response.body or response.status not in (204, 304):
        headers.append((b"Content-Length", str(len(response.body)).encode("latin-1")))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


async def _read_body(operation: str, content_length: str | None, receive: Receive) -> bytes | None:
    """The whole body, or None when the client disconnected. Raises RequestEntityTooLarge past the operation's limit.

    What is too large is first read to its end and thrown away, up to ``DISCARDED`` bytes more: a client that is answered while
    it still sends sees a broken connection in place of the answer.
    """
    limit = body_limit(operation)
    if content_length is not None and content_length.isdigit() and int(content_length) > limit + DISCARDED:
        raise too_large(operation)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        else:
            chunks.clear()
        more = message.get("more_body", False)
        if size > limit and (not more or size > limit + DISCARDED):
            raise too_large(operation)
        if not more:
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _raw_path(scope: Scope) -> str:
    """The path as received, percent-encoding kept (``raw_path`` never has the query)."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode("utf-8")
    return raw.decode("latin-1")


def _headers(scope: Scope) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers
