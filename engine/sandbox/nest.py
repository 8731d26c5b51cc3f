"""Inside an ordinary sandbox: the worker, from the zygote's fork to user code.

Theory of operation. The sandbox's init (``init``) is there already and holds its namespaces. The worker is a fork of the zygote in
the init's pid namespace. It joins the control groups and the other namespaces, mounts /proc and
/tmp and opens the endpoint listener, then locks itself down completely, says so, and waits, still without a function, for
the path of its code on the control socket: by then the broker has mounted it. It gives that socket up before user code runs.

A *fresh* worker takes the place of one that ended: it finds the mounts and the listener as they are.
What it does is laid out in tables made in the zygote (``Plan``), so that few pages of the zygote's memory are
touched, each of which would be copied: a copied page costs 3 microseconds, and there were 500 of them. Python 3.9, standard library.
"""

from __future__ import annotations

import _socket
import contextlib
import ctypes
import fcntl
import gc
import os
import socket
import struct
import traceback
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from engine.sandbox import calls, holder, ipc, kernel, layout, lockdown, packets

if TYPE_CHECKING:
    from collections.abc import Sequence

HOSTNAME = "lambda"
_LOOPBACK_UP = struct.pack("16sH14x", b"lo", 0x1)  # IFF_UP
_SIOCSIFFLAGS = 0x8914
_JOINED = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS


class Plan(NamedTuple):
    """How every sandbox of one zygote is made: ``furnish`` is what makes namespaces a sandbox, done once in each."""

    build: holder.Build
    furnish: tuple[kernel.Step, ...]
    lock_down: tuple[kernel.Step, ...]
    # The same as one run of calls, for a first worker in a network that is there, by the number of control groups to join.
    runs: dict[int, calls.Table | None]

    @property
    def joined(self) -> int:
        """The namespaces a worker enters, as clone's flags: all but that of process numbers, which it is born into."""
        return _JOINED | (kernel.CLONE_NEWNET if self.build.isolated_network else 0)


def plan(build: holder.Build) -> Plan:
    """The plan of a zygote's sandboxes. Call it in the zygote, when its root is in place."""
    safe = kernel.MS_NOSUID | kernel.MS_NODEV
    # All that is the sandbox's is its root's. Who enters its user namespace need not become that root for it, which takes three system calls.
    owner = ",uid=0,gid=0" if build.fences.own_uid else ""
    furnish = (
        kernel.mount_step("proc", "/proc", "proc", safe | kernel.MS_NOEXEC),
        *holder.shared_limits(build.fences),
        kernel.mount_step("tmp", "/tmp", "tmpfs", safe, f"{holder.tmp_options(holder.DEFAULT_TMP_MIB)},mode=1777{owner}"),
        kernel.Step("host name", _socket.sethostname, (HOSTNAME,)),
        *((kernel.mount_step("mnt", "/mnt", "tmpfs", safe | kernel.MS_NOEXEC, f"size=4k,nr_inodes=4,mode=755{owner}"),) if build.fences.files else ()),
    )
    return Plan(build, furnish, lockdown.steps(build.fences), {})


def bare(build: holder.Build) -> Plan:
    """The plan of a worker that nothing is done to (``enter_bare``)."""
    return Plan(build, (), (), {0: calls.table([*_arranged(), _said])})


def straight(plan: Plan, joins: int) -> calls.Table | None:
    """The run of calls of workers that join so many control groups; None where they go the way in Python. To be asked for before the fork."""
    if joins not in plan.runs:
        try:
            plan.runs[joins] = calls.table(_straight(plan, joins)) if joins <= len(calls.JOINS) else None
        except calls.Untranslatable:
            plan.runs[joins] = None
    return plan.runs[joins]


def _straight(plan: Plan, joins: int) -> list[calls.Call]:
    """What ``enter`` does until the worker has said that it is ready."""
    call = calls.call
    return [
        *(call("join control groups", "write", fd, b"0", 1) for fd in calls.JOINS[:joins]),
        # Not before: its memory is counted there.
        *_copied,
        call("enter the namespaces", "setns", calls.INIT, plan.joined),
        *([call("cgroup namespace", "unshare", kernel.CLONE_NEWCGROUP)] if joins else []),
        *calls.translated(plan.furnish),
        *_arranged(),
        *calls.translated(plan.lock_down),
        _said,
    ]


def _arranged() -> list[calls.Call]:
    call, null, arrange = calls.call, calls.SCRATCH, "arrange descriptors"
    return [
        *(call(arrange, "fcntl", fd, fcntl.F_DUPFD, 64, result=fd) for fd in (calls.CHANNEL, calls.CONTROL, calls.OUTPUT)),
        call(arrange, "openat", -100, b"/dev/null", os.O_RDWR | os.O_CLOEXEC, result=null),
        call(arrange, "dup2", null, 0),
        call(arrange, "dup2", calls.OUTPUT, 1),
        call(arrange, "dup2", calls.OUTPUT, 2),
        call(arrange, "dup3", calls.CHANNEL, _CHANNEL, os.O_CLOEXEC),
        call(arrange, "dup3", calls.CONTROL, _CONTROL, os.O_CLOEXEC),
        call(arrange, "close", _LISTENER, lax=True),
    ]


def enter(plan: Plan, init: int, control: int, channel: int, output: int, joins: Sequence[int], fresh: bool, hurried: bool, listens: bool) -> None:
    """In the fork: from the zygote's namespaces to user code. ``hurried``: somebody waits for it; ``listens``: it finds no listener in its
    network. Never returns.
    """
    try:
        step = "join control groups"
        run = None if fresh or listens else plan.runs.get(len(joins))
        if run is not None:
            _go_straight(plan, run, (init, control, channel, output), joins, hurried)
        try:
            for fd in joins:
                os.write(fd, b"0")
            step = "enter the namespaces"
            kernel.setns(init, plan.joined)
            if joins:
                step = "cgroup namespace"
                kernel.unshare(kernel.CLONE_NEWCGROUP)
            listener = None
            if fresh:
                step = "remove what the former worker left"
                ipc.clear()
            else:
                kernel.perform(plan.furnish)
                step = "endpoint listener"
                listener = _open_network() if plan.build.isolated_network and listens else None
            step = "lock down the worker"
            _become_worker(plan, control, channel, output, listener, hurried)
        except (OSError, ValueError) as e:
            _fail(control, step, str(e))
    except BaseException:  # the process must not return into the zygote's loop
        traceback.print_exc()
    finally:
        os._exit(1)


def enter_bare(plan: Plan, control: int, channel: int, output: int) -> NoReturn:
    """``enter`` for a worker that stays where it is and as it is. Never returns."""
    if plan.runs[0] is not None:
        enter(plan, -1, control, channel, output, (), fresh=False, hurried=True, listens=False)
    try:
        _become_worker(plan, control, channel, output, None, hurried=True)
    finally:
        os._exit(1)


def _go_straight(plan: Plan, run: calls.Table, fds: tuple[int, int, int, int], joins: Sequence[int], hurried: bool) -> None:
    """``enter`` by one run of calls. Never returns."""
    run.values[1:5] = list(fds)
    first = calls.JOINS[0].place
    run.values[first : first + len(joins)] = list(joins)
    try:
        run.run()
    except OSError as e:
        _give_up(run, e)
    _work(plan, hurried, touched=run.values[calls.FOUND.place] > 0)


def arrive(plan: Plan, run: calls.Table, failed: int, hurried: bool) -> None:
    """``enter`` where the run of calls has been made already, but for the one that ``failed`` and what would have followed. Never returns."""
    try:
        if failed:
            _give_up(run, run.failure(failed))
        _work(plan, hurried, touched=run.values[calls.FOUND.place] > 0)
    except BaseException:  # the process must not return into the zygote's loop
        traceback.print_exc()
    finally:
        os._exit(1)


def _give_up(run: calls.Table, error: OSError) -> None:
    """Never returns."""
    # One of the two is its control socket.
    for control in {run.values[calls.CONTROL.place], _CONTROL}:
        _fail(control, "build the sandbox", error.strerror or str(error))
    os._exit(1)


def _open_network() -> _socket.socket:
    """Bring the loopback interface up; a listener on it for the broker."""
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
    fcntl.ioctl(listener.fileno(), _SIOCSIFFLAGS, _LOOPBACK_UP)
    listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", holder.ENDPOINT_PORT))
    listener.listen(128)
    return listener


def _fail(control: int, step: str, reason: str) -> None:
    with contextlib.suppress(OSError):
        os.write(control, packets.encode(["failed", step, reason[:4000]]))


def _become_worker(plan: Plan, control: int, channel: int, output: int, listener: _socket.socket | None, hurried: bool) -> None:
    """From the furnished sandbox to user code. Never returns."""
    try:
        if listener is not None:
            _hand_over(control, listener)
        _arrange(control, channel, output)
        kernel.perform(plan.lock_down)
        os.write(_CONTROL, _READY)
    except (OSError, ValueError) as e:
        _fail(_CONTROL, "lock down the worker", str(e))
        os._exit(1)
    _work(plan, hurried, touched=False)


def _copying() -> list[calls.Call]:
    """What ``layout.touch`` does. To be asked while the engine's own files can be seen."""
    try:
        address = ctypes.cast(ctypes.PyDLL(layout.LIBRARY).pages_touch, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return []
    return [calls.function("copy what it writes to", address, calls.FOUND)] if address else []


def _work(plan: Plan, hurried: bool, *, touched: bool) -> None:
    """Locked down: user code may come. ``touched``: ``layout.touch`` has been done. Never returns."""
    # What a rehearsal is for has then been done.
    hurried = touched or layout.touch() or hurried
    lockdown.renew_entropy()
    gc.enable()
    holder.run_worker(plan.build, socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, _CHANNEL), -1, hurried=hurried)


_CHANNEL, _CONTROL, _LISTENER = holder.CHANNEL, holder.GO, holder.GO + 1
_READY, _ENDPOINT = packets.encode(["worker"]), packets.encode(["endpoint"])
_copied = _copying()
_said = calls.call("say that it is ready", "write", _CONTROL, _READY, len(_READY))


def _arrange(control: int, channel: int, output: int) -> None:
    """Descriptors 0 to 2, the channel, and those that live until there is a function. The lock-down closes the rest."""
    # Out of the way first: any of them may sit on a number that is wanted below.
    moved = [(number, fcntl.fcntl(fd, fcntl.F_DUPFD, 64)) for number, fd in ((_CHANNEL, channel), (_CONTROL, control))]
    out = fcntl.fcntl(output, fcntl.F_DUPFD, 64)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    for number, fd in moved:
        os.dup2(fd, number, False)
    with contextlib.suppress(OSError):
        os.close(_LISTENER)


def _hand_over(control: int, listener: _socket.socket) -> None:
    """Give the broker the endpoint's listener. While this process may have as many descriptors as the zygote: how many of a user's are on their
    way between processes is held against the sender's own limit, and at level user all functions are one user.
    """
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, control)
    sock.sendmsg((_ENDPOINT,), ((_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", listener.fileno())),))
    sock.detach()
    listener.close()
