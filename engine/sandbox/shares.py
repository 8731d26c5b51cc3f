"""Directories of the host that functions have below /mnt, where Lambda would mount EFS or S3 Files.

Theory of operation. Which directories there are is said when the broker starts; functions name them by the ARN of an access point, and nothing
else of the host can be had by this way. A directory is opened as a detached mount for each sandbox, without following links that somebody may
have put in its place meanwhile. At level full the mount is idmapped: the function's user, another one on the host in every sandbox, acts there as
the access point's user, to whom everything belongs that it makes, as with EFS. A user namespace says how to map: it belongs to a process that
lives no longer than it takes to open it. At level user functions act as the engine's own user anyhow.

File systems that only the API knows (the embedded EFS) are kept below the data directory, ``file-systems/ID``, and made at their first use, as EFS makes
the root directory of an access point. Nobody but root gets there from outside.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from engine.sandbox import init, kernel, rootfs

ROOT = "/mnt"
# What a function gets is executable, as on AWS: libraries and packages are kept there.
_ATTRIBUTES = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
_OWN = "file-systems"
_NAME = re.compile(r"fs-[0-9a-f]{8,40}$")
# Of users and groups, as in the setting.
_MOST_ID = 1 << 31
_PLACE = re.compile(r"/mnt/(?!\.\.?$)[a-zA-Z0-9_.-]{1,155}$")


# Whom functions are to themselves. Stands for root where EFS says so, and where it says nothing.
_NOBODY = (rootfs.WORKER_UID, rootfs.WORKER_GID)


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

    def __init__(self, table: Mapping[str, Sequence[Any]], data_dir: str, *, idmapped: bool) -> None:
        self._data_dir = data_dir
        self._directories = {arn: _Directory(os.path.realpath(path), int(uid), int(gid)) for arn, (path, uid, gid) in table.items()}
        self._idmapped = idmapped
        self._spawn: init.Spawn | None = None

    def attach(self, arn: str, place: str, first_id: int, own: Sequence[Any] | None = None) -> Share:
        """For the sandbox whose host ids begin with ``first_id``; ``own``: what EFS says of an access point that is not in the table.
        The caller closes the mount. Raises OSError.
        """
        if own is not None and _PLACE.match(place):
            mount = self._open_own(own, first_id + 1)
        else:
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
            owner = os.fstat(fd)
            uid = owner.st_uid if directory.uid < 0 else directory.uid
            gid = (owner.st_gid or uid) if directory.gid < 0 else directory.gid
            if self._idmapped and not (uid and gid):
                text = "belongs to root, and what functions leave there would too: give it to another user, or name one by uid and gid in file_systems"
                raise OSError(errno.EPERM, f"{directory.path} {text}")
            return self._mount(fd, _Directory(directory.path, uid, gid), worker)
        finally:
            os.close(fd)

    def _open_own(self, own: Sequence[Any], worker: int) -> int:
        """The same below the data directory, where root stands for the user that functions are to themselves."""
        name, path, uid, gid, made = own
        parts = [part for part in path.split("/") if part]
        if not _NAME.match(name) or {".", ".."} & set(parts):
            raise OSError(errno.EINVAL, f"{name}{path} is no place in a file system")
        if not all(0 <= int(number) < _MOST_ID for number in (uid, gid, *(made or ())[:2])):
            raise OSError(errno.EINVAL, f"users and groups of {name}{path} must have numbers below {_MOST_ID}")
        mode = 0o755
        fd = os.open(self._data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = self._down(fd, _OWN, (0, 0), 0o700)
            fd = self._down(fd, name, _NOBODY, mode)
            for n, part in enumerate(parts):
                last = n == len(parts) - 1
                owner = _NOBODY
                if last and made:
                    owner, mode = (int(made[0]), int(made[1])), int(made[2])
                fd = self._down(fd, part, owner if made else None, mode)
            return self._mount(fd, _Directory(f"{name}{path}", int(uid or _NOBODY[0]), int(gid or _NOBODY[1])), worker)
        finally:
            os.close(fd)

    def _down(self, at: int, name: str, owner: tuple[int, int] | None, mode: int) -> int:
        """A directory in an open one, which is closed unless this raises; made if need be and an owner is given."""
        fresh = False
        if owner is not None:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=at)
                fresh = True
        fd = kernel.open_straight(name, os.O_RDONLY | os.O_DIRECTORY, at)
        try:
            if fresh and owner is not None:
                if self._idmapped and name != _OWN:
                    os.fchown(fd, owner[0] or _NOBODY[0], owner[1] or _NOBODY[1])
                os.fchmod(fd, mode & 0o777 if self._idmapped else mode & 0o777 | 0o700)
        except BaseException:
            os.close(fd)
            raise
        os.close(at)
        return fd

    def _mount(self, fd: int, directory: _Directory, worker: int) -> int:
        mount = kernel.open_tree("", recursive=False, at=fd)
        try:
            if self._idmapped:
                self._map(mount, directory, worker)
            else:
                kernel.set_mount(mount, _ATTRIBUTES, recursive=False)
        except BaseException:
            os.close(mount)
            raise
        return mount

    def _map(self, mount: int, directory: _Directory, worker: int) -> None:
        uid, gid = directory.uid, directory.gid
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
