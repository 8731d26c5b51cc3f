"""What turns an empty sandbox into a function's: code and layers, limits, and the watch over its memory.

Code is opened here, by the broker, as detached read-only mounts of directories that must lie under the data directory. Ordinary sandboxes are
visited to attach them (``furnish``), others have an init that does it. The worker is told when everything is in place; the limits
are written while it wakes up.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from engine.sandbox import kernel, layers, nest, shares
from engine.sandbox.api import MOUNTING, NO_IMAGES
from engine.sandbox.furnish import FurnishError, Visitor
from engine.sandbox.holder import DEFAULT_TMP_MIB
from engine.sandbox.levels import Level
from engine.sandbox.marker import Marker
from engine.sandbox.memory import MemoryWatch
from engine.sandbox.peers import Loop
from engine.sandbox.queues import QueueWatch
from engine.sandbox.record import Holder
from engine.sandbox.visit import ShortVisit

# Many instances live shorter than this; and it is off the path of the first invocation. The hard limit stands from the beginning.
_WATCH_AFTER_S = 0.05
# The longest while somebody waits for a sandbox that is being made.
_WATCH_PATIENTLY_S = 0.2
# How often it is looked whose time has come: one timer for all.
_LOOK_EVERY_S = 0.02
# Charged to every sandbox besides the function: page tables, the kernel's own, and an init if it has memory.
_OVERHEAD = 1 << 20
_ATTRIBUTES = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV


class Fail(Protocol):
    """Tell that something could not be done with a sandbox, and end it."""

    def __call__(self, holder_id: int, step: str, reason: str) -> None: ...


class Outfitter:
    """``holders`` is the broker's table, which belongs to somebody else. ``rushed`` says whether somebody waits for a sandbox."""

    def __init__(
        self, loop: Loop, level: Level, config: Mapping[str, Any], holders: Mapping[int, Holder], fail: Fail, rushed: Callable[[], bool]
    ) -> None:
        self._loop = loop
        self._level = level
        self._holders = holders
        self._fail = fail
        self._rushed = rushed
        # Whose memory is to be watched, since when.
        self._unwatched: deque[tuple[float, Holder]] = deque()
        self._data_dir = str(config["data_dir"])
        self._shares = shares.Shares(config.get("file_systems") or {}, str(config["data_dir"]), idmapped=level.name == "full")
        self._data_fd = os.open(self._data_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._visitor = Visitor() if level.namespaces else None
        self._short = ShortVisit(self._data_fd, self._visitor.home, _ATTRIBUTES) if self._visitor is not None else None
        self._queues = QueueWatch(loop, holders, self._over, networks=level.network != "host") if level.namespaces else None
        self._marker = Marker(loop, lambda number: self._tell(number, MemoryWatch.marked), lambda number: self._tell(number, MemoryWatch.unmarked))
        self._taker = Marker(
            loop, lambda number: self._tell(number, MemoryWatch.taken_back), lambda number: self._tell(number, MemoryWatch.not_taken_back), taker=True
        )
        if level.groups.mechanisms["memory"] == "cgroup v1":
            self._marker.start()

    @property
    def helpers(self) -> set[int]:
        """Processes that help with it."""
        return {self._marker.pid, self._taker.pid}

    def close(self) -> None:
        """Give descriptors and the helper back."""
        self._marker.close()
        self._taker.close()
        if self._visitor is not None:
            self._visitor.close()
        os.close(self._data_fd)

    def specialise(self, holder: Holder, spec: dict[str, Any]) -> None:
        """Give a ready holder its code and limits."""
        assert holder.control is not None  # noqa: S101 - it is ready
        memory = int(spec["memory_mib"]) << 20
        holder.data_limit = 0 if self._level.groups.mechanisms["memory"].startswith("cgroup") else memory + (int(spec["reserved_mib"]) << 20)
        step = "open the code"
        try:
            if not self._level.namespaces:
                layers.materialise(self._data_dir, [str(p) for p in spec["layers"]])
            self._furnish(holder, spec)
            step = "write the limits"
            holder.cpu_quota_us = int(spec["cpu_quota_us"])
            self._limit(holder, memory + _OVERHEAD, int(spec["tmp_mib"]) << 20, int(spec["pids"]), int(spec["cpu_shares"]))
        except (OSError, ValueError) as e:
            # One that has ended meanwhile, as all do with their zygote, was not at fault: its end is told next, and who waits gets another.
            if not holder.has_ended():
                self._fail(holder.id, e.step if isinstance(e, FurnishError) else step, str(e))

    def _furnish(self, holder: Holder, spec: dict[str, Any]) -> None:
        """Bring code and layers into the sandbox, or have its init do it."""
        assert holder.control is not None  # noqa: S101 - the caller's matter
        mounts: list[int] = []
        image, share = bool(spec.get("image")), self._share(holder, spec.get("file_system"))
        if image and not (self._level.namespaces and holder.visited):
            raise FurnishError("mount the image", NO_IMAGES)
        hostname, tmp_mib = str(spec["hostname"])[:64], int(spec["tmp_mib"])
        plain = not (image or share or spec["layers"]) and (hostname, tmp_mib) == (nest.HOSTNAME, DEFAULT_TMP_MIB)
        if plain and holder.visited and self._bring(holder, str(spec["code_dir"])):
            return
        try:
            if self._level.namespaces:
                mounts.append(self._open_code(str(spec["code_dir"])))
                if self._visitor is not None and holder.visited and len(spec["layers"]) > 1:
                    mounts.append(self._merge([str(path) for path in spec["layers"]]))
                else:
                    mounts += [self._open_code(str(path)) for path in spec["layers"]]
            if self._visitor is not None and holder.visited:
                if len(mounts) > 1 and holder.zygote.opt_taken:
                    raise FurnishError(
                        "mount the layers",
                        "the interpreter itself is installed under /opt, where layers belong; use one installed elsewhere",
                    )
                self._visitor.furnish(holder.pidfd, mounts, tmp_mib, hostname, image=image, share=share)
                holder.task_root = b"/\n" if image else b"/var/task\n"
                self.release(holder)
            else:
                root = "/var/task" if self._level.namespaces else str(spec["code_dir"])
                what = {"hostname": hostname, "tmp_mib": tmp_mib, "data_limit": holder.data_limit, "task_root": root}
                holder.control.send(["specialise", what], mounts)
        finally:
            for fd in (*mounts, *(share[:1] if share is not None else ())):
                os.close(fd)

    def _bring(self, holder: Holder, code: str) -> bool:
        """Bring nothing but code; False where that has to be done step by step."""
        if self._short is None or not code.startswith(self._data_dir + "/"):
            return False
        if not self._short.bring(holder.pidfd, code[len(self._data_dir) + 1 :]):
            return False
        holder.task_root = b"/var/task\n"
        self.release(holder)
        return True

    def _share(self, holder: Holder, wanted: Sequence[Any] | None) -> shares.Share | None:
        """The mount of what goes below /mnt. Raises FurnishError."""
        if not wanted:
            return None
        arn, place, own = wanted
        try:
            if not self._level.namespaces:
                self._shares.check_place(arn, place)
                return None
            if not (holder.visited and holder.zygote.files):
                raise OSError("this sandbox was not made for one")
            return self._shares.attach(arn, place, self._level.first_id + 2 * holder.slot, own)
        except OSError as e:
            raise FurnishError(MOUNTING, str(e)) from e

    def release(self, holder: Holder) -> None:
        """Tell the worker where its code is, and hear no more from it: what speaks on its socket later is no worker of ours."""
        if holder.task_root and holder.control is not None and not holder.control.closed:
            if holder.data_limit:
                with contextlib.suppress(OSError):
                    resource.prlimit(holder.worker_pid, resource.RLIMIT_DATA, (holder.data_limit, holder.data_limit))
            holder.control.send_raw(holder.task_root)
            holder.control.close()

    def initialised(self, holder: Holder) -> None:
        """The init phase, which runs at full speed, is over: the CPU quota holds from now on."""
        if holder.group is None or holder.cpu_quota_us <= 0:
            return
        try:
            holder.group.cap_cpu(holder.cpu_quota_us)
        except OSError as e:
            self._fail(holder.id, "write the CPU quota", str(e))

    def _limit(self, holder: Holder, memory: int, tmp: int, pids: int, shares: int) -> None:
        group = holder.group
        if group is None:
            return
        # One more process than the function's where there is an init with memory.
        group.limit(memory + tmp, pids + (not holder.visited), shares)
        holder.memory = (memory, memory + tmp)
        self.watch_soon(holder)
        if self._queues is not None:
            self._queues.begin()

    def watch_soon(self, holder: Holder) -> None:
        """Have its memory watched when that is in nobody's way."""
        if holder.group is not None and "memory" in holder.group.places and holder.memory != (0, 0):
            if not self._unwatched:
                self._loop.later(_WATCH_AFTER_S, self._watch_some)
            self._unwatched.append((time.monotonic(), holder))

    def _watch_some(self) -> None:
        before_s = time.monotonic() - (_WATCH_PATIENTLY_S if self._rushed() else _WATCH_AFTER_S)
        while self._unwatched and self._unwatched[0][0] <= before_s:
            self._watch(self._unwatched.popleft()[1])
        if self._unwatched:
            self._loop.later(_LOOK_EVERY_S, self._watch_some)

    def _watch(self, holder: Holder) -> None:
        if holder.dying or holder.group is None:
            return
        if holder.watch is not None:
            holder.watch.close()
        tmp = f"/proc/{holder.init_pid}/root/tmp"
        with contextlib.suppress(OSError):
            holder.watch = MemoryWatch(
                self._loop, holder.group, holder.memory, tmp, lambda *what: self._lend(holder.id, *what), lambda: self._over(holder)
            )

    def _lend(self, holder_id: int, amount: int, fds: list[int]) -> None:
        """Have a mark set, or with one descriptor memory taken back."""
        (self._taker if len(fds) == 1 else self._marker).mark(holder_id, amount, fds)

    def _tell(self, holder_id: int, what: Callable[[MemoryWatch], None]) -> None:
        """What became of that."""
        holder = self._holders.get(holder_id)
        if holder is not None and holder.watch is not None:
            what(holder.watch)

    def _over(self, holder: Holder) -> None:
        """The function has passed its MemorySize: what the kernel would do. Done at once from here, for a process can take many
        MiB while somebody in its sandbox is being woken up, who then ends what was started meanwhile.
        """
        if holder.control is not None and holder.worker_alive and not holder.dying:
            holder.over_limit = True
            if holder.group is not None and "memory" in holder.group.places:
                holder.group.kill_all_but(holder.init_pid)
            elif holder.visited and not holder.sweeping:
                # The one sweep that its worker's end would begin too: two at once would kill each other where all of a sandbox are one user.
                holder.sweeping = True
                holder.zygote.send(["sweep", holder.id])
            if not holder.visited:
                holder.control.send(["kill"])

    def _open_code(self, path: str) -> int:
        """A detached, read-only mount of a directory that must lie under the data directory."""
        fd = self._open_directory(path)
        try:
            mount = kernel.open_tree("", recursive=False, at=fd)
        finally:
            os.close(fd)
        return self._protected(mount)

    def _merge(self, paths: list[str]) -> int:
        """The same of several, the later ones covering the earlier ones.

        Of the directories where they are: older kernels, 6.1 among them, make no overlay of detached mounts.
        """
        directories: list[int] = []
        try:
            for path in paths:
                directories.append(self._open_directory(path))
            mount = kernel.overlay(directories)
        finally:
            for fd in directories:
                os.close(fd)
        return self._protected(mount)

    def _open_directory(self, path: str) -> int:
        if not path.startswith(self._data_dir + "/"):
            raise ValueError(f"{path} is not under {self._data_dir}")
        return kernel.open_beneath(self._data_fd, path[len(self._data_dir) + 1 :], os.O_PATH | os.O_DIRECTORY)

    @staticmethod
    def _protected(mount: int) -> int:
        try:
            kernel.set_mount(mount, _ATTRIBUTES, recursive=False)
        except OSError:
            os.close(mount)
            raise
        return mount
