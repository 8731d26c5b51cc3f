"""Names for functions: those of private servers from a table, all others from the resolvers that the host itself uses.

A process without privilege, because it reads what functions send. Its sockets were bound for it in the networks' namespaces; to the host's
resolvers it speaks from the host's own network, so 127.0.0.53 works as well as any. Queries are forwarded as they are, each from a port of its
own, with an identifier of its own. TCP, for answers that do not fit a datagram, has a thread per connection: it is rare, and there are few.
No address, which is a function's, may have more than a part of what waits, so that nobody else goes without names for what one asks.
Source: RFC 1035.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from engine.sandbox import kernel, packets

MAX_MESSAGE = 4096
_NOBODY = 65534
_RESOLV_CONF = "/etc/resolv.conf"
_PATIENCE_S = 5.0
_MAX_WAITING, _MAX_WAITING_EACH = 512, 64
_MAX_CONNECTIONS, _MAX_CONNECTIONS_EACH = 64, 4
_HEADER = struct.Struct(">HHHHHH")
_A, _IN = 1, 1
_RESPONSE, _RECURSION = 0x8000, 0x0080
_AUTHORITATIVE, _SERVER_FAILURE = 0x0400, 2
_TTL_S = 5
_POINTER_TO_QUESTION = 0xC00C


# Whose network, and the address in it.
_Who = tuple[str, str]


class NotAQuery(ValueError):
    """What arrived is nothing to be answered."""


def question(message: bytes) -> tuple[str, int, int]:
    """(name in lower case, type, end of the question) of a standard query with one question. Raises NotAQuery."""
    if len(message) < _HEADER.size:
        raise NotAQuery("too short")
    _, flags, questions, _, _, _ = _HEADER.unpack_from(message)
    if flags & 0xF800 or questions != 1:
        raise NotAQuery("not a standard query with one question")
    at = _HEADER.size
    labels: list[str] = []
    while True:
        if at >= len(message):
            raise NotAQuery("cut")
        size = message[at]
        at += 1
        if size == 0:
            break
        if size > 63 or at + size > len(message):
            raise NotAQuery("bad label")
        labels.append(message[at : at + size].decode("latin-1"))
        at += size
    if at + 4 > len(message):
        raise NotAQuery("cut")
    kind, _ = struct.unpack_from(">HH", message, at)
    return ".".join(labels).lower(), kind, at + 4


def answer(message: bytes, end: int, kind: int, ip: str) -> bytes:
    """The reply to a question about a name that has one address; to other types than A, that there is nothing."""
    number, flags, *_ = _HEADER.unpack_from(message)
    found = kind == _A
    head = _HEADER.pack(number, _RESPONSE | _AUTHORITATIVE | _RECURSION | flags & 0x0100, 1, int(found), 0, 0)
    record = struct.pack(">HHHIH", _POINTER_TO_QUESTION, _A, _IN, _TTL_S, 4) + ipaddress.IPv4Address(ip).packed
    return head + message[_HEADER.size : end] + (record if found else b"")


def failure(message: bytes, end: int) -> bytes:
    """The reply when nobody can be asked."""
    number, flags, *_ = _HEADER.unpack_from(message)
    return _HEADER.pack(number, _RESPONSE | _RECURSION | flags & 0x0100 | _SERVER_FAILURE, 1, 0, 0, 0) + message[_HEADER.size : end]


def upstreams(text: str) -> list[str]:
    """Addresses of the resolvers that a resolv.conf names."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            with contextlib.suppress(ValueError):
                found.append(str(ipaddress.ip_address(words[1].partition("%")[0])))
    return found


@dataclass
class _Waiting:
    """A question that was passed on."""

    sock: socket.socket
    client: socket.socket
    sender: tuple[str, int]
    who: _Who
    number: int
    asked: int
    until_s: float


class _Shares:
    """So many places, of which no one has more than some. For several threads."""

    def __init__(self, most: int, most_each: int) -> None:
        self._most = most
        self._most_each = most_each
        self._taken: dict[_Who, int] = {}
        self._total = 0
        self._lock = threading.Lock()

    def take(self, who: _Who) -> bool:
        """False when there is none."""
        with self._lock:
            had = self._taken.get(who, 0)
            if self._total >= self._most or had >= self._most_each:
                return False
            self._taken[who] = had + 1
            self._total += 1
            return True

    def give_back(self, who: _Who) -> None:
        """One place."""
        with self._lock:
            self._total -= 1
            left = self._taken.pop(who) - 1
            if left:
                self._taken[who] = left


class Resolver:
    """Answers on the sockets it is given."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._sockets: dict[int, tuple[socket.socket, str]] = {}
        self._connections = _Shares(_MAX_CONNECTIONS, _MAX_CONNECTIONS_EACH)
        self._names: dict[str, dict[str, str]] = {}
        self._waiting: OrderedDict[int, _Waiting] = OrderedDict()
        self._places = _Shares(_MAX_WAITING, _MAX_WAITING_EACH)
        self._upstreams: list[str] = []
        self._read_at: tuple[int, int] | None = None

    def run(self) -> None:
        """Until whoever gave the sockets goes away."""
        while True:
            for fd, _ in self._poll.poll(1000 if self._waiting else None):
                if fd == self._control.fileno():
                    packet = packets.receive(self._control)
                    if packet is None:
                        return
                    self._obey(packet)
                elif fd in self._waiting:
                    self._reply(self._waiting[fd])
                elif fd in self._sockets:
                    sock, key = self._sockets[fd]
                    (self._query if sock.type is socket.SOCK_DGRAM else self._accept)(sock, key)
            self._expire()

    def _obey(self, packet: packets.Packet) -> None:
        key = str(packet.args[0])
        if packet.kind == "listen":
            for fd in packet.fds:
                sock = socket.socket(fileno=fd)
                sock.setblocking(False)
                self._sockets[fd] = sock, key
                self._poll.register(fd, select.POLLIN)
            packet.fds.clear()
        elif packet.kind == "names":
            self._names[key] = dict(packet.args[1])
        elif packet.kind == "forget":
            self._names.pop(key, None)
            for fd in [fd for fd, (_, k) in self._sockets.items() if k == key]:
                self._poll.unregister(fd)
                self._sockets.pop(fd)[0].close()

    def _query(self, sock: socket.socket, key: str) -> None:
        try:
            message, sender = sock.recvfrom(MAX_MESSAGE)
            name, kind, end = question(message)
        except (OSError, NotAQuery):
            return
        ip = self._names.get(key, {}).get(name)
        if ip is not None:
            _send(sock, answer(message, end, kind, ip), sender)
        elif not self._forward(sock, message, sender, (key, sender[0])):
            _send(sock, failure(message, end), sender)

    def _accept(self, listener: socket.socket, key: str) -> None:
        try:
            connection, sender = listener.accept()
        except OSError:
            return
        who = key, sender[0]
        if not self._connections.take(who):
            connection.close()
            return
        self._refresh()
        upstream = self._upstreams[0] if self._upstreams else ""
        names = self._names.get(key, {})
        threading.Thread(target=self._converse, args=(connection, who, names, upstream), daemon=True).start()

    def _converse(self, client: socket.socket, who: _Who, names: Mapping[str, str], upstream: str) -> None:
        """One question and its answer over TCP, each within its time however slowly it drips in."""
        try:
            with client:
                message = _read_framed(client, MAX_MESSAGE)
                name, kind, end = question(message)
                if name in names:
                    reply = answer(message, end, kind, names[name])
                elif upstream:
                    with _towards(upstream, socket.SOCK_STREAM) as server:
                        server.settimeout(_PATIENCE_S)
                        server.connect((upstream, 53))
                        server.sendall(_framed(message))
                        reply = _read_framed(server)
                else:
                    reply = failure(message, end)
                client.settimeout(_PATIENCE_S)
                client.sendall(_framed(reply))
        except (OSError, NotAQuery):
            pass
        finally:
            self._connections.give_back(who)

    def _forward(self, client: socket.socket, message: bytes, sender: tuple[str, int], who: _Who) -> bool:
        self._refresh()
        if not self._upstreams or not self._places.take(who):
            return False
        upstream = self._upstreams[0]
        sock = _towards(upstream, socket.SOCK_DGRAM)
        asked = secrets.randbelow(1 << 16)
        try:
            sock.setblocking(False)
            sock.connect((upstream, 53))
            sock.send(struct.pack(">H", asked) + message[2:])
        except OSError:
            sock.close()
            self._places.give_back(who)
            return False
        number = int.from_bytes(message[:2], "big")
        self._waiting[sock.fileno()] = _Waiting(sock, client, sender, who, number, asked, time.monotonic() + _PATIENCE_S)
        self._poll.register(sock, select.POLLIN)
        return True

    def _reply(self, waiting: _Waiting) -> None:
        try:
            message = waiting.sock.recv(MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            self._give_up(waiting)
            return
        if len(message) >= _HEADER.size and int.from_bytes(message[:2], "big") == waiting.asked:
            _send(waiting.client, struct.pack(">H", waiting.number) + message[2:], waiting.sender)
            self._forget(waiting)

    def _expire(self) -> None:
        now_s = time.monotonic()
        while self._waiting and next(iter(self._waiting.values())).until_s <= now_s:
            self._give_up(next(iter(self._waiting.values())))

    def _give_up(self, waiting: _Waiting) -> None:
        """That resolver did not answer: the next question goes to the next one; the client asks again by itself."""
        self._forget(waiting)
        self._upstreams = self._upstreams[1:] + self._upstreams[:1]

    def _forget(self, waiting: _Waiting) -> None:
        fd = waiting.sock.fileno()
        self._poll.unregister(fd)
        del self._waiting[fd]
        waiting.sock.close()
        self._places.give_back(waiting.who)

    def _refresh(self) -> None:
        """Follow the host when its resolvers change."""
        try:
            seen = os.stat(_RESOLV_CONF)
            if self._read_at != (seen.st_ino, seen.st_mtime_ns):
                with open(_RESOLV_CONF, encoding="utf-8", errors="replace") as f:
                    self._upstreams = upstreams(f.read())
                self._read_at = seen.st_ino, seen.st_mtime_ns
        except OSError:
            self._upstreams, self._read_at = [], None


def _towards(upstream: str, kind: socket.SocketKind) -> socket.socket:
    """A socket of the right family. Nothing that may import more is called here: this user may not read the interpreter's library."""
    return socket.socket(socket.AF_INET6 if ":" in upstream else socket.AF_INET, kind)


def _framed(message: bytes) -> bytes:
    return struct.pack(">H", len(message)) + message


def _read_framed(sock: socket.socket, most: int = 65535) -> bytes:
    """One message with its length before it. Raises OSError, also when it is longer than ``most`` or not there in time."""
    data = b""
    until_s = time.monotonic() + _PATIENCE_S
    while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
        if int.from_bytes(data[:2].ljust(2, b"\0"), "big") > most:
            raise OSError("too long")
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("too slow")
        sock.settimeout(left_s)
        piece = sock.recv(65537)
        if not piece:
            raise OSError("the other side ended early")
        data += piece
    return data[2:]


def _send(sock: socket.socket, message: bytes, to: tuple[str, int]) -> None:
    with contextlib.suppress(OSError):
        sock.sendto(message, to)


def start() -> socket.socket:
    """Fork the process; the socket it takes its orders from. It ends with its parent."""
    ours, theirs = packets.pair()
    if os.fork() == 0:
        _be_resolver(theirs)
    theirs.close()
    return ours


def _be_resolver(control: socket.socket) -> None:
    """The child's life. Never returns."""
    status = 1
    try:
        kernel.set_name("lambda-names")
        kernel.close_from(3, [control.fileno()])
        kernel.drop_bounding_set()
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        kernel.drop_capabilities()
        kernel.no_new_privileges()
        kernel.die_with_parent()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        Resolver(control).run()
        status = 0
    except BaseException:  # the process must not return into its parent's loop
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)
