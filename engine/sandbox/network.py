"""The process that makes networks for the broker, and the broker's end of it.

Theory of operation. Configuring interfaces takes the kernel's one lock for all of them, which the clean-up of ended sandboxes holds for
milliseconds at a time; the broker, on the path of every cold start, must not wait for it. So the networks, with the descriptors that keep them
alive, belong to a child of the broker that does nothing else: one thread, one packet after the other. It gives a sandbox its interface while
the sandbox is being made. When it ends every sandbox is without network, so the broker ends too and its successor starts over; when
the broker ends, so does this. Nothing a function sends reaches it; names are answered by a process of their own without privilege.

``["wire", holder, network]`` + pidfd → ``["wired", holder]`` or ``["unwired", holder, reason]``; ``["unwire", holder]``;
``["net", number]`` → ``["net", number]`` + what ``nets.prepare`` makes, or ``["no net", number, reason]``; ``["drop", number]``;
``["vpc", token, id, document or null]`` → ``["vpc", token, {attachment: reason}, reason]``. A network is "" (outbound) or
``vpc/subnet,subnet/group,group``.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from engine.sandbox import kernel, nets, packets, resolver
from engine.sandbox.nat import Nat
from engine.sandbox.peers import Loop, Peer
from engine.sandbox.spaces import RESOLVER
from engine.sandbox.vpcs import Vpc

_TRIAL = {"cidrs": ["10.0.0.0/16"], "subnets": {"trial": "10.0.0.0/24"}, "groups": {"trial": {"in": [], "out": []}}, "servers": {}}
_START_S = 20.0
_TENDING_S = 1.0
# CAP_NET_BIND_SERVICE for port 53, CAP_NET_ADMIN for nearly everything, CAP_SYS_PTRACE and CAP_SYS_ADMIN to enter namespaces.
_KEPT = (10, 12, 19, 21)


class Networks:
    """All networks of this engine; lives in the child."""

    def __init__(self, sock: socket.socket, names: socket.socket, *, outbound: bool) -> None:
        self._sock = sock
        self._resolver = names
        self._nat: Nat | None = None
        self._vpcs: dict[str, Vpc] = {}
        # By sandbox, how to give back what it has.
        self._wired: dict[int, Callable[[], None]] = {}
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        # Addresses of nets by their number.
        self._nets: dict[int, bytes] = {}
        self.no_outbound = ""
        self.no_vpc = ""
        if outbound:
            try:
                self._nat = Nat()
                self._listen("", [str(RESOLVER)], self._nat.space.inside)
            except OSError as e:
                self.no_outbound = str(e)
        try:
            trial = Vpc()
            try:
                trial.apply(_TRIAL)
                trial.try_port("trial", ("trial",))
            finally:
                trial.close()
        except OSError as e:
            self.no_vpc = str(e)

    def advice(self) -> list[str]:
        """What may stand in the way."""
        return self._nat.advice() if self._nat is not None else []

    def _listen(self, key: str, addresses: list[str], inside: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        """Have names answered at these addresses of a namespace."""
        with contextlib.ExitStack() as stack:
            socks: list[socket.socket] = []
            with inside():
                for ip in addresses:
                    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                        socks.append(stack.enter_context(socket.socket(socket.AF_INET, kind)))
                        socks[-1].bind((ip, 53))
                        if kind is socket.SOCK_STREAM:
                            socks[-1].listen(16)
            packets.send(self._resolver, ["listen", key], [s.fileno() for s in socks])

    def serve(self) -> None:
        """Until the broker goes away. Raises OSError when the resolver is lost."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._resolver, select.POLLIN)
        tended_s = 0.0
        while True:
            ready = {fd for fd, _ in poll.poll(_TENDING_S * 1000 if self._vpcs else None)}
            if self._resolver.fileno() in ready:
                raise OSError("the process that answers names has ended")
            if time.monotonic() - tended_s >= _TENDING_S:
                self._tend()
                tended_s = time.monotonic()
            if self._sock.fileno() not in ready:
                continue
            packet = packets.receive(self._sock)
            if packet is None:
                return
            try:
                self._obey(packet)
            finally:
                packet.close()

    def _tend(self) -> None:
        for name, vpc in self._vpcs.items():
            try:
                said = vpc.tend()
            except OSError as e:
                said = [f"attached servers were not looked after: {e}"]
            for line in said:
                sys.stderr.write(f"{name}: {line}\n")
        sys.stderr.flush()

    def _obey(self, packet: packets.Packet) -> None:
        kind, args = packet.kind, packet.args
        if kind == "wire":
            self._wire(int(args[0]), str(args[1]), packet.fds[0])
        elif kind == "unwire":
            give_back = self._wired.pop(int(args[0]), None)
            if give_back is not None:
                with contextlib.suppress(OSError):
                    give_back()
        elif kind == "net":
            self._make_net(int(args[0]))
        elif kind == "drop":
            ip = self._nets.pop(int(args[0]), b"")
            if ip and self._nat is not None:
                self._nat.gateway.release(ip)
        elif kind == "vpc":
            problems, reason = self._apply(str(args[1]), args[2])
            packets.send(self._sock, ["vpc", args[0], problems, reason])

    def _make_net(self, number: int) -> None:
        try:
            fds, self._nets[number] = nets.prepare(self._home, None if self._nat is None else self._nat.gateway)
        except OSError as e:
            packets.send(self._sock, ["no net", number, e.strerror or str(e)])
            return
        try:
            packets.send(self._sock, ["net", number], fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _wire(self, holder_id: int, network: str, pidfd: int) -> None:
        try:
            self._wired[holder_id] = self._connect(network, pidfd)
        except OSError as e:
            packets.send(self._sock, ["unwired", holder_id, e.strerror or str(e)])
        else:
            packets.send(self._sock, ["wired", holder_id])

    def _connect(self, network: str, pidfd: int) -> Callable[[], None]:
        if not network:
            if self._nat is None:
                raise OSError(self.no_outbound or "there is no outbound network")
            return partial(self._nat.gateway.release, self._nat.gateway.connect(pidfd))
        name, subnets, groups = network.split("/")
        vpc = self._vpcs.get(name)
        if vpc is None:
            raise OSError(f"{name} is not known here")
        gateway, ip = vpc.connect(tuple(subnets.split(",")), tuple(groups.split(",")), pidfd)
        return partial(vpc.release, gateway, ip)

    def _apply(self, name: str, document: dict[str, Any] | None) -> tuple[dict[str, str], str]:
        """What could not be attached, and why nothing could be done."""
        vpc = self._vpcs.get(name)
        try:
            if document is None:
                if self._vpcs.pop(name, None) is not None and vpc is not None:
                    packets.send(self._resolver, ["forget", name])
                    vpc.close()
                return {}, ""
            if vpc is None:
                vpc = Vpc()
                self._vpcs[name] = vpc
                problems = vpc.apply(document)
                self._listen(name, [str(RESOLVER), vpc.resolver], vpc.space.inside)
            else:
                problems = vpc.apply(document)
            packets.send(self._resolver, ["names", name, vpc.names])
        except OSError as e:
            return {}, e.strerror or str(e)
        return problems, ""

    def close(self) -> None:
        """Let everything go and put the host back as it was."""
        for vpc in self._vpcs.values():
            with contextlib.suppress(OSError):
                vpc.close()
        if self._nat is not None:
            self._nat.close()


@dataclass
class Settled:
    """Which network this host allows. ``process``: who makes it, None when nobody has to. ``no_vpc``: why there is no VpcConfig, or empty."""

    process: NetworkProcess | None
    mode: str
    no_vpc: str
    advice: list[str]
    mechanism: str

    def close(self) -> None:
        """Give it back."""
        if self.process is not None:
            self.process.close()


def settle(level: str, asked: str) -> Settled:
    """The network asked for, or for ``auto`` the best one. Raises OSError when ``nat`` is asked for and cannot be had."""
    if level != "full" or asked == "host":
        if asked == "nat":
            raise OSError(f"network=nat needs sandbox level full, this is level {level}")
        mode = "host" if asked == "host" or level == "process" else "isolated"
        why = "network=host" if level == "full" else f"sandbox level {level}; it needs level full"
        return Settled(None, mode, f"VpcConfig cannot be obeyed at {why}", [], "")
    try:
        process = NetworkProcess(outbound=asked != "isolated")
    except OSError as e:
        if asked == "nat":
            raise OSError(f"network=nat is not available: {e}") from e
        return Settled(None, "isolated", f"VpcConfig cannot be obeyed here: {e}", [], f"own, per instance, loopback only: {e}")
    if asked == "nat" and process.no_outbound:
        process.close()
        raise OSError(f"network=nat is not available: {process.no_outbound}")
    no_vpc = f"VpcConfig cannot be obeyed here: {process.no_vpc}" if process.no_vpc else ""
    own = "own, per instance"
    if asked == "isolated":
        return Settled(process, "isolated", no_vpc, [], f"{own}, loopback only")
    if process.no_outbound:
        return Settled(process, "isolated", no_vpc, [], f"{own}, loopback only: no outbound network: {process.no_outbound}")
    return Settled(process, "nat", no_vpc, process.advice, f"{own}, outbound through NAT")


class NetworkProcess:
    """The broker's end. ``no_outbound`` and ``no_vpc`` say why there is none of it, or are empty."""

    def __init__(self, *, outbound: bool) -> None:
        """Fork it and wait until it knows what this host allows. Raises OSError when it does not come up."""
        ours, theirs = packets.pair()
        self.pid = os.fork()
        if self.pid == 0:
            _be_network(theirs, outbound=outbound)
        theirs.close()
        self._sock = ours
        ours.settimeout(_START_S)
        packet = packets.receive(ours)
        if packet is None:
            raise OSError("the network process ended while starting; its error output says why")
        self.no_outbound, self.no_vpc, self.advice = (str(packet.args[0]), str(packet.args[1]), [str(a) for a in packet.args[2]])
        self._peer: Peer | None = None

    def attend(self, loop: Loop, on_packet: Callable[[packets.Packet], None]) -> None:
        """From now on its answers arrive on ``loop``, without their descriptors where the broker may have no more."""
        self._peer = Peer(loop, self._sock, on_packet, lambda _reason: None, on_packet)

    def send(self, message: list[object], fds: list[int] | None = None) -> None:
        """Queue a packet."""
        if self._peer is not None:
            self._peer.send(message, fds or [])

    def close(self) -> None:
        """Tell it to end and wait until the host is as it was."""
        if self._peer is not None:
            self._peer.close()
        self._sock.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _be_network(sock: socket.socket, *, outbound: bool) -> None:
    """The child's life. Never returns."""
    status = 1
    try:
        kernel.die_with_parent()
        kernel.set_name("lambda-network")
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        kernel.close_from(3, [sock.fileno()])
        names = resolver.start()
        with contextlib.suppress(PermissionError):
            kernel.drop_bounding_set()
        kernel.keep_capabilities(*_KEPT)
        kernel.no_new_privileges()
        networks = Networks(sock, names, outbound=outbound)
        packets.send(sock, ["ready", networks.no_outbound, networks.no_vpc, networks.advice()])
        try:
            networks.serve()
        finally:
            networks.close()
        status = 0
    except BaseException:  # the process must not return into the broker's loop
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)
