"""A zygote's ordinary work made by the compiled helper: waiting for the broker, sandboxes as they nearly all are, reaping.

Theory of operation. After each fork the zygote's own next write to any page copies that page, as it does in the worker; going through all this in
Python wrote to 190 pages for every sandbox. ``forge_run`` in ``_copy.c`` does the same from a structure and its stack, and comes back with what it does not
know: other packets than the making of a sandbox in a network that is there, the end of a process that Python has forked, and in the new worker, when that
has made its run of calls (``calls``) and is locked down.
What it does is what ``zygote`` does step by step, which stays for whatever else is asked for, and where there is no helper. Which process is whose is
kept in memory that forks do not have. Python 3.9, standard library.
"""

from __future__ import annotations

import ctypes as C
import os
from typing import TYPE_CHECKING, NamedTuple

from engine.sandbox import copier, kernel, packets, rootfs

if TYPE_CHECKING:
    from engine.sandbox import calls

PACKET, REAPED, WORKER, _BROKEN = 1, 2, 3, 4


class _State(C.Structure):
    """``struct forge``."""

    _fields_ = (
        *((name, C.c_int) for name in ("control", "children", "own_pids", "own_net", "zygote_pid", "worker_uid", "worker_gid", "joins", "into_group", "owned")),
        *((name, C.c_int) for name in ("n_live", "reaping", "pid", "status", "problem", "length", "cut", "hurried", "n_fds")),
        ("fds", C.c_int * packets.MAX_FDS),
        ("init_flags", C.c_long),
        ("tid_address", C.c_long),
        ("init_entry", C.c_void_p),
        ("init_stack", C.c_void_p),
        ("live", C.c_void_p),
        ("packet", C.c_void_p),
        ("room", C.c_long),
        ("calls", C.c_void_p),
        ("values", C.c_void_p),
        ("n_calls", C.c_int),
        ("failed", C.c_int),
    )


# Made where all that lives long is made.
_Packet = C.c_char * (packets.MAX_PACKET + 1)


class Home(NamedTuple):
    """The zygote's own: the broker's socket, the descriptor that tells of children, those of its namespaces, and whether sandboxes own theirs."""

    control: int
    children: int
    pids: int
    net: int
    pid: int
    owned: bool


class Forge:
    """See ``begin``."""

    def __init__(self, home: Home, made_in: tuple[int, int, int], joins: int, into_group: bool, run: calls.Table, memory: int) -> None:
        self._packet = _Packet()
        self._table = run
        flags, entry, stack = made_in
        first_call, n_calls, values = run.place
        self._state = _State(
            control=home.control, children=home.children, own_pids=home.pids, own_net=home.net, zygote_pid=home.pid,
            worker_uid=rootfs.WORKER_UID, worker_gid=rootfs.WORKER_GID, joins=joins, into_group=into_group, owned=home.owned,
            init_flags=flags, tid_address=kernel.tid_address(), init_entry=entry, init_stack=stack, live=memory,
            packet=C.addressof(self._packet), room=len(self._packet), calls=first_call, values=values, n_calls=n_calls,
        )  # fmt: skip
        self._run = copier.forge_run
        self._reference = C.byref(self._state)

    def try_with(self, control: int, channel: int, output: int) -> None:
        """From now on ``run`` is as in a new worker, with these descriptors."""
        self._state.fds[:3] = [control, channel, output]
        self._state.hurried = True
        self._run = copier.forge_try

    def run(self) -> int:
        """PACKET, REAPED, or, in a worker, WORKER. Raises OSError when the zygote cannot go on."""
        what = int(self._run(self._reference))
        if what == _BROKEN:
            raise OSError(self._state.problem, "cannot talk to the broker, or not come back from a sandbox's namespaces")
        return what

    def packet(self) -> packets.Packet | None:
        """What is for Python; None at the end of the stream. Raises PacketError."""
        state = self._state
        return packets.unpacked(self._packet.raw[: state.length], list(state.fds[: state.n_fds]), cut=bool(state.cut))

    def reaped(self) -> tuple[int, int]:
        """Number and status of a process that is not its own."""
        return self._state.pid, self._state.status

    def worker(self) -> tuple[calls.Table, int, bool]:
        """For the worker: its run, which call of it failed, from 1 on, or 0, and whether somebody waits for it."""
        return self._table, self._state.failed, bool(self._state.hurried)

    def init_of(self, holder_id: int) -> int:
        """The process number of a sandbox's init, -1 when it has ended or was not made here."""
        return int(copier.forge_init_of(self._reference, C.c_long(holder_id)))


def begin(home: Home, made_in: tuple[int, int, int], joins: int, into_group: bool, run: calls.Table) -> Forge | None:
    """None where there is no helper. ``made_in``: flags, entry and stack of an init (``init.made_in``). ``joins``, ``into_group``: what every
    packet brings in control groups. ``run``: what workers then do.
    """
    # A helper built for another version of this module would read the wrong fields: then Python does the work.
    memory = copier.forge_memory and copier.forge_memory(C.c_long(C.sizeof(_State)))
    return Forge(home, made_in, joins, into_group, run, memory) if memory else None


def on_trial(run: calls.Table) -> Forge | None:
    """One that makes nothing but what ``try_with`` makes of the process itself. None where there is no helper."""
    return begin(Home(-1, -1, -1, -1, os.getpid(), owned=False), (0, 0, 0), 0, into_group=False, run=run)
