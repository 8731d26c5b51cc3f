"""The system call filter of a worker, as a BPF program.

Calls the kernel is known to have at the time of writing and that are not on the refusal list pass; refused ones answer EPERM;
anything newer than the table answers ENOSYS, so libraries fall back instead of reaching code nobody has judged. A foreign
call convention (x32, 32-bit) kills the process. clone3 answers ENOSYS because its flags lie in memory a filter cannot read:
libc then uses clone, whose flags are checked. Python 3.9, standard library.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # A line: code, value, where to go on when the test holds and when not; or the name of the next. Places are names of lines that come
    # later, verdicts, or the next line.
    _Place = str | int
    _Line = str | tuple[int, int, _Place, _Place]

_X86 = "x86_64"
_ARM = "aarch64"
_AUDIT_ARCH = {_X86: 0xC000003E, _ARM: 0xC00000B7}
MACHINES = tuple(_AUDIT_ARCH)

# Name -> (x86_64 number, arm64 number); None where the architecture has no such call.
_REFUSED_OLD: dict[str, tuple[object, object]] = {
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "chroot": (161, 51),
    "clock_adjtime": (305, 266), "clock_settime": (227, 112), "create_module": (174, None), "delete_module": (176, 106),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263), "finit_module": (313, 273), "get_kernel_syms": (177, None),
    "init_module": (175, 105), "io_setup": (206, 0), "ioperm": (173, None), "iopl": (172, None), "kcmp": (312, 272), "kexec_file_load": (320, 294),
    "kexec_load": (246, 104), "keyctl": (250, 219), "lookup_dcookie": (212, 18), "mbind": (237, 235), "migrate_pages": (256, 238),
    "modify_ldt": (154, None), "mount": (165, 40), "move_pages": (279, 239), "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42), "open_by_handle_at": (304, 265), "perf_event_open": (298, 241), "personality": (135, 92),
    "pivot_root": (155, 41), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "ptrace": (101, 117),
    "query_module": (178, None), "quotactl": (179, 60), "reboot": (169, 142), "request_key": (249, 218), "set_mempolicy": (238, 237),
    "setdomainname": (171, 162), "sethostname": (170, 161), "setns": (308, 268), "settimeofday": (164, 170),
    "swapoff": (168, 225), "swapon": (167, 224), "_sysctl": (156, None), "sysfs": (139, None), "syslog": (103, 116),
    "umount2": (166, 39), "unshare": (272, 97), "uselib": (134, None), "userfaultfd": (323, 282), "ustat": (136, None),
    "vhangup": (153, 58),
}  # fmt: skip
# From 424 on every architecture uses the same numbers.
_REFUSED_NEW = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "process_madvise": 440,
    "mount_setattr": 442, "quotactl_fd": 443, "memfd_secret": 447, "process_mrelease": 448, "set_mempolicy_home_node": 450, "statmount": 457,
    "listmount": 458, "lsm_get_self_attr": 459, "lsm_set_self_attr": 460, "lsm_list_modules": 461,
}  # fmt: skip
_CLONE3 = 435
# Where x32's calls begin on x86-64.
_FOREIGN = 0x40000000
# mseal 462 is the newest call judged.
_NEWEST = 462
# clone, socket, ioctl, prlimit64, socketpair, prctl, madvise, fcntl, setsockopt, seccomp: refused by argument.
_CHECKED = {_X86: (56, 41, 16, 302, 53, 157, 28, 72, 54, 317), _ARM: (220, 198, 29, 261, 199, 167, 233, 25, 208, 277)}
# setrlimit: of core files' size nobody changes anything (``lockdown``), and is told it was done: programs that want none would give up otherwise.
_SETRLIMIT = {_X86: 160, _ARM: 164}
_RLIMIT_CORE = 4
# mmap, memfd_create, shmget: which argument has the flags, and which of them asks for huge pages. Those that a host has set aside for somebody are
# counted in no group's memory.
_HUGE = {_X86: ((9, 3, 0x40000), (319, 1, 4), (29, 2, 0x800)), _ARM: ((222, 3, 0x40000), (279, 1, 4), (194, 2, 0x800))}

# Namespaces; and CLONE_PARENT, whose children are the zygote's: it would reap, outside every limit, as fast as a function makes them.
_CLONE_REFUSED = 0x7E028000
# Descriptors in common with a process that is no thread of one's own: locks of files that outlive whoever took them.
_CLONE_FILES, _CLONE_THREAD = 0x400, 0x10000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
# A processor core for itself alone, whose other half then stands idle; and pages to be laid together with equal ones of anybody, which the kernel
# looks for at its own expense and which tells what others hold in memory. Both as on a kernel that was built without.
_PR_SCHED_CORE, _PR_SET_MEMORY_MERGE, _MADV_MERGEABLE = 62, 67, 12
# Filters for the kernel to compile, which has a limit for all of them together: once it is reached no sandbox gets its own any more.
_PR_SET_SECCOMP, _SET_MODE_FILTER = 22, 1
# Locks of open files (``F_OFD_SETLK``): memory that no group counts, and nobody's in /proc/locks. Those of processes are looked for (``locks``).
_OF_OPEN_FILES = (37, 38)
# Options of sockets by level. Filters, as above. Memberships of multicast groups, keys of TCP and labels of flows: memory that no group counts, in
# tables of which some are the whole host's.
_OPTIONS = {1: (26, 50, 51, 52), 0: (35, 39, 42, 46), 41: (20, 27, 32, 42, 46), 6: (14, 32, 38)}
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
# Whatever the type says, ICMP, TCP, UDP, ICMPv6 and MPTCP, which Go asks for first. Any other (SCTP, DCCP, UDP-Lite, L2TP) may be a module that
# the kernel would load for the asking.
_IP_PROTOCOLS = (0, 1, 6, 17, 58, 262)

_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _ALLOW, _DONE = 0x80000000, 0x7FFF0000, 0x00050000
_EINVAL = 0x00050016
_EPERM, _ENOSYS, _ENOPROTOOPT, _EPROTONOSUPPORT, _EAFNOSUPPORT = 0x00050001, 0x00050026, 0x0005005C, 0x0005005D, 0x00050061


_NEXT = ""
# So few ranges are not worth halving before those with one number are asked for.
_FEW = 5


def _load(at: int) -> _Line:
    return (_LOAD, at, _NEXT, _NEXT)


def _when(value: int, then: _Place, otherwise: _Place = _NEXT) -> _Line:
    return (_JUMP_EQ, value, then, otherwise)


def _when_any(bits: int, then: _Place, otherwise: _Place = _NEXT) -> _Line:
    return (_JUMP_SET, bits, then, otherwise)


def _one_of(values: tuple[int, ...], then: _Place, otherwise: _Place) -> list[_Line]:
    """Whether what was loaded is one of these."""
    return [*(_when(value, then) for value in values[:-1]), _when(values[-1], then, otherwise)]


def _judged_by(at: int, values: tuple[int, ...], verdict: int) -> list[_Line]:
    """The verdict on a call whose argument at this offset is one of these."""
    return [_load(at), *_one_of(values, verdict, _ALLOW)]


def _argument_checks(machine: str, may_enter: bool) -> dict[int, list[_Line]]:
    """What judges the calls that are judged by their arguments, by number."""
    clone, socket, ioctl, prlimit, socketpair, prctl, madvise, fcntl, setsockopt, seccomp = _CHECKED[machine]
    low = [16 + 8 * n for n in range(6)]  # offsets of the low halves of the arguments
    filters = () if may_enter else (_PR_SET_SECCOMP,)
    checks: dict[int, list[_Line]] = {
        clone: [_load(low[0]), _when_any(_CLONE_REFUSED, _EPERM), _when_any(_CLONE_FILES, _NEXT, _ALLOW), _when_any(_CLONE_THREAD, _ALLOW, _EPERM)],
        socket: _on_socket(low),
        ioctl: _judged_by(low[1], (_TIOCSTI, _TIOCLINUX), _EPERM),
        # Limits of other processes: the sandbox's init may have the worker's user id. Of core files' size, whether a new limit is given is told by both
        # halves of its address.
        prlimit: [
            _load(low[0]), _when(0, _NEXT, _EPERM), _load(low[1]), _when(_RLIMIT_CORE, _NEXT, _ALLOW),
            _load(low[2]), _when(0, _NEXT, _DONE), _load(low[2] + 4), _when(0, _ALLOW, _DONE),
        ],
        # The kernel makes both sockets before it asks the family whether it has pairs: any family's code would run.
        socketpair: [_load(low[0]), _when(_AF_UNIX, _ALLOW, _EAFNOSUPPORT)],
        prctl: _judged_by(low[0], (_PR_SCHED_CORE, _PR_SET_MEMORY_MERGE, *filters), _EINVAL),
        madvise: _judged_by(low[2], (_MADV_MERGEABLE,), _EINVAL),
        fcntl: _judged_by(low[1], _OF_OPEN_FILES, _EINVAL),
        _SETRLIMIT[machine]: _judged_by(low[0], (_RLIMIT_CORE,), _DONE),
        setsockopt: _on_setsockopt(low),
        **{number: [_load(low[at]), _when_any(flag, _EINVAL, _ALLOW)] for number, at, flag in _HUGE[machine]},
    }  # fmt: skip
    if not may_enter:
        checks[seccomp] = _judged_by(low[0], (_SET_MODE_FILTER,), _EINVAL)
    return checks


def _on_setsockopt(low: list[int]) -> list[_Line]:
    """By level and option."""
    levels = tuple(_OPTIONS)
    lines: list[_Line] = [_load(low[1])]
    for level in levels:
        lines.append(_when(level, f"options of {level}", _ALLOW if level == levels[-1] else _NEXT))
    for level in levels:
        lines += [f"options of {level}", *_judged_by(low[2], _OPTIONS[level], _ENOPROTOOPT)]
    return lines


def _on_socket(low: list[int]) -> list[_Line]:
    """By family and protocol. Netlink only for the routing family, which name resolution reads the interfaces from."""
    return [
        _load(low[0]), _when(_AF_UNIX, _ALLOW), _when(_AF_INET, "IP"), _when(_AF_INET6, "IP"), _when(_AF_NETLINK, _NEXT, _EAFNOSUPPORT),
        _load(low[2]), _when(0, _ALLOW, _EAFNOSUPPORT),
        "IP", _load(low[2]), *_one_of(_IP_PROTOCOLS, _ALLOW, _EPROTONOSUPPORT),
    ]  # fmt: skip


def refused(machine: str) -> list[int]:
    """Numbers of the calls that answer EPERM, ascending."""
    column = 0 if machine == _X86 else 1
    old = [numbers[column] for numbers in _REFUSED_OLD.values() if numbers[column] is not None]
    return sorted([int(str(n)) for n in old] + list(_REFUSED_NEW.values()))


def _ranges(of: dict[int, _Place], end: _Place) -> list[tuple[int, _Place]]:
    """(first number, place) of runs of numbers that go to the same place: those in ``of``, the others up to the newest, and what follows at ``end``."""
    ranges: list[tuple[int, _Place]] = []
    for number in range(_NEWEST + 1):
        place = of.get(number, _ALLOW)
        if not ranges or ranges[-1][1] != place:
            ranges.append((number, place))
    return [*ranges, (_NEWEST + 1, end)]


def _search(ranges: list[tuple[int, _Place]]) -> tuple[list[_Line], _Place]:
    """Binary search: lines that find the place of the loaded number, and where to begin, which is a place itself if there is but one. Each half has about
    as many of the calls there are, since the kernel asks for all of them.
    """
    if len(ranges) == 1:
        return [], ranges[0][1]
    for n in range(1, len(ranges) - 1 if len(ranges) <= _FEW else 0):
        (_, before), (first, here), (after, behind) = ranges[n - 1 : n + 2]
        if before == behind and after == first + 1:
            others, otherwise = _search(ranges[:n] + ranges[n + 2 :])
            return [_when(first, here, otherwise), *others], _NEXT
    half = (ranges[0][0] + min(ranges[-1][0], _NEWEST)) / 2
    middle = min(range(1, len(ranges)), key=lambda n: abs(ranges[n][0] - half))
    at = ranges[middle][0]
    left, to_left = _search(ranges[:middle])
    right, to_right = _search(ranges[middle:])
    if right:
        to_right = f"from {at}"
        right.insert(0, to_right)
    return [(_JUMP_GE, at, to_right, to_left), *left, *right], _NEXT


def _assembled(lines: list[_Line]) -> bytes:
    """The program: the lines, then one that returns for each verdict. All jumps lead forward, as the kernel wants them."""
    code = [line for line in lines if isinstance(line, tuple)]
    verdicts = list(dict.fromkeys(place for line in code for place in line[2:] if isinstance(place, int)))
    places: dict[_Place, int] = {verdict: len(code) + n for n, verdict in enumerate(verdicts)}
    at = 0
    for line in lines:
        if isinstance(line, tuple):
            at += 1
        else:
            places[line] = at
    packed = [
        struct.pack("HBBI", kind, *(0 if place == _NEXT else places[place] - at - 1 for place in (then, otherwise)), value)
        for at, (kind, value, then, otherwise) in enumerate(code)
    ]
    return b"".join([*packed, *(struct.pack("HBBI", _RETURN, 0, 0, verdict) for verdict in verdicts)])


def program(machine: str, *, may_enter: bool = False) -> bytes:
    """The filter for ``x86_64`` or ``aarch64`` as packed ``sock_filter`` records. Raises KeyError for other machines.

    ``may_enter`` lets setns and further filters pass: for templates, whose copies install the strict one on top once they are where they belong.
    The kernel translates it for every worker anew, and goes through it for every number: both take as long as it is long and its ways are.
    """
    head: list[_Line] = [_load(4), _when(_AUDIT_ARCH[machine], _NEXT, _KILL), _load(0)]
    checks = _argument_checks(machine, may_enter)
    setns = _REFUSED_OLD["setns"][0 if machine == _X86 else 1]
    of: dict[int, _Place] = {n: _EPERM for n in refused(machine) if not may_enter or n != setns}
    of |= {_CLONE3: _ENOSYS, **{number: f"call {number}" for number in checks}}
    ranges = _ranges(of, _ENOSYS)
    if machine == _X86:
        ranges.append((_FOREIGN, _KILL))
    search, _ = _search(ranges)
    return _assembled([*head, *search, *(line for number, body in checks.items() for line in (f"call {number}", *body))])
