"""Inits of a template's sandbox and of the sandboxes its copies live in.

Theory of operation. A template's sandbox is an ordinary one whose worker may enter other namespaces. On request its init forks *pods*:
empty sandboxes nested in its own, in user namespaces that belong to the worker's user, so that the worker may enter them and nothing
else. A pod's init mounts what is private (/proc, /tmp), brings its network up and sends its namespaces to the broker, which
has the template fork a copy into it. The copy becomes a child of the template's init, which tells the broker how it ended by the
process number it had inside its pod. The template may end: its copies and their pods stay, for they hang on the init.
Python 3.9, standard library.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import traceback
from typing import TYPE_CHECKING, Any

from engine.sandbox import copier, holder, inherited, kernel, packets, rootfs

if TYPE_CHECKING:
    from collections.abc import Sequence


class TemplateInit(holder.Init):
    """Init of the sandbox that a template is in."""

    def __init__(self, build: holder.Build, control: socket.socket, pid_hint: int, orders: int) -> None:
        super().__init__(build, control, pid_hint, orders)
        self._pods: dict[int, int] = {}

    def _obey(self, packet: packets.Packet) -> None:
        if packet.kind != "make":
            super()._obey(packet)
            return
        holder_id = packet.args[0]
        try:
            self._make(packet)
        except OSError as e:
            packets.send(self._control, ["make_failed", holder_id, self._step, str(e)])
        finally:
            packet.close()

    def _make(self, packet: packets.Packet) -> None:
        """["make", holder id, process number of the copy] + control, cgroup files."""
        holder_id, pid_hint = packet.args
        control, *joins = packet.fds
        self._step = "fork the pod"
        mapped, mapped_write = os.pipe()
        try:
            pid, pidfd = self._clone()
            if pid == 0:
                self._become_pod(pid_hint, control, joins, mapped)
            self._pods[pid] = holder_id
            packets.send(self._control, ["made", holder_id, pid], [pidfd])
            os.close(pidfd)
            self._step = "id maps of the pod"
            kernel.write_file(f"/proc/{pid}/uid_map", f"{rootfs.WORKER_UID} {rootfs.WORKER_UID} 1\n".encode())
            kernel.write_file(f"/proc/{pid}/gid_map", f"{rootfs.WORKER_GID} {rootfs.WORKER_GID} 1\n".encode())
            os.write(mapped_write, b"m")
        finally:
            os.close(mapped)
            os.close(mapped_write)

    def _namespaces(self) -> int:
        flags = kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
        return flags | kernel.CLONE_NEWNET if self._build.isolated_network else flags

    def _clone(self) -> tuple[int, int]:
        """A user namespace belongs to the effective user of whoever makes it: for a moment that is the worker's."""
        own_uid = self._build.fences.own_uid
        if own_uid:
            os.seteuid(rootfs.WORKER_UID)
            # Changing it made /proc/<child> the host's root's, where its id maps could not be written.
            kernel.set_dumpable(True)
        pid = -1
        try:
            pid, pidfd = kernel.clone3(self._namespaces(), -1)
        finally:
            if own_uid and pid != 0:
                os.seteuid(0)
        return pid, pidfd

    def _become_pod(self, pid_hint: int, control: int, joins: Sequence[int], mapped: int) -> None:
        """In the child. Never returns."""
        try:
            kernel.close_from(3, [control, *joins, mapped])
            PodInit(self._build, socket.socket(fileno=control), pid_hint).run_pod(joins, mapped)
        finally:
            os._exit(1)

    def _reap(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            inner = _inner_pid(found.si_pid)
            _, status = os.waitpid(found.si_pid, 0)
            if found.si_pid == self._worker:
                self._worker = 0
                packets.send(self._control, ["exit", status])
            elif found.si_pid in self._pods:
                packets.send(self._control, ["exited", self._pods.pop(found.si_pid), status])
            elif inner:
                packets.send(self._control, ["copy_exit", inner, status])

    def _kill_all(self) -> None:
        """The template only: what is in the pods is not its."""
        if self._worker:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._worker, signal.SIGKILL)


class PodInit(holder.Init):
    """Init of the sandbox that one copy is in."""

    def run_pod(self, joins: Sequence[int], mapped: int) -> None:
        """As ``run``, without a worker of its own. Never returns."""
        try:
            self._enter_pod(joins, mapped)
            self._mount()
            self._open_network()
            children = kernel.child_signal_fd()
            self._offer(self._choose_pid(), cgroup=bool(joins))
            self._settle()
            self._serve(children)
        except (OSError, packets.PacketError) as e:
            self._fail(str(e))
        except BaseException:  # the last resort of a process that must not return into its parent's loop
            self._fail(traceback.format_exc())
        os._exit(1)

    def _mount(self) -> None:
        """/tmp as the template's init left it: Lambda's snapshots are of the disk too."""
        self._step = "open the template's /tmp"
        former = os.open("/tmp", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            super()._mount()
            self._step = "copy the template's /tmp"
            found = os.fstatvfs(former)
            size_mib = found.f_blocks * found.f_frsize >> 20
            if size_mib != holder.DEFAULT_TMP_MIB:
                holder.resize_tmp(size_mib)
            inherited.copy_tree(former, "/tmp")
        finally:
            os.close(former)

    def _enter_pod(self, joins: Sequence[int], mapped: int) -> None:
        self._step = "join control groups"
        for fd in joins:
            os.write(fd, b"0")
            os.close(fd)
        self._step = "id maps"
        if os.read(mapped, 1) != b"m":
            os._exit(1)
        os.close(mapped)
        self._step = "become the pod's user"
        if self._build.fences.own_uid:
            os.setresgid(rootfs.WORKER_GID, rootfs.WORKER_GID, rootfs.WORKER_GID)
            os.setresuid(rootfs.WORKER_UID, rootfs.WORKER_UID, rootfs.WORKER_UID)
        self._step = "parent death signal"
        kernel.die_with_parent()
        kernel.set_dumpable(True)
        if joins:
            self._step = "cgroup namespace"
            kernel.unshare(kernel.CLONE_NEWCGROUP)

    def _offer(self, number: int, *, cgroup: bool) -> None:
        """Send the namespaces to the broker, and by which process number inside it will hear of the copy's end."""
        self._step = "open the namespaces"
        absent = {"cgroup"} if not cgroup else set()
        if not self._build.isolated_network:
            absent.add("net")
        names = [name for name, _ in copier.NAMESPACES if name not in absent]
        fds = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in names]
        try:
            packets.send(self._control, ["pod", names, number], fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _specialise(self, what: dict[str, Any], mounts: list[int]) -> None:
        """Code and layers came along with the template's mounts."""
        if what["tmp_mib"] != holder.DEFAULT_TMP_MIB:
            self._step = "size of /tmp"
            holder.resize_tmp(what["tmp_mib"])
        self._step = "host name"
        socket.sethostname(what["hostname"])


def _inner_pid(pid: int) -> int:
    """The process number a zombie had in a pid namespace below ours, 0 for one of our own."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status", "rb") as status:
        for line in status:
            if line.startswith(b"NSpid:"):
                numbers = line.split()[1:]
                return int(numbers[-1]) if len(numbers) > 1 else 0
    return 0
