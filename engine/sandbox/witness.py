"""Whether anybody has ever had an IP socket in a network namespace: a few instructions in the kernel that see each one being made.

Theory of operation. Whatever a program without capabilities can leave behind in a network namespace (ports in TIME_WAIT, metrics of
connections, memberships, labels, counters) begins with a socket of the families IPv4 and IPv6. A program attached to the control group of all
sandboxes runs whenever one is made there and marks the namespace it is made in, by the kernel's own number for it, which never comes again.
A namespace without a mark has never had one. It can neither refuse a socket nor be avoided: it sits in ``socket`` itself.

Needs Linux 5.14 with ``CONFIG_CGROUP_BPF``, a cgroup v2 directory and real root; without them nothing is known, and nothing used again.
"""

from __future__ import annotations

import contextlib
import ctypes as C
import errno
import os
import platform
import socket
import struct

_BPF = {"x86_64": 321, "aarch64": 280}
_NUMBER = _BPF.get(platform.machine(), -1)
_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE, _LOAD, _LINK = 0, 1, 2, 3, 5, 28
_HASH, _NO_PREALLOC = 1, 1
_CGROUP_SOCK, _SOCK_CREATE = 9, 2
_GET_COOKIE, _FIND = 122, 1
_MOST = 1 << 16
_SO_NETNS_COOKIE = 71

_libc = C.CDLL(None, use_errno=True)


def cookie(sock: socket.socket) -> int:
    """The kernel's number of the namespace a socket is in; 0 where it has none (before Linux 5.14)."""
    try:
        return int(struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0])
    except OSError:
        return 0


def _instruction(code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", code, to | source << 4, offset, value)


def _program(marks: int) -> bytes:
    """``marks`` is the descriptor of the table: 0 for a namespace that is watched, 1 for one with a socket."""
    return b"".join(
        (
            _instruction(0x85, value=_GET_COOKIE),  # r0 = cookie of the socket's namespace
            _instruction(0x7B, 10, 0, -8),  # on the stack
            _instruction(0x18, 1, 1, value=marks) + _instruction(0),  # r1 = table
            _instruction(0xBF, 2, 10) + _instruction(0x07, 2, value=-8),  # r2 = where the cookie is
            _instruction(0x85, value=_FIND),
            _instruction(0x15, 0, 0, 2, 0),  # not watched: go on
            _instruction(0xB7, 1, value=1) + _instruction(0x7B, 0, 1),  # mark it
            _instruction(0xB7, 0, value=1) + _instruction(0x95),  # allow the socket
        )
    )


def _call(command: int, attributes: bytes, what: str) -> int:
    result = int(_libc.syscall(C.c_long(_NUMBER), C.c_long(command), attributes, C.c_long(len(attributes))))
    if result < 0:
        code = C.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


class Witness:
    """Watches namespaces for whatever runs below a v2 directory. It ends with its descriptors."""

    def __init__(self, directory: str) -> None:
        """Raises OSError where the kernel has nothing like it or does not let us."""
        if _NUMBER < 0:
            raise OSError(errno.ENOSYS, f"bpf on {platform.machine()}")
        with contextlib.ExitStack() as opened:
            self._marks = self._keep(opened, _call(_MAP_CREATE, struct.pack("=5I", _HASH, 8, 8, _MOST, _NO_PREALLOC), "bpf map"))
            program = _program(self._marks)
            held, terms = C.create_string_buffer(program, len(program)), C.create_string_buffer(b"MIT")
            attributes = struct.pack(
                "=IIQQIIQII16sII", _CGROUP_SOCK, len(program) // 8, C.addressof(held), C.addressof(terms), 0, 0, 0, 0, 0, b"lambda_sockets", 0, _SOCK_CREATE
            )
            loaded = self._keep(opened, _call(_LOAD, attributes, "bpf program"))
            where = self._keep(opened, os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            self._link = _call(_LINK, struct.pack("=4I", loaded, where, _SOCK_CREATE, 0), "bpf link")
            os.close(loaded)
            os.close(where)
            opened.pop_all()
        self._key, self._value = C.c_uint64(), C.c_uint64()
        self._place = struct.pack("=IxxxxQQQ", self._marks, C.addressof(self._key), C.addressof(self._value), 0)

    @staticmethod
    def _keep(opened: contextlib.ExitStack, fd: int) -> int:
        opened.callback(os.close, fd)
        return fd

    def _element(self, command: int, number: int, value: int = 0) -> None:
        self._key.value, self._value.value = number, value
        _call(command, self._place, "bpf element")

    def watch(self, number: int) -> bool:
        """Begin to watch the namespace with this cookie, before a function is in it; False when it cannot be."""
        if not number:
            return False
        try:
            self._element(_UPDATE, number)
        except OSError:
            return False
        return True

    def unused(self, number: int) -> bool:
        """Whether it is watched and nobody has made an IP socket in it since."""
        try:
            self._element(_LOOKUP, number, 1)
        except OSError:
            return False
        return self._value.value == 0

    def forget(self, number: int) -> None:
        """It is gone."""
        with contextlib.suppress(OSError):
            self._element(_DELETE, number)

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._link)
        os.close(self._marks)
