"""What only looks reclaimable, a function over its memory of which nobody told, and sockets of a network of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.sandbox import queues
from engine.sandbox.group import Group
from engine.sandbox.memory import MemoryWatch

MIB = 1 << 20


class Loop:
    """Never tells anything."""

    def __init__(self) -> None:
        self.timers: list[Any] = []

    def watch(self, *_what: Any) -> None: ...

    def forget(self, _fd: int) -> None: ...

    def later(self, _delay_s: float, callback: Any) -> None:
        self.timers.append(callback)


def stat(directory: Path, **mib: int) -> None:
    (directory / "memory.stat").write_text("".join(f"{name} {amount * MIB}\n" for name, amount in mib.items()))


@pytest.fixture
def group(tmp_path: Path) -> Group:
    for name, text in (("memory.current", "0"), ("memory.high", ""), ("memory.events", ""), ("memory.reclaim", "")):
        (tmp_path / name).write_text(text)
    stat(tmp_path, file=12, shmem=2, inactive_file=10)
    return Group({"memory": (2, str(tmp_path))})


def test_a_function_over_its_memory_is_found_though_nobody_told(group: Group, tmp_path: Path) -> None:
    loop, exceeded = Loop(), []
    # A file system without blocks stands for an empty /tmp.
    watch = MemoryWatch(loop, group, (128 * MIB, 640 * MIB), "/proc", lambda *_: None, lambda: exceeded.append(1))  # type: ignore[arg-type]
    holder = SimpleNamespace(id=3, memory=(128 * MIB, 640 * MIB), init_pid=1 << 30, dying=False, watch=watch, sockets=-1, net=None, data_limit=0)
    look = queues.QueueWatch(loop, {3: holder}, lambda _: None)  # type: ignore[arg-type, dict-item]
    look.begin()

    def turn() -> None:
        (callback,) = loop.timers
        loop.timers.clear()
        callback()

    for used, found in ((100, 0), (137, 0), (139, 1)):
        (tmp_path / "memory.current").write_text(str(used * MIB))
        for _ in range(5):
            turn()
        assert len(exceeded) == found, used
    holder.dying = True
    turn()
    assert loop.timers == [], "nobody is left to look after"


GIVEN_UP = {"file": 12, "shmem": 2, "inactive_file": 60}
NAMES = {"file": 12, "shmem": 2, "inactive_file": 10, "slab_reclaimable": 90}


@pytest.mark.parametrize(("what", "left"), [(GIVEN_UP, {}), (NAMES, {"slab_reclaimable": 30})], ids=["pages given up", "names and inodes"])
def test_what_may_be_reclaimable_is_asked_for_before_anybody_is_killed(
    what: dict[str, int], left: dict[str, int], group: Group, tmp_path: Path
) -> None:
    loop, exceeded, lent = Loop(), [], []
    watch = MemoryWatch(loop, group, (128 * MIB, 640 * MIB), "/proc", lambda *order: lent.append(order[0]), lambda: exceeded.append(1))  # type: ignore[arg-type]
    (tmp_path / "memory.current").write_text(str(185 * MIB))
    stat(tmp_path, **what)
    watch.check()
    watch.check()
    assert len(lent) == 1, "once at a time"
    (tmp_path / "memory.current").write_text(str(128 * MIB))
    stat(tmp_path, **left)
    watch.taken_back()
    assert (len(lent), exceeded) == (1, []), "it was reclaimable"
    (tmp_path / "memory.current").write_text(str(185 * MIB))
    stat(tmp_path, **what)
    watch.check()
    assert len(lent) == 1, "not again at once"
    for callback in loop.timers:
        callback()
    assert len(lent) == 2
    for n in (3, 4):
        watch.taken_back()
        assert (len(lent), exceeded) == (n, [])
    watch.taken_back()
    assert (len(lent), exceeded) == (4, [1]), "it was the function's"


@pytest.mark.parametrize("networks", [True, False])
def test_sockets_are_held_against_a_sandbox_in_its_own_network_only(networks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop()
    over: list[object] = []
    holder = SimpleNamespace(id=1, memory=(1, 2), init_pid=1 << 30, dying=False, watch=None, sockets=-1, net=None, data_limit=0)
    monkeypatch.setattr(queues, "_sockets", lambda _holder: queues.MANY + 1)
    monkeypatch.setattr(queues, "waiting", lambda _pid: queues.LIMIT + 1)
    queues.QueueWatch(loop, {1: holder}, over.append, networks=networks).begin()  # type: ignore[arg-type, dict-item]
    loop.timers.pop()()
    assert over == [holder] * networks
    assert len(loop.timers) == 1, "it looks again"


def test_what_nobody_took_back_is_asked_for_again(group: Group, tmp_path: Path) -> None:
    loop, exceeded, lent = Loop(), [], []
    watch = MemoryWatch(loop, group, (128 * MIB, 640 * MIB), "/proc", lambda *order: lent.append(order[0]), lambda: exceeded.append(1))  # type: ignore[arg-type]
    (tmp_path / "memory.current").write_text(str(185 * MIB))
    stat(tmp_path, **GIVEN_UP)
    watch.check()
    for n in range(1, 6):
        watch.not_taken_back()
        watch.check()
        assert len(lent) == n, "in a while"
        loop.timers.pop()()
        assert (len(lent), exceeded, loop.timers) == (n + 1, [], [])
    for _ in range(3):
        watch.taken_back()
    assert exceeded == [1], "judged by what was done, not by what was not"
    watch.not_taken_back()
    assert loop.timers == []


def test_a_mark_that_nobody_set_is_set_again(group: Group, tmp_path: Path) -> None:
    loop = Loop()
    watch = MemoryWatch(loop, group, (128 * MIB, 640 * MIB), "/proc", lambda *_: None, lambda: None)  # type: ignore[arg-type]
    (tmp_path / "memory.high").write_text("")
    watch.unmarked()
    loop.timers.pop()()
    assert (tmp_path / "memory.high").read_text() == str(128 * MIB)
    watch.unmarked()
    watch.close()
    loop.timers.pop()()


# An order whose file takes nothing for now, so that its taker is killed between order and answer.
KILLED = """
import os, signal
from engine.sandbox.marker import Marker
from engine.sandbox.peers import Loop
loop, done, lost = Loop(), [], []
marker = Marker(loop, done.append, lost.append, taker=True)
full, end = os.pipe()
os.set_blocking(end, False)
while True:
    try:
        os.write(end, bytes(4096))
    except BlockingIOError:
        break
os.set_blocking(end, True)
for number in (7, 7, 8):
    marker.mark(number, 5, [end])
first = marker.pid
os.kill(first, signal.SIGKILL)
while not lost:
    loop.turn(1)
assert (done, sorted(lost)) == ([], [7, 8]), (done, lost)
os.set_blocking(full, False)
while True:
    try:
        os.read(full, 65536)
    except BlockingIOError:
        break
marker.mark(9, 5, [end])
while not done:
    loop.turn(1)
assert (done, sorted(lost), os.read(full, 9)) == ([9], [7, 8], b"5"), (done, lost)
assert marker.pid != first
marker.close()
"""


def test_orders_of_a_helper_that_was_killed_are_told() -> None:
    subprocess.run([sys.executable, "-c", KILLED], check=True, timeout=300)
