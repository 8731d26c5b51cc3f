"""The broker's visits to sandboxes: code, layers, the size of /tmp and the host name, put in place from outside.

A worker has given up everything before it has a function, and the sandbox's init never acts; so the broker enters the sandbox's
mount namespace for the few calls it takes. It never runs or reads anything there: the namespace holds only mounts made by the engine until
user code starts, and nothing user code may do changes a path that is used here.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from engine.sandbox import holder, kernel, nest, shares
from engine.sandbox.api import MOUNTING

# A container image's file system passes through here on its way to becoming the root, and these are taken along. The image store sees to it
# that none of them is a link in the image.
_NEW_ROOT = "/mnt"
_TAKEN_ALONG = ("/proc", "/dev", "/tmp", "/etc/hosts", "/etc/resolv.conf")
_TMP_FLAGS = kernel.MS_REMOUNT | kernel.MS_NOSUID | kernel.MS_NODEV


class FurnishError(OSError):
    """``step`` says what could not be put in place."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(reason)
        self.step = step


class Visitor:
    """Enters sandboxes and comes back. Where it cannot come back it raises SystemExit: the broker must not go on from there."""

    def __init__(self) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC
        self._home = [(os.open(f"/proc/self/ns/{name}", flags), flag) for name, flag in (("mnt", kernel.CLONE_NEWNS), ("uts", kernel.CLONE_NEWUTS))]

    @property
    def home(self) -> int:
        """The broker's own mount namespace."""
        return self._home[0][0]

    def close(self) -> None:
        """Give the descriptors back."""
        for fd, _ in self._home:
            os.close(fd)

    def furnish(
        self, init: int, mounts: Sequence[int], tmp_mib: int, hostname: str, *, image: bool = False, share: shares.Share | None = None
    ) -> None:
        """Attach detached ``mounts`` (the code, then what goes on /opt) in the sandbox of the init behind a pidfd; with ``image`` the one mount
        becomes the sandbox's root. ``share`` goes below /mnt. Raises FurnishError.
        """
        renamed = hostname != nest.HOSTNAME
        step = "enter the sandbox"
        try:
            kernel.setns(init, kernel.CLONE_NEWNS | (kernel.CLONE_NEWUTS if renamed else 0))
            try:
                step = "mount the image" if image else "mount the code"
                if image:
                    _become_root(mounts[0], share)
                else:
                    kernel.move_mount(mounts[0], "/var/task")
                if len(mounts) > 1:
                    step = "mount the layers"
                    kernel.move_mount(mounts[1], "/opt")
                if tmp_mib != holder.DEFAULT_TMP_MIB:
                    step = "size of /tmp"
                    kernel.mount(None, "/tmp", None, _TMP_FLAGS, holder.tmp_options(tmp_mib))
                if share is not None:
                    step = MOUNTING
                    shares.bring(share)
                if renamed:
                    step = "host name"
                    socket.sethostname(hostname)
            finally:
                self._go_home(renamed)
        except OSError as e:
            raise FurnishError(step, str(e)) from e

    def _go_home(self, renamed: bool) -> None:
        try:
            for fd, flag in self._home[: 1 + renamed]:
                kernel.setns(fd, flag)
        except OSError as e:
            raise SystemExit(f"the broker cannot leave a sandbox: {e}") from e


def _become_root(tree: int, share: shares.Share | None) -> None:
    """Every process of the sandbox, which are its init and its worker, has the image for its root from now on; /mnt with a share to come is taken along."""
    places = kernel.open_tree(shares.ROOT) if share is not None else -1
    try:
        _take_place(tree, places)
    finally:
        if places >= 0:
            os.close(places)


def _take_place(tree: int, places: int) -> None:
    kernel.move_mount(tree, _NEW_ROOT)
    for path in filter(os.path.exists, _TAKEN_ALONG):
        fd = kernel.open_tree(path)
        try:
            kernel.move_mount(fd, _NEW_ROOT + path)
        finally:
            os.close(fd)
    if places >= 0:
        target = _NEW_ROOT + shares.ROOT
        if os.path.islink(target) or not os.path.isdir(target):
            raise OSError(f"the image has no directory {shares.ROOT}: import it again")
        kernel.move_mount(places, target)
    os.chdir(_NEW_ROOT)
    kernel.pivot_here()
