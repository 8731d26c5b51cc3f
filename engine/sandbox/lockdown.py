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
# As recorded in AWS Lambda, but no core files: the host's core handler would run outside every fence.
_LIMITS = (
    (resource.RLIMIT_NOFILE, 1024),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_MEMLOCK, 65536),
    (resource.RLIMIT_NICE, 0),
    (resource.RLIMIT_RTPRIO, 0),
)
# RLIMIT_NPROC counts processes and threads of the sandbox's own user; the init is one of them at level user.
_PROCESSES = 1024 + 8


class Fences(NamedTuple):
    """Which fences stand: ``namespaces`` (levels full and user), ``own_uid`` (full: ids of its own), and the two filters.

    ``template_filter`` is that of a template, which may enter the sandboxes made for its copies.
    """

    namespaces: bool
    own_uid: bool
    landlock: bool
    filter: bytes
    template_filter: bytes = b""

    def of_template(self) -> Fences:
        """Landlock stands on directories that a copy does not have: each copy puts up its own."""
        return self._replace(filter=self.template_filter, landlock=False)


def set_limits(namespaces: bool) -> None:
    """Resource limits of the worker; never above what the host allows."""
    for name, value in (*_LIMITS, (resource.RLIMIT_NPROC, _PROCESSES)) if namespaces else _LIMITS:
        _, ceiling = resource.getrlimit(name)
        allowed = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
        resource.setrlimit(name, (allowed, allowed))


def lock_down(fences: Fences) -> None:
    """Become the unprivileged worker. Raises OSError naming the step; the process must then exit."""
    set_limits(fences.namespaces)
    if not fences.namespaces:
        kernel.no_new_privileges()
        return
    kernel.drop_bounding_set()
    if fences.own_uid:
        os.setgroups([])
        os.setresgid(rootfs.WORKER_GID, rootfs.WORKER_GID, rootfs.WORKER_GID)
        os.setresuid(rootfs.WORKER_UID, rootfs.WORKER_UID, rootfs.WORKER_UID)
    kernel.drop_capabilities()
    kernel.no_new_privileges()
    # The change of user made /proc/self root's.
    kernel.set_dumpable(True)
    kernel.write_file("/proc/self/oom_score_adj", b"1000")
    restrict(fences)


def restrict(fences: Fences) -> None:
    """The two filters, which need no privilege. Raises OSError."""
    if fences.landlock:
        landlock.restrict(("/tmp", "/dev/shm"), rootfs.DEVICE_PATHS)
    kernel.install_filter(fences.filter)


def renew_entropy() -> None:
    """Make sure no two forks of one zygote share OpenSSL's random state (it only notices a changed pid)."""
    ssl = sys.modules.get("ssl")
    if ssl is not None:
        ssl.RAND_add(os.urandom(48), 48.0)
