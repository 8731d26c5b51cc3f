"""MemorySize on v2, whose files are laid out in a directory: what the kernel says nothing of."""

from __future__ import annotations

import os
from typing import Any

import pytest

from engine.sandbox.group import Group
from engine.sandbox.memory import MemoryWatch

LIMIT = 64 << 20
PAGE = 4096


class Loop:
    """Does nothing by itself."""

    def __init__(self):
        self.watched, self.timers = {}, []

    def watch(self, fd, on_ready, events=0):
        self.watched[fd] = on_ready

    def forget(self, fd):
        self.watched.pop(fd, None)

    def later(self, _seconds, call):
        self.timers.append(call)

    def elapse(self):
        due, self.timers = self.timers, []
        for call in due:
            call()


class Watched:
    """A group of v2 and the watch over it."""

    def __init__(self, directory, monkeypatch):
        loop: Any = Loop()
        self.directory, self.loop, self.exceeded, self.files = directory, loop, 0, 0
        for name in ("memory.events", "memory.high"):
            (directory / name).write_text("")
        self.use(0)
        # Pages in /tmp, whose size is no matter.
        monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result((4096, 4096, self.files >> 12, 0, 0, 0, 0, 0, 0, 255)))
        self.watch = MemoryWatch(self.loop, Group({"memory": (2, str(directory))}), (LIMIT, LIMIT * 9), "/tmp", lambda *_: None, self.exceed)

    def exceed(self):
        self.exceeded += 1

    def use(self, usage, files=0):
        self.files = files
        (self.directory / "memory.current").write_text(f"{usage}\n")
        (self.directory / "memory.stat").write_text("anon 1\nfile 0\nshmem 0\ninactive_file 0\nactive_file 0\nslab_reclaimable 0\n")

    def tell(self):
        (passed,) = self.loop.watched.values()
        passed(0)

    @property
    def mark(self):
        return int((self.directory / "memory.high").read_text())


@pytest.fixture
def watched(tmp_path, monkeypatch):
    made = Watched(tmp_path, monkeypatch)
    yield made
    made.watch.close()


def test_memory_taken_where_files_were_is_noticed_below_the_raised_mark(watched):
    watched.use(200 << 20, files=195 << 20)
    watched.tell()
    assert watched.mark > 200 << 20
    assert watched.exceeded == 0
    # The files are gone, and as much memory is in use: below the mark, so nobody tells.
    watched.use(150 << 20)
    watched.loop.elapse()
    assert watched.exceeded == 1
    assert (watched.loop.timers, watched.loop.watched) == ([], {})


def test_a_small_file_does_not_let_memory_pass_the_limit_by_more(watched):
    # All but half a MiB is the function's: a mark far above would let it use as much more before anybody looks.
    watched.use(LIMIT + (1 << 19), files=1 << 20)
    watched.tell()
    assert watched.exceeded == 0
    assert LIMIT < watched.mark <= LIMIT + (2 << 20)


def test_many_files_do_not_take_many_marks(watched):
    files, marks = 1 << 20, 0
    while watched.mark < LIMIT * 9:
        # What is the function's is just below its limit, and files fill the rest.
        watched.use(LIMIT - PAGE + files, files=files)
        watched.tell()
        files, marks = watched.mark - LIMIT + PAGE, marks + 1
    assert watched.exceeded == 0
    assert marks <= 100


def test_a_file_that_is_deleted_while_it_is_measured_is_not_memory(watched, monkeypatch):
    watched.use(200 << 20)
    # There when the charge is read, and gone a moment later.
    sizes = iter((195 << 20, 0))
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result((4096, 4096, next(sizes) >> 12, 0, 0, 0, 0, 0, 0, 255)))
    watched.watch.check()
    assert watched.exceeded == 0
    assert next(sizes, None) is None


def test_however_often_a_mark_is_raised_one_timer_looks_after_it(watched):
    for size in (100, 200, 300, 400):
        watched.use(size << 20, files=(size - 5) << 20)
        watched.tell()
    assert len(watched.loop.timers) == 1
    watched.loop.elapse()
    assert len(watched.loop.timers) == 1


def test_a_mark_comes_down_with_the_files(watched):
    watched.use(200 << 20, files=195 << 20)
    watched.tell()
    watched.use(5 << 20)
    # What is written to the kernel's file takes the place of what was there.
    (watched.directory / "memory.high").write_text("")
    watched.loop.elapse()
    assert watched.mark == LIMIT
    watched.loop.elapse()
    assert (watched.loop.timers, watched.exceeded) == ([], 0)


def test_who_could_not_be_asked_to_take_memory_back_is_asked_again(watched):
    lent = []

    def lend(*what):
        lent.append(what)
        if len(lent) == 1:
            raise OSError("nobody there")

    watched.watch._lend = lend
    (watched.directory / "memory.reclaim").write_text("")
    watched.use(LIMIT * 2)
    # Twice as much as it may have, of which the kernel may have half back.
    (watched.directory / "memory.stat").write_text(f"anon 1\nfile 0\nshmem 0\ninactive_file {LIMIT * 2}\nactive_file 0\nslab_reclaimable 0\n")
    watched.watch.check()
    watched.watch.check()
    watched.watch.check()
    assert len(lent) == 2
