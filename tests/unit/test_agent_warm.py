"""The agent's warm rounds, compiled and in Python: a caller and a runtime can tell them apart by nothing but the time they take."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.wire import messages as m
from runtime_bootstrap.agent import agent as agents
from runtime_bootstrap.agent import warm
from runtime_bootstrap.agent.http import Connection
from runtime_bootstrap.agent.loop import Loop
from runtime_bootstrap.agent.runtime import Runtime
from tests.framework import host
from tests.framework.wait import until

SOURCE = Path(warm.__file__).with_name("_warm.c")
BASE = b"/2018-06-01/runtime/invocation/"
POLL = b"GET " + BASE + b"next HTTP/1.1\r\nHost: 127.0.0.1:9001\r\nUser-Agent: test\r\n\r\n"
NEXT = b"\x00\x00\x00\x02\x91\x03"


class Stop(BaseException):
    """Ends the loop's thread."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The compiled part, built as an installation builds it."""
    host.require("no C compiler")
    library = tmp_path_factory.mktemp("warm") / "_warm.so"
    flags = ["-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([shutil.which("cc") or "gcc", *flags, str(SOURCE), "-o", str(library)], check=True, timeout=100)
    function = warm.load(str(library))
    assert function is not None
    return function


def request_id(n: int) -> str:
    return f"{n:08x}-0000-4000-8000-000000000000"


class Rig:
    """An agent without a runtime of its own: the supervisor's end of its channel, and clients of its API. Keeps what both were told."""

    def __init__(self, small: bool = False) -> None:
        self.link, theirs = socket.socketpair()
        self.link.settimeout(30)
        listener = socket.socket()
        if small:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            # Inherited by what it accepts.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        self.address = listener.getsockname()
        self._ears = [theirs, listener]
        self._small = small
        self.loop = Loop()
        self.agent = agents.Agent(self.loop, theirs, listener, {"env": {}}, b"", shared=False)
        self._wake, wake = socket.socketpair()
        self._ears.append(wake)
        self.loop.watch(wake.fileno(), self._stop)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._clients: list[socket.socket] = []
        self.client = self.connect()
        self.told: list[bytes] = []

    @staticmethod
    def _stop(_mask: int) -> None:
        raise Stop

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(Stop):
            self.loop.run()

    def connect(self) -> socket.socket:
        client = socket.socket()
        if self._small:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect(self.address)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._clients.append(client)
        return client

    def close(self) -> None:
        self._wake.sendall(b".")
        self._thread.join(30)
        assert not self._thread.is_alive()
        for call in list(self.loop._callbacks.values()):
            if isinstance(getattr(call, "__self__", None), Connection):
                call.__self__.close()  # type: ignore[attr-defined]
        for sock in (*self._clients, self._wake, self.link, *self._ears):
            sock.close()

    def frame(self) -> bytes:
        """The next frame that the supervisor gets."""
        head = self._read(self.link, 4)
        frame = head + self._read(self.link, int.from_bytes(head, "big"))
        self.told.append(frame)
        return frame

    def http(self, client: socket.socket | None = None) -> bytes:
        """The next answer that a client gets."""
        client = client or self.client
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._read(client, 1)
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        answer = head + self._read(client, size)
        self.told.append(answer)
        return answer

    @staticmethod
    def _read(sock: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = sock.recv(size - len(data))
            assert piece, f"ended after {data[:100]!r}"
            data += piece
        return data

    @property
    def polls(self) -> list[Any]:
        runtime = self.agent.runtime
        assert isinstance(runtime, Runtime)
        return list(runtime.polls)

    def invoke(self, n: int, payload: bytes = b"{}", **options: Any) -> None:
        self.link.sendall(event(n, payload, **options))

    def round(self, n: int, payload: bytes = b"{}", answer: bytes = b'{"x":1}') -> None:
        """One plain invocation, on a poll that is open; it ends with the next poll."""
        self.invoke(n, payload)
        assert self.http().endswith(b"\r\n\r\n" + payload)
        self.client.sendall(post(n, answer))
        assert self.frame().endswith(answer)
        assert self.http().startswith(b"HTTP/1.1 202 ")
        self.client.sendall(POLL)
        assert self.frame() == NEXT


def event(n: int, payload: bytes = b"{}", trace_id: str | None = "Root=1-2-3", **options: Any) -> bytes:
    return m.encode_invoke(request_id(n), 1_900_000_000_000 + n, m.invoke_tail("arn:aws:lambda:x", trace_id=trace_id, **options), payload)


def post(n: int, body: bytes, what: bytes = b"response", more: bytes = b"") -> bytes:
    path = BASE + request_id(n).encode() + b"/" + what
    head = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1:9001\r\nContent-Type: application/json\r\nUser-Agent: test\r\n%b" % (path, more)
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@contextlib.contextmanager
def rig(function: Any, monkeypatch: pytest.MonkeyPatch, *, small: bool = False) -> Iterator[Rig]:
    """With three rounds behind it: as many as it takes to know a client."""
    monkeypatch.setattr(agents, "_warm_run", function)
    running = Rig(small)
    running.start()
    try:
        running.client.sendall(POLL)
        assert running.frame() == NEXT
        for n in range(3):
            running.round(n)
        yield running
    finally:
        running.close()


def rounds(rig: Rig) -> None:
    for n in range(10, 15):
        rig.round(n, b'"%s"' % (b"e" * n * 500), b'"%s"' % (b"a" * n * 700))


def finish(rig: Rig, n: int, body: bytes = b"7") -> None:
    """Answer a delivered event plainly, and go on."""
    rig.client.sendall(post(n, body))
    rig.frame()
    rig.http()
    rig.client.sendall(POLL)
    rig.frame()


def in_pieces(rig: Rig) -> None:
    """Requests and events cut anywhere."""
    data = event(10, b"[1,2,3]")
    for cut in (1, 4, 40, len(data) - 1):
        rig.link.sendall(data[:cut])
        until(lambda: rig.agent.link.busy or (rig.agent.warm is not None and rig.agent.warm.invocations), "a part was read")
        rig.link.sendall(data[cut:])
        rig.http()
        answer = post(10, b'{"long":"answer"}')
        for at in range(0, len(answer), 37):
            rig.client.sendall(answer[at : at + 37])
        rig.frame()
        rig.http()
        for at in range(0, len(POLL), 29):
            rig.client.sendall(POLL[at : at + 29])
        rig.frame()


def big_events_and_answers(rig: Rig) -> None:
    for size in (50_000, 95_000, 99_000, 1_000_000):
        rig.round(size, b'"' + b"e" * size + b'"', b'"' + b"a" * size + b'"')


def an_error(rig: Rig) -> None:
    rig.invoke(10)
    rig.http()
    rig.client.sendall(post(10, b'{"errorMessage":"m","errorType":"T"}', b"error", b"Lambda-Runtime-Function-Error-Type: Runtime.X\r\n"))
    rig.frame()
    rig.http()
    rig.client.sendall(POLL)
    rig.frame()


def a_wrong_id(rig: Rig) -> None:
    rig.invoke(10)
    rig.http()
    rig.client.sendall(post(11, b"1"))
    assert b"400" in rig.http()
    finish(rig, 10)


def an_answer_twice(rig: Rig) -> None:
    rig.invoke(10)
    rig.http()
    rig.client.sendall(post(10, b"1"))
    rig.frame()
    rig.http()
    rig.client.sendall(post(10, b"2"))
    assert b"403" in rig.http()
    rig.client.sendall(POLL)
    rig.frame()


def the_event_once_more(rig: Rig) -> None:
    rig.invoke(10, b"[1]")
    rig.http()
    rig.client.sendall(POLL)
    rig.http()
    finish(rig, 10)


def other_heads(rig: Rig) -> None:
    rig.invoke(10)
    rig.http()
    rig.client.sendall(post(10, b"1", more=b"X-Other: 1\r\n"))
    rig.frame()
    rig.http()
    rig.client.sendall(POLL.replace(b"test", b"another"))
    rig.frame()
    rig.invoke(11)
    rig.http()
    rig.client.sendall(post(11, b"raw").replace(b"application/json", b"text/x"))
    assert b"text/x" in rig.frame()
    rig.http()
    rig.client.sendall(POLL)
    rig.frame()


def an_empty_answer(rig: Rig) -> None:
    rig.invoke(10)
    rig.http()
    finish(rig, 10, b"")


def too_big_an_answer(rig: Rig) -> None:
    rig.invoke(10)
    rig.http()
    finish(rig, 10, b"x" * (6 * 1024 * 1024 + 101))


def chunks(rig: Rig) -> None:
    rig.invoke(10)
    rig.http()
    head = post(10, b"").replace(b"Content-Length: 0", b"Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked")
    rig.client.sendall(head + b"3\r\nabc\r\n0\r\n\r\n")
    for _ in range(3):
        rig.frame()
    rig.http()
    rig.client.sendall(POLL)
    rig.frame()


def requests_ahead(rig: Rig) -> None:
    """The next poll in one segment with the answer."""
    rig.invoke(10)
    rig.http()
    rig.client.sendall(post(10, b"1") + POLL)
    rig.frame()
    rig.http()
    rig.frame()


def what_only_some_events_have(rig: Rig) -> None:
    rig.invoke(10, client_context='{"a":1}', identity="{}", tenant_id="t")
    assert b"Lambda-Runtime-Client-Context" in rig.http()
    finish(rig, 10)
    rig.invoke(11, trace_id=None)
    assert b"Trace-Id" not in rig.http()
    finish(rig, 11)


def another_connection(rig: Rig) -> None:
    """An answer and the next poll on a connection that has not polled before."""
    other = rig.connect()
    rig.invoke(10)
    rig.http()
    other.sendall(post(10, b"1"))
    rig.frame()
    rig.http(other)
    rig.client.sendall(POLL)
    rig.frame()


def two_polls(rig: Rig) -> None:
    """The last that asked is answered."""
    other = rig.connect()
    other.sendall(POLL)
    until(lambda: len(rig.polls) == 2, "two polls")
    rig.invoke(10)
    rig.http(other)
    rig.client.close()
    until(lambda: rig.polls[0].connection.closed, "its end was seen")
    rig.client = other
    finish(rig, 10)


def a_client_that_breaks_off(rig: Rig) -> None:
    rig.invoke(10)
    rig.http()
    rig.client.sendall(post(10, b"abc")[:-1])
    rig.client.close()
    assert b"Truncated" in rig.frame()
    rig.client = rig.connect()
    rig.client.sendall(POLL)
    rig.frame()


def a_client_that_leaves_its_poll(rig: Rig) -> None:
    rig.client.close()
    until(lambda: rig.polls[0].connection.closed, "its end was seen")
    rig.invoke(10)
    rig.client = rig.connect()
    rig.client.sendall(POLL)
    rig.http()
    finish(rig, 10)


SCRIPTS: list[Callable[[Rig], None]] = [
    rounds, in_pieces, big_events_and_answers, an_error, a_wrong_id, an_answer_twice, the_event_once_more, other_heads, an_empty_answer,
    too_big_an_answer, chunks, requests_ahead, what_only_some_events_have, another_connection, two_polls, a_client_that_breaks_off,
    a_client_that_leaves_its_poll,
]  # fmt: skip


@pytest.mark.parametrize("small", [False, True], ids=["", "small-buffers"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_both_say_the_same(script: Callable[[Rig], None], small: bool, compiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    for function in (compiled, None):
        with rig(function, monkeypatch, small=small) as running:
            script(running)
            for n in range(90, 94):
                running.round(n)
            told.append(running.told)
            if function is not None:
                # Whatever happened, plain rounds are its own again.
                assert running.agent.warm is not None
                assert running.agent.warm.invocations >= 3
    assert told[0] == told[1]


def test_a_library_of_another_build_is_not_used(tmp_path: Path) -> None:
    host.require("no C compiler")
    (tmp_path / "w.c").write_text("unsigned long warm_size(void) { return 1; } void warm_run(void *w) {}")
    subprocess.run([shutil.which("cc") or "gcc", "-shared", "-fPIC", "w.c", "-o", "w.so"], check=True, cwd=tmp_path, timeout=100)
    assert warm.load(os.fspath(tmp_path / "w.so")) is None
    assert warm.load(os.fspath(tmp_path / "none.so")) is None
