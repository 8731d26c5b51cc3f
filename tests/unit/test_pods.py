"""By which process number a template's init and the broker know a copy: the one it has."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.sandbox import holder, kernel
from engine.sandbox.pods import Pods
from engine.sandbox.sources import Template


@pytest.mark.parametrize("wanted", [0, 4242], ids=["none", "the zygote's own"])
def test_a_number_that_a_copy_must_not_have_is_another_and_that_is_told(wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, bytes]] = []
    monkeypatch.setattr(kernel, "write_file", lambda path, data: written.append((str(Path(path)), data)))
    build: Any = SimpleNamespace(fences=SimpleNamespace(namespaces=True), zygote_pid=4242)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = holder.Init(build, ours, wanted)._choose_pid()
    assert number not in (0, 4242)
    assert written == [("/proc/sys/kernel/ns_last_pid", b"%d" % (number - 1))]


def test_the_end_of_a_copy_is_found_by_the_number_it_came_to_have() -> None:
    sent: list[Any] = []
    orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    home: Any = SimpleNamespace(id=1)
    template = Template("t", home.id, sent.append, orders, "")
    pod: Any = SimpleNamespace(id=2, zygote=template, lent=[], take_back=list, inner_pid=300, worker_alive=False)
    announced: list[Any] = []
    known: dict[int, Any] = {1: SimpleNamespace(id=1, zygote=None), 2: pod}
    nothing: Any = lambda *_: None  # noqa: E731 - one for all
    announce: Any = announced.append
    pods = Pods(known, nothing, fail=nothing, kill=nothing, announce=announce, finish=nothing)
    with orders, theirs:
        pods.copy(pod, SimpleNamespace(args=[["pid"], 777], fds=[], pid=99))  # type: ignore[arg-type]
    assert (pods.of_copy(home, 777), pods.of_copy(home, 300)) == (pod, None)
    assert announced == [pod]
