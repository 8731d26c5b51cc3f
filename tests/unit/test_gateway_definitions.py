"""When definitions are asked for and when they are kept; which API an address means."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from engine.supervisor.exchanges import Head
from engine.supervisor.gateway import addresses
from engine.supervisor.gateway.addresses import Address
from engine.supervisor.gateway.balancing import BalancerAddress, address_of
from engine.supervisor.gateway.definitions import Definitions, Unreadable
from engine.supervisor.gateway.keysets import NEEDS_EXTRA, KeySets


class Control:
    """A control plane that answers each question by ``answer`` and counts them."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.answer: Callable[[Any], tuple[int, Any]] = lambda question: (200, f"of {question['api']}")
        self.hold: asyncio.Event | None = None

    async def open(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"x-lambda-engine-token: secret\r\n" in head
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        question = json.loads(await reader.readexactly(length))
        self.asked.append(question)
        if self.hold is not None:
            await self.hold.wait()
        status, document = self.answer(question)
        body = json.dumps(document).encode()
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()
        writer.close()

    async def connect(self, factory: Callable[[], asyncio.Protocol]) -> Any:
        return await asyncio.get_running_loop().create_connection(factory, "127.0.0.1", self.port)


def run(test: Callable[[Control, Definitions[str]], Coroutine[Any, Any, None]], fresh_s: float = 300.0) -> None:
    async def main() -> None:
        control = Control()
        await control.open()
        definitions = Definitions(
            asyncio.get_running_loop(), "api", json.loads, control.connect, "secret", fresh_s=fresh_s
        )
        try:
            await asyncio.wait_for(test(control, definitions), 30)
        finally:
            control.server.close()

    asyncio.run(main())


async def get(definitions: Definitions[str], name: str = "a") -> tuple[str | None, Unreadable | None]:
    future: asyncio.Future[tuple[str | None, Unreadable | None]] = asyncio.get_running_loop().create_future()
    definitions.get(name, lambda found, unreadable: future.set_result((found, unreadable)))
    return await future


def test_a_definition_is_asked_for_once_until_it_may_have_changed() -> None:
    async def test(control: Control, definitions: Definitions[str]) -> None:
        assert await asyncio.gather(*(get(definitions) for _ in range(3))) == [("of a", None)] * 3
        assert await get(definitions) == ("of a", None)
        assert await get(definitions, "no id") == (None, None)
        assert control.asked == [{"api": "a"}]
        control.answer = lambda _question: (200, "changed")
        assert (await get(definitions))[0] == "of a"
        definitions.forget()
        assert (await get(definitions))[0] == "changed"
        control.answer = lambda _question: (200, None)
        definitions.forget()
        assert await get(definitions) == (None, None)

    run(test)


def test_a_change_while_it_is_asked_for_has_it_asked_for_again() -> None:
    async def test(control: Control, definitions: Definitions[str]) -> None:
        control.hold = asyncio.Event()
        waiting = asyncio.ensure_future(get(definitions))
        while not control.asked:
            await asyncio.sleep(0)
        definitions.forget()
        control.hold.set()
        assert (await waiting)[0] == "of a"
        assert len(control.asked) == 2

    run(test)


def test_its_time_runs_out() -> None:
    async def test(control: Control, definitions: Definitions[str]) -> None:
        for number in (1, 2):
            await get(definitions)
            assert len(control.asked) == number

    run(test, fresh_s=0.0)


def test_what_cannot_be_asked_again_goes_on_as_it_was() -> None:
    async def test(control: Control, definitions: Definitions[str]) -> None:
        await get(definitions)
        control.answer = lambda _question: (502, {"message": "nobody there"})
        definitions.forget()
        assert await get(definitions) == ("of a", None)
        found, unreadable = await get(definitions, "b")
        assert (found, str(unreadable)) == (None, "nobody there")
        control.server.close()
        assert (await get(definitions, "c"))[1] is not None

    run(test)


def head(host: bytes, url: bytes) -> Head:
    return Head(b"GET", url, [(b"host", host)], "::1")


@pytest.mark.parametrize(
    ("host", "url", "address"),
    [
        (b"abc.execute-api.us-east-1.localhost:4566", b"/s/x?q", Address("abc", "abc.execute-api.us-east-1.localhost", "4566", b"/s/x?q")),
        (b"ABC.execute-api.eu-west-1.example.com", b"/", Address("abc", "abc.execute-api.eu-west-1.example.com", "", b"/")),
        (b"h:1", b"/_api/abc/s/x?q", Address("abc", "abc.execute-api.us-east-1.localhost", "1", b"/s/x?q")),
        (b"h:1", b"/_api/abc?q", Address("abc", "abc.execute-api.us-east-1.localhost", "1", b"/?q")),
        (b"h", b"/_aws/execute-api/abc/s", Address("abc", "abc.execute-api.us-east-1.localhost", "", b"/s")),
        (b"h", b"/restapis/abc/s/_user_request_/x?q", Address("abc", "abc.execute-api.us-east-1.localhost", "", b"/s/x?q")),
        (b"h", b"/restapis/abc/s/_user_request_", Address("abc", "abc.execute-api.us-east-1.localhost", "", b"/s")),
        (b"h", b"/restapis/abc/resources/_user_request_x", None),
        (b"h", b"/restapis/abc/a/b/_user_request_/x", None),
        (b"h", b"/restapis/abc?_user_request_", None),
        (b"h", b"/2015-03-31/functions/", None),
    ],
)
def test_addresses_of_apis(host: bytes, url: bytes, address: Address | None) -> None:
    assert addresses.of(head(host, url), "us-east-1") == address


@pytest.mark.parametrize(
    ("host", "url", "address"),
    [
        (b"lb-1.us-east-1.elb.localhost:4566", b"/x", BalancerAddress("lb-1", None, "lb-1.us-east-1.elb.localhost", b"/x")),
        (b"lb-1.us-east-1.elb.amazonaws.com", b"/", BalancerAddress("lb-1", None, "lb-1.us-east-1.elb.amazonaws.com", b"/")),
        (b"a.example", b"/_alb/lb:81/x?q", BalancerAddress("lb", 81, "a.example", b"/x?q")),
        (b"a.example", b"/_alb/lb?q", BalancerAddress("lb", None, "a.example", b"/?q")),
        (b"elb.example", b"/", None),
    ],
)
def test_addresses_of_load_balancers(host: bytes, url: bytes, address: BalancerAddress | None) -> None:
    assert address_of(head(host, url)) == address


def test_without_the_extra_no_token_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    said: list[tuple[Any, str]] = []
    loop = asyncio.new_event_loop()
    try:
        KeySets(loop, lambda _: pytest.fail("asked"), "").verify("x", "y", lambda claims, reason: said.append((claims, reason)))
    finally:
        loop.close()
    assert said == [(None, NEEDS_EXTRA)]
