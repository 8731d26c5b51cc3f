"""The last steps of a worker before user code: it gives up everything it will never need.

Order matters. Limits and the capability bounding set need privilege, the user id change needs capabilities, Landlock and the
filter need no_new_privs, and the filter comes last because it refuses half of what stands above it.
Python 3.9, standard library.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import NamedTuple

from engine.sandbox import kernel, landlock, rootfs

NICE = 10
# Descriptors below are the worker's: 0 to 2, the channel, and two to talk to the engine with until it has a function.
KEPT = 6
# As recorded in AWS Lambda, but no core files: the host's core handler would run outside every fence. It is not kept from that by a limit of 0, which the
# kernel heeds for files only; 1 is what it gives a handler of its own, so that none is called for that one's crash.
_LIMITS = (
    (resource.RLIMIT_NOFILE, 1024),
    (resource.RLIMIT_CORE, 1),
    (resource.RLIMIT_MEMLOCK, 65536),
    (resource.RLIMIT_NICE, 0),
    (resource.RLIMIT_RTPRIO, 0),
)
# Signals that wait, and timers, each of which has one ready. Where functions are all one user on the host, as many as that one may have would leave
# none to the others.
_SIGNALS = 4096
# RLIMIT_NPROC counts processes and threads of the sandbox's own user, at level user its init too; at level full control groups count better.
_PROCESSES, _PROCESSES_WITH_INIT = 1024 + 8, 1024 + 1


class Fences(NamedTuple):
    """Which fences stand: ``namespaces`` (levels full and user), ``own_uid`` (full: ids of its own), and the two filters.

    ``template_filter`` is that of a template, which may enter the sandboxes made for its copies. ``files``: something of the host's is
    going to be mounted below /mnt, to be written to. ``weighed``: control groups see to each sandbox's share of the processors.
    """

    namespaces: bool
    own_uid: bool
    landlock: bool
    filter: bytes
    template_filter: bytes = b""
    files: bool = False
    weighed: bool = False

    @property
    def writable(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Directories that may be written to, and where there are devices to write to, in a directory in which nothing else can be written to."""
        return ("/tmp", "/mnt") if self.files else ("/tmp",), (rootfs.DEVICES,)

    def of_template(self) -> Fences:
        """Landlock stands on directories that a copy does not have: each copy puts up its own."""
        return self._replace(filter=self.template_filter, landlock=False)


def steps(fences: Fences) -> tuple[kernel.Step, ...]:
    """Everything from the fork on, to be prepared in the zygote. Descriptors from ``KEPT`` on are closed on the way, the zygote's too."""
    fence = (kernel.Step("landlock", landlock.prepare(*fences.writable)),) if fences.landlock else ()
    return (
        kernel.UNBLOCK_SIGNALS,
        _apart(fences),
        # An engine that was itself started at a low priority cannot raise its workers to this one.
        kernel.Step("priority", os.setpriority, (os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))),
        *_privileges(fences),
        *fence,
        kernel.Step("close descriptors", kernel.close_from, (KEPT,)),
        kernel.filter_step(fences.filter),
    )


def _apart(fences: Fences) -> kernel.Step:
    """Signals to a process's own group stay among what the function starts.

    A session of its own costs more, since the kernel makes a group for scheduling for it. Where control groups do not weigh sandboxes against each other, that
    is what keeps a function of many threads from the share of one that has a single one; and where Landlock does not keep /proc from being written to, whoever is
    in a session may have all of it wait for others. Otherwise the zygote's does: it has no terminal, and of whoever else is in it a process sees nobody.
    """
    if fences.weighed and fences.landlock:
        return kernel.Step("own process group", os.setpgid, (0, 0))
    return kernel.Step("own session", os.setsid)


def _privileges(fences: Fences) -> tuple[kernel.Step, ...]:
    """What needs privilege, and giving it up. Limits never exceed what the host allows here."""
    limits = _limits(fences)
    if not fences.namespaces:
        return (*limits, kernel.NO_NEW_PRIVILEGES)
    become = kernel.become_steps("become the worker's user", rootfs.WORKER_UID, rootfs.WORKER_GID) if fences.own_uid else ()
    return (
        *limits,
        *kernel.bounding_set_steps(),
        *become,
        kernel.DIE_WITH_PARENT,
        *kernel.DROP_CAPABILITIES,
        kernel.NO_NEW_PRIVILEGES,
        kernel.DUMPABLE,
        kernel.Step("oom_score_adj", kernel.write_file, ("/proc/self/oom_score_adj", b"1000")),
    )


def _limits(fences: Fences) -> list[kernel.Step]:
    found = []
    wanted = list(_LIMITS)
    if fences.namespaces:
        if fences.own_uid:
            wanted.append((resource.RLIMIT_NPROC, _PROCESSES))
        else:
            wanted += [(resource.RLIMIT_NPROC, _PROCESSES_WITH_INIT), (resource.RLIMIT_SIGPENDING, _SIGNALS)]
    for name, value in wanted:
        _, ceiling = resource.getrlimit(name)
        allowed = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
        found.append(kernel.Step("resource limit", resource.setrlimit, (name, (allowed, allowed))))
    return found


def lock_down(fences: Fences) -> None:
    """Become the unprivileged worker, in one that an init forked. Raises OSError naming the step; the process must then exit."""
    kernel.perform(_privileges(fences))
    if fences.namespaces:
        restrict(fences)


def restrict(fences: Fences) -> None:
    """The two filters, which need no privilege. Raises OSError."""
    if fences.landlock:
        landlock.restrict(*fences.writable)
    kernel.perform((kernel.filter_step(fences.filter),))


def renew_entropy() -> None:
    """What a fork copied and must not be the same in two workers: Python's hooks for forks have not run.

    OpenSSL notices only a changed process number by itself.
    """
    modules = sys.modules
    ssl = modules.get("ssl")
    if ssl is not None:
        ssl.RAND_add(os.urandom(48), 48.0)
    random = modules.get("random")
    if random is not None:
        # By itself it would read 2,496 bytes; these are more than anybody can guess.
        random._inst.seed(int.from_bytes(os.urandom(32), "big"))
    threading = modules.get("threading")
    if threading is not None:
        threading.main_thread()._set_native_id()
