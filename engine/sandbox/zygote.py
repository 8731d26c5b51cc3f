"""The parent of all sandboxes of one runtime: an interpreter that has already imported what workers need.

Started by the broker with ``interpreter -I -S -B``; reads its plan from descriptor 3, moves into the runtime's root file system,
imports, freezes its heap and then forks a sandbox per request. It stays single-threaded, never runs user code, never becomes
process 1 and never execs again. Python 3.9, standard library.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import importlib
import os
import platform
import random
import select
import signal
import socket
import sys
import sysconfig
import time
from typing import TYPE_CHECKING, Any

from engine import turns
from engine.sandbox import forge, holder, immortal, init, kernel, layout, lockdown, nest, packets, rootfs, seccomp, templates, trial

if TYPE_CHECKING:
    from collections.abc import Callable

CONTROL_FD = 3
_RUNTIME = "/var/runtime"
_SWEEP_S = 0.0005
_TRIES = 8
_FIRST_PID, _LAST_PID = 300, 32000
# What the end of a fork that gave a signal is called; nobody is told of it.
_SIGNALLED, _SWEPT = "signalled", "swept"
_PYTHON = "runtime_bootstrap.python.worker"
# What nearly every function imports anyway, besides what the bootstrap needs.
_COMMON = (
    "base64", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "functools", "hashlib", "hmac",
    "importlib.util", "inspect", "io", "itertools", "json", "logging", "math", "operator", "pathlib", "random", "re",
    "string", "tempfile", "time", "traceback", "typing", "urllib.parse", "uuid", "warnings", "zoneinfo",
)  # fmt: skip


class Zygote:
    """Serves the broker until it goes away."""

    def __init__(self, control: socket.socket, plan: dict[str, Any], learnt: int = -1) -> None:
        self._control = control
        self._plan = plan
        self._learnt = learnt
        # Process number -> (what its end is called, holder id).
        self._children: dict[int, tuple[str, int]] = {}
        self._inits: dict[int, int] = {}
        # Holder id -> the signal that its sandbox gets when the one on its way has been given; 0: none.
        self._signals: dict[int, int] = {}
        self._own_pids = -1
        self._own_net = -1
        self._children_fd = -1
        self._forge: forge.Forge | None = None
        self._build: holder.Build | None = None
        self._nest: nest.Plan
        self._spawn_init: init.Spawn
        # Whether sandboxes' user namespaces are made in the name of their own ids.
        self._owned = False

    @property
    def learns(self) -> bool:
        """Whether it serves nobody: it was started for what ``layout`` learns from it."""
        return self._learnt >= 0

    def prepare(self) -> None:
        """Enter the root file system, import, freeze. Raises OSError and ImportError."""
        plan = self._plan
        namespaces = plan["level"] != "process"
        # Workers have Python's handler for SIGINT. It must not run here, least of all in an init, which shares this memory.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        gc.disable()
        os.nice(plan["nice"])
        turns.short()
        fences = lockdown.Fences(
            namespaces,
            plan["level"] == "full",
            plan["landlock"],
            seccomp.program(platform.machine()) if namespaces else b"",
            seccomp.program(platform.machine(), may_enter=True) if namespaces else b"",
            bool(plan.get("files")),
            bool(plan.get("weighed")),
        )
        self._owned = fences.own_uid and kernel.keep_capabilities_across_users()
        runtime_dir = plan["runtime_dir"]
        if namespaces:
            rootfs.enter(
                plan["mountpoint"], plan["prefixes"], runtime_dir, plan["network"] == "host", plan["level"] == "user", plan["resolver"],
                plan.get("language", ""),
            )  # fmt: skip
            runtime_dir = _RUNTIME
        if plan["trial"]:
            self._build = holder.Build(fences, plan["network"] != "host", _nothing, os.getpid())
            self._prepare_nests(self._build)
            return
        layout.mark()
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
            any(prefix.startswith("/opt/") for prefix in plan["prefixes"]), getattr(entry, "serve_at_once", None),
        )  # fmt: skip
        self._prepare_nests(self._build)
        _hide(title)
        layout.thaw()
        layout.forget_lookups()
        getattr(entry, "warm_up", _nothing_more)()
        gc.collect()
        immortal.make_immortal()
        self._lay_out(getattr(entry, "REHEARSAL", None))

    def _lay_out(self, piece: trial.Piece | None) -> None:
        """Give what was imported its place, by what is learnt from a life with this ``piece``; or learn that, and no more."""
        assert self._build is not None  # noqa: S101 - prepare() made it
        serve_by = self._serve_by if self._build.fences.own_uid else None
        live = functools.partial(trial.live, nest.bare(self._build), piece, serve_by) if piece else None
        if self.learns:
            if live is not None:
                layout.learn(self._learnt, live)
            return
        layout.finish()
        gc.freeze()
        # At level ``process`` an init that lives as long as its worker would have copies too.
        if live is not None and layout.watch(live) and self._build.fences.namespaces:
            layout.pin()

    def _prepare_nests(self, build: holder.Build) -> None:
        if build.fences.namespaces:
            self._own_pids = _way_back()
            self._own_net = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self._spawn_init = init.spawner()
            self._nest = nest.plan(build)

    def serve(self) -> None:
        """Fork on request, report ends. Returns when the broker's socket ends."""
        children = kernel.child_signal_fd()
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(children, select.POLLIN)
        self._children_fd = children
        packets.send(self._control, ["ready", os.getpid()])
        while self._forge is None:
            ready = [fd for fd, _ in poll.poll()]
            if children in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(children, 4096)
                self._reap()
            if self._control.fileno() in ready:
                packet = packets.receive(self._control)
                if packet is None:
                    return
                self._take(packet)
        self._serve_by(self._forge)

    def _serve_by(self, helper: forge.Forge) -> None:
        """``serve``, with what is ordinary done by the helper."""
        while True:
            what = helper.run()
            if what == forge.WORKER:
                nest.arrive(self._nest, *helper.worker())
            elif what == forge.REAPED:
                self._tell_end(*helper.reaped())
            else:
                packet = helper.packet()
                if packet is None:
                    return
                self._take(packet)

    def _take(self, packet: packets.Packet) -> None:
        try:
            self._obey(packet)
        except OSError as e:
            kind = "make_failed" if packet.kind == "make" else "refused"
            packets.send(self._control, [kind, packet.args[0], "fork the sandbox", str(e)])
        finally:
            packet.close()

    def _begin_forge(self, joins: int, into_group: bool) -> None:
        """From now on sandboxes like the one just made are the helper's to make, if there is one."""
        flags = (self._nest.joined | kernel.CLONE_NEWPID) & ~kernel.CLONE_NEWNET
        made_in = init.made_in(self._spawn_init, flags)
        run = self._nest.runs[joins]
        if made_in is not None and self._own_pids >= 0 and self._nest.build.fences.own_uid and run is not None:
            home = forge.Home(self._control.fileno(), self._children_fd, self._own_pids, self._own_net, os.getpid(), self._owned)
            self._forge = forge.begin(home, made_in, joins, into_group, run)

    def _obey(self, packet: packets.Packet) -> None:
        if packet.kind == "make":
            self._make(packet)
        elif packet.kind == "fresh":
            self._fresh(packet)
        elif packet.kind == "sweep":
            self._signal_all(packet.args[0], signal.SIGKILL, _SWEPT)
        elif packet.kind == "signal":
            self._signal_in_turn(packet.args[0], packet.args[1])

    def _own_nest(self, template: bool) -> bool:
        """Whether a sandbox is an ordinary one, whose init does nothing."""
        return self._build is not None and self._build.fences.namespaces and not template

    def _make(self, packet: packets.Packet) -> None:
        """["make", holder id, worker pid, first host id, v2 directory given, template, hurried, net given] + control, channel, output, cgroup fds.

        For a template the fourth descriptor is its socket for orders; a network namespace to begin in comes last.
        """
        holder_id, pid_hint, first_id, into_cgroup, template, _, _ = packet.args
        if self._own_nest(template):
            self._make_nest(packet)
            return
        control, channel, output, *joins = packet.fds
        orders = joins.pop(0) if template else -1
        cgroup_fd = joins.pop() if into_cgroup else -1
        build = self._build
        assert build is not None  # noqa: S101 - prepare() ran
        mapped, mapped_write = os.pipe() if build.fences.namespaces else (-1, -1)
        try:
            if build.fences.namespaces:
                pid, pidfd = self._in_name_of(first_id, lambda: kernel.clone3(_namespaces(build), cgroup_fd))
            else:
                pid = os.fork()
                pidfd = os.pidfd_open(pid) if pid else -1
            if pid == 0:
                _become_init(build, pid_hint, control, channel, output, joins, mapped, orders)
            try:
                self._children[pid] = ("exited", holder_id)
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

    def _make_nest(self, packet: packets.Packet) -> None:
        """``_make`` for an ordinary sandbox: an init to hold the namespaces, and the worker."""
        holder_id, number, first_id, into_cgroup, _, hurried, netted = packet.args
        fds = packet.fds[:-1] if netted else packet.fds
        flags = self._nest.joined | kernel.CLONE_NEWPID
        pid, pidfd = self._in_name_of(first_id, lambda: self._init_in(packet.fds[-1]) if netted else self._spawn_init(flags))
        try:
            self._children[pid] = ("exited", holder_id)
            self._inits[holder_id] = pid
            _map_ids(pid, first_id, self._nest.build.fences.own_uid)
            self._enter(holder_id, pidfd, number, fds, into_cgroup, listens=not netted, hurried=hurried)
            packets.send(self._control, ["made", holder_id, pid], [pidfd])
        except OSError:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            raise
        finally:
            os.close(pidfd)
        if netted and self._forge is None:
            self._begin_forge(len(fds) - 3 - bool(into_cgroup), bool(into_cgroup))

    def _in_name_of(self, first_id: int, make: Callable[[], tuple[int, int]]) -> tuple[int, int]:
        """The new sandbox's user namespace belongs to its own root: inotify instances, waiting signals and timers that a function uses up are counted
        against the owner too, who else were the host's root, and with it everybody.
        """
        if not self._owned:
            return make()
        kernel.be_effectively(first_id)
        pid = -1
        try:
            pid, pidfd = make()
        finally:
            if pid != 0:
                kernel.be_effectively(os.getuid())
        return pid, pidfd

    def _init_in(self, net: int) -> tuple[int, int]:
        """An init in a network namespace that is there already. Where there is no way back from it, SystemExit."""
        kernel.setns(net, kernel.CLONE_NEWNET)
        try:
            return self._spawn_init((self._nest.joined | kernel.CLONE_NEWPID) & ~kernel.CLONE_NEWNET)
        finally:
            try:
                kernel.setns(self._own_net, kernel.CLONE_NEWNET)
            except OSError as e:
                raise SystemExit(f"the zygote cannot leave a network namespace: {e}") from e

    def _fresh(self, packet: packets.Packet) -> None:
        """["fresh", holder id, worker pid, v2 directory given, False, False, False] + the same: another worker in a sandbox that has lost its own."""
        holder_id, number, into_cgroup, *_ = packet.args
        pidfd = self._pidfd_of(holder_id)
        if pidfd >= 0:
            try:
                self._enter(holder_id, pidfd, number, packet.fds, into_cgroup, fresh=True)
            finally:
                os.close(pidfd)

    def _pidfd_of(self, holder_id: int) -> int:
        """Of a sandbox's init; -1 when it has ended."""
        pid = self._inits.get(holder_id, -1)
        if pid < 0 and self._forge is not None:
            pid = self._forge.init_of(holder_id)
        return -1 if pid < 0 else os.pidfd_open(pid)

    def _enter(
        self, holder_id: int, pidfd: int, number: int, fds: list[int], into_cgroup: bool, *, fresh: bool = False, hurried: bool = False,
        listens: bool = True
    ) -> None:
        """Fork a worker into a sandbox. ``listens``: it opens the endpoint's listener, which is not there yet."""
        control, channel, output, *joins = fds
        cgroup_fd = joins.pop() if into_cgroup else -1
        if not listens:
            nest.straight(self._nest, len(joins))
        pid = self._fork_into(pidfd, cgroup_fd, number)
        if pid == 0:
            nest.enter(self._nest, pidfd, control, channel, output, joins, fresh, hurried, listens)
        self._children[pid] = ("ended", holder_id)

    def _fork_into(self, pidfd: int, cgroup_fd: int = -1, number: int = 0) -> int:
        """Fork into the pid namespace of an init.

        ``number`` is the child's there, unless it is taken or this process's own: OpenSSL tells parent and child apart by it.
        """
        if self._own_pids < 0:
            return self._fork_by_another(pidfd, cgroup_fd, number)
        kernel.setns(pidfd, kernel.CLONE_NEWPID)
        pid = -1
        try:
            pid = self._fork_as(0, cgroup_fd, number)
        finally:
            if pid != 0:
                kernel.setns(self._own_pids, kernel.CLONE_NEWPID)
        return pid

    def _fork_by_another(self, pidfd: int, cgroup_fd: int, number: int) -> int:
        """The same where there is no way back: a fork goes there and makes this process a child."""
        read_end, write_end = os.pipe()
        try:
            between, fd = kernel.clone3(0)
            if between == 0:
                self._go_between(pidfd, cgroup_fd, number, write_end)
                return 0
            os.close(fd)
            os.waitpid(between, 0)
            os.close(write_end)
            write_end = -1
            said = os.read(read_end, 32)
            if not said:
                raise OSError(errno.EAGAIN, "cannot fork in the sandbox")
            return int(said)
        finally:
            for fd in (read_end, write_end):
                if fd >= 0:
                    os.close(fd)

    def _go_between(self, pidfd: int, cgroup_fd: int, number: int, write_end: int) -> None:
        """In the fork of ``_fork_by_another``: returns in its sibling only."""
        pid = -1
        try:
            kernel.setns(pidfd, kernel.CLONE_NEWPID)
            pid = self._fork_as(kernel.CLONE_PARENT, cgroup_fd, number)
            if pid:
                os.write(write_end, b"%d" % pid)
        finally:
            if pid:
                os._exit(0)

    def _fork_as(self, flags: int, cgroup_fd: int, number: int) -> int:
        for _ in range(_TRIES):
            if number != self._nest.build.zygote_pid:
                with contextlib.suppress(FileExistsError):
                    pid, pidfd = kernel.clone3(flags, cgroup_fd, number)
                    if pid:
                        os.close(pidfd)
                    return pid
            number = random.SystemRandom().randrange(_FIRST_PID, _LAST_PID)
        raise OSError(errno.EEXIST, "no free process number")

    def _signal_all(self, holder_id: int, number: int, then: str) -> bool:
        """By a fork inside, to every process of a sandbox but its init; False when that has ended.

        ["sweep", holder id] goes on until none is left; then "swept" is told.
        """
        pidfd = self._pidfd_of(holder_id)
        if pidfd < 0:
            return False
        try:
            pid = self._fork_into(pidfd)
            if pid == 0:
                _signal_all(number)
            self._children[pid] = (then, holder_id)
        finally:
            os.close(pidfd)
        return True

    def _signal_in_turn(self, holder_id: int, number: int) -> None:
        """["signal", holder id, number]: two on their way at once would come in any order, and the one that stops would stop the other."""
        if holder_id in self._signals:
            self._signals[holder_id] = number
            return
        if self._signal_all(holder_id, number, _SIGNALLED):
            self._signals[holder_id] = 0

    def _signalled(self, holder_id: int) -> None:
        following = self._signals.pop(holder_id, 0)
        if following:
            try:
                self._signal_in_turn(holder_id, following)
            except OSError as e:
                packets.send(self._control, ["refused", holder_id, "signal the sandbox", str(e)])

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._tell_end(pid, status)

    def _tell_end(self, pid: int, status: int) -> None:
        """A child has ended, or was stopped."""
        if os.WIFSTOPPED(status):
            if self._children.get(pid, ("", 0))[0] in (_SIGNALLED, _SWEPT):
                os.kill(pid, signal.SIGKILL)
            return
        kind, holder_id = self._children.pop(pid, ("", 0))
        if kind == "exited":
            self._inits.pop(holder_id, None)
        if status and kind in (_SIGNALLED, _SWEPT):
            # Where all of a sandbox have one id on the host, what it should end may have been quicker.
            self._signals.pop(holder_id, None)
            packets.send(self._control, ["refused", holder_id, "signal the sandbox", f"who did it ended with wait status {status}"])
        elif kind == _SIGNALLED:
            self._signalled(holder_id)
        elif kind:
            packets.send(self._control, [kind, holder_id, status])


def _way_back() -> int:
    """This process's own pid namespace, -1 when it may not return to it: it does not own it at level user."""
    fd = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        kernel.setns(fd, kernel.CLONE_NEWPID)
    except PermissionError:
        os.close(fd)
        return -1
    return fd


def _signal_all(number: int) -> None:
    """Signal everything in this pid namespace but process 1 and this one; with SIGKILL until nothing is left. Never returns."""
    try:
        kernel.die_with_parent()
        os.kill(-1, number)
        while number == signal.SIGKILL:
            time.sleep(_SWEEP_S)
            os.kill(-1, number)
    except ProcessLookupError:
        pass
    finally:
        os._exit(0)


def _nothing(_channel: socket.socket, wait_ready: Callable[[], None]) -> None:
    """Stands in for the bootstrap while a level is tried out."""
    wait_ready()


def _nothing_more() -> None:
    """For bootstraps that cannot be warmed up."""


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
    zygote = Zygote(control, packet.args[0], packet.fds.pop() if packet.args[0].get("learns") else -1)
    try:
        zygote.prepare()
    except Exception as e:  # whatever it is, the broker must hear it
        packets.send(control, ["failed", f"{type(e).__name__}: {e}"])
        os._exit(1)
    if zygote.learns:
        os._exit(0)
    try:
        zygote.serve()
    except (OSError, packets.PacketError) as e:
        sys.stderr.write(f"zygote: {e}\n")
        os._exit(1)
    os._exit(0)
