"""In a template: a worker whose init is over forks copies of itself into sandboxes made for them.

Theory of operation. An order brings the namespaces of one empty sandbox, its control groups, a channel and an output pipe. The template
forks; the child joins the control groups and enters the user namespace, whose owner it is, and by that right all the others; it forks
again, since only a child is born into a pid namespace. That grandchild gives its new powers up, puts up the fences of ordinary
workers, takes the channel and returns from ``wait_for_copy``; the child in between ends. Everything after a fork runs in memory that
user code may have prepared, so nothing here is trusted: the template holds no right but over sandboxes whose namespaces it was sent,
and it is sent those of its own function only. It cannot send to the broker.
Python 3.9, standard library.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from engine.sandbox import kernel, lockdown, packets

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


class Copier:
    """The template's end of its orders."""

    def __init__(self, orders: socket.socket, fences: lockdown.Fences) -> None:
        self._orders = orders
        self._fences = fences

    def findings(self, channel_fd: int) -> tuple[int, list[int]]:
        """Threads that a fork does not end, and descriptors of sockets other than the channel; call it when init is over.

        Libraries that end their threads before a fork and start them again after it (OpenBLAS does) are given the chance.
        """
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return len(os.listdir("/proc/self/task")), self.sockets((channel_fd,))

    def sockets(self, but: Sequence[int]) -> list[int]:
        """Open sockets other than the template's own and ``but``."""
        own = {self._orders.fileno(), *but}
        found = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if int(name) not in own and os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                    found.append(int(name))
        return sorted(found)

    def wait_for_copy(self) -> socket.socket:
        """Serve orders; returns in a copy, with its channel. Ends the process when no more orders can come."""
        while True:
            packet = packets.receive(self._orders)
            if packet is None:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                try:
                    return self._become_copy(packet)
                except BaseException as e:  # a copy that came out wrong must not go on as a second template
                    with contextlib.suppress(OSError):
                        os.write(2, f"[engine] the copy of a template failed: {e}\n".encode())
                    os._exit(1)
            packet.close()
            os.waitpid(pid, 0)

    def _become_copy(self, packet: packets.Packet) -> socket.socket:
        """["copy", names of namespaces, task root] + namespaces, channel, output, control groups."""
        names, task_root = packet.args
        spaces, (channel, output, *groups) = packet.fds[: len(names)], packet.fds[len(names) :]
        os.dup2(output, 1)
        os.dup2(output, 2)
        for fd in groups:
            os.write(fd, b"0")
        kinds = dict(NAMESPACES)
        for n, fd in enumerate(spaces):
            kernel.setns(fd, kinds[names[n]])
        if os.fork():
            os._exit(0)
        os.setsid()
        os.chdir(task_root)
        kernel.drop_capabilities()
        kernel.set_dumpable(True)
        lockdown.restrict(self._fences)
        lockdown.renew_entropy()
        for fd in (*spaces, *groups, output):
            os.close(fd)
        inherited = self.sockets((channel,))
        self._orders.close()
        self._cut_off(inherited)
        return socket.socket(fileno=channel)

    @staticmethod
    def _cut_off(inherited: Sequence[int]) -> None:
        """Connections of the template, its channel among them, are at their end in a copy, as after a restore on Lambda."""
        if not inherited:
            return
        ours, theirs = socket.socketpair()
        theirs.close()
        for fd in inherited:
            os.dup2(ours.fileno(), fd, inheritable=False)
        ours.close()


def offered(orders: int, fences: lockdown.Fences) -> Copier | None:
    """What the bootstrap is given in a template, None in every other worker."""
    return Copier(socket.socket(fileno=orders), fences) if orders >= 0 else None
