"""Directories of the host that functions have below /mnt, where Lambda would mount EFS or S3 Files.

Theory of operation. Which directories there are is said when the broker starts; functions name them by the ARN of an access point, and nothing
else of the host can be had by this way. A directory is opened as a detached mount for each sandbox, without following links that somebody may
have put in its place meanwhile. At level full the mount is idmapped: the function's user, another one on the host in every sandbox, acts there as
the access point's user, to whom everything belongs that it makes, as with EFS. A user namespace says how to map: it belongs to a process that
lives no longer than it takes to open it. At level user functions act as the engine's own user anyhow.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from engine.sandbox import init, kernel

ROOT = "/mnt"
# What a function gets is executable, as on AWS: libraries and packages are kept there.
_ATTRIBUTES = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
_PLACE = re.compile(r"/mnt/(?!\.\.?$)[a-zA-Z0-9_.-]{1,155}$")


class Share(NamedTuple):
    """A detached mount, the name it gets below /mnt, and the host id of who owns the places there; -1 for this process's own."""

    mount: int
    name: str
    owner: int


class _Directory(NamedTuple):
    path: str
    uid: int
    gid: int


class Shares:
    """``table``: by ARN the directory, and the user and group to act as; -1 for those it belongs to. ``idmapped``: level full."""

    def __init__(self, table: Mapping[str, Sequence[Any]], *, idmapped: bool) -> None:
        self._directories = {arn: _Directory(os.path.realpath(path), int(uid), int(gid)) for arn, (path, uid, gid) in table.items()}
        self._idmapped = idmapped
        self._spawn: init.Spawn | None = None

    def attach(self, arn: str, place: str, first_id: int) -> Share:
        """For the sandbox whose host ids begin with ``first_id``. The caller closes the mount. Raises OSError."""
        mount = self._open(self._of(arn, place), first_id + 1)
        return Share(mount, place.rpartition("/")[2], first_id if self._idmapped else -1)

    def check_place(self, arn: str, place: str) -> None:
        """Without mounts: the host's own ``place`` must be the directory. Raises OSError."""
        directory = self._of(arn, place)
        if os.path.realpath(place) != directory.path or not os.path.isdir(directory.path):
            raise OSError(errno.ENOENT, f"nothing can be mounted at level process, and {place} is not {directory.path} on this host")

    def _of(self, arn: str, place: str) -> _Directory:
        directory = self._directories.get(arn)
        if directory is None or not _PLACE.match(place):
            raise OSError(errno.ENOENT, f"there is no file system {arn} for {place} in file_systems")
        return directory

    def _open(self, directory: _Directory, worker: int) -> int:
        fd = kernel.open_straight(directory.path, os.O_PATH | os.O_DIRECTORY)
        try:
            mount = kernel.open_tree("", recursive=False, at=fd)
            try:
                if self._idmapped:
                    self._map(mount, directory, os.fstat(fd), worker)
                else:
                    kernel.set_mount(mount, _ATTRIBUTES, recursive=False)
            except BaseException:
                os.close(mount)
                raise
        finally:
            os.close(fd)
        return mount

    def _map(self, mount: int, directory: _Directory, owner: os.stat_result, worker: int) -> None:
        uid = owner.st_uid if directory.uid < 0 else directory.uid
        gid = (owner.st_gid or uid) if directory.gid < 0 else directory.gid
        if not uid or not gid:
            text = "belongs to root, and what functions leave there would too: give it to another user, or name one by uid and gid in file_systems"
            raise OSError(errno.EPERM, f"{directory.path} {text}")
        namespace = self._namespace(f"{uid} {worker} 1\n", f"{gid} {worker} 1\n")
        try:
            kernel.set_mount(mount, _ATTRIBUTES, recursive=False, mapping=namespace)
        except OSError as e:
            if e.errno == errno.EINVAL:
                raise OSError(errno.EINVAL, f"the file system of {directory.path} cannot be shown with other owners (idmapped mounts)") from e
            raise
        finally:
            os.close(namespace)

    def _namespace(self, users: str, groups: str) -> int:
        """A descriptor of a user namespace with these maps."""
        if self._spawn is None:
            self._spawn = init.spawner()
        pid, pidfd = self._spawn(kernel.CLONE_NEWUSER)
        try:
            kernel.write_file(f"/proc/{pid}/uid_map", users.encode())
            kernel.write_file(f"/proc/{pid}/gid_map", groups.encode())
            return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            os.waitpid(pid, 0)


def bring(share: Share) -> None:
    """In a sandbox's mount namespace: attach it, and let nobody make anything beside it. Raises OSError."""
    place = f"{ROOT}/{share.name}"
    # Whoever the sandbox does not know cannot make anything in what it has mounted itself.
    with kernel.acting_as(share.owner):
        os.mkdir(place, 0o755)
    kernel.move_mount(share.mount, place)
    kernel.set_mount(ROOT, kernel.MOUNT_ATTR_RDONLY, recursive=False)
