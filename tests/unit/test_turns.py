"""Slices: asked for on kernels that know them, without consequence everywhere else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from engine import turns

KNOWS_SLICES = sys.platform == "linux" and tuple(int(n) for n in os.uname().release.split("-")[0].split(".")[:2]) >= (6, 12)
_SHOW = "import os; from engine import turns; turns.%s(); print(turns.slice_ns(), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0))"


def _in_another(code: str, niceness: int = 0) -> list[int]:
    done = subprocess.run([sys.executable, "-c", f"import os; os.nice({niceness}); {code}"], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(not KNOWS_SLICES, reason="the kernel gives every thread the same slice (older than Linux 6.12)")
@pytest.mark.parametrize(("asked", "ns"), [("short", turns.SHORT_NS), ("long", turns.LONG_NS)])
def test_the_slice_is_asked_for_and_niceness_stays(asked: str, ns: int) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)

    assert _in_another(_SHOW % asked, niceness=3) == [ns, min(19, own + 3), os.sched_getscheduler(0)]


@pytest.mark.skipif(not KNOWS_SLICES, reason="the kernel gives every thread the same slice (older than Linux 6.12)")
def test_what_a_thread_starts_asks_for_the_same() -> None:
    code = "from engine import turns; import subprocess, sys; turns.short(); subprocess.run([sys.executable, '-c', 'from engine import turns; print(turns.slice_ns())'])"

    assert _in_another(code) == [turns.SHORT_NS]


@pytest.mark.skipif(sys.platform != "linux", reason="scheduling policies are Linux's")
def test_what_runs_under_a_policy_of_its_operator_keeps_it() -> None:
    code = "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)); from engine import turns; turns.short(); print(os.sched_getscheduler(0))"

    assert _in_another(code) == [os.SCHED_IDLE]


def test_without_the_call_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_CALLS", {})

    turns.short()
    turns.long()

    assert turns.slice_ns() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="thread numbers of the whole system are Linux's")
def test_a_thread_that_is_gone_is_no_matter() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    turns.long(gone.pid)

    assert turns.slice_ns(gone.pid) == 0


def test_who_gives_way_does_so_after_each_piece_of_work_while_that_takes_a_moment() -> None:
    now = [0]
    given: list[int] = []

    def give() -> None:
        given.append(now[0])
        now[0] += turns.LONG_PAUSE_NS

    give_way = turns.GivingWay(give, lambda: now[0])
    for _ in range(5):
        give_way()
        now[0] += turns.PIECE_NS - 1
        give_way()
        now[0] += 1

    assert given == [n * (turns.LONG_PAUSE_NS + turns.PIECE_NS) for n in range(5)]


def test_after_a_long_pause_nobody_is_let_go_first_for_ten_times_as_long() -> None:
    now, pause = [7], turns.LONG_PAUSE_NS + 1
    given: list[int] = []

    def give() -> None:
        given.append(now[0])
        now[0] += pause

    give_way = turns.GivingWay(give, lambda: now[0])
    give_way()
    again = 7 + pause + turns.PATIENCE * pause
    for at in (7 + pause, again - 1, again):
        now[0] = at
        give_way()

    assert given == [7, again]


def test_giving_way_asks_the_system_if_it_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []
    monkeypatch.setattr(os, "sched_yield", lambda: asked.append(None), raising=False)
    turns.GivingWay()()
    monkeypatch.delattr(os, "sched_yield")
    turns.GivingWay()()

    assert len(asked) == 1
