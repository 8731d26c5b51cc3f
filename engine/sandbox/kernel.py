"""The system calls a sandbox is made of, through ctypes.

Runs in the broker and in every zygote, so it is limited to Python 3.9 and the standard library. Every function raises
OSError whose text begins with the name of the call. Only for single-threaded processes: ``clone3`` forks without the
atfork handlers of libc.
"""

from __future__ import annotations

import contextlib
import ctypes as C
import functools
import os
import platform
import signal
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_libc = C.CDLL(None, use_errno=True)
# PyDLL keeps the interpreter lock across the call: the child must wake up holding it.
_locked = C.PyDLL(None, use_errno=True)
_libc.syscall.restype = C.c_long
_locked.syscall.restype = C.c_long

# Numbers as wide as a register, bytes and buffers by where they are.
_call_wide = C.CFUNCTYPE(C.c_long, C.c_long, *(C.c_void_p,) * 6, use_errno=True)(("syscall", _libc))
_NOTHING = (0,) * 6

MACHINE = platform.machine()
_PIVOT_ROOT = 41 if MACHINE == "aarch64" else 155
_SECCOMP = 277 if MACHINE == "aarch64" else 317
_SET_TID_ADDRESS = 96 if MACHINE == "aarch64" else 218
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_OPEN_TREE, _MOVE_MOUNT, _CLONE3, _CLOSE_RANGE, _OPENAT2, _MOUNT_SETATTR = 428, 429, 435, 436, 437, 442
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446

CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_CLONE_PIDFD, _CLONE_CHILD_SETTID, _CLONE_CHILD_CLEARTID = 0x1000, 0x01000000, 0x00200000
_CLONE_INTO_CGROUP = 1 << 33

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, _MOUNT_ATTR_IDMAP = 1, 2, 4, 1 << 20
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 2, 4, 8

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME, _PR_CAPBSET_READ, _PR_CAPBSET_DROP = 1, 4, 15, 23, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_GET_TID_ADDRESS, _PR_CAP_AMBIENT = 36, 38, 40, 47
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_SECUREBITS, _NO_SETUID_FIXUP = 28, 4
# An owner has all capabilities in its namespace. Whoever leaves it to somebody else needs these of its own: to read and write files of others, signal
# them, change ids, set up networks, look into processes and enter their namespaces.
_OF_OWNERS = sum(1 << n for n in (1, 2, 3, 5, 6, 7, 8, 12, 18, 19, 21))


def _fail(what: str) -> OSError:
    code = C.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")


def _call(what: str, number: int, *args: Any) -> int:
    result: int = _call_wide(number, *args, *_NOTHING[len(args) :])
    if result < 0:
        raise _fail(what)
    return result


class Step(NamedTuple):
    """A call prepared in the zygote for the processes it forks: nothing is built or looked up when it is made."""

    name: str
    call: Callable[..., Any]
    args: tuple[Any, ...] = ()


def perform(steps: Iterable[Step]) -> None:
    """Make the calls. Raises OSError whose text begins with the name of the one that failed."""
    for name, call, args in steps:
        try:
            failed = call(*args) == -1
        except OSError as e:
            raise OSError(e.errno, f"{name}: {e.strerror}") from e
        if failed:
            raise _fail(name)


def _raw(path: str | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


class _CloneArgs(C.Structure):
    _fields_ = [
        (name, C.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack",
            "stack_size", "tls", "set_tid", "set_tid_size", "cgroup",
        )
    ]  # fmt: skip


@functools.lru_cache(maxsize=1)
def tid_address() -> int:
    """Where libc has the kernel clear its thread id: asked for once, before ``clear_at_end`` changes it for this process."""
    pointer = C.c_void_p()
    if _libc.prctl(_PR_GET_TID_ADDRESS, C.byref(pointer), 0, 0, 0) != 0:
        return 0
    return pointer.value or 0


def clone3(flags: int, cgroup_fd: int = -1, number: int = 0) -> tuple[int, int]:
    """Fork with namespaces: (0, -1) in the child, (pid, pidfd) in the parent.

    ``cgroup_fd`` is a v2 directory to start in, ``number`` the process number wanted in the child's pid namespace.

    Python's fork hooks do not run, on either side: with one thread there is nothing to repair, and they would touch 250 pages
    for nothing, a millisecond on a virtual machine. What the child must not share (random state, thread bookkeeping) is renewed
    by ``lockdown.renew_entropy``, or when it forks again by ``os.fork``.
    """
    pidfd = C.c_int(-1)
    wanted = C.c_int(number)
    # A sibling's end is signalled as this process's own would be.
    ends_with = 0 if flags & CLONE_PARENT else signal.SIGCHLD
    args = _CloneArgs(flags=flags | _CLONE_PIDFD, pidfd=C.addressof(pidfd), exit_signal=ends_with)
    if number:
        args.set_tid, args.set_tid_size = C.addressof(wanted), 1
    tid = tid_address()
    if tid:
        # libc keeps its own copy of the thread id; the kernel writes the child's there.
        args.flags |= _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
        args.child_tid = tid
    if cgroup_fd >= 0:
        args.flags |= _CLONE_INTO_CGROUP
        args.cgroup = cgroup_fd
    pid = int(_locked.syscall(C.c_long(_CLONE3), C.byref(args), C.c_size_t(C.sizeof(args))))
    if pid < 0:
        raise _fail("clone3")
    return (pid, pidfd.value) if pid else (0, -1)


def clear_at_end(address: int) -> None:
    """Have the kernel clear the 32-bit word at ``address`` when this process ends, before its children are told, if its memory lives on in one.

    The word gets this process's number. libc's own word is not cleared then, which only matters to those who wait for a thread.
    """
    tid_address()
    C.c_int.from_address(address).value = os.getpid()
    _call("set_tid_address", _SET_TID_ADDRESS, C.c_void_p(address))


def unshare(flags: int) -> None:
    """Leave the namespaces named by ``flags`` for new ones."""
    if _libc.unshare(C.c_int(flags)) != 0:
        raise _fail("unshare")


def setns(fd: int, flags: int = 0) -> None:
    """Enter the namespace of a descriptor, or with ``flags`` those namespaces of a pidfd's process."""
    if _libc.setns(fd, flags) != 0:
        raise _fail("setns")


def mount(source: str | None, target: str, fstype: str | None, flags: int, options: str = "") -> None:
    """mount(2)."""
    if _libc.mount(_raw(source), _raw(target), _raw(fstype), C.c_ulong(flags), options.encode() or None) != 0:
        raise _fail(f"mount {fstype or 'remount'} on {target}")


def mount_step(source: str, target: str, fstype: str, flags: int, options: str = "") -> Step:
    """``mount`` as a step."""
    args = (_raw(source), _raw(target), _raw(fstype), C.c_ulong(flags), options.encode() or None)
    return Step(f"mount {fstype} on {target}", _libc.mount, args)


def become_steps(name: str, uid: int, gid: int) -> tuple[Step, ...]:
    """Another user and group, and no others, for good."""
    return (
        Step(name, _libc.setgroups, (C.c_size_t(0), None)),
        Step(name, _libc.setresgid, (gid, gid, gid)),
        Step(name, _libc.setresuid, (uid, uid, uid)),
    )


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2)."""
    if _libc.umount2(_raw(target), C.c_int(flags)) != 0:
        raise _fail(f"umount {target}")


def pivot_here() -> None:
    """Make the current directory the root and drop the old root: needs no directory for the old one."""
    _call("pivot_root", _PIVOT_ROOT, b".", b".")
    umount(".", MNT_DETACH)
    os.chdir("/")


def open_tree(source: str, recursive: bool = True, at: int = _AT_FDCWD) -> int:
    """A detached copy of the mount at ``source`` (with ``at`` and an empty source: of that open directory)."""
    flags = 1 | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0) | (0 if source else _AT_EMPTY_PATH)
    return _call(f"open_tree {source}", _OPEN_TREE, at, _raw(source), flags)


def set_mount(fd_or_path: object, attributes: int, recursive: bool = True, mapping: int = -1) -> None:
    """Add mount attributes to a detached mount (descriptor) or to the mount at a path. ``mapping``: a user namespace that says who is whom there.

    It is private from then on: a copy of a mount that the host shares among its namespaces, as systemd has it with all, is shared as well. What
    were mounted there would be mounted on the host too, and it could not become a root.
    """
    if mapping >= 0:
        attributes |= _MOUNT_ATTR_IDMAP
    attr = struct.pack("QQQQ", attributes, 0, MS_PRIVATE, max(mapping, 0))
    flags = _AT_RECURSIVE if recursive else 0
    if isinstance(fd_or_path, int):
        _call("mount_setattr", _MOUNT_SETATTR, fd_or_path, b"", flags | _AT_EMPTY_PATH, attr, len(attr))
    else:
        _call(f"mount_setattr {fd_or_path}", _MOUNT_SETATTR, _AT_FDCWD, os.fsencode(str(fd_or_path)), flags, attr, len(attr))


def move_mount(fd: int, target: str) -> None:
    """Attach a detached mount at ``target``."""
    _call(f"move_mount to {target}", _MOVE_MOUNT, fd, b"", _AT_FDCWD, _raw(target), 4)


def overlay(layers: Sequence[int]) -> int:
    """A detached overlay of open directories, no detached mounts themselves, the later ones covering the earlier ones."""
    context = _call("fsopen overlay", _FSOPEN, b"overlay", 1)
    try:
        lower = ":".join(f"/proc/self/fd/{fd}" for fd in reversed(layers)).encode()
        _call("fsconfig source", _FSCONFIG, context, 1, b"source", b"layers", 0)
        _call("fsconfig lowerdir", _FSCONFIG, context, 1, b"lowerdir", lower, 0)
        _call("fsconfig create", _FSCONFIG, context, 6, C.c_void_p(None), C.c_void_p(None), 0)
        return _call("fsmount", _FSMOUNT, context, 1, 0)
    finally:
        os.close(context)


def bind(source: str, target: str, attributes: int = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV) -> None:
    """Show ``source`` (a directory or file with what is mounted below it) at ``target``."""
    fd = open_tree(source)
    try:
        set_mount(fd, attributes)
        move_mount(fd, target)
    finally:
        os.close(fd)


def beneath(flags: int) -> bytes:
    """How ``open_beneath`` opens, for the kernel."""
    return struct.pack("QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)


def open_beneath(root_fd: int, path: str, flags: int) -> int:
    """Open a relative path that may not leave ``root_fd``, not even by symbolic links. O_CLOEXEC is added."""
    how = beneath(flags)
    return _call(f"openat2 {path}", _OPENAT2, root_fd, _raw(path), how, len(how))


def open_straight(path: str, flags: int, at: int = _AT_FDCWD) -> int:
    """Open a path in which nothing may be a symbolic link; with ``at`` one that may not leave that open directory. O_CLOEXEC is added."""
    resolve = _RESOLVE_NO_SYMLINKS | (_RESOLVE_BENEATH if at >= 0 else 0)
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return _call(f"openat2 {path}", _OPENAT2, at, _raw(path), how, len(how))


@contextlib.contextmanager
def acting_as(number: int) -> Iterator[None]:
    """What is made in files is a user's of this number, and its group's; -1: this process's own."""
    if number < 0:
        yield
        return
    parent = os.getppid()
    before = (_libc.setfsuid(-1), _libc.setfsgid(-1))
    _libc.setfsgid(number)
    _libc.setfsuid(number)
    try:
        yield
    finally:
        _libc.setfsuid(before[0])
        _libc.setfsgid(before[1])
        # The kernel takes both away from whoever changes users.
        set_dumpable(True)
        die_with_parent()
        if os.getppid() != parent:
            raise SystemExit("the parent process has ended")


def keep_capabilities_across_users() -> bool:
    """Changing users takes no capability from this process any more; False where it lacks some that root has, and nothing was changed."""
    with open("/proc/self/status", "rb") as f:
        effective = next((int(line.split()[1], 16) for line in f if line.startswith(b"CapEff:")), 0)
    return effective & _OF_OWNERS == _OF_OWNERS and int(_libc.prctl(_PR_SET_SECUREBITS, C.c_ulong(_NO_SETUID_FIXUP), 0, 0, 0)) == 0


def be_effectively(uid: int) -> None:
    """A user namespace belongs to the effective user of whoever makes it, and what it uses up of the kernel's is counted against that one."""
    if _libc.setresuid(C.c_uint(0xFFFFFFFF), C.c_uint(uid), C.c_uint(0xFFFFFFFF)) != 0:
        raise _fail("setresuid")
    # The kernel takes both away from whoever changes users.
    set_dumpable(True)
    die_with_parent()


def close_from(first: int, keep: Sequence[int] = ()) -> None:
    """Close every descriptor from ``first`` on except those in ``keep``."""
    at = first
    for fd in [*sorted(k for k in set(keep) if k >= first), 0x7FFFFFFF]:
        if fd > at:
            _call("close_range", _CLOSE_RANGE, at, fd - 1, 0)
        at = fd + 1


def prctl_step(what: str, option: int, *args: object) -> Step:
    """prctl(2) as a step."""
    filled: list[Any] = [C.c_ulong(a) if isinstance(a, int) else a for a in args]
    filled += [C.c_ulong(0)] * (4 - len(filled))
    return Step(f"prctl {what}", _libc.prctl, (C.c_int(option), *filled))


def _prctl(what: str, option: int, *args: object) -> None:
    perform((prctl_step(what, option, *args),))


# SIGKILL when the parent ends. A change of user id forgets it: take it afterwards.
DIE_WITH_PARENT = prctl_step("pdeathsig", _PR_SET_PDEATHSIG, int(signal.SIGKILL))
# exec can never grant anything from here on.
NO_NEW_PRIVILEGES = prctl_step("no_new_privs", _PR_SET_NO_NEW_PRIVS, 1)
# /proc/self belongs to the process's own user again, which a change of user takes away.
DUMPABLE = prctl_step("dumpable", _PR_SET_DUMPABLE, 1)
# Give up every effective, permitted and inheritable capability, and with them the ambient ones, which are always both permitted and inheritable.
DROP_CAPABILITIES = (Step("capset", _libc.capset, (struct.pack("Ii", _CAPABILITY_VERSION_3, 0), b"\0" * 24)),)
UNBLOCK_SIGNALS = Step("sigprocmask", _libc.sigprocmask, (C.c_int(signal.SIG_SETMASK), b"\0" * 128, None))


def die_with_parent() -> None:
    """Take ``DIE_WITH_PARENT``."""
    perform((DIE_WITH_PARENT,))


def set_dumpable(on: bool) -> None:
    """Whether /proc/self belongs to the process's own user."""
    _prctl("dumpable", _PR_SET_DUMPABLE, int(on))


def set_name(name: str) -> None:
    """The thread name ``ps`` and ``top`` show (15 bytes)."""
    _prctl("name", _PR_SET_NAME, name.encode()[:15])


def become_subreaper() -> None:
    """Orphans among our descendants become our children."""
    _prctl("subreaper", _PR_SET_CHILD_SUBREAPER, 1)


def no_new_privileges() -> None:
    """Take ``NO_NEW_PRIVILEGES``."""
    perform((NO_NEW_PRIVILEGES,))


def drop_capabilities() -> None:
    """Take ``DROP_CAPABILITIES``."""
    perform(DROP_CAPABILITIES)


def keep_capabilities(*kept: int) -> None:
    """Give up every capability but these; what is executed later has none."""
    mask = sum(1 << number for number in kept)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    data = struct.pack("6I", low, low, 0, high, high, 0)
    perform((prctl_step("ambient", _PR_CAP_AMBIENT, 4), Step("capset", _libc.capset, (header, data))))


def bounding_set_steps() -> tuple[Step, ...]:
    """Empty the capability bounding set (needs CAP_SETPCAP), capability by capability as far as this kernel knows them."""
    known = 0
    while _libc.prctl(_PR_CAPBSET_READ, C.c_ulong(known), C.c_ulong(0), C.c_ulong(0), C.c_ulong(0)) >= 0:
        known += 1
    return tuple(prctl_step("capbset_drop", _PR_CAPBSET_DROP, capability) for capability in range(known))


def drop_bounding_set() -> None:
    """Take ``bounding_set_steps``."""
    perform(bounding_set_steps())


def filter_step(program: bytes) -> Step:
    """Install a seccomp filter (packed ``sock_filter`` records); needs no_new_privs."""
    records = C.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // 8, C.addressof(records))
    # ``records`` rides along: the kernel reads it through the address in the header.
    return Step("seccomp", _libc.syscall, (C.c_long(_SECCOMP), C.c_long(1), C.c_long(0), header, records))


def landlock_create(attributes: bytes, flags: int = 0) -> int:
    """A ruleset descriptor, or with flags=1 and no attributes the ABI version."""
    return _call("landlock_create_ruleset", _LANDLOCK_CREATE, attributes or C.c_void_p(None), len(attributes), flags)


def landlock_allow(ruleset: int, access: int, directory_fd: int) -> None:
    """Allow ``access`` beneath an open directory (or on an open file)."""
    _call("landlock_add_rule", _LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", access, directory_fd), 0)


def landlock_restrict(ruleset: int) -> None:
    """Restrict this process for ever to ``ruleset``."""
    _call("landlock_restrict_self", _LANDLOCK_RESTRICT, ruleset, 0)


def child_signal_fd() -> int:
    """Block SIGCHLD and return a non-blocking descriptor that becomes readable when children change state."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    mask = bytearray(128)  # sigset_t of glibc and musl
    mask[(signal.SIGCHLD - 1) // 8] |= 1 << ((signal.SIGCHLD - 1) % 8)
    fd = int(_libc.signalfd(-1, (C.c_char * 128).from_buffer(mask), os.O_CLOEXEC | os.O_NONBLOCK))
    if fd < 0:
        raise _fail("signalfd")
    return fd


def write_file(path: str, data: bytes) -> None:
    """Open, write once, close: as a control file wants it, without the machinery of buffered files."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def set_command_line(text: str) -> None:
    """Overwrite what /proc/self/cmdline shows; longer text is cut to the room there is. Does nothing where unsupported."""
    try:
        with open("/proc/self/stat", "rb") as f:
            fields = f.read().rsplit(b")", 1)[1].split()
        start, end = int(fields[45]), int(fields[46])
    except (OSError, IndexError, ValueError):
        return
    if 0 < start < end:
        raw = text.encode()[: end - start - 1]
        C.memmove(start, raw + b"\0" * (end - start - len(raw)), end - start)
