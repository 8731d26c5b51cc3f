"""How long a turn on the processor a thread asks for, which decides whom it interrupts when it wakes.

Linux since 6.12 takes a slice from every ordinary thread (``sched_setattr``; no privilege is needed). Niceness says how much of a busy
processor a thread gets, the slice how soon: whoever asks for a shorter one than the thread that runs takes its place the moment it wakes,
as long as it has not had its share; with equal ones it waits until the other has had a turn, which is the better part of a millisecond. Older
kernels ignore the slice, other systems have nothing of the kind, and nothing but latency depends on it, so nothing here ever fails.
Python 3.9, standard library.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# The shortest there is. For what is done before anybody notices: an invocation's steps.
SHORT_NS = 100_000
# Several times the kernel's own (0.7 ms, and 1.4 or 2.8 where there are more processors). For what may be interrupted by everything.
LONG_NS = 10_000_000
# Longer than what the supervisor or a small function does at a time: whoever was let go first computes for long, and would be let again and again.
LONG_PAUSE_NS = 1_000_000
PATIENCE = 10
# Pieces of work that are shorter are not worth an end of their own.
PIECE_NS = 50_000
_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}
# The kernel's struct sched_attr, first version: size, policy, flags, niceness, priority, and what is a slice under these policies.
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")


def short(thread: int = 0) -> None:
    """Have a thread of this process (0: the calling one) and all it starts run at once when they wake."""
    _ask(thread, SHORT_NS)


def long(thread: int = 0) -> None:
    """Have a thread of this process (0: the calling one) and all it starts be interrupted by whatever wakes."""
    _ask(thread, LONG_NS)


class GivingWay:
    """Lets whoever waits for this processor go first; to be called between two pieces of work, every tenth of a millisecond or so. For one thread.

    Slices say who may interrupt whom when he wakes, and only while he has had less than his share. A supervisor that has just computed, and whose worker
    was woken in its place, has had more than the control plane that waits beside it: when the worker is done the control plane is next, and goes on until it
    sleeps or the clock ticks, which is milliseconds. Linux 6.18 moreover counts the rest of the turn of who gives way as had, so that
    the supervisor has the better claim next time. Where functions fill the processors that would cost the giver most of its share: after a long
    pause it does not give way for ten times as long. It costs a microsecond where nobody waits.
    """

    __slots__ = ("_after", "_clock_ns", "_give")

    def __init__(self, give: Callable[[], None] | None = None, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        system: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
        self._give = system if give is None else give
        self._clock_ns = clock_ns
        self._after = 0

    def __call__(self) -> None:
        began = self._clock_ns()
        if began < self._after:
            return
        self._give()
        ended = self._clock_ns()
        pause = ended - began
        self._after = ended + (PIECE_NS if pause <= LONG_PAUSE_NS else PATIENCE * pause)


# For the control plane's loop.
give_way = GivingWay()


def slice_ns(thread: int = 0) -> int:
    """The slice that a thread has, 0 where there is no such thing."""
    attributes = ctypes.create_string_buffer(_ATTRIBUTES.size)
    call = _call(1)
    if call is None or call(thread, attributes, _ATTRIBUTES.size, 0):
        return 0
    return int(_ATTRIBUTES.unpack(attributes.raw)[5])


def _ask(thread: int, ns: int) -> None:
    call = _call(0)
    if call is None:
        return
    try:
        policy = os.sched_getscheduler(thread)
        niceness = os.getpriority(os.PRIO_PROCESS, thread)
    except OSError:
        return
    if policy in (os.SCHED_OTHER, os.SCHED_BATCH):
        call(thread, _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, 0, niceness, 0, ns, 0, 0), 0)


def _call(which: int) -> Callable[..., int] | None:
    """``sched_setattr`` (0) or ``sched_getattr`` (1), where there are such."""
    numbers = _CALLS.get(platform.machine())
    if sys.platform != "linux" or numbers is None:
        return None
    syscall = ctypes.CDLL(None).syscall
    return lambda thread, *arguments: int(syscall(numbers[which], thread, *arguments))
