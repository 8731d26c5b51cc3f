"""The privileged process behind the sandboxes: the only code of the engine that an auditor must read twice.

Theory of operation. One thread, one epoll loop. Packets from the supervisor ask for zygotes and holders by number; the broker makes
the sockets, pipes and control groups, has the zygote fork, opens the code's mounts, writes limits, kills and cleans up, and
answers with events in the order ``api`` promises. Nothing a function can write reaches this process: a worker gives up its
end of the control socket before it runs user code. Ids must be integers and code directories must lie under the engine's
data directory. When the supervisor's socket ends, everything is killed and the process exits; when this process is killed, the
zygotes die with it and the sandboxes with them, and the next broker sweeps the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

from engine import turns
from engine.sandbox import bundle, cgroups, descriptors, holder, kernel, layouts, levels, network, packets
from engine.sandbox.holders import Holders
from engine.sandbox.peers import Loop, Peer
from engine.sandbox.spaces import RESOLVER
from engine.sandbox.zygotes import ZygoteProcess

_ENDING_S = 5.0
# Objects that may come to be before it is looked for those that only know each other.
_GARBAGE = 10_000


class Broker:
    """Serves one supervisor over one socket until it ends."""

    def __init__(
        self, sock: socket.socket, config: dict[str, Any], level: levels.Level, process: network.NetworkProcess | None = None
    ) -> None:
        self._config = config
        self._level = level
        self._loop = Loop()
        self._zygotes: dict[str, ZygoteProcess] = {}
        self._bundle = bundle.Bundle(config)
        self._network = process
        if process is not None:
            process.attend(self._loop, self._on_network)
        self._holders = Holders(self._loop, level, config, self._tell, process)
        self._supervisor = Peer(self._loop, sock, self._on_supervisor, self._on_supervisor_lost)
        children = kernel.child_signal_fd()
        self._loop.watch(children, lambda _mask: self._on_children(children))

    def run(self) -> None:
        """Until the supervisor goes away; then until everything is gone."""
        self._loop.run()
        self._end()

    def _tell(self, message: Sequence[object], fds: list[int] | None = None) -> None:
        self._supervisor.send(message, fds or [])

    def _on_supervisor_lost(self, _reason: str) -> None:
        self._loop.stopped = True

    def _on_supervisor(self, packet: packets.Packet) -> None:
        """Anything malformed is our own supervisor's bug: it is answered by ending, loudly."""
        kind, args = packet.kind, packet.args
        if kind == "specialise":
            self._holders.specialise(int(args[0]), args[1])
        elif kind == "make":
            self._make(int(args[0]), str(args[1]), str(args[2]), template=bool(args[3]), hurried=bool(args[4]))
        elif kind == "template":
            self._holders.declare(str(args[0]), int(args[1]))
        elif kind == "drop":
            self._holders.drop(str(args[0]))
        elif kind == "kill":
            self._holders.let_go(int(args[0]))
        elif kind == "reset":
            self._holders.reset(int(args[0]))
        elif kind == "initialised":
            self._holders.initialised(int(args[0]))
        elif kind == "freeze":
            self._holders.freeze(int(args[0]), bool(args[1]))
        elif kind == "several":
            for each, *its_args in args:
                self._on_supervisor(packets.Packet(each, its_args, [], 0))
        elif kind == "zygote":
            self._add_zygote(*args)
        elif kind == "vpc":
            self._on_vpc(packet)
        else:
            raise packets.PacketError(f"unknown request {kind!r}")

    def _on_vpc(self, packet: packets.Packet) -> None:
        if self._network is None:
            self._tell(["vpc", packet.args[0], {}, "this broker makes no networks"])
        else:
            self._network.send(["vpc", *packet.args])

    def _on_network(self, packet: packets.Packet) -> None:
        kind, args = packet.kind, packet.args
        if kind == "wired":
            self._holders.wired(int(args[0]))
        elif kind == "unwired":
            self._holders.unwired(int(args[0]), str(args[1]))
        elif kind in ("net", "no net"):
            self._holders.on_net(packet)
        elif kind == "vpc":
            self._tell(["vpc", *args])

    def _add_zygote(
        self, key: str, runtime: str, interpreter: str, prefixes: list[str], preload: list[str], more: dict[str, Any]
    ) -> None:
        if key in self._zygotes:
            return
        try:
            runtime_dir = self._bundle.ready(interpreter)
            plan = {
                "level": self._level.name,
                "network": self._level.network,
                "resolver": str(RESOLVER) if self._network is not None else "",
                "landlock": self._level.landlock,
                "weighed": self._level.groups.weigh,
                "engine_root": self._config["engine_root"],
                "mountpoint": self._config["mountpoint"],
                "runtime_dir": runtime_dir,
                "prefixes": prefixes,
                "preload": preload,
                "runtime": runtime,
                **more,
                "nice": self._config["nice"],
                "trial": False,
            }
            course = layouts.course(self._config["cache_dir"], interpreter, plan)
            self._zygotes[key] = ZygoteProcess(self._loop, key, plan, interpreter, self._on_zygote, course)
        except OSError as e:
            self._tell(["zygote_failed", key, str(e)])

    def _on_zygote(self, zygote: ZygoteProcess, packet: packets.Packet) -> None:
        kind, args = packet.kind, packet.args
        if kind == "made":
            self._holders.made(args[0], args[1], packet.fds.pop() if packet.fds else -1)
        elif kind == "ended":
            self._holders.ended(args[0], args[1])
        elif kind == "exited":
            self._holders.exited(args[0], args[1])
        elif kind == "swept":
            self._holders.swept(args[0])
        elif kind == "refused":
            self._holders.refused(args[0], args[1], args[2])
        elif kind == "make_failed":
            self._holders.make_failed(args[0], args[1], args[2])
        elif kind == "ready":
            zygote.ready = True
            self._tell(["zygote_ready", zygote.key, zygote.pid])
            self._holders.zygote_ready(zygote)
        elif kind == "failed":
            zygote.failure = args[0]

    def _make(self, holder_id: int, key: str, where: str, *, template: bool, hurried: bool) -> None:
        zygote = self._zygotes.get(key) or self._holders.template(key)
        if zygote is None:
            self._tell(["holder_failed", holder_id, "zygote", f"there is no zygote {key}"])
            self._tell(["holder_gone", holder_id])
            return
        self._holders.make(holder_id, zygote, where, template=template, hurried=hurried)

    def _on_children(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(fd, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._network is not None and pid == self._network.pid:
                raise RuntimeError(f"the network process ended (wait status {status}): every sandbox has lost its network")
            zygote = next((z for z in self._zygotes.values() if z.pid == pid), None)
            if zygote is not None:
                self._zygote_ended(zygote, status)
            else:
                self._bundle.reaped(pid)
                self._holders.orphan_exited(pid, status)

    def _zygote_ended(self, zygote: ZygoteProcess, status: int) -> None:
        zygote.drain()
        try:
            if zygote.goes_on():
                return
        except OSError as e:
            zygote.failure = str(e)
        del self._zygotes[zygote.key]
        zygote.close()
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit status {os.WEXITSTATUS(status)}"
        # First: what was being made failed with it, and not by itself.
        self._tell(["zygote_failed", zygote.key, zygote.failure or f"the zygote ended ({how})"])
        self._holders.zygote_ended(zygote.key)
        self._end_strays()

    def _end_strays(self) -> None:
        """End what a zygote left that nobody knows: killed in the middle of making a sandbox, it could not name it, and an init that had not
        begun yet does not die with it. It is this process's child now, as a subreaper's.
        """
        helpers = {z.pid for z in self._zygotes.values()} | self._bundle.children | self._holders.helpers
        if self._network is not None:
            helpers.add(self._network.pid)
        holder.end_children(helpers)

    def _end(self) -> None:
        """Kill every process below, wait for all of them, remove the control groups."""
        self._supervisor.close()
        self._holders.kill_all()
        for zygote in self._zygotes.values():
            zygote.kill()
        self._bundle.stop()
        deadline = time.monotonic() + _ENDING_S
        while (self._zygotes or self._holders.busy()) and time.monotonic() < deadline:
            self._loop.turn(0.02)
        self._holders.close()


def main(supervisor_fd: int) -> None:
    """Entry of the program: a keeper that runs the broker proper in a child, and runs it again when it is lost.

    The keeper exists because the supervisor, which may have given up its privileges, could not start another one. It holds the
    supervisor's socket, so a lost broker is a message there, not its end.
    """
    sock = socket.socket(fileno=supervisor_fd)
    sock.set_inheritable(False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The supervisor decides when to end; its socket's end is the order.
        signal.signal(number, signal.SIG_IGN)
    packet = packets.receive(sock)
    if packet is None or packet.kind != "config":
        sys.exit(2)
    kernel.set_name("lambda-keeper")
    while True:
        pid = os.fork()
        if pid == 0:
            _be_broker(sock, packet.args[0])
        _, status = os.waitpid(pid, 0)
        if status == 0 or not _told_to_try_again(sock, status):
            return


def _told_to_try_again(sock: socket.socket, status: int) -> bool:
    """Report the loss; whatever the supervisor still had to say to the lost broker is dropped."""
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit status {os.WEXITSTATUS(status)}"
    # The broker shared this socket and had set it not to block.
    sock.setblocking(True)
    with contextlib.suppress(OSError, packets.PacketError):
        packets.send(sock, ["lost", f"the broker ended ({how})"])
        while True:
            packet = packets.receive(sock)
            if packet is None:
                return False
            packet.close()
            if packet.kind == "again":
                return True
    return False


def _serve(sock: socket.socket, config: dict[str, Any], level: levels.Level, report: dict[str, Any]) -> None:
    """At the chosen level, with the network that can be had, until the supervisor goes away."""
    try:
        settled = network.settle(level.name, config["network"])
    except OSError as e:
        level.groups.close()
        packets.send(sock, ["unavailable", str(e)])
        return
    level = dataclasses.replace(level, network=settled.mode)
    report |= {"network": settled.mode, "no_vpc": settled.no_vpc}
    report["advice"] += settled.advice
    report["mechanisms"]["VpcConfig"] = f"none: {settled.no_vpc}" if settled.no_vpc else "a router and packet filter per VPC"
    if settled.mechanism:
        report["mechanisms"]["network namespace"] = settled.mechanism
    packets.send(sock, ["report", report, os.getpid()])
    try:
        if config["probe"]:
            level.groups.close()
        else:
            gc.collect()
            gc.freeze()
            # Next to nothing of what it makes knows itself.
            gc.set_threshold(_GARBAGE)
            Broker(sock, config, level, settled.process).run()
    finally:
        settled.close()


def _be_broker(sock: socket.socket, config: dict[str, Any]) -> None:
    """Choose the level, report, serve. Never returns."""
    status = 1
    try:
        kernel.die_with_parent()
        kernel.set_name("lambda-broker")
        # Whoever starts cold waits for it.
        turns.short()
        kernel.become_subreaper()
        descriptors.raise_limit()
        os.makedirs(config["mountpoint"], exist_ok=True)
        cgroups.sweep()
        level, report, refusal = levels.choose(config)
        if level is None:
            packets.send(sock, ["unavailable", refusal])
        else:
            _serve(sock, config, level, report)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
