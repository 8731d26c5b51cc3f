"""What a copy inherits open from its template, made its own.

Theory of operation. A fork shares more than memory that is copied when it is written to: the offset of an open file, what is in a pipe, a queue of events
(``epoll``) with whatever is registered in it, memory mapped to be shared. On Lambda each restored machine has these to itself. So each copy
replaces them, number by number, before anything of the function's runs in it: pipes and pairs of sockets by new ones with what was in
them, files by others opened at the same place, queues by new ones with the same registrations. A connection whose other end is elsewhere
cannot be had again: it is at its end, as after a restore on Lambda. Which sockets are pairs is found out once, in the template, when its init
is over. ``/tmp`` of a copy has what the template's had: ``copy_tree`` brings it there.
Python 3.9, standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import stat
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_TMP = "/tmp"
_libc = ctypes.CDLL(None, use_errno=True)
_EVENT = struct.Struct("<IQ" if os.uname().machine == "x86_64" else "@IQ")
_FIONREAD, _EPOLL_CTL_ADD, _SPLICE_F_NONBLOCK, _EFD_SEMAPHORE = 0x541B, 1, 2, 1
# PROT_READ | PROT_WRITE; MAP_SHARED | MAP_FIXED | MAP_ANONYMOUS
_READ_WRITE, _SHARED_HERE = 3, 0x31
# What a memfd may not be done to any more. Not all builds of Python name them.
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_PIPE_BYTES, _PAIR_BYTES, _PIECE = 1 << 20, 1 << 18, 1 << 20
# What mappings without a file of anybody's are called in /proc/self/maps.
_UNNAMED = ("/dev/zero", "/memfd:", "/SYSV", f"{_TMP}/", "[anon_shmem:")


class Belongings:
    """What a template has open that its copies must not share."""

    def __init__(self) -> None:
        self._pairs: list[tuple[list[int], list[int]]] = []
        self._shared: list[tuple[int, int]] = []
        self._tmp = -1
        self.connections: list[int] = []

    def look(self, own: Collection[int]) -> None:
        """In the template, when no more will be opened. ``own``: what is not the function's."""
        sockets = dict(_by_place(own, "socket:"))
        self._pairs = list(_pairs(list(sockets.values())))
        paired = {fd for pair in self._pairs for end in pair for fd in end}
        self.connections = sorted(fd for fds in sockets.values() for fd in fds if fd not in paired)
        self._shared = list(_shared_memory())
        self._tmp = os.stat(_TMP).st_dev

    def renew(self, own: Collection[int]) -> None:
        """In a copy: share nothing with the template any more. ``own`` is left alone."""
        queues: list[int] = []
        paired: set[int] = set()
        for pair in self._pairs:
            _renew_pair(*pair)
            paired.update(pair[0], pair[1])
        for place, fds in _by_place({*own, *paired}):
            if place.startswith("socket:"):
                _end_connections(fds)
            elif place.startswith("pipe:"):
                _renew_pipe(fds)
            elif place == "anon_inode:[eventfd]":
                _each(_renew_counter, fds)
            elif place == "anon_inode:[eventpoll]":
                queues += fds
            else:
                _each(self._reopen, fds)
        _each(_renew_queue, queues)
        for mapping in self._shared:
            _renew_memory(*mapping)

    def _reopen(self, fd: int) -> None:
        """The same file with an offset, and below /tmp contents, of one's own."""
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        if flags & getattr(os, "O_PATH", 0):
            return
        place = os.readlink(f"/proc/self/fd/{fd}")
        if place.startswith("/memfd:"):
            fresh = os.memfd_create(place[len("/memfd:") :].partition(" (deleted)")[0], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            _copy_open(fd, fresh)
            fcntl.fcntl(fresh, _F_ADD_SEALS, fcntl.fcntl(fd, _F_GET_SEALS))
            fcntl.fcntl(fresh, fcntl.F_SETFL, flags)
        elif found.st_dev != self._tmp:
            fresh = os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)
        elif place.endswith(" (deleted)"):
            fresh = os.open(_TMP, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, found.st_mode & 0o777)
            _copy_open(fd, fresh)
            fcntl.fcntl(fresh, fcntl.F_SETFL, flags)
        else:
            fresh = os.open(place, flags | os.O_CLOEXEC)
        os.lseek(fresh, os.lseek(fd, 0, os.SEEK_CUR), os.SEEK_SET)
        _put(fresh, fd)


def _by_place(but: Collection[int], prefix: str = "") -> Iterator[tuple[str, list[int]]]:
    """Descriptors by what they stand for: those of one socket or pipe together."""
    places: dict[str, list[int]] = {}
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd in but:
            continue
        # The directory that was just listed is among them.
        with contextlib.suppress(OSError):
            place = os.readlink(f"/proc/self/fd/{fd}")
            if place.startswith(prefix):
                places.setdefault(place, []).append(fd)
    yield from places.items()


def _each(renew: object, fds: Iterable[int]) -> None:
    """What cannot be had again stays as it is."""
    assert callable(renew)  # noqa: S101 - ours
    for fd in fds:
        with contextlib.suppress(OSError):
            renew(fd)


def _put(fresh: int, *places: int) -> None:
    """In the place of each of ``places``, inheritable or not as that was."""
    for fd in places:
        os.dup2(fresh, fd, inheritable=os.get_inheritable(fd))
    os.close(fresh)


def _flags_like(former: int, fresh: int) -> None:
    fcntl.fcntl(fresh, fcntl.F_SETFL, fcntl.fcntl(former, fcntl.F_GETFL))


# Pairs of sockets.


def _pairs(sockets: list[list[int]]) -> Iterator[tuple[list[int], list[int]]]:
    """Streams without a name whose other end is here too: a byte sent into one is one more to be read from the other. It stays there."""
    left = [fds for fds in sockets if _may_be_of_a_pair(fds[0])]
    while left:
        first = left.pop()
        before = [_waiting(fds[0]) for fds in left]
        with contextlib.suppress(OSError), _socket(first[0]) as one:
            one.send(b"\0", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        second = next((fds for fds, waiting in zip(left, before) if _waiting(fds[0]) > waiting), None)  # noqa: B905 - Python 3.9
        if second is not None:
            left.remove(second)
            yield first, second


def _may_be_of_a_pair(fd: int) -> bool:
    try:
        with _socket(fd) as one:
            return one.family == socket.AF_UNIX and one.type & 0xF == socket.SOCK_STREAM and not one.getsockname() and not one.getpeername()
    except OSError:
        return False


@contextlib.contextmanager
def _socket(fd: int) -> Iterator[socket.socket]:
    one = socket.socket(fileno=fd)
    try:
        yield one
    finally:
        one.detach()


def _waiting(fd: int) -> int:
    """Bytes to be read."""
    return int(struct.unpack("i", fcntl.ioctl(fd, _FIONREAD, b"\0\0\0\0"))[0])


def _renew_pair(prober: list[int], probed: list[int]) -> None:
    one, other = (end.detach() for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
    for to, data in ((other, _peeked(prober[0])), (one, _peeked(probed[0])[:-1])):
        os.set_blocking(to, False)
        with contextlib.suppress(BlockingIOError):
            os.write(to, data)
    _flags_like(prober[0], one)
    _flags_like(probed[0], other)
    _put(one, *prober)
    _put(other, *probed)


def _peeked(fd: int) -> bytes:
    with contextlib.suppress(OSError), _socket(fd) as one:
        return one.recv(_PAIR_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return b""


def _end_connections(fds: list[int]) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    _put(ours.detach(), *fds)


# Pipes, counters, queues of events.


def _renew_pipe(fds: list[int]) -> None:
    readers = [fd for fd in fds if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY]
    writers = [fd for fd in fds if fd not in readers]
    read_end, write_end = os.pipe()
    if readers and writers:
        os.set_blocking(write_end, False)
        _libc.tee(readers[0], write_end, ctypes.c_size_t(_PIPE_BYTES), _SPLICE_F_NONBLOCK)
    for fresh, places in ((read_end, readers), (write_end, writers)):
        if places:
            _flags_like(places[0], fresh)
        _put(fresh, *places)


def _facts(fd: int) -> Iterator[tuple[str, str]]:
    """Lines of /proc/self/fdinfo."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            yield name, value.strip()


def _renew_counter(fd: int) -> None:
    facts = dict(_facts(fd))
    semaphore = _EFD_SEMAPHORE if facts.get("eventfd-semaphore") == "1" else 0
    fresh = _libc.eventfd(ctypes.c_uint(int(facts["eventfd-count"], 16)), semaphore)
    if fresh >= 0:
        _flags_like(fd, fresh)
        _put(fresh, fd)


def _renew_queue(fd: int) -> None:
    """What is registered is what stands behind the numbers now."""
    registered = [value.split() for name, value in _facts(fd) if name == "tfd"]
    fresh = _libc.epoll_create1(os.O_CLOEXEC)
    if fresh < 0:
        return
    for words in registered:
        # "5 events: 19 data: 5 …"
        event = _EVENT.pack(int(words[2], 16), int(words[4], 16))
        _libc.epoll_ctl(fresh, _EPOLL_CTL_ADD, int(words[0]), event)
    _put(fresh, fd)


# Memory.


def _shared_memory() -> Iterator[tuple[int, int]]:
    """Mappings (address, bytes) that others see written to."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            words = line.split(None, 5)
            extent, rights = words[:2]
            if rights[1] == "w" and rights[3] == "s" and words[-1].startswith(_UNNAMED):
                start, end = (int(number, 16) for number in extent.split("-"))
                yield start, end - start


def _renew_memory(address: int, size: int) -> None:
    """The same contents, shared with nobody but this process's own children. What nobody has touched is not touched."""
    page = os.sysconf("SC_PAGE_SIZE")
    touched = ctypes.create_string_buffer(-(-size // page))
    if _libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), touched) != 0:
        return
    flags = touched.raw
    pages = [at for at in range(0, size, page) if flags[at // page] & 1]
    contents = [ctypes.string_at(address + at, min(page, size - at)) for at in pages]
    place = _libc.mmap
    place.restype = ctypes.c_void_p
    if place(ctypes.c_void_p(address), ctypes.c_size_t(size), _READ_WRITE, _SHARED_HERE, -1, ctypes.c_long(0)) != address:
        return
    for n, content in enumerate(contents):
        ctypes.memmove(address + pages[n], content, len(content))


# Files.


def _copy_bytes(source: int, target: int) -> None:
    """A whole file into an empty one. Holes, which may be bigger than there is room, stay holes."""
    size, at = os.fstat(source).st_size, 0
    os.ftruncate(target, size)
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            raise
        end = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(target, at, os.SEEK_SET)
        while at < end:
            moved = os.sendfile(target, source, at, min(_PIECE, end - at))
            if not moved:
                return
            at += moved


def _copy_open(fd: int, target: int) -> None:
    """The same of an open file, which may be open for writing only, and whose offset is the template's too."""
    with _opened(f"/proc/self/fd/{fd}", flags=0) as source:
        _copy_bytes(source, target)


def copy_tree(source: int, target: str) -> None:
    """Everything in an open directory, into an empty one. Raises OSError."""
    with os.scandir(source) as entries:
        for entry in entries:
            place = f"{target}/{entry.name}"
            info = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                os.symlink(os.readlink(entry.name, dir_fd=source), place)
                continue
            if stat.S_ISDIR(info.st_mode):
                os.mkdir(place, 0o700)
                with _opened(entry.name, source, os.O_NOFOLLOW | os.O_DIRECTORY) as inner:
                    copy_tree(inner, place)
            elif stat.S_ISREG(info.st_mode):
                with _opened(entry.name, source) as inner:
                    fresh = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                    try:
                        _copy_bytes(inner, fresh)
                    finally:
                        os.close(fresh)
            elif stat.S_ISFIFO(info.st_mode):
                os.mkfifo(place)
            else:
                continue  # a socket: nobody listens behind it
            os.chmod(place, stat.S_IMODE(info.st_mode))
            os.utime(place, ns=(info.st_atime_ns, info.st_mtime_ns))


@contextlib.contextmanager
def _opened(name: str, directory: int | None = None, flags: int = os.O_NOFOLLOW) -> Iterator[int]:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)
