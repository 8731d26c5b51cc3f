"""Network namespaces with everything in them, made before the sandbox that gets one, and used again when nobody has used them.

Theory of operation. A *net* is a namespace with its loopback up, the listener of the engine's endpoint and, with an outbound network, its interface,
address and routes. The network process makes it; the broker has the zygote start a sandbox in it. It belongs to the engine's user namespace, so nobody
in a sandbox has power over it. A few wait ahead of need. A net whose sandbox has ended goes to the next sandbox if it is provably as it was: no
process is left (the sandbox's init has been reaped, which is the last of its pid namespace), no IP socket was ever made in it
(``witness``), none of any kind is left but the listener, and the supervisor has let go of its copy of that. Every other one is closed,
and the kernel takes it apart. Making one and taking it apart costs more than two milliseconds, and most functions that are called once and thrown
away never look at the network.

VPCs' networks, which differ from function to function, are made for each sandbox (``network``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from engine.sandbox import holder, kernel, packets
from engine.sandbox.netlink import LOOPBACK, Netlink, up
from engine.sandbox.peers import Loop
from engine.sandbox.spaces import Gateway
from engine.sandbox.witness import Witness, cookie

# Made ahead of need; and kept at most of those that are free again, as long as somebody takes them.
AHEAD = 8
_MOST_SPARE = 256
# Descriptors of one.
_EACH = 3
_SPARE_S = 1.0
_NOBODY = b"sockets: used 1\n"


def prepare(home: int, gateway: Gateway | None) -> tuple[list[int], bytes]:
    """In the network process: a net, as descriptors of the namespace, its listener and its count of sockets; and its address.

    ``home`` is a descriptor of the namespace to come back to. Raises OSError naming the step.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC
    with contextlib.ExitStack() as opened, contextlib.ExitStack() as needed:
        kernel.unshare(kernel.CLONE_NEWNET)
        try:
            fds = [os.open("/proc/self/ns/net", flags)]
            opened.callback(os.close, fds[0])
            listener = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            routes = Netlink()
            needed.callback(routes.close)
            fds += [listener.fileno(), os.open("/proc/thread-self/net/sockstat", flags)]
            opened.callback(os.close, fds[2])
        finally:
            kernel.setns(home, kernel.CLONE_NEWNET)
        routes.ask([up(LOOPBACK)])
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", holder.ENDPOINT_PORT))
        listener.listen(128)
        ip = b"" if gateway is None else gateway.join(fds[0], routes)
        listener.detach()
        opened.pop_all()
    return fds, ip


@dataclass(slots=True)
class Net:
    """``space`` is the namespace, ``cookie`` the kernel's number for it, 0 where nobody watches it."""

    number: int
    space: int
    listener: int
    sockets: int
    cookie: int

    def close(self) -> None:
        """The kernel takes it apart when its last descriptor is closed."""
        for fd in (self.space, self.listener, self.sockets):
            os.close(fd)


class Maker(Protocol):
    """The network process."""

    def send(self, message: list[object], fds: list[int] | None = None) -> None:
        """Ask for something."""


class Nets:
    """The broker's stock. ``witness`` None: nothing is used twice."""

    def __init__(self, loop: Loop, maker: Maker, witness: Witness | None, shortage: Callable[[int], str] = lambda _: "") -> None:
        self._loop = loop
        self._maker = maker
        self._witness = witness
        self._shortage = shortage
        self._spare: list[Net] = []
        self._waiting: deque[Callable[[Net | None, str], None]] = deque()
        self._ordered = 0
        self._number = 0
        # How many nobody needed since they were last counted.
        self._idle = 0
        self._counting = self._closed = False

    def take(self, then: Callable[[Net | None, str], None]) -> None:
        """Call ``then`` with a net, now or when there is one; with None and the reason when there can be none."""
        if self._spare:
            net = self._spare.pop()
            self._idle = min(self._idle, len(self._spare))
            then(net, "")
        else:
            self._waiting.append(then)
        self._refill()

    def _refill(self) -> None:
        ahead = 0 if self._shortage(AHEAD * _EACH) else AHEAD
        for _ in range(len(self._waiting) + ahead - len(self._spare) - self._ordered):
            self._number += 1
            self._ordered += 1
            self._maker.send(["net", self._number])

    def on_packet(self, packet: packets.Packet) -> None:
        """``["net", number]`` with its descriptors, or ``["no net", number, reason]``."""
        self._ordered -= 1
        if len(packet.fds) != _EACH:
            # It cannot be had, or arrived where there is no room for it.
            why = str(packet.args[1]) if packet.kind == "no net" else os.strerror(errno.EMFILE)
            if packet.kind == "net":
                self._maker.send(["drop", packet.args[0]])
            if self._waiting:
                self._waiting.popleft()(None, why)
            return
        space, listener, sockets = packet.fds
        packet.fds.clear()
        net = Net(int(packet.args[0]), space, listener, sockets, self._watched(listener))
        if self._waiting:
            self._waiting.popleft()(net, "")
        else:
            # Those that have been used come first: what nobody takes is as new as possible.
            self._spare.insert(0, net)

    def _watched(self, listener: int) -> int:
        if self._witness is None:
            return 0
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, listener)
        try:
            number = cookie(sock)
        finally:
            sock.detach()
        return number if self._witness.watch(number) else 0

    def give_back(self, net: Net, *, ended: bool) -> None:
        """A sandbox has no use for it any more. ``ended``: none of its processes is left, nor anything of it with the supervisor."""
        if ended and len(self._spare) < _MOST_SPARE and self._untouched(net):
            self._spare.append(net)
            if not self._counting and not self._closed:
                self._counting = True
                self._loop.later(_SPARE_S, self._count_spare)
        else:
            self._drop(net)

    def _untouched(self, net: Net) -> bool:
        if self._witness is None or not self._witness.unused(net.cookie):
            return False
        try:
            return os.pread(net.sockets, len(_NOBODY), 0) == _NOBODY
        except OSError:
            return False

    def _drop(self, net: Net) -> None:
        if self._witness is not None and net.cookie:
            self._witness.forget(net.cookie)
        net.close()
        self._maker.send(["drop", net.number])

    def _count_spare(self) -> None:
        """Close those that nobody took since the last time, down to what is made ahead of need anyway."""
        for _ in range(min(self._idle, len(self._spare) - AHEAD)):
            self._drop(self._spare.pop(0))
        self._idle = len(self._spare)
        self._counting = self._idle > AHEAD and not self._closed
        if self._counting:
            self._loop.later(_SPARE_S, self._count_spare)

    def close(self) -> None:
        """Let all go; the broker ends."""
        self._closed = True
        for net in self._spare:
            net.close()
        self._spare.clear()
        if self._witness is not None:
            self._witness.close()
