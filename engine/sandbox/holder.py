"""Inside one sandbox with an init of its own: the trusted init, and the worker it forks.

These are sandboxes of templates (``templates``) and those without namespaces; ordinary ones have an init that does nothing (``nest``).

Theory of operation. The zygote forks the init straight into its namespaces. The init joins the control groups, takes its user
ids, mounts /proc and /tmp, opens the endpoint listener and forks the *worker*, which locks itself down completely and
waits, still without a function. When the broker sends the code's mounts, the init puts them in place and writes the path
of the code to the worker's *go* pipe. From then on it only waits: for the worker's end (everything the worker left behind is
killed, the status goes to the broker), for ``reset`` (the same, then a fresh worker in the same sandbox), or for the end of the
broker's socket, which ends the sandbox. Killing the init from outside ends everything in its pid namespace.

At level process there are no namespaces; the init is then a subreaper that kills its descendants one by one.
Python 3.9, standard library.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import random
import select
import signal
import socket
import struct
import sys
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.sandbox import copier, ipc, kernel, layout, lockdown, packets

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

ENDPOINT_PORT = 4566
_INODES_PER_MIB = 64
DEFAULT_TMP_MIB = 512
_INOTIFY = (("instances", 16), ("watches", 16384))
_MAX_PID = 32000


class Build(NamedTuple):
    """How every sandbox of one zygote is made.

    ``serve`` is the bootstrap's loop: (channel, wait_ready), and in a template its ``Copier``; ``serve_at_once`` the same without a
    rehearsal: for workers that somebody waits for, and for those that have been given their pages (``layout.touch``).
    ``opt_taken``: the interpreter itself lives under /opt.
    """

    fences: lockdown.Fences
    isolated_network: bool
    serve: Callable[..., object]
    zygote_pid: int
    opt_taken: bool = False
    serve_at_once: Callable[..., object] | None = None


class Init:
    """The first process of one sandbox. ``run`` never returns."""

    def __init__(self, build: Build, control: socket.socket, pid_hint: int, orders: int = -1) -> None:
        self._build = build
        self._control = control
        self._pid_hint = pid_hint
        self._step = "start"
        self._worker = 0
        self._go = -1
        self._task_root = ""
        self._memory_limit = 0
        # A template's socket for orders, -1 in every other sandbox.
        self._orders = orders

    def run(self, joins: Sequence[int], mapped: int, channel: int, output: int) -> None:
        """Build the sandbox, fork the worker, serve the broker until the end. Never returns."""
        try:
            self._enter(joins, mapped)
            if self._build.fences.namespaces:
                self._mount()
                self._open_network()
            children = kernel.child_signal_fd()
            self._spawn(channel, output)
            self._settle()
            self._serve(children)
        except packets.PacketError as e:
            self._fail(str(e))
        except OSError as e:
            self._fail(str(e))
        except BaseException:  # the last resort of a process that must not return into the zygote
            self._fail(traceback.format_exc())
        os._exit(1)

    def _fail(self, reason: str) -> None:
        with contextlib.suppress(OSError):
            packets.send(self._control, ["failed", self._step, reason[:4000]])

    def _enter(self, joins: Sequence[int], mapped: int) -> None:
        """Join control groups, wait for the id maps, become the sandbox's root."""
        self._step = "signals"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        self._step = "join control groups"
        for fd in joins:
            os.write(fd, b"0")
            os.close(fd)
        if mapped >= 0:
            self._step = "id maps"
            if os.read(mapped, 1) != b"m":
                os._exit(1)
            os.close(mapped)
        if self._build.fences.own_uid:
            self._step = "become the sandbox's root"
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        self._step = "parent death signal"
        kernel.die_with_parent()
        if not self._build.fences.namespaces:
            kernel.become_subreaper()
            os.setsid()
        elif joins:
            self._step = "cgroup namespace"
            kernel.unshare(kernel.CLONE_NEWCGROUP)

    def _mount(self) -> None:
        self._step = "mount /proc"
        safe = kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.mount("proc", "/proc", "proc", safe | kernel.MS_NOEXEC)
        kernel.perform(shared_limits(self._build.fences))
        self._step = "mount /tmp"
        kernel.mount("tmp", "/tmp", "tmpfs", safe, f"{tmp_options(DEFAULT_TMP_MIB)},mode=1777")

    def _open_network(self) -> None:
        """Bring the loopback interface up and hand a listener on it to the broker."""
        if not self._build.isolated_network:
            return
        self._step = "loopback interface"
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            request = struct.pack("16sH14x", b"lo", 0x1)  # IFF_UP
            fcntl.ioctl(listener, 0x8914, request)  # SIOCSIFFLAGS
            self._step = "endpoint listener"
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", ENDPOINT_PORT))
            listener.listen(128)
            packets.send(self._control, ["endpoint"], [listener.fileno()])

    def _choose_pid(self) -> int:
        """Make the next process number one that no other worker of this zygote has, nor the zygote itself: which. 0 without namespaces."""
        if not self._build.fences.namespaces:
            return 0
        self._step = "process number"
        wanted = self._pid_hint
        self._pid_hint = 0
        while wanted < 2 or wanted in (self._build.zygote_pid, self._worker):
            wanted = random.SystemRandom().randrange(300, _MAX_PID)
        with contextlib.suppress(FileNotFoundError):
            kernel.write_file("/proc/sys/kernel/ns_last_pid", b"%d" % (wanted - 1))
        return wanted

    def _spawn(self, channel: int, output: int) -> None:
        self._choose_pid()
        self._step = "fork the worker"
        read_end, write_end = os.pipe()
        self._worker = os.fork()
        if self._worker == 0:
            os.close(write_end)
            _become_worker(self._build, self._control, channel, output, read_end, self._orders)
        for fd in (read_end, channel, output):
            os.close(fd)
        if self._orders >= 0:
            os.close(self._orders)
            self._orders = -1
        self._go = write_end
        if self._task_root:
            self._release()

    def _settle(self) -> None:
        """The init itself runs at normal priority: it is on the path of a cold start and does next to nothing."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        with contextlib.suppress(OSError):
            kernel.set_name("sandbox-init")

    def _serve(self, children: int) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(children, select.POLLIN)
        while True:
            self._step = "wait"
            ready = [fd for fd, _ in poll.poll()]
            if children in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(children, 4096)
                self._reap()
            if self._control.fileno() in ready:
                packet = packets.receive(self._control)
                if packet is None:
                    self._end()
                else:
                    self._obey(packet)

    def _obey(self, packet: packets.Packet) -> None:
        try:
            if packet.kind == "specialise":
                self._specialise(packet.args[0], packet.fds)
            elif packet.kind == "reset":
                self._pid_hint = 0
                self._kill_all()
                if self._build.fences.namespaces:
                    ipc.clear()
                channel, output = packet.fds
                packet.fds.clear()
                self._spawn(channel, output)
                if self._memory_limit:
                    self._limit_memory()
            elif packet.kind in ("freeze", "thaw"):
                self._signal_all(signal.SIGSTOP if packet.kind == "freeze" else signal.SIGCONT)
            elif packet.kind == "kill":
                self._kill_all()
            elif packet.kind == "end":
                self._end()
        finally:
            packet.close()

    def _specialise(self, what: dict[str, Any], mounts: list[int]) -> None:
        if self._build.fences.namespaces:
            self._step = "mount the code"
            kernel.move_mount(mounts[0], "/var/task")
            if len(mounts) > 1 and self._build.opt_taken:
                self._step = "mount the layers"
                raise OSError("the interpreter itself is installed under /opt, where layers belong; use one installed elsewhere")
            if len(mounts) == 2:
                self._step = "mount the layer"
                kernel.move_mount(mounts[1], "/opt")
            elif len(mounts) > 2:
                self._merge_layers(mounts[1:])
            if what["tmp_mib"] != DEFAULT_TMP_MIB:
                self._step = "size of /tmp"
                resize_tmp(what["tmp_mib"])
            self._step = "host name"
            socket.sethostname(what["hostname"])
        self._memory_limit = what["data_limit"]
        if self._memory_limit:
            self._limit_memory()
        self._task_root = what["task_root"]
        self._release()

    def _merge_layers(self, layers: Sequence[int]) -> None:
        """/opt from several layers; a later one covers an earlier one. They pass through /tmp, still empty and unshared."""
        self._step = "merge the layers"
        places = [f"/tmp/.layer{n}" for n in range(len(layers))]
        for n, place in enumerate(places):
            os.mkdir(place)
            kernel.move_mount(layers[n], place)
        flags = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.mount("layers", "/opt", "overlay", flags, "lowerdir=" + ":".join(reversed(places)))
        for place in places:
            kernel.umount(place)
            os.rmdir(place)

    def _limit_memory(self) -> None:
        """Without a memory control group: a cap on private memory, so that allocation fails instead."""
        import resource  # noqa: PLC0415 - already loaded by lockdown

        self._step = "memory limit"
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(self._worker, resource.RLIMIT_DATA, (self._memory_limit, self._memory_limit))

    def _release(self) -> None:
        if self._go >= 0:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._go, os.fsencode(self._task_root) + b"\n")
            os.close(self._go)
            self._go = -1

    def _reap(self) -> None:
        """Collect the dead. When the worker is among them, everything it started goes too, and the broker is told."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._worker:
                self._worker_ended(status)

    def _worker_ended(self, status: int) -> None:
        self._worker = 0
        if self._go >= 0:
            os.close(self._go)
            self._go = -1
        self._kill_all()
        packets.send(self._control, ["exit", status])

    def _signal_all(self, number: int) -> None:
        """Signal every process of the sandbox but this one."""
        if self._build.fences.namespaces:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, number)
        else:
            for pid in _descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _kill_all(self) -> None:
        """Kill every process but this one and wait until they are gone; a worker among them is reported."""
        while True:
            self._signal_all(signal.SIGKILL)
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                return
            if pid == self._worker:
                self._worker = 0
                packets.send(self._control, ["exit", status])

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            if not self._build.fences.namespaces:
                self._kill_all()
        os._exit(0)


def shared_limits(fences: lockdown.Fences) -> tuple[kernel.Step, ...]:
    """Where sandboxes are all one user on the host: how many of that user's inotify instances and watches one of them may have, so that it
    cannot have them all. To be taken as the sandbox's root, with its /proc in place.
    """
    if fences.own_uid:
        return ()
    places = ((f"/proc/sys/user/max_inotify_{name}", most) for name, most in _INOTIFY)
    return tuple(kernel.Step("limit of inotify", kernel.write_file, (place, b"%d" % most)) for place, most in places if os.path.exists(place))


def tmp_options(size_mib: int) -> str:
    return f"size={size_mib}m,nr_inodes={size_mib * _INODES_PER_MIB}"


def resize_tmp(size_mib: int) -> None:
    """Give /tmp another size than the default. Raises OSError."""
    kernel.mount(None, "/tmp", None, kernel.MS_REMOUNT | kernel.MS_NOSUID | kernel.MS_NODEV, tmp_options(size_mib))


def _descendants(root: int) -> list[int]:
    """Live descendants of a process."""
    found: list[int] = []
    level = [root]
    while level:
        level = [child for pid in level for child in children_of(pid)]
        found.extend(level)
    return found


def children_of(pid: int) -> list[int]:
    """Children of every thread of a process; where the kernel keeps no list of them, whoever names it as parent."""
    children: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as f:
                children += map(int, f.read().split())
    except FileNotFoundError:
        if os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children"):
            return children  # the process or thread has just ended
        return [child for child in map(int, filter(str.isdigit, os.listdir("/proc"))) if _parent(child) == pid]
    except OSError:
        return children
    return children


def end_children(spared: Collection[int] = ()) -> None:
    """SIGKILL to this process's children that are not ``spared``: a subreaper's, that is, also to what others have left behind."""
    for pid in children_of(os.getpid()):
        if pid not in spared:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _parent(pid: int) -> int:
    """Parent of a live process, 0 of none."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/stat", "rb") as f:
        fields = f.read().rsplit(b")", 1)[1].split()
        return 0 if fields[0] == b"Z" else int(fields[1])
    return 0


def _become_worker(build: Build, control: socket.socket, channel: int, output: int, go: int, orders: int) -> None:
    """From fork to user code. Never returns."""
    try:
        try:
            control = _arrange(control, channel, output, go, orders)
            lockdown.lock_down(build.fences if orders < 0 else build.fences.of_template())
            packets.send(control, ["worker"])
        except (OSError, ValueError) as e:
            packets.send(control, ["failed", "lock down the worker", str(e)])
            os._exit(1)
        control.close()
        touched = layout.touch()
        lockdown.renew_entropy()
        gc.enable()
        run_worker(build, socket.socket(fileno=CHANNEL), _ORDERS if orders >= 0 else -1, hurried=touched)
    except BaseException:  # the process must not return into the zygote's loop
        traceback.print_exc()
        os._exit(1)


CHANNEL, GO, _CONTROL, _ORDERS = 3, 4, 5, 6


def _arrange(control: socket.socket, channel: int, output: int, go: int, orders: int) -> socket.socket:
    """Descriptors 0 to 2, the channel and nothing else; default signals; own session; lower priority.

    Returns the control socket under its new number.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    os.setsid()
    kernel.die_with_parent()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, lockdown.NICE)
    # Out of the way first: any of them may sit on a number that is wanted below.
    moved = {
        number: fcntl.fcntl(fd, fcntl.F_DUPFD, 64)
        for number, fd in ((CHANNEL, channel), (GO, go), (_CONTROL, control.detach()), (_ORDERS, orders))
        if fd >= 0
    }
    null = os.open("/dev/null", os.O_RDWR)
    out = fcntl.fcntl(output, fcntl.F_DUPFD, 64)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    for wanted, fd in moved.items():
        os.dup2(fd, wanted, inheritable=False)
    kernel.close_from(max(moved) + 1)
    return socket.socket(fileno=_CONTROL)


def _wait_ready(fd: int = GO) -> None:
    """Block until the code is in place, then stand in its directory. Ends the process when the sandbox is going away."""
    path = b""
    while not path.endswith(b"\n"):
        piece = os.read(fd, 4096)
        if not piece:
            os._exit(0)
        path += piece
    os.close(fd)
    os.chdir(path[:-1])


def _rehearse_waiting() -> None:
    """As the bootstrap rehearses the rest of a cold start: what it touches is then this process's own."""
    read_end, write_end = os.pipe()
    os.write(write_end, os.fsencode(os.getcwd()) + b"\n")
    os.close(write_end)
    _wait_ready(read_end)


def _serve(build: Build, channel: socket.socket, orders: int, *, hurried: bool) -> None:
    copies = copier.offered(orders, build.fences)
    if copies is None:
        if not hurried:
            _rehearse_waiting()
        serve = (hurried and build.serve_at_once) or build.serve
        serve(channel, _wait_ready)
    else:
        build.serve(channel, _wait_ready, copies)


def run_worker(build: Build, channel: socket.socket, orders: int, *, hurried: bool = False) -> None:
    """The bootstrap's loop, then the interpreter's own end: exit functions, flushed streams, the status it asked for."""
    import atexit  # noqa: PLC0415 - only needed here

    status = 0
    try:
        _serve(build, channel, orders, hurried=hurried)
    except SystemExit as e:
        if isinstance(e.code, int):
            status = e.code
        elif e.code is not None:
            sys.stderr.write(f"{e.code}\n")
            status = 1
    except BaseException:  # anything else ends the worker as it would end an interpreter
        traceback.print_exc()
        status = 1
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(status & 0xFF)
