"""Who has too many locks on files, told from how many there are and from the kernel's table."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.sandbox import locks

OURS = "{}: POSIX  ADVISORY  WRITE {} 00:3a:5 0 0\n"


class Host:
    """A count and a table."""

    def __init__(self, folder: Path) -> None:
        self._count, self._table = folder / "objects", folder / "locks"
        self.has(0)
        self.watch = locks.LockWatch(str(self._count), str(self._table))

    def has(self, number: int, lines: str = "") -> None:
        self._count.write_text(f"{number} N0={number}\n")
        self._table.write_text(lines)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.watch.close()


def sandbox(pid: int) -> Any:
    return SimpleNamespace(init_pid=pid)


def lines(pid: int, number: int) -> str:
    return "".join(OURS.format(n, pid) for n in range(number))


def test_who_has_more_than_there_may_be_is_found(host: Host) -> None:
    here = sandbox(os.getpid())
    waiting = f"7: -> POSIX  ADVISORY  WRITE {os.getpid()} 00:3a:5 0 EOF\n"
    flock = "8: FLOCK  ADVISORY  WRITE 1 fe:00:5 0 EOF\n9: OFDLCK ADVISORY  READ -1 00:3a:5 0 0\n"
    host.has(locks.MOST + 1, flock + waiting + lines(os.getpid(), locks.MOST))
    assert host.watch.over([here]) == [here]


def test_who_has_fewer_is_not_and_is_not_asked_about_again_at_once(host: Host) -> None:
    here = sandbox(os.getpid())
    host.has(locks.MOST + 1, lines(os.getpid(), locks.MOST))
    assert host.watch.over([here]) == []
    host.has(locks.MOST + 2, lines(os.getpid(), locks.MOST + 1))
    assert host.watch.over([here]) == [], "the table was read a moment ago"
    host.has(2 * locks.MOST, lines(os.getpid(), locks.MOST + 1))
    assert host.watch.over([here]) == [here]


def test_the_table_is_read_at_fewer_again_when_many_have_gone(host: Host) -> None:
    here = sandbox(os.getpid())
    host.has(10 * locks.MOST)
    assert host.watch.over([here]) == []
    host.has(5)
    assert host.watch.over([here]) == []
    host.has(locks.MOST + 1, lines(os.getpid(), locks.MOST + 1))
    assert host.watch.over([here]) == [here]


def test_others_locks_are_nobody_s(host: Host) -> None:
    gone = 2**22 + 5
    host.has(locks.MOST + 1, lines(gone, locks.MOST + 1))
    assert host.watch.over([sandbox(os.getpid()), sandbox(gone)]) == []


def test_where_nobody_tells_how_many_there_are_nobody_looks(tmp_path: Path) -> None:
    watch = locks.LockWatch(str(tmp_path / "none"), str(tmp_path / "none"))
    assert watch.over([sandbox(os.getpid())]) == []
    watch.close()
