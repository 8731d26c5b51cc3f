"""The client's end of a connection as a value: bytes in, results out, no socket.

Both clients in ``engine.client`` and the load generator drive one of these per connection, so that the handshake and
its refusals exist once.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Final

from engine.errors import WireError
from engine.wire import messages as m
from engine.wire import shapes
from engine.wire.connection import CLIENT, CLIENT_CONNECTION, Order
from engine.wire.frames import FrameDecoder


class Refused(WireError):
    """The handshake ended in a no; the message says why and what to change. Trying again will not help."""


def proof(secret: str, nonce: str) -> str:
    """What shows a server that the client holds ``secret``: hex HMAC-SHA256 of the nonce's text under the secret's."""
    return hmac.new(secret.encode(), nonce.encode(), hashlib.sha256).hexdigest()


class ClientDialogue:
    """Handshake, then results.

    ``opening`` is to be sent at once. ``receive`` takes what arrived and returns the results in it; afterwards ``take_reply`` gives
    bytes to send, if any. ``is_open`` turns true when calls may be sent. With ``key`` (access key id, secret) the client waits for
    the server's challenge instead of speaking first. Raises Refused when the server declines, WireError when it breaks the protocol.
    """

    __slots__ = ("_decoder", "_key", "_order", "_reply", "about", "is_open")

    def __init__(self, key: tuple[str, str] | None = None) -> None:
        self._decoder = FrameDecoder()
        self._order = Order(CLIENT_CONNECTION, CLIENT)
        self._key = key
        self._reply = b""
        self.about: dict[str, Any] = {}
        self.is_open = False

    def opening(self) -> bytes:
        """The first bytes to send; empty when the server speaks first."""
        return b"" if self._key else self._hello({"role": "client"})

    def receive(self, data: bytes) -> list[m.Result]:
        frames = self._decoder.feed(data)
        if self.is_open:
            return [m.decode_result(body) for body in frames]
        results: list[m.Result] = []
        for body in frames:
            if self.is_open:
                results.append(m.decode_result(body))
            else:
                self._greeting(body)
        return results

    def take_reply(self) -> bytes:
        """What the last ``receive`` wants sent."""
        reply, self._reply = self._reply, b""
        return reply

    def _hello(self, about: dict[str, str]) -> bytes:
        self._order.sent(m.CLIENT_HELLO)
        return m.pack(m.CLIENT_HELLO, m.VERSION, about)

    def _greeting(self, body: bytes) -> None:
        _, version, about = shapes.read(body, m.SERVER_HELLO)
        self._order.received(m.SERVER_HELLO)
        if "error" in about:
            raise Refused(f"the server refused the connection: {about['error']}")
        if version != m.VERSION:
            raise Refused(f"the server speaks protocol version {version}, this client {m.VERSION}: use matching releases")
        nonce = about.get("nonce")
        if nonce is not None:
            self._prove(nonce)
        elif self._order.state == "challenged":
            raise WireError("the server spoke first without a nonce")
        else:
            self.about = about
            self.is_open = True

    def _prove(self, nonce: object) -> None:
        if type(nonce) is not str or len(nonce) < _SHORTEST_NONCE:
            raise WireError("the server's nonce is not usable")
        if self._key is None:
            raise Refused("the server wants a signed connection: give access_key and secret_key")
        access_key, secret = self._key
        self._reply = self._hello({"role": "client", "access_key": access_key, "token": proof(secret, nonce)})


_SHORTEST_NONCE: Final = 16
