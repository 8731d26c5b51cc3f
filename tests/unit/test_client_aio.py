"""What only the asyncio client promises: many calls in flight, reconnecting, late answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from engine.client import AsyncClient, CallTimeout, ConnectionLost
from tests.framework.frame_server import FrameServer, until


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "e.sock")


@pytest.fixture
def server(path: str) -> Iterator[FrameServer]:
    with FrameServer(path) as running:
        yield running


@pytest.fixture(params=["asyncio", "uvloop"], autouse=True)
def loop_factory(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test runs on both event loops: their transports differ."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    _factory.append(factory)
    yield
    _factory.pop()


_factory: list[Callable[[], asyncio.AbstractEventLoop]] = []


def run(test: Callable[[AsyncClient], Coroutine[Any, Any, None]], path: str, **client: Any) -> None:
    async def main() -> None:
        async with AsyncClient(path, **client) as aio, asyncio.timeout(10):
            await test(aio)

    with asyncio.Runner(loop_factory=_factory[-1]) as runner:
        runner.run(main())


def test_many_in_flight_on_one_connection_answered_in_any_order(server: FrameServer, path: str) -> None:
    async def test(client: AsyncClient) -> None:
        results = await asyncio.gather(*(client.invoke("batch-200", b"%d" % i) for i in range(200)))
        assert [r.payload for r in results] == [b"%d" % i for i in range(200)]

    run(test, path)
    assert server.connections == 1


def test_many_big_payloads_at_once_respect_the_sockets_pace(server: FrameServer, path: str) -> None:
    async def test(client: AsyncClient) -> None:
        bodies = [bytes((i,)) * 2_000_000 for i in range(10)]
        results = await asyncio.gather(*(client.invoke("echo", body) for body in bodies))
        assert [r.payload for r in results] == bodies

    run(test, path)


def test_calls_in_flight_fail_when_the_connection_breaks_and_the_next_ones_reconnect(server: FrameServer, path: str) -> None:
    async def test(client: AsyncClient) -> None:
        doomed = [asyncio.create_task(client.invoke("never")) for _ in range(3)]
        await asyncio.to_thread(until, lambda: len(server.calls) == 3)
        await asyncio.to_thread(server.drop_all)
        for error in await asyncio.gather(*doomed, return_exceptions=True):
            assert isinstance(error, ConnectionLost)
            assert error.sent
        assert (await client.invoke("echo", b"again")).payload == b"again"

    run(test, path)
    assert server.connections == 2


def test_a_late_answer_to_an_abandoned_call_is_dropped(server: FrameServer, path: str) -> None:
    async def test(client: AsyncClient) -> None:
        # Connected, so that the call is sent before it is given up, however long that took.
        await client.invoke("echo")
        with pytest.raises(CallTimeout):
            await client.invoke("batch-3", timeout_s=0.5)
        cancelled = asyncio.create_task(client.invoke("batch-3"))
        await asyncio.to_thread(until, lambda: len(server.calls) == 3)
        cancelled.cancel()
        # The third call makes the server answer all three.
        assert (await client.invoke("batch-3", b"3")).payload == b"3"
        assert (await client.invoke("echo", b"4")).payload == b"4"

    run(test, path)
    assert server.connections == 1


def test_an_answer_given_twice_breaks_the_connection(server: FrameServer, path: str) -> None:
    async def test(client: AsyncClient) -> None:
        waiting = asyncio.create_task(client.invoke("never"))
        await asyncio.to_thread(until, lambda: len(server.calls) == 1)
        await client.invoke("twice")
        with pytest.raises(ConnectionLost, match="not in flight"):
            await waiting

    run(test, path)


def test_call_numbers_wrap_round_those_still_in_flight(server: FrameServer, path: str) -> None:
    async def test(client: AsyncClient) -> None:
        waiting = asyncio.create_task(client.invoke("batch-2", b"a"))
        await asyncio.to_thread(until, lambda: len(server.calls) == 1)
        client._next_id = 0xFFFFFFFF
        await client.invoke("echo")
        assert (await client.invoke("batch-2", b"b")).payload == b"b"
        assert (await waiting).payload == b"a"

    run(test, path)
    assert [c.call_id for c in server.calls] == [0, 0xFFFFFFFF, 1]


def test_closing_fails_what_has_no_answer(server: FrameServer, path: str) -> None:
    async def test(client: AsyncClient) -> None:
        waiting = asyncio.create_task(client.invoke("never"))
        await asyncio.to_thread(until, lambda: len(server.calls) == 1)
        await client.close()
        await client.close()
        with pytest.raises(ConnectionLost, match="was closed"):
            await waiting
        with pytest.raises(ConnectionLost, match="is closed"):
            await client.invoke("echo")

    run(test, path)


def test_closing_while_connecting(path: str) -> None:
    async def test(client: AsyncClient) -> None:
        waiting = asyncio.create_task(client.invoke("echo"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ConnectionLost) as caught:
            await waiting
        assert not caught.value.sent

    run(test, path)
