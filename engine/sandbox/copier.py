"""In a template: a worker whose init is over forks copies of itself into sandboxes made for them.

Theory of operation. An order brings the namespaces of one empty sandbox, its control groups, a channel and an output pipe. The template
forks; the child joins the control groups and enters the user namespace, whose owner it is, and by that right all the others; it forks
again, since only a child is born into a pid namespace. That grandchild gives its new powers up, puts up the fences of ordinary
workers, takes the channel and returns from ``wait_for_copy``; the child in between ends. Everything after a fork runs in memory that
user code may have prepared, so nothing here is trusted: the template holds no right but over sandboxes whose namespaces it was sent,
and it is sent those of its own function only. It cannot send to the broker.

Where ``_copy.c`` was built, the child in between is none of Python's: it borrows the template's memory instead of copying it first.
Python 3.9, standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from engine.sandbox import inherited, kernel, lockdown, packets

if TYPE_CHECKING:
    from collections.abc import Sequence

# In this order: the first gives the right to the others.
NAMESPACES = (
    ("user", kernel.CLONE_NEWUSER),
    ("mnt", kernel.CLONE_NEWNS),
    ("pid", kernel.CLONE_NEWPID),
    ("ipc", kernel.CLONE_NEWIPC),
    ("uts", kernel.CLONE_NEWUTS),
    ("net", kernel.CLONE_NEWNET),
    ("cgroup", kernel.CLONE_NEWCGROUP),
)


def _load(name: str) -> Any:
    """A function of the compiled part, None where there is none. Loaded in the zygote: a template does not see the engine's files."""
    try:
        # PyDLL keeps the interpreter lock: the copy wakes up holding it.
        return getattr(ctypes.PyDLL(os.path.join(os.path.dirname(os.path.abspath(__file__)), "_copy.so")), name)
    except (OSError, AttributeError):
        return None


_ENDING_S = 0.5
_copy_into = _load("copy_into")
# What ``calls`` has its tables run by.
perform = _load("perform")
# What ``forge`` rests on.
forge_run, forge_init_of, forge_memory, forge_try = _load("forge_run"), _load("forge_init_of"), _load("forge_memory"), _load("forge_try")
if forge_memory is not None:
    forge_memory.restype = ctypes.c_void_p


class Copier:
    """The template's end of its orders."""

    def __init__(self, orders: socket.socket, fences: lockdown.Fences) -> None:
        self._orders = orders
        self._fences = fences
        self._belongings = inherited.Belongings()

    def findings(self, channel_fd: int) -> tuple[int, list[int]]:
        """Threads that a fork does not end, and children, which it leaves behind; and descriptors of connections other than the channel.
        Call it when init is over.

        Libraries that end their threads before a fork and start them again after it (OpenBLAS does) are given the chance.
        """
        children = 0
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            children = 1
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        # Who has been joined is the kernel's a moment longer.
        give_up_s = time.monotonic() + _ENDING_S
        while (threads := len(os.listdir("/proc/self/task"))) > 1 and time.monotonic() < give_up_s:
            time.sleep(0.001)
        self._belongings.look((0, 1, 2, self._orders.fileno(), channel_fd))
        return threads + children, self._belongings.connections

    def wait_for_copy(self) -> socket.socket:
        """Serve orders; returns in a copy, with its channel. Ends the process when no more orders can come."""
        while True:
            packet = packets.receive(self._orders)
            if packet is None:
                os._exit(0)
            fork = self._fork_by_another if _copy_into is None else self._fork_there
            try:
                if fork(packet):
                    packet.close()
                    continue
                return self._become_copy(packet)
            except BaseException as e:  # a copy that came out wrong must not go on as a second template
                with contextlib.suppress(OSError):
                    os.write(2, f"[engine] the copy of a template failed: {e}\n".encode())
                os._exit(1)

    @staticmethod
    def _fork_by_another(packet: packets.Packet) -> int:
        """Fork into the namespaces of an order; 0 in the copy. The child in between is a fork as well."""
        names, _ = packet.args
        spaces, (_, _, *groups) = packet.fds[: len(names)], packet.fds[len(names) :]
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            return pid
        for fd in groups:
            os.write(fd, b"0")
        kinds = dict(NAMESPACES)
        for n, fd in enumerate(spaces):
            kernel.setns(fd, kinds[names[n]])
        if os.fork():
            os._exit(0)
        return 0

    @staticmethod
    def _fork_there(packet: packets.Packet) -> int:
        """The same by the compiled part. An order that cannot be carried out is complained of, and its sandbox waits in vain."""
        names, _ = packet.args
        spaces, (_, _, *groups) = packet.fds[: len(names)], packet.fds[len(names) :]
        kinds = dict(NAMESPACES)

        def numbers(of: Sequence[int]) -> Any:
            return (ctypes.c_int * len(of))(*of)

        arguments = numbers(groups), len(groups), numbers(spaces), numbers([kinds[name] for name in names]), len(names)
        python = ctypes.pythonapi
        python.PyOS_BeforeFork()
        done = _copy_into(*arguments)
        if done == 0:
            python.PyOS_AfterFork_Child()
            return 0
        python.PyOS_AfterFork_Parent()
        # Whoever entered the user namespace has changed this memory's owner.
        kernel.set_dumpable(True)
        if done < 0:
            os.write(2, f"[engine] the copy of a template failed: {os.strerror(-done)}\n".encode())
        return 1

    def _become_copy(self, packet: packets.Packet) -> socket.socket:
        """["copy", names of namespaces, task root] + namespaces, channel, output, control groups."""
        names, task_root = packet.args
        spaces, (channel, output, *groups) = packet.fds[: len(names)], packet.fds[len(names) :]
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.setsid()
        os.chdir(task_root)
        kernel.drop_capabilities()
        kernel.set_dumpable(True)
        for fd in (*spaces, *groups, output):
            os.close(fd)
        self._orders.close()
        # Before the fences: files are opened by where they are in the template's.
        self._belongings.renew((0, 1, 2, channel))
        lockdown.restrict(self._fences)
        lockdown.renew_entropy()
        return socket.socket(fileno=channel)


def offered(orders: int, fences: lockdown.Fences) -> Copier | None:
    """What the bootstrap is given in a template, None in every other worker."""
    return Copier(socket.socket(fileno=orders), fences) if orders >= 0 else None
