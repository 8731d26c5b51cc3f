"""The system call filter of a worker, as a BPF program.

Calls the kernel is known to have at the time of writing and that are not on the refusal list pass; refused ones answer EPERM;
anything newer than the table answers ENOSYS, so libraries fall back instead of reaching code nobody has judged. A foreign
call convention (x32, 32-bit) kills the process. clone3 answers ENOSYS because its flags lie in memory a filter cannot read:
libc then uses clone, whose flags are checked. Python 3.9, standard library.
"""

from __future__ import annotations

import struct

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


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _returns(value: int) -> bytes:
    return _op(_RETURN, value)


def _one_of(at: int, values: tuple[int, ...], verdict: int) -> bytes:
    """The verdict on a call whose argument at this offset is one of these."""
    checks = b"".join(_op(_JUMP_EQ, value, len(values) - n, 0) for n, value in enumerate(values))
    return _op(_LOAD, at) + checks + _returns(_ALLOW) + _returns(verdict)


def _argument_checks(machine: str, may_enter: bool) -> list[tuple[int, bytes]]:
    """(number, program) for the calls judged by their arguments; each program returns."""
    clone, socket, ioctl, prlimit, socketpair, prctl, madvise, fcntl, setsockopt, seccomp = _CHECKED[machine]
    low = [16 + 8 * n for n in range(6)]  # offsets of the low halves of the arguments
    on_clone = (
        _op(_LOAD, low[0])
        + _op(_JUMP_SET, _CLONE_REFUSED, 0, 1)
        + _returns(_EPERM)
        + _op(_JUMP_SET, _CLONE_FILES, 0, 2)
        + _op(_JUMP_SET, _CLONE_THREAD, 1, 0)
        + _returns(_EPERM)
        + _returns(_ALLOW)
    )
    # The kernel makes both sockets before it asks the family whether it has pairs: any family's code would run.
    on_socketpair = _op(_LOAD, low[0]) + _op(_JUMP_EQ, _AF_UNIX, 0, 1) + _returns(_ALLOW) + _returns(_EAFNOSUPPORT)
    on_ioctl = (
        _op(_LOAD, low[1])
        + _op(_JUMP_EQ, _TIOCSTI, 1)
        + _op(_JUMP_EQ, _TIOCLINUX, 0, 1)
        + _returns(_EPERM)
        + _returns(_ALLOW)
    )
    # Limits of other processes: the sandbox's init may have the worker's user id.
    on_prlimit = (
        _op(_LOAD, low[0])
        + _op(_JUMP_EQ, 0, 1, 0)
        + _returns(_EPERM)
        + _op(_LOAD, low[1])
        + _op(_JUMP_EQ, _RLIMIT_CORE, 1, 0)
        + _returns(_ALLOW)
        # Whether a new limit is given, by both halves of its address.
        + _op(_LOAD, low[2])
        + _op(_JUMP_EQ, 0, 0, 2)
        + _op(_LOAD, low[2] + 4)
        + _op(_JUMP_EQ, 0, 1, 0)
        + _returns(_DONE)
        + _returns(_ALLOW)
    )
    filters = () if may_enter else (_PR_SET_SECCOMP,)
    checks = [
        (clone, on_clone), (socket, _on_socket(low)), (ioctl, on_ioctl), (prlimit, on_prlimit), (socketpair, on_socketpair),
        (prctl, _one_of(low[0], (_PR_SCHED_CORE, _PR_SET_MEMORY_MERGE, *filters), _EINVAL)),
        (madvise, _one_of(low[2], (_MADV_MERGEABLE,), _EINVAL)),
        (fcntl, _one_of(low[1], _OF_OPEN_FILES, _EINVAL)),
        (_SETRLIMIT[machine], _one_of(low[0], (_RLIMIT_CORE,), _DONE)),
        (setsockopt, _on_setsockopt(low)),
        *((number, _op(_LOAD, low[at]) + _op(_JUMP_SET, flag, 0, 1) + _returns(_EINVAL) + _returns(_ALLOW)) for number, at, flag in _HUGE[machine]),
    ]  # fmt: skip
    return checks if may_enter else [*checks, (seccomp, _one_of(low[0], (_SET_MODE_FILTER,), _EINVAL))]


def _on_setsockopt(low: list[int]) -> bytes:
    """By level and option."""
    bodies = ((level, _one_of(low[2], options, _ENOPROTOOPT)) for level, options in _OPTIONS.items())
    return _op(_LOAD, low[1]) + b"".join(_op(_JUMP_EQ, level, 0, len(body) // 8) + body for level, body in bodies) + _returns(_ALLOW)


def _on_socket(low: list[int]) -> bytes:
    """By family and protocol. Netlink only for the routing family, which name resolution reads the interfaces from."""
    known = len(_IP_PROTOCOLS)
    of_ip = _op(_LOAD, low[2]) + b"".join(_op(_JUMP_EQ, n, known - i, 0) for i, n in enumerate(_IP_PROTOCOLS)) + _returns(_EPROTONOSUPPORT)
    of_netlink = _op(_LOAD, low[2]) + _op(_JUMP_EQ, 0, known + 2, known + 3)
    return (
        _op(_LOAD, low[0])
        + _op(_JUMP_EQ, _AF_UNIX, known + 7, 0)
        + _op(_JUMP_EQ, _AF_INET, 4, 0)
        + _op(_JUMP_EQ, _AF_INET6, 3, 0)
        + _op(_JUMP_EQ, _AF_NETLINK, 0, known + 5)
        + of_netlink
        + of_ip
        + _returns(_ALLOW)
        + _returns(_EAFNOSUPPORT)
    )


def refused(machine: str) -> list[int]:
    """Numbers of the calls that answer EPERM, ascending."""
    column = 0 if machine == _X86 else 1
    old = [numbers[column] for numbers in _REFUSED_OLD.values() if numbers[column] is not None]
    return sorted([int(str(n)) for n in old] + list(_REFUSED_NEW.values()))


def _tree(numbers: list[int]) -> bytes:
    """Binary search: returns EPERM when the accumulator is one of ``numbers``, ALLOW otherwise."""
    if len(numbers) <= 3:
        checks = b"".join(_op(_JUMP_EQ, n, len(numbers) - i, 0) for i, n in enumerate(numbers))
        return checks + _returns(_ALLOW) + _returns(_EPERM)
    middle = len(numbers) // 2
    left, right = _tree(numbers[:middle]), _tree(numbers[middle:])
    skip = len(left) // 8
    if skip > 255:
        raise ValueError("refusal list too long for one jump")
    return _op(_JUMP_GE, numbers[middle], skip, 0) + left + right


def program(machine: str, *, may_enter: bool = False) -> bytes:
    """The filter for ``x86_64`` or ``aarch64`` as packed ``sock_filter`` records. Raises KeyError for other machines.

    ``may_enter`` lets setns and further filters pass: for templates, whose copies install the strict one on top once they are where they belong.
    """
    head = _op(_LOAD, 4) + _op(_JUMP_EQ, _AUDIT_ARCH[machine], 1, 0) + _returns(_KILL) + _op(_LOAD, 0)
    if machine == _X86:
        head += _op(_JUMP_GE, 0x40000000, 0, 1) + _returns(_KILL)
    head += _op(_JUMP_GE, _NEWEST + 1, 0, 1) + _returns(_ENOSYS)
    head += _op(_JUMP_EQ, _CLONE3, 0, 1) + _returns(_ENOSYS)
    for number, body in _argument_checks(machine, may_enter):
        head += _op(_JUMP_EQ, number, 0, len(body) // 8) + body
    setns = _REFUSED_OLD["setns"][0 if machine == _X86 else 1]
    return head + _tree([n for n in refused(machine) if not may_enter or n != setns])
