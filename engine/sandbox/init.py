"""Process 1 of a sandbox: it holds the namespaces, reaps orphans, and ends everything when it is killed. It does nothing else.

Theory of operation. A pid namespace needs a first process, which must be out of the function's reach and must not be the function,
or signals would not work on it as usual. It has nothing to decide, so it needs no memory of its own either: a copy of the zygote's
costs as much to make and to remove as the worker's. On x86-64 it is therefore cloned *into* the zygote's memory
(``CLONE_VM``) and executes a few instructions of ours there: die with the parent, ignore SIGCHLD (so that the kernel reaps orphans),
take a name, close all descriptors, sleep for ever. It writes to no memory. A parent that was killed before an init could ask to die with it
is recognised by the word that the kernel clears in shared memory when that parent ends. Elsewhere, and where the host forbids making memory
executable, it is a plain fork that does the same in Python.

A function cannot reach that memory through it: tracing it and its files in /proc are refused, since it has other ids and the function
no capability. The one who forks must have blocked every signal that has a handler. Python 3.9, standard library.
"""

from __future__ import annotations

import ctypes as C
import os
import platform
import signal
import struct
from collections.abc import Callable

from engine.sandbox import kernel

NAME = "sandbox-init"
_PAGE = 4096
_CLONE_VM, _CLONE_PIDFD = 0x100, 0x1000
_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_MAP_PRIVATE, _MAP_ANONYMOUS, _MAP_FAILED = 0x2, 0x20, C.c_void_p(-1).value
# Where ``_ARGUMENT`` is in the page of the code, which finds it from where it is itself: what libc hands over goes by the stack, and that
# is shared by inits that start at the same time.
_ARGUMENT_AT = 0x100
# Where the word is that is not zero while the one who forks lives: in the page after the code's, which can be written.
_ALIVE_AT = 0x1000
_CODE = {
    "x86_64": bytes.fromhex(
        "488d1df9000000"  # lea rbx, [rip + _ARGUMENT_AT - 7]
        "bf01000000 be09000000 b89d000000 0f05"  # prctl(PR_SET_PDEATHSIG, SIGKILL)
        "83bb000f000000 7440"  # cmp dword [rbx + _ALIVE_AT - _ARGUMENT_AT], 0; je exit
        "bf11000000 4889de 31d2 41ba08000000 b80d000000 0f05"  # rt_sigaction(SIGCHLD, rbx, NULL, 8)
        "bf0f000000 488d7320 b89d000000 0f05"  # prctl(PR_SET_NAME, rbx + 32)
        "31ff beffffffff 31d2 b8b4010000 0f05"  # close_range(0, 0xffffffff, 0)
        "b822000000 0f05"  # pause()
        "ebf7"  # the same again
        "31ff b83c000000 0f05"  # exit: exit(0)
    ),
}
# The kernel's struct sigaction for SIG_IGN, and the name.
_ARGUMENT = struct.pack("QQQQ16s", 1, 0, 0, 0, NAME.encode())

_libc = C.CDLL(None, use_errno=True)

# flags -> (process number, pidfd)
Spawn = Callable[[int], "tuple[int, int]"]


def spawner(machine: str = platform.machine()) -> Spawn:
    """How inits are made here. Call it once, in the process that is going to make them."""
    code = _CODE.get(machine)
    return (code and _sharing(code)) or _copying


def _sharing(code: bytes) -> Spawn | None:
    """Inits in the memory of this process; None when the host does not let it make memory executable."""
    # Not by Python's module for it: each library takes five mappings, which every fork copies.
    _libc.mmap.restype = C.c_void_p
    entry = _libc.mmap(None, C.c_size_t(2 * _PAGE), _PROT_READ | _PROT_WRITE, _MAP_PRIVATE | _MAP_ANONYMOUS, -1, C.c_long(0))
    if entry in (None, _MAP_FAILED):
        return None
    C.memmove(entry, code, len(code))
    C.memmove(entry + _ARGUMENT_AT, _ARGUMENT, len(_ARGUMENT))
    if _libc.mprotect(C.c_void_p(entry), C.c_size_t(_PAGE), C.c_int(_PROT_READ | _PROT_EXEC)) != 0:
        return None
    kernel.clear_at_end(entry + _ALIVE_AT)
    # libc puts the entry and a word that is not used here on top of this stack, the same each time, and calls the entry: an init that starts
    # late may write its return address over the word while another one starts, never over the entry.
    stack = entry + 2 * _PAGE

    def spawn(flags: int) -> tuple[int, int]:
        pidfd = C.c_int(-1)
        pid = int(
            _libc.clone(
                C.c_void_p(entry),
                C.c_void_p(stack),
                C.c_int(flags | _CLONE_VM | _CLONE_PIDFD | signal.SIGCHLD),
                None,
                C.byref(pidfd),
                None,
                None,
            )
        )
        if pid < 0:
            code = C.get_errno()
            raise OSError(code, f"clone: {os.strerror(code)}")
        return pid, pidfd.value

    spawn.place = (entry, stack)  # type: ignore[attr-defined]
    return spawn


def made_in(spawn: Spawn, flags: int) -> tuple[int, int, int] | None:
    """What clone is given for an init with so many namespaces of its own: flags, entry and stack. None where inits are copies."""
    place = getattr(spawn, "place", None)
    return None if place is None else (flags | _CLONE_VM | _CLONE_PIDFD | signal.SIGCHLD, *place)


def _copying(flags: int) -> tuple[int, int]:
    """An init that is a copy of this process."""
    pid, pidfd = kernel.clone3(flags)
    if pid == 0:
        _be_init()
    return pid, pidfd


def _be_init() -> None:
    """What ``_CODE`` does. Never returns."""
    try:
        kernel.die_with_parent()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        kernel.set_name(NAME)
        kernel.close_from(0)
        while True:
            signal.pause()
    finally:
        os._exit(1)
