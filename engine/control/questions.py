"""What the supervisor asks of the control plane over HTTP: with the secret that only they know, in JSON, answered in JSON."""

from __future__ import annotations

import hmac
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from engine.control.inside import Receive, Send, read_body, reply, reply_json
from engine.control.link import Hello
from engine.errors import AwsError

TOKEN = b"x-lambda-engine-token"
MAX_QUESTION = 64 * 1024


class QuestionEndpoint(ABC):
    """ASGI. ``hello`` gives what the supervisor said last, the secret among it. Whoever does not know that finds nothing here."""

    def __init__(self, hello: Callable[[], Awaitable[Hello]]) -> None:
        self._hello = hello

    @abstractmethod
    async def answer(self, asked: dict[str, Any], hello: Hello) -> tuple[int, Any]:
        """Status and document. An AwsError that it raises is answered with its status and message."""

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"this application does not speak {scope['type']}")
        try:
            hello = await self._hello()
            if not hmac.compare_digest(dict(scope["headers"]).get(TOKEN, b""), hello.function_key[2].encode()):
                await reply_json(send, 404, {"message": "Not found"})
                return
            status, document = await self.answer(json.loads(await read_body(receive, MAX_QUESTION)), hello)
        except AwsError as e:
            status, document = e.status, {"message": e.message}
        await reply(send, status, msgspec.json.encode(document), b"application/json")
