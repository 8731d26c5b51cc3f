"""A network namespace of the engine's own, and the gateways through which sandboxes leave theirs.

Theory of operation. A *space* is a namespace that belongs to no process: it lives while its descriptors are open and takes everything in it
along when they close, so whatever kills the engine cleans up after it. A *gateway* is a private segment in a space: sandboxes hang on it by
one macvlan interface each, cannot hear each other (mode private) and reach only the space, which routes and filters for them. Everything
a sandbox must know of its neighbour is written in ahead of need: there is no ARP, hence no first packet that waits for it, and no
neighbour that could lie. The interface of an ended sandbox goes with its namespace; nothing is ever deleted.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
from collections import deque
from collections.abc import Iterator

from engine.sandbox import kernel
from engine.sandbox.netlink import LOOPBACK, Message, Netlink, address, delete, macvlan, neighbour, no_own_ipv6, route, up, veth
from engine.sandbox.nft import Filter

# Reserved for benchmarks (RFC 2544) and, by AWS, refused as a VPC's block: no network that a function wants to reach.
POOL = ipaddress.IPv4Network("198.19.0.0/16")
# Of one sandbox. It has 1,024 descriptors; connections are remembered for a while after their end.
MOST_CONNECTIONS = 4096
RESOLVER = ipaddress.IPv4Address("169.254.169.253")
# A segment takes as many parts as it needs; there may be one per subnet and set of groups.
_CHUNK_BITS = 26
_NEXT_HOP = ipaddress.IPv4Address("169.254.1.1").packed
_GATEWAY_MAC = bytes.fromhex("060000000001")
# Number of the one interface in a namespace that leads out of it. From 2 on may be the kernel's own: where tunnels are loaded or built in,
# every new namespace has theirs (sit0, tunl0).
_INNER = 1000
_FIRST_INDEX = _INNER
_ANYWHERE = bytes(4)


class Space:
    """One namespace. ``routes`` and ``packets`` act inside it."""

    def __init__(self) -> None:
        home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._home = home
        try:
            kernel.unshare(kernel.CLONE_NEWNET)
            try:
                self.fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                self.routes = Netlink()
                self.packets = Filter()
                _behave_as_router()
            finally:
                kernel.setns(home, kernel.CLONE_NEWNET)
            self.routes.ask([up(LOOPBACK), address(LOOPBACK, RESOLVER.packed)])
        except BaseException:
            os.close(home)
            raise
        self._next_index = _FIRST_INDEX

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Run a block in this namespace; the process must have one thread."""
        with self.visit(self.fd):
            yield

    @contextlib.contextmanager
    def visit(self, there: int) -> Iterator[None]:
        """``inside`` for the namespace of another descriptor, or of a pidfd's process."""
        kernel.setns(there, kernel.CLONE_NEWNET)
        try:
            yield
        finally:
            kernel.setns(self._home, kernel.CLONE_NEWNET)

    def next_index(self) -> int:
        """A number for a new interface."""
        self._next_index += 1
        return self._next_index

    def close(self) -> None:
        """Let it go, with everything in it."""
        self.routes.close()
        self.packets.close()
        os.close(self.fd)
        os.close(self._home)


def _behave_as_router() -> None:
    """Forward IPv4, send no redirects, speak no IPv6. For the current namespace."""
    kernel.write_file("/proc/sys/net/ipv4/ip_forward", b"1")
    for name in ("all", "default"):
        kernel.write_file(f"/proc/sys/net/ipv4/conf/{name}/send_redirects", b"0")
        with contextlib.suppress(FileNotFoundError):
            kernel.write_file(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", b"1")


class Chunks:
    """Hands out parts of the pool of one space."""

    def __init__(self) -> None:
        self._left = deque(POOL.subnets(new_prefix=_CHUNK_BITS))

    def take(self) -> ipaddress.IPv4Network:
        """A part nobody has. Raises OSError when there is none."""
        if not self._left:
            raise OSError(errno.ENOSPC, f"all of {POOL} is in use")
        return self._left.popleft()

    def give_back(self, part: ipaddress.IPv4Network) -> None:
        """Nobody has an address of it any more."""
        self._left.append(part)


class Gateway:
    """One segment of a space. Its interface in the space is called ``name``."""

    def __init__(self, space: Space, chunks: Chunks, name: str) -> None:
        self.name = name
        self._space = space
        self._chunks = chunks
        self._index, self._lower = space.next_index(), space.next_index()
        self._free: deque[bytes] = deque()
        self._parts: list[ipaddress.IPv4Network] = []
        self._used = 0
        pair = veth(name, self._index, _GATEWAY_MAC, f"{name}-low", peer_index=self._lower)
        space.routes.ask([pair, up(self._lower)])
        speaks_ipv6 = os.path.isdir("/proc/sys/net/ipv6")
        self._before: list[Message] = [*([no_own_ipv6(_INNER)] if speaks_ipv6 else []), up(_INNER)]
        self._after = [neighbour(_INNER, _NEXT_HOP, _GATEWAY_MAC), route(_INNER, _ANYWHERE, 0, via=_NEXT_HOP)]

    def connect(self, pidfd: int) -> bytes:
        """Give the namespace of a process its interface ``eth0``; the address, to be given back. Raises OSError naming the step."""
        there, routes = self._look_into(pidfd)
        try:
            return self.join(there, routes)
        finally:
            os.close(there)
            routes.close()

    def join(self, there: int, routes: Netlink) -> bytes:
        """``connect`` for the namespace of a descriptor, with a socket in it."""
        if not self._free:
            self._grow()
        ip = self._free.popleft()
        mac = b"\x02\x00" + ip
        try:
            self._space.routes.ask([macvlan("eth0", _INNER, mac, self._lower, there), neighbour(self._index, ip, mac)])
            routes.ask([*self._before, address(_INNER, ip), *self._after])
        except BaseException:
            self._free.append(ip)
            raise
        self._used += 1
        return ip

    def _look_into(self, pidfd: int) -> tuple[int, Netlink]:
        """A descriptor of the namespace and a socket in it."""
        with self._space.visit(pidfd):
            return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC), Netlink()

    def release(self, ip: bytes) -> None:
        """The sandbox with this address has ended. Addresses come round again as late as possible."""
        self._free.append(ip)
        self._used -= 1

    @property
    def used(self) -> bool:
        """Whether a sandbox is on it."""
        return self._used > 0

    def close(self) -> None:
        """Take it away; no sandbox is on it."""
        self._space.routes.ask([delete(self._index)])
        for part in self._parts:
            self._chunks.give_back(part)

    def _grow(self) -> None:
        chunk = self._chunks.take()
        self._parts.append(chunk)
        self._space.routes.ask([route(self._index, chunk.network_address.packed, chunk.prefixlen)])
        self._free.extend(host.packed for host in chunk.hosts())
