"""Messages between broker, zygotes, sandboxes and supervisor: one JSON array and a few descriptors per packet.

The sockets are SOCK_SEQPACKET, so a packet is whole or absent. Python 3.9, standard library.
"""

from __future__ import annotations

import _socket
import array
import json
import os
import socket
import struct
from json import scanner
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_PACKET = 65536
MAX_FDS = 16
_CREDENTIALS = struct.Struct("iII")
# Plain numbers: the enumerations of the socket module cost more than the calls they are passed to.
_UNIX = int(socket.AF_UNIX)
_SOCKET, _RIGHTS, _SENDER = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS), int(socket.SCM_CREDENTIALS)
_PASS_CREDENTIALS = int(socket.SO_PASSCRED)
_CUT, _CLOEXEC = int(socket.MSG_CTRUNC | socket.MSG_TRUNC), int(socket.MSG_CMSG_CLOEXEC)
_FEWER = int(socket.MSG_CTRUNC)
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
# What reads and nothing else: a decoder's methods look for blanks around it first.
_scanner: Any = scanner
_scan = _scanner.make_scanner(json.JSONDecoder())
_ROOM = socket.CMSG_SPACE(MAX_FDS * 4) + socket.CMSG_SPACE(_CREDENTIALS.size)


class PacketError(Exception):
    """The peer sent something that is not a packet of ours; its descriptors have been closed."""


class Cut(PacketError):
    """A packet whose descriptors this process has no room for, at its limit; none is kept. ``packet`` is what else it said."""

    def __init__(self, packet: Packet) -> None:
        super().__init__("packet was cut: this process may have no more descriptors")
        self.packet = packet


class Packet(NamedTuple):
    """``kind`` and its arguments. ``fds`` belong to the receiver. ``pid`` is the sender's, 0 unless SO_PASSCRED is on."""

    kind: str
    args: list[Any]
    fds: list[int]
    pid: int

    def close(self) -> None:
        """Close the descriptors nobody took."""
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()


# Without the function that makes named tuples of their members: on the broker's way from a wake to its work every call counts.
_new = tuple.__new__


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected packet sockets."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def ends(kind: int = socket.SOCK_SEQPACKET) -> tuple[socket.SocketType, int]:
    """Two connected sockets, one to keep and one to give away. As the kernel makes them: they are not asked what they are."""
    ours, theirs = _socket.socketpair(_UNIX, kind)
    return ours, theirs.detach()


def encode(message: Sequence[object]) -> bytes:
    """The bytes of a packet, which they may be already. Raises ValueError when it is too big."""
    if isinstance(message, bytes):
        return message
    data = _encode(message).encode()
    if len(data) > MAX_PACKET:
        raise ValueError(f"packet of {len(data)} bytes is over {MAX_PACKET}")
    return data


def send_raw(sock: socket.SocketType, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send encoded bytes with copies of ``fds``. Raises OSError (BlockingIOError when a non-blocking socket is full)."""
    if fds:
        sock.sendmsg([data], [(_SOCKET, _RIGHTS, array.array("i", fds))])
    else:
        sock.send(data)


def send(sock: socket.SocketType, message: Sequence[object], fds: Sequence[int] = ()) -> None:
    """Encode and send. Raises OSError."""
    send_raw(sock, encode(message), fds)


def decode(data: bytes) -> object:
    """What ``encode`` was given. Raises ValueError, RecursionError."""
    text = data.decode()
    try:
        message, end = _scan(text, 0)
    except StopIteration as e:
        raise ValueError(f"nothing to be read at {e.value}") from e
    if end != len(text):
        raise ValueError("something follows the message")
    return message


def receive(sock: socket.SocketType, read: Callable[[bytes], object] = decode) -> Packet | None:
    """The next packet, None at the end of the stream. ``read`` does what ``decode`` does. Raises PacketError, Cut among them, OSError (BlockingIOError
    when there is none).
    """
    data, ancillary, flags, _ = sock.recvmsg(MAX_PACKET, _ROOM, _CLOEXEC)
    fds: list[int] = []
    pid = 0
    for level, kind, raw in ancillary:
        if level == _SOCKET and kind == _RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(raw[: len(raw) - len(raw) % numbers.itemsize])
            fds.extend(numbers)
        elif level == _SOCKET and kind == _SENDER:
            pid = _CREDENTIALS.unpack(raw[: _CREDENTIALS.size])[0]
    if flags & _CUT == _FEWER and len(fds) < MAX_FDS:
        Packet("", [], fds, pid).close()
        packet = unpacked(data, [], pid, read=read)
        if packet is not None:
            raise Cut(packet)
    return unpacked(data, fds, pid, cut=bool(flags & _CUT), read=read)


def unpacked(data: bytes, fds: list[int], pid: int = 0, *, cut: bool = False, read: Callable[[bytes], object] = decode) -> Packet | None:
    """The packet of what was received; None for nothing, the end of the stream. ``fds`` are closed for what is none. Raises PacketError."""
    if not data:
        Packet("", [], fds, pid).close()
        return None
    try:
        if cut:
            raise PacketError("packet was cut")
        message = read(data)
        if not isinstance(message, list) or not message or not isinstance(message[0], str):
            raise PacketError("a packet is an array that begins with its kind")
    except (ValueError, RecursionError, PacketError) as e:
        Packet("", [], fds, pid).close()
        raise e if isinstance(e, PacketError) else PacketError(f"not a packet: {e}") from e
    return _new(Packet, (message[0], message[1:], fds, pid))


def want_credentials(sock: socket.SocketType) -> None:
    """Have the kernel name the sender of every packet received here."""
    sock.setsockopt(_SOCKET, _PASS_CREDENTIALS, 1)
