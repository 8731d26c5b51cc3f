"""The parent of all sandboxes of one runtime: an interpreter that has already imported what workers need.

Started by the broker with ``interpreter -I -S -B``; reads its plan from descriptor 3, moves into the runtime's root file system,
imports, freezes its heap and then forks a sandbox per request. It stays single-threaded, never runs user code, never becomes
process 1 and never execs again. Python 3.9, standard library.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
import platform
import select
import signal
import socket
import sys
import sysconfig
from typing import TYPE_CHECKING, Any

from engine.sandbox import holder, kernel, lockdown, packets, rootfs, seccomp, templates

if TYPE_CHECKING:
    from collections.abc import Callable

CONTROL_FD = 3
_RUNTIME = "/var/runtime"
_PYTHON = "runtime_bootstrap.python.worker"
# What nearly every function imports anyway, besides what the bootstrap needs.
_COMMON = (
    "base64", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "functools", "hashlib", "hmac",
    "importlib.util", "inspect", "io", "itertools", "json", "logging", "math", "operator", "pathlib", "random", "re",
    "string", "tempfile", "time", "traceback", "typing", "urllib.parse", "uuid", "warnings", "zoneinfo",
)  # fmt: skip


class Zygote:
    """Serves the broker until it goes away."""

    def __init__(self, control: socket.socket, plan: dict[str, Any]) -> None:
        self._control = control
        self._plan = plan
        self._children: dict[int, int] = {}
        self._build: holder.Build | None = None

    def prepare(self) -> None:
        """Enter the root file system, import, freeze. Raises OSError and ImportError."""
        plan = self._plan
        namespaces = plan["level"] != "process"
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.disable()
        os.nice(plan["nice"])
        fences = lockdown.Fences(
            namespaces,
            plan["level"] == "full",
            plan["landlock"],
            seccomp.program(platform.machine()) if namespaces else b"",
            seccomp.program(platform.machine(), may_enter=True) if namespaces else b"",
        )
        runtime_dir = plan["runtime_dir"]
        if namespaces:
            rootfs.enter(
                plan["mountpoint"], plan["prefixes"], runtime_dir, plan["network"] == "host", plan["level"] == "user", plan["resolver"]
            )
            runtime_dir = _RUNTIME
        if plan["trial"]:
            self._build = holder.Build(fences, plan["network"] != "host", _nothing, os.getpid())
            return
        _take_library_path(runtime_dir)
        entry = importlib.import_module(plan["entry"])
        python = plan["entry"] == _PYTHON
        for name in (*(_COMMON if python else ()), *plan["preload"]):
            # A preload is only a head start: what cannot be imported here fails in the function, with its own message.
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        title = f"/var/lang/bin/python{sys.version_info[0]}.{sys.version_info[1]} /var/runtime/bootstrap.py" if python else "/var/rapid/init"
        serve = functools.partial(entry.serve, command=tuple(plan["command"])) if plan["command"] else entry.serve
        self._build = holder.Build(
            fences, namespaces and plan["network"] != "host", serve, os.getpid(),
            any(prefix.startswith("/opt/") for prefix in plan["prefixes"]),
        )  # fmt: skip
        _hide(title)
        gc.collect()
        gc.freeze()

    def serve(self) -> None:
        """Fork on request, report ends. Returns when the broker's socket ends."""
        children = kernel.child_signal_fd()
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(children, select.POLLIN)
        packets.send(self._control, ["ready", os.getpid()])
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if children in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(children, 4096)
                self._reap()
            if self._control.fileno() in ready:
                packet = packets.receive(self._control)
                if packet is None:
                    return
                try:
                    self._make(packet)
                except OSError as e:
                    packets.send(self._control, ["make_failed", packet.args[0], "fork the sandbox", str(e)])
                finally:
                    packet.close()

    def _make(self, packet: packets.Packet) -> None:
        """["make", holder id, worker pid, first host id, v2 directory given, template] + control, channel, output, cgroup fds.

        For a template the fourth descriptor is its socket for orders.
        """
        holder_id, pid_hint, first_id, into_cgroup, template = packet.args
        control, channel, output, *joins = packet.fds
        orders = joins.pop(0) if template else -1
        cgroup_fd = joins.pop() if into_cgroup else -1
        build = self._build
        assert build is not None  # noqa: S101 - prepare() ran
        mapped, mapped_write = os.pipe() if build.fences.namespaces else (-1, -1)
        try:
            if build.fences.namespaces:
                pid, pidfd = kernel.clone3(_namespaces(build), cgroup_fd)
            else:
                pid = os.fork()
                pidfd = os.pidfd_open(pid) if pid else -1
            if pid == 0:
                _become_init(build, pid_hint, control, channel, output, joins, mapped, orders)
            try:
                self._children[pid] = holder_id
                packets.send(self._control, ["made", holder_id, pid], [pidfd])
                if build.fences.namespaces:
                    _map_ids(pid, first_id, build.fences.own_uid)
                    os.write(mapped_write, b"m")
            finally:
                os.close(pidfd)
        finally:
            for fd in (mapped, mapped_write):
                if fd >= 0:
                    os.close(fd)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            holder_id = self._children.pop(pid, None)
            if holder_id is not None:
                packets.send(self._control, ["exited", holder_id, status])


def _nothing(_channel: socket.socket, wait_ready: Callable[[], None]) -> None:
    """Stands in for the bootstrap while a level is tried out."""
    wait_ready()


def _namespaces(build: holder.Build) -> int:
    flags = kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    return flags | kernel.CLONE_NEWNET if build.isolated_network else flags


def _map_ids(pid: int, first_id: int, own_uid: bool) -> None:
    """Sandbox ids to host ids: root and the worker's user to two of its own, or the worker's user to ours."""
    for name, worker in (("uid_map", rootfs.WORKER_UID), ("gid_map", rootfs.WORKER_GID)):
        text = f"0 {first_id} 1\n{worker} {first_id + 1} 1\n" if own_uid else f"{worker} 0 1\n"
        if name == "gid_map" and not own_uid:
            kernel.write_file(f"/proc/{pid}/setgroups", b"deny")
        kernel.write_file(f"/proc/{pid}/{name}", text.encode())


def _become_init(
    build: holder.Build, pid_hint: int, control: int, channel: int, output: int, joins: list[int], mapped: int, orders: int
) -> None:
    """In the child: keep only this sandbox's descriptors and run its init. Never returns."""
    try:
        keep = [control, channel, output, *joins, *(fd for fd in (mapped, orders) if fd >= 0)]
        kernel.close_from(3, keep)
        if orders >= 0:
            templates.TemplateInit(build, socket.socket(fileno=control), pid_hint, orders).run(joins, mapped, channel, output)
        holder.Init(build, socket.socket(fileno=control), pid_hint).run(joins, mapped, channel, output)
    finally:
        os._exit(1)


def _take_library_path(runtime_dir: str) -> None:
    """sys.path as the bootstrap expects it: /var/runtime, then the interpreter's own library."""
    own = [p for p in (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")) if p]
    dynamic = [os.path.join(p, "lib-dynload") for p in own]
    zipped = [p for p in sys.path if p.endswith(".zip")]
    sys.path[:] = [runtime_dir, *dict.fromkeys(zipped + own + dynamic)]
    sys.path_importer_cache.clear()


def _hide(title: str) -> None:
    """Leave no trace of the engine's own modules and paths for user code to stumble on."""
    for name in [n for n in sys.modules if n == "engine" or n.startswith("engine.")]:
        del sys.modules[name]
    sys.argv[:] = title.split()
    if hasattr(sys, "orig_argv"):
        sys.orig_argv[:] = title.split()
    sys.dont_write_bytecode = False
    kernel.set_command_line(title)
    with contextlib.suppress(OSError):
        kernel.set_name("python")


def main() -> None:
    """Entry of the zygote process. Never returns."""
    control = socket.socket(fileno=CONTROL_FD)
    packet = packets.receive(control)
    if packet is None or packet.kind != "plan":
        os._exit(1)
    zygote = Zygote(control, packet.args[0])
    try:
        zygote.prepare()
    except Exception as e:  # whatever it is, the broker must hear it
        packets.send(control, ["failed", f"{type(e).__name__}: {e}"])
        os._exit(1)
    try:
        zygote.serve()
    except (OSError, packets.PacketError) as e:
        sys.stderr.write(f"zygote: {e}\n")
        os._exit(1)
    os._exit(0)
