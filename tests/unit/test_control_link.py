"""The control link: the supervisor ends up with what is stored, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from engine.control.link import ControlLink, Hello, LinkRefused
from engine.errors import ServiceError
from engine.wire import messages as m
from tests.framework.link_peer import LinkPeer

A = "000000000000"
RUNTIMES = {"python3.12": {"interpreter": "/opt/python", "version": "3.12.1"}}


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {"account": A, "name": name, **more}


def run(link: ControlLink, scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        link.start()
        try:
            await scenario()
        finally:
            await link.close()
            await link.close()

    asyncio.run(main())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


def test_a_snapshot_comes_first_then_single_changes(path: Path) -> None:
    seen: list[Hello] = []
    with LinkPeer(path, RUNTIMES) as peer:
        link = ControlLink(path, lambda: [entry("a"), entry("b")], seen.append)

        async def scenario() -> None:
            await link.put(entry("c"))
            await link.delete(A, "a")
            assert link.is_open

        run(link, scenario)
        assert peer.log == [("begin", ""), ("put", "a"), ("put", "b"), ("commit", ""), ("put", "c"), ("delete", "a")]
        assert set(peer.catalogue or ()) == {(A, "b"), (A, "c")}
    assert seen == [link.hello]
    assert seen[0].runtimes["python3.12"].interpreter == "/opt/python"
    assert seen[0].function_key == (A, "s" * 40, "t" * 32)
    assert not link.is_open


def test_it_waits_for_a_supervisor_that_is_not_there_yet(path: Path) -> None:
    peer = LinkPeer(path)
    link = ControlLink(path, list)

    async def scenario() -> None:
        waiting = asyncio.ensure_future(link.put(entry("late")))
        with pytest.raises(ServiceError, match=r"reached within 0\.05 s"):
            await link.ready(0.05)
        with peer:
            await waiting
            assert (A, "late") in (peer.catalogue or {})

    run(link, scenario)


def test_a_change_whose_connection_breaks_is_pushed_on_the_next(path: Path) -> None:
    stored: list[dict[str, Any]] = []
    with LinkPeer(path) as peer:
        link = ControlLink(path, lambda: list(stored))

        async def scenario() -> None:
            assert (await link.ready()).region == "us-east-1"
            peer.drop_next = True
            stored.append(entry("x"))
            await link.put(entry("x"))
            assert peer.connections == 2
            assert set(peer.catalogue or ()) == {(A, "x")}

        run(link, scenario)


def test_a_refused_change_says_why(path: Path) -> None:
    with LinkPeer(path) as peer:
        peer.refusal = lambda op, _value: "no such runtime" if op == "put" else None
        link = ControlLink(path, list)

        async def scenario() -> None:
            with pytest.raises(LinkRefused, match="no such runtime"):
                await link.put(entry("x"))
            await link.delete(A, "x")

        run(link, scenario)


def test_one_refused_function_does_not_keep_the_snapshot_from_the_rest(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with LinkPeer(path) as peer, caplog.at_level(logging.ERROR):
        peer.refusal = lambda op, value: "broken" if op == "put" and value["name"] == "bad" else None
        link = ControlLink(path, lambda: [entry("bad"), entry("good")])

        async def scenario() -> None:
            assert (await link.ready()).region == "us-east-1"
            assert set(peer.catalogue or ()) == {(A, "good")}

        run(link, scenario)
    assert f"{A}:bad" in caplog.text


def test_an_unreachable_or_silent_supervisor_is_an_error_after_the_limit(path: Path) -> None:
    link = ControlLink(path, list, push_timeout_s=0.05)

    async def absent() -> None:
        with pytest.raises(ServiceError, match=r"within 0\.05 s"):
            await link.put(entry("x"))

    run(link, absent)
    with LinkPeer(path) as peer:
        link = ControlLink(path, list, push_timeout_s=0.2)

        async def silent() -> None:
            assert (await link.ready()).region == "us-east-1"
            peer.mute = True
            with pytest.raises(ServiceError, match=r"within 0\.2 s"):
                await link.query("stats")

        run(link, silent)


def test_events_are_answered_when_they_are_kept_or_cannot_be(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    taken: list[list[Any]] = []
    kept: list[asyncio.Future[None]] = []

    def take(events: list[Any]) -> asyncio.Future[None]:
        taken.append(events)
        kept.append(asyncio.get_running_loop().create_future())
        return kept[-1]

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)

    with LinkPeer(path) as peer, caplog.at_level(logging.ERROR):
        link = ControlLink(path, list)
        link.on_events = take

        async def scenario() -> None:
            await link.ready()
            for seq in (7, 8):
                await asyncio.to_thread(peer.send_raw, m.pack(m.EVENTS, seq, [["id", A, "f", None, None, b"1"]]))
            await until(lambda: len(kept) == 2)
            assert peer.accepted == []
            kept[1].set_result(None)
            await until(lambda: peer.accepted == [(8, None)])
            kept[0].set_exception(OSError(28, "No space left on device"))
            await until(lambda: len(peer.accepted) == 2)

        run(link, scenario)
        seq, problem = peer.accepted[1]
        assert (seq, "No space left" in (problem or "")) == (7, True)
    assert taken == [[["id", A, "f", None, None, b"1"]]] * 2
    assert "could not be written" in caplog.text


def test_events_without_anybody_to_keep_them_end_the_link(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with LinkPeer(path) as peer, caplog.at_level(logging.WARNING):
        link = ControlLink(path, list)

        async def scenario() -> None:
            await link.ready()
            await asyncio.to_thread(peer.send_raw, m.pack(m.EVENTS, 1, []))
            async with asyncio.timeout(20):
                while "nobody keeps events" not in caplog.text:
                    await asyncio.sleep(0.005)

        run(link, scenario)


def test_figures_are_asked_for(path: Path) -> None:
    with LinkPeer(path) as peer:
        peer.stats = {"ready": True, "functions": [{"name": "f"}]}
        link = ControlLink(path, list)

        async def scenario() -> None:
            assert await link.query("stats") == peer.stats

        run(link, scenario)


@pytest.mark.parametrize("about", [{"error": "another engine"}, {"runtimes": [1]}, {"function_key": ["x"]}])
def test_a_hello_that_cannot_be_used_is_logged_and_tried_again(
    path: Path, about: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with LinkPeer(path, **about) as peer, caplog.at_level(logging.WARNING):
        link = ControlLink(path, list)

        async def scenario() -> None:
            async with asyncio.timeout(5):
                while peer.connections < 2:
                    await asyncio.sleep(0.005)
            assert not link.is_open

        run(link, scenario)
    assert "control link" in caplog.text


def test_another_protocol_version_is_not_used(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with LinkPeer(path) as peer, caplog.at_level(logging.WARNING):
        peer.version = 99
        link = ControlLink(path, list)

        async def scenario() -> None:
            with pytest.raises(ServiceError):
                await link.ready(0.1)

        run(link, scenario)
    assert "protocol version 99" in caplog.text


@pytest.mark.parametrize(
    "noise", [b"HTTP/1.1 400 Bad Request\r\n\r\n", m.pack(m.ACK, 4711, None), m.pack(m.CLIENT_HELLO, 1, {})]
)
def test_noise_from_the_supervisor_costs_the_connection_only(path: Path, noise: bytes) -> None:
    with LinkPeer(path) as peer:
        link = ControlLink(path, lambda: [entry("a")])

        async def scenario() -> None:
            assert (await link.ready()).region == "us-east-1"
            peer.send_raw(noise)
            await link.put(entry("b"))
            async with asyncio.timeout(5):
                while peer.connections < 2:
                    await asyncio.sleep(0.005)
            await link.put(entry("c"))
            assert {(A, "a"), (A, "c")} <= set(peer.catalogue or ())

        run(link, scenario)


def test_a_snapshot_that_fails_is_taken_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.control.link.LONGEST_PAUSE_S", 0.01)
    tries: list[int] = []

    def snapshot() -> list[dict[str, Any]]:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("disk")
        if len(tries) == 2:
            raise RuntimeError("bug")
        return [entry("a")]

    with LinkPeer(path) as peer:
        link = ControlLink(path, snapshot)

        async def scenario() -> None:
            assert (await link.ready()).region == "us-east-1"
            assert set(peer.catalogue or ()) == {(A, "a")}

        run(link, scenario)
    assert len(tries) == 3
