"""The broker's table of holders: from request to removed, every descriptor, process and control group accounted for.

A holder is *waiting* (for its zygote), *making*, *ready* or *dying*. Two things make it ready, in any order: the zygote names its
init, and its worker, locked down, says so on the control socket (the kernel names the worker's process number). Specialising it
is done from outside (``furnish``); then the worker is told and its control socket closed. When a worker ends, what it left behind is
killed before its end is told: *swept*, by a fork of the zygote in the sandbox, unless its control group is empty anyway; a reset
is a sweep and a fresh worker. A holder is over when its init has been reaped, by the zygote or, if that died first, by
the broker as subreaper; then what it held is given back and ``holder_gone`` is told last (``leavings``). An ordinary sandbox without a VPC
begins in a network that is there already (``nets``), which it waits for where none is; others have theirs made while they are.

Sandboxes of templates and those without namespaces are not visited: their inits (``holder``) are asked to do all this themselves.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from engine.sandbox import packets
from engine.sandbox.api import NO_ROOM
from engine.sandbox.descriptors import shortage
from engine.sandbox.group import Group
from engine.sandbox.leavings import Leavings
from engine.sandbox.levels import Level
from engine.sandbox.line import Line
from engine.sandbox.nets import Net, Nets
from engine.sandbox.network import NetworkProcess
from engine.sandbox.outfit import Outfitter
from engine.sandbox.peers import Loop, Peer
from engine.sandbox.pods import Pods
from engine.sandbox.record import Holder
from engine.sandbox.sources import Source, Template

_FORCE_AFTER_S = 2.0
_PIDS, _FIRST_PID = 31700, 300
_KILL = int(signal.SIGKILL)
_WORDS = (b"false", b"true")


class Tell(Protocol):
    """Sends an event to the supervisor, with copies of descriptors."""

    def __call__(self, message: Sequence[object], fds: list[int] | None = None) -> None: ...


class Holders:
    """All holders of this broker."""

    def __init__(
        self, loop: Loop, level: Level, config: dict[str, Any], tell: Tell, network: NetworkProcess | None = None
    ) -> None:
        self._loop = loop
        self._level = level
        self._namespaces = level.namespaces
        self._tell = tell
        self._network = network
        self._holders: dict[int, Holder] = {}
        self._line = Line(loop, self._holders, self._start, self._refuse)
        # Those that are being made for somebody who waits.
        self._hurried: set[int] = set()
        self._slots: list[int] = []
        self._next_slot = 0
        self._next_pid = random.SystemRandom().randrange(_PIDS)
        self._leavings = Leavings(loop, level.groups, lambda ids: tell(["holder_gone", *ids]))
        self._nets = None if network is None else Nets(loop, network, level.groups.witness(), shortage)
        self._outfitter = Outfitter(loop, level, config, self._holders, self.refused, lambda: bool(self._hurried))
        self._pods = Pods(self._holders, tell, fail=self._fail, kill=self.kill, announce=self._announce, finish=self._finish)

    @property
    def helpers(self) -> set[int]:
        """Children of the broker that belong to no sandbox."""
        return self._outfitter.helpers

    def busy(self) -> bool:
        """Whether anything is left."""
        return bool(self._holders or self._leavings)

    def make(self, holder_id: int, zygote: Source, network: str = "", *, template: bool = False, hurried: bool = False) -> None:
        """Have a sandbox made, now or when its source has caught up. ``network``: the VPC's it belongs to (see ``network``).
        ``template``: its worker shall be able to copy itself. ``hurried``: somebody waits for it.
        """
        if holder_id in self._holders:
            return
        if isinstance(zygote, Template):
            network = zygote.network
        holder = Holder(holder_id, zygote, network=network, is_template=template, hurried=hurried)
        holder.visited = self._namespaces and not template and not isinstance(zygote, Template)
        holder.netted = self._nets is not None and holder.visited and not network
        holder.wired = holder.netted or (not network and self._level.network != "nat")
        self._holders[holder_id] = holder
        if hurried:
            self._hurried.add(holder_id)
        self._line.join(holder)

    def zygote_ready(self, zygote: Source) -> None:
        """Start what has been waiting for it."""
        self._line.advance(zygote)

    def _refuse(self, holder: Holder, step: str, reason: str) -> None:
        self._fail(holder, step, reason)
        self._finish(holder)

    def _start(self, holder: Holder) -> None:
        holder.group = self._level.groups.create()
        if isinstance(holder.zygote, Template):
            self._start_pod(holder, holder.group)
            return
        holder.slot = self._slots.pop() if self._slots else self._take_slot()
        if self._nets is not None and holder.netted:
            self._line.began(holder)
            self._nets.take(lambda net, why: self._start_in(holder, net, why))
            return
        self._order(holder, "make", self._level.first_id + 2 * holder.slot)
        self._line.began(holder)

    def _start_in(self, holder: Holder, net: Net | None, why: str) -> None:
        """Go on with ``_start`` when the network is there."""
        holder.net = net
        if net is None or holder.dying:
            self._line.done(holder)
            if not holder.dying:
                self._refuse(holder, "network", why)
            self._leave_net(holder, ended=True)
            return
        try:
            self._order(holder, "make", self._level.first_id + 2 * holder.slot)
        except OSError as e:
            self._line.done(holder)
            self._refuse(holder, "prepare the sandbox", str(e))

    def _leave_net(self, holder: Holder, *, ended: bool = False) -> None:
        net, holder.net = holder.net, None
        if net is not None and self._nets is not None:
            self._nets.give_back(net, ended=ended)

    def _order(self, holder: Holder, kind: str, *first_id: int) -> None:
        """Have the zygote fork a worker: its channel, output, control socket and groups are made here."""
        assert holder.group is not None  # noqa: S101 - made before
        joins, into = holder.group.joins()
        lent: list[int] = []
        try:
            ours, theirs = packets.ends()
            lent.append(theirs)
            packets.want_credentials(ours)
            lent += self._connect(holder)
            if holder.control is not None:
                holder.control.close()
            holder.control = self._control(holder, ours)
            self._next_pid = (self._next_pid + 7919) % _PIDS
            first = kind == "make"
            net = holder.net if first else None
            request = [kind, holder.id, self._next_pid + _FIRST_PID, *first_id, into, holder.is_template, holder.hurried and first, net is not None]
            if holder.is_template:
                holder.orders, orders = packets.pair()
                holder.orders.setblocking(False)
                holder.orders.shutdown(socket.SHUT_RD)
                lent.append(orders.detach())
            holder.zygote.send(request, [*lent, *joins, *([net.space] if net is not None else [])])
        finally:
            for fd in lent:
                os.close(fd)

    def _control(self, holder: Holder, ours: socket.SocketType) -> Peer:
        said, lost, cut = (partial(what, holder) for what in (self._on_control, self._on_control_lost, self._on_control_cut))
        return Peer(self._loop, ours, said, lost, cut)

    def _start_pod(self, holder: Holder, group: Group) -> None:
        """Ask the template's init for an empty sandbox; what the copy will need is kept until it stands."""
        self._next_pid = (self._next_pid + 7919) % _PIDS
        holder.inner_pid = self._next_pid + _FIRST_PID
        ours, theirs = packets.pair()
        joins: list[int] = []
        try:
            packets.want_credentials(ours)
            holder.control = self._control(holder, ours)
            joins = group.open_moves()
            # One after the other: what there is goes back should the next not be had.
            holder.lent = self._connect(holder)
            holder.lent += group.open_moves()
            holder.zygote.send(["make", holder.id, holder.inner_pid], [theirs.fileno(), *joins])
            self._line.began(holder)
        finally:
            for fd in joins:
                os.close(fd)
            theirs.close()

    def template(self, key: str) -> Template | None:
        """The template declared by this name."""
        return self._pods.templates.get(key)

    def declare(self, key: str, holder_id: int) -> None:
        """The worker of this sandbox has finished its init and waits to be copied: it is the source ``key`` from now on."""
        self._pods.declare(key, self._holders.get(holder_id))

    def drop(self, key: str) -> None:
        """End a template; its copies go on."""
        self._line.drop(key)
        self._pods.drop(key)

    def _take_slot(self) -> int:
        self._next_slot += 1
        return self._next_slot - 1

    @staticmethod
    def _connect(holder: Holder) -> list[int]:
        """New channel and output pipe; ours go to the holder, the worker's ends are returned."""
        holder.close_fds("channel", "output")
        ours, theirs = packets.ends(socket.SOCK_STREAM)
        holder.channel = ours.detach()
        try:
            holder.output, write_end = os.pipe()
        except OSError:
            os.close(theirs)
            raise
        os.set_blocking(holder.output, False)
        return [theirs, write_end]

    def made(self, holder_id: int, pid: int, pidfd: int) -> None:
        """The zygote has forked the init. ``pidfd`` -1: there was no room for it."""
        holder = self._holders.get(holder_id)
        if holder is None:
            if pidfd >= 0:
                os.close(pidfd)
            return
        # A pod's number on the host comes with its own word, perhaps before this.
        holder.init_pid, holder.pidfd = holder.init_pid or pid, pidfd
        self._line.done(holder)
        if holder.dying:
            self._signal(holder)
        elif pidfd < 0:
            self.refused(holder.id, NO_ROOM, os.strerror(errno.EMFILE))
        else:
            self._wire(holder)
            self._announce(holder)

    def _wire(self, holder: Holder) -> None:
        """Have its network made while it makes the rest of itself."""
        if holder.wired:
            return
        if self._network is None:
            self.unwired(holder.id, "this broker makes no networks")
        else:
            try:
                self._network.send(["wire", holder.id, holder.network], [holder.pidfd])
            except OSError as e:
                self.refused(holder.id, NO_ROOM, str(e))

    def on_net(self, packet: packets.Packet) -> None:
        """A net is there, or cannot be had."""
        if self._nets is not None:
            self._nets.on_packet(packet)

    def wired(self, holder_id: int) -> None:
        """The network is there."""
        holder = self._holders.get(holder_id)
        if holder is not None:
            holder.wired = True
            self._announce(holder)
        elif self._network is not None:
            self._network.send(["unwire", holder_id])

    def unwired(self, holder_id: int, reason: str) -> None:
        """The network cannot be had."""
        holder = self._holders.get(holder_id)
        if holder is not None:
            if not holder.dying:
                self._fail(holder, "network", reason)
            self.kill(holder_id)

    def make_failed(self, holder_id: int, step: str, reason: str) -> None:
        """The zygote could not fork it."""
        holder = self._holders.get(holder_id)
        if holder is not None:
            self._line.done(holder)
            self._refuse(holder, step, reason)

    def _on_control(self, holder: Holder, packet: packets.Packet) -> None:
        kind, args = packet.kind, packet.args
        if kind == "endpoint" and packet.fds:
            holder.close_fds("endpoint")
            holder.endpoint = packet.fds.pop()
        elif kind == "worker":
            if packet.fds:
                holder.close_fds("endpoint")
                holder.endpoint = packet.fds.pop()
            holder.worker_pid = packet.pid
            holder.worker_alive = True
            self._announce(holder)
        elif kind == "exit":
            self._worker_exited(holder, int(args[0]))
        elif kind == "pod":
            self._pods.copy(holder, packet)
        elif kind == "made":
            self.made(int(args[0]), int(args[1]), packet.fds.pop())
        elif kind == "make_failed":
            self.make_failed(int(args[0]), str(args[1]), str(args[2]))
        elif kind == "exited":
            self.exited(int(args[0]), int(args[1]))
        elif kind == "copy_exit":
            pod = self._pods.of_copy(holder, int(args[0]))
            if pod is not None and pod.worker_alive:
                self._worker_exited(pod, int(args[1]))
        elif kind == "failed" and not holder.dying:
            self._fail(holder, str(args[0]), str(args[1]))
            self.kill(holder.id)

    def _on_control_lost(self, holder: Holder, _reason: str) -> None:
        """Its init, or worker, is gone. Normally the reaping says so; not when the zygote died before it could name the init."""
        if not holder.init_pid and not self._line.asked(holder.zygote.key):
            self._finish(holder)

    def _on_control_cut(self, holder: Holder, _packet: packets.Packet) -> None:
        """What it sent was what it cannot do without."""
        if not holder.dying:
            self.refused(holder.id, NO_ROOM, os.strerror(errno.EMFILE))

    def _announce(self, holder: Holder) -> None:
        if not holder.init_pid or not holder.worker_alive or not holder.wired or holder.channel < 0 or holder.dying:
            return
        fds = [holder.channel, holder.output]
        try:
            if holder.announced:
                self._outfitter.watch_soon(holder)
                self._outfitter.release(holder)
                self._tell(["worker_reset", holder.id, holder.worker_pid], fds)
            else:
                self._announce_first(holder, fds)
                holder.announced = True
                self._hurried.discard(holder.id)
        except OSError as e:
            self.refused(holder.id, NO_ROOM, str(e))
            return
        holder.close_fds("channel", "output", "endpoint")

    def _announce_first(self, holder: Holder, fds: list[int]) -> None:
        """With ``holder_ready`` go what only the first worker's supervisor end needs: the endpoint, the freezer, the counters' places."""
        group = holder.group
        endpoint = holder.endpoint if holder.net is None else holder.net.listener
        version, more = 0, b""
        if endpoint >= 0:
            fds.append(endpoint)
        if group is not None:
            with contextlib.suppress(OSError):
                version, freezer = group.freezer()
                if version:
                    fds.append(freezer)
            more = b',%b,"cpu_before_s":%r' % (group.counters, group.cpu_before_s)
        what = b'"endpoint":%b,"freezer":%d%b' % (_WORDS[endpoint >= 0], version, more)
        self._tell(b'["holder_ready",%d,%d,{%b}]' % (holder.id, holder.worker_pid, what), fds)

    def specialise(self, holder_id: int, spec: dict[str, Any]) -> None:
        """Give a ready holder its code and limits. Ignored for one that is gone or going."""
        holder = self._holders.get(holder_id)
        if holder is not None and not holder.dying and holder.control is not None:
            self._outfitter.specialise(holder, spec)

    def initialised(self, holder_id: int) -> None:
        """The init phase is over."""
        holder = self._holders.get(holder_id)
        if holder is not None and not holder.dying:
            self._outfitter.initialised(holder)

    def freeze(self, holder_id: int, frozen: bool) -> None:
        """Stop or continue everything in a sandbox by signals: where there is no freezer for the supervisor to use itself."""
        holder = self._holders.get(holder_id)
        if holder is None or holder.dying or holder.control is None:
            return
        holder.stopped = frozen
        if holder.visited:
            holder.zygote.send(["signal", holder.id, int(signal.SIGSTOP if frozen else signal.SIGCONT)])
        else:
            holder.control.send(["freeze" if frozen else "thaw"])

    def reset(self, holder_id: int) -> None:
        """Fresh worker in the same sandbox."""
        holder = self._holders.get(holder_id)
        if holder is None or holder.dying or holder.control is None or not holder.announced:
            return
        if holder.is_template or isinstance(holder.zygote, Template):
            # What was copied cannot be had again in the same place.
            self.kill(holder_id)
            return
        if holder.watch is not None:
            # What it has to say is about the former worker; its order to kill would meet the fresh one.
            holder.watch.close()
            holder.watch = None
        if holder.visited:
            holder.fresh_wanted = True
            self._sweep(holder)
            return
        try:
            theirs = self._connect(holder)
        except OSError as e:
            self.refused(holder.id, "connect a fresh worker", str(e))
            return
        try:
            holder.control.send(["reset"], theirs)
        except OSError as e:
            self.refused(holder.id, "order a fresh worker", str(e))
        finally:
            for fd in theirs:
                os.close(fd)

    def _sweep(self, holder: Holder) -> None:
        """Kill what runs in the sandbox besides its init; ``swept`` follows."""
        if holder.sweeping:
            return
        holder.sweeping = True
        if not holder.worker_alive and holder.group is not None and holder.group.empty():
            self.swept(holder.id)
        else:
            holder.zygote.send(["sweep", holder.id])

    def swept(self, holder_id: int) -> None:
        """Nothing runs in the sandbox any more: tell how the worker ended, and go on with a reset."""
        holder = self._holders.get(holder_id)
        if holder is None or holder.dying:
            return
        holder.sweeping = False
        if holder.ended is not None:
            self._tell(["worker_exited", holder.id, *holder.cause(holder.ended)])
            holder.ended = None
        if holder.fresh_wanted:
            holder.fresh_wanted = False
            try:
                self._order(holder, "fresh")
            except OSError as e:
                self.refused(holder.id, "connect a fresh worker", str(e))

    def refused(self, holder_id: int, step: str, reason: str) -> None:
        """Something could not be done with a sandbox: it is of no use any more."""
        holder = self._holders.get(holder_id)
        if holder is not None:
            self._fail(holder, step, reason)
            self.kill(holder.id)

    def let_go(self, holder_id: int) -> None:
        """``kill``, for the supervisor, which does nothing with it any more."""
        holder = self._holders.get(holder_id)
        if holder is not None and not holder.dying:
            holder.let_go = True
            self.kill(holder_id)

    def kill(self, holder_id: int) -> None:
        """End a holder in any state."""
        holder = self._holders.get(holder_id)
        if holder is None or holder.dying:
            return
        holder.dying = True
        if holder.init_pid:
            self._signal(holder)
        elif holder.control is None:
            self._finish(holder)

    def _signal(self, holder: Holder) -> None:
        if holder.group is not None:
            holder.group.let_die()
        if self._namespaces:
            self._force(holder)
        elif holder.control is not None:
            # Without a pid namespace the init itself has to kill what descends from it.
            holder.control.send(["end"])
            self._loop.later(_FORCE_AFTER_S, lambda: self._force(holder))

    def _force(self, holder: Holder) -> None:
        """SIGKILL to the init; what v1 has frozen needs ``let_die`` before."""
        with contextlib.suppress(ProcessLookupError):
            if holder.pidfd >= 0:
                signal.pidfd_send_signal(holder.pidfd, _KILL)
            elif holder.id in self._holders and holder.init_pid and not isinstance(holder.zygote, Template):
                # Its number is its own until the zygote has reaped it, which ends this holder. That of a copy may mean another process here.
                os.kill(holder.init_pid, _KILL)

    def ended(self, holder_id: int, status: int) -> None:
        """The zygote has reaped a worker: what it left behind goes before its end is told."""
        holder = self._holders.get(holder_id)
        if holder is None or holder.dying:
            return
        if holder.control is not None:
            holder.control.drain()
        if not holder.worker_alive:
            self._worker_exited(holder, status)
            return
        holder.worker_alive = False
        holder.ended = status
        self._sweep(holder)

    def _worker_exited(self, holder: Holder, status: int) -> None:
        was_ready, holder.worker_alive = holder.worker_alive, False
        template = self._pods.of_holder(holder)
        if template is not None:
            self._line.drop(template.key)
            self._pods.ended(template, f"the template ended with wait status {status}")
            return
        if not was_ready and holder.announced:
            # A fresh worker after a reset: whoever waits for it gets another sandbox.
            self.kill(holder.id)
        elif not was_ready and not holder.dying:
            self._fail(holder, "start the worker", f"it ended with wait status {status}: {holder.last_words()}")
            self.kill(holder.id)
        elif holder.announced and not holder.dying:
            self._tell(["worker_exited", holder.id, *holder.cause(status)])

    def exited(self, holder_id: int, status: int) -> None:
        """The zygote has reaped the init: nothing of the sandbox runs any more."""
        holder = self._holders.get(holder_id)
        if holder is not None:
            if holder.control is not None:
                holder.control.drain()
            holder.reaped = True
            if holder.ended is not None:
                holder.fresh_wanted = False
                self.swept(holder.id)
            if holder.worker_alive:
                self._worker_exited(holder, status)
            elif not holder.announced and not holder.dying:
                self._fail(holder, "start the sandbox", f"its init ended with wait status {status}")
            self._finish(holder)

    def orphan_exited(self, pid: int, status: int) -> None:
        """An init whose zygote died first."""
        holder = next((h for h in self._holders.values() if h.init_pid == pid), None)
        if holder is not None:
            self.exited(holder.id, status)

    def zygote_ended(self, key: str) -> None:
        """Its sandboxes are dying by their parent death signal; the ones never forked end here."""
        self._line.ended(key)
        for holder in [h for h in self._holders.values() if h.zygote.key == key]:
            if not holder.announced and not holder.dying:
                self._fail(holder, "zygote", holder.zygote.failure or "the zygote ended")
            holder.dying = True
            if holder.init_pid:
                self._signal(holder)
            elif holder.control is None or holder.control.closed:
                self._finish(holder)

    def _fail(self, holder: Holder, step: str, reason: str) -> None:
        self._tell(["holder_failed", holder.id, step, reason])

    def _finish(self, holder: Holder) -> None:
        """Give everything back. ``holder_gone`` follows when the control groups are gone too."""
        if self._holders.pop(holder.id, None) is None:
            return
        holder.dying = True
        self._hurried.discard(holder.id)
        self._pods.finished(holder)
        if holder.control is not None:
            holder.control.close()
            # It knows its holder: neither would go before the other.
            holder.control = None
        if holder.watch is not None:
            holder.watch.close()
            holder.watch = None
        holder.close_fds()
        if holder.netted:
            self._leave_net(holder, ended=holder.reaped and holder.let_go)
        elif self._network is not None and holder.wired and (holder.network or self._level.network == "nat"):
            self._network.send(["unwire", holder.id])
        if holder.slot >= 0:
            self._slots.append(holder.slot)
        self._line.freed(holder)
        if holder.group is None or not holder.group.directories():
            self._tell(["holder_gone", holder.id])
            return
        self._leavings.add(holder.group, holder.id, usable=holder.let_go and holder.visited)

    def kill_all(self) -> None:
        """End every holder."""
        for holder in list(self._holders.values()):
            self.kill(holder.id)
            if not self._namespaces and holder.init_pid:
                continue
            self._force(holder)

    def close(self) -> None:
        """Remove what is left; the broker ends."""
        self._leavings.close()
        if self._nets is not None:
            self._nets.close()
        self._outfitter.close()
        self._level.groups.close()
