"""The supervisor's end of the broker: starts it, asks it, hears its events, and starts another when it is lost.

Nothing here blocks the event loop once ``start`` has returned. The broker runs the engine's own interpreter without site-packages;
start the link before the supervisor gives up privileges.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from engine.config import Settings
from engine.errors import SandboxUnavailable
from engine.sandbox import packets
from engine.sandbox.api import NO_ROOM, Cause, ExitCause, HolderFds, SandboxListener, SandboxReport, SpecialiseSpec, ZygoteSpec
from engine.sandbox.descriptors import shortage
from engine.sandbox.errands import Errands
from engine.sandbox.freezer import GroupFreezer, SignalFreezer
from engine.sandbox.interpreters import prefixes_of
from engine.sandbox.keeper import Keeper
from engine.sandbox.wishes import VpcDone, Wishes

_START_S = 30.0
_CLOSE_S = 10.0
_RESTART_S = 0.2
_MOST_SPELT = 4096


class BrokerLink:
    """``api.Sandbox`` over a broker process. Events go to ``listener`` on ``loop``."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        listener: SandboxListener,
        *,
        bootstrap_dir: Path | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """``keeper``: one that has been started and configured already, for the first start."""
        self._keeper = keeper
        self._loop = loop
        self._settings = settings
        self._listener = listener
        self._bootstrap_dir = bootstrap_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._outbox: deque[bytes] = deque()
        self._errands = Errands(loop, self._push)
        self._stuck = False
        # What was spelt of what, by identity: the same for all instances of a version, and a hash of it costs as much as the rest.
        self._spelt: dict[int, tuple[SpecialiseSpec, bytes]] = {}
        self._specs: dict[str, ZygoteSpec] = {}
        self._wishes = Wishes()
        self._report: SandboxReport | None = None
        self._restart: asyncio.TimerHandle | None = None
        self._starting: asyncio.Task[None] | None = None
        self._closing = False
        self._serving = False
        self._broker_pid: int | None = None
        self.zygote_pids: dict[str, int] = {}
        # Set when this process could not start another keeper any more; told why that would be needed.
        self.renounced: Callable[[str], None] | None = None

    @property
    def report(self) -> SandboxReport:
        """What runs here. Only after ``start``."""
        if self._report is None:
            raise SandboxUnavailable("the sandbox broker has not been started")
        return self._report

    @property
    def broker_pid(self) -> int | None:
        """The broker's process, None while there is none."""
        return self._broker_pid

    async def start(self) -> SandboxReport:
        """Start the broker and wait for its verdict. Raises SandboxUnavailable naming the step, the error and a fix."""
        self._report = await self._open()
        return self._report

    async def _open(self) -> SandboxReport:
        self._settings.data_dir.mkdir(parents=True, exist_ok=True)
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            keeper = Keeper(self._settings, bootstrap_dir=self._bootstrap_dir)
            keeper.configure()
        process, ours = keeper.take()
        ours.setblocking(False)
        self._process = process
        try:
            members, self._broker_pid = await self._negotiate(ours)
        except BaseException:
            ours.close()
            self._process = None
            await self._loop.run_in_executor(None, process.wait)
            raise
        self._sock = ours
        self._serving = True
        self._loop.add_reader(ours.fileno(), self._readable)
        return report_of(members)

    async def _negotiate(self, sock: socket.socket) -> tuple[dict[str, Any], int]:
        """Wait for the report and the broker's pid. Raises SandboxUnavailable."""
        try:
            packet = await asyncio.wait_for(self._first(sock), _START_S)
        except (OSError, packets.PacketError, TimeoutError) as e:
            raise SandboxUnavailable(f"the sandbox broker does not start: {type(e).__name__} {e}") from e
        if packet is None or packet.kind not in ("report", "unavailable"):
            raise SandboxUnavailable("the sandbox broker ended while starting; its error output says why")
        if packet.kind == "unavailable":
            raise SandboxUnavailable(str(packet.args[0]))
        return packet.args[0], packet.args[1]

    async def _first(self, sock: socket.socket) -> packets.Packet | None:
        ready = asyncio.Event()
        fd = sock.fileno()
        self._loop.add_reader(fd, ready.set)
        try:
            await ready.wait()
        finally:
            self._loop.remove_reader(fd)
        return packets.receive(sock)

    async def close(self) -> None:
        """End the broker and with it every sandbox; returns when all of them are gone. Idempotent."""
        self._closing = True
        if self._restart is not None:
            self._restart.cancel()
        if self._starting is not None:
            self._starting.cancel()
            with contextlib.suppress(asyncio.CancelledError, SandboxUnavailable):
                await self._starting
        self._drop_socket()
        process, self._process = self._process, None
        if process is not None:
            try:
                await self._loop.run_in_executor(None, process.wait, _CLOSE_S)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(PermissionError):
                    # Without root's powers only its socket's end tells it, which it has been.
                    process.kill()
                    await self._loop.run_in_executor(None, process.wait)

    def add_zygote(self, spec: ZygoteSpec) -> None:
        """Start a zygote, or start it again after ``zygote_failed``. A lost broker's zygotes come back by themselves."""
        self._specs[spec.key] = spec
        try:
            prefixes = prefixes_of(spec.interpreter)
        except OSError as e:
            self._loop.call_soon(self._listener.zygote_failed, spec.key, str(e))
            return
        prefixes += [path for path in spec.shows if path not in prefixes]
        more = {"entry": spec.entry, "command": list(spec.command), "files": spec.files, "language": spec.language}
        self._ask(["zygote", spec.key, spec.runtime, spec.interpreter, prefixes, list(spec.preload), more])

    def make(self, holder_id: int, zygote_key: str, network: str = "", *, template: bool = False, hurried: bool = False) -> None:
        """Make an empty sandbox in a network."""
        if self._sock is not None and self._serving:
            order = b'["make",%d,%b]' % (holder_id, _spelt_make(zygote_key, network, template, hurried))
            if hurried:
                self._push(self._errands.taken_by(order))
            else:
                # Several are mostly ordered at a time.
                self._errands.leave(order)

    def declare_template(self, key: str, holder_id: int) -> None:
        """A template's worker waits to be copied."""
        self._ask(["template", key, holder_id])

    def drop_template(self, key: str) -> None:
        """End a template."""
        self._ask(["drop", key])

    def specialise(self, holder_id: int, spec: SpecialiseSpec) -> None:
        """Turn it into an instance."""
        if self._sock is not None and self._serving:
            known = self._spelt.get(id(spec))
            if known is None or known[0] is not spec:
                if len(self._spelt) >= _MOST_SPELT:
                    self._spelt.clear()
                known = self._spelt[id(spec)] = (spec, _spelt(spec))
            self._push(self._errands.taken_by(b'["specialise",%d,%b]' % (holder_id, known[1])))

    def vpc(self, name: str, document: dict[str, Any] | None, then: VpcDone) -> None:
        """Keep a VPC as the document says (see ``vpcs``), or no longer."""
        order = self._wishes.order(name, document, then)
        if self._sock is None or not self._serving:
            self._wishes.lost()
        else:
            self._ask(order)

    def initialised(self, holder_id: int) -> None:
        """From now on the CPU quota holds."""
        if self._sock is not None and self._serving:
            self._errands.leave(b'["initialised",%d]' % holder_id)

    def reset(self, holder_id: int) -> None:
        """Fresh worker, same sandbox."""
        self._ask(["reset", holder_id])

    def kill(self, holder_id: int) -> None:
        """End it, with all others that are ended in the same turn of the loop."""
        if self._sock is not None and self._serving:
            self._errands.leave(b'["kill",%d]' % holder_id)

    def _ask(self, message: list[Any]) -> None:
        if self._sock is None or not self._serving:
            return
        order = packets.encode(message)
        self._errands.go()
        self._push(order)

    def _push(self, packet: bytes) -> None:
        if self._sock is None:
            # Lost by what was said just before: the next broker has nobody to do this with.
            return
        if not self._outbox:
            try:
                self._sock.send(packet)
                return
            except OSError:
                # ``_flush`` meets the same, and sees to it.
                pass
        self._outbox.append(packet)
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        sock = self._sock
        if sock is None:
            return
        while self._outbox:
            try:
                packets.send_raw(sock, self._outbox[0])
            except BlockingIOError:
                self._loop.add_writer(sock.fileno(), self._flush)
                self._stuck = True
                return
            except OSError as e:
                self._lost(e.strerror or str(e))
                return
            self._outbox.popleft()
        if self._stuck:
            self._stuck = False
            self._loop.remove_writer(sock.fileno())

    def _readable(self) -> None:
        # One at a time: what there is beside it is heard next, and an empty read would cost an exception.
        if self._sock is None:
            return
        try:
            packet = packets.receive(self._sock, _read)
        except BlockingIOError:
            return
        except packets.Cut as e:
            self._no_room(e.packet, os.strerror(errno.EMFILE))
            return
        except (OSError, packets.PacketError) as e:
            self._lost(str(e))
            return
        if packet is None:
            self._lost("its socket closed")
            return
        try:
            self._dispatch(packet)
        finally:
            if packet.fds:
                packet.close()

    def _dispatch(self, packet: packets.Packet) -> None:
        kind, args, listener = packet.kind, packet.args, self._listener
        if kind == "holder_ready":
            if why := shortage():
                self._no_room(packet, why)
            else:
                listener.holder_ready(args[0], self._first_fds(packet), args[1])
        elif kind == "worker_exited":
            listener.worker_exited(args[0], ExitCause(Cause(args[1]), args[2]))
        elif kind == "holder_gone":
            for holder_id in args:
                listener.holder_gone(holder_id)
        elif kind == "worker_reset":
            listener.worker_reset(args[0], _worker_fds(packet), args[1])
        elif kind == "holder_failed":
            listener.holder_failed(args[0], args[1], args[2])
        elif kind == "zygote_ready":
            self.zygote_pids[args[0]] = args[1]
            listener.zygote_ready(args[0], args[1])
        elif kind == "zygote_failed":
            self.zygote_pids.pop(args[0], None)
            listener.zygote_failed(args[0], args[1])
        elif kind == "vpc":
            self._wishes.answered(args[0], args[1], args[2])
        elif kind == "lost":
            self._forget()
            listener.broker_lost(args[0])
            self._restart = self._loop.call_later(_RESTART_S, self._again)
        elif kind == "report":
            self._report, self._broker_pid, self._serving = report_of(args[0]), args[1], True
            self._add_zygotes_again()
        elif kind == "unavailable":
            # Its keeper ends next, and with it the socket: ``_lost`` takes over.
            self._serving = False

    def _no_room(self, packet: packets.Packet, why: str) -> None:
        """What connects this process to a worker cannot be taken."""
        holder_id = packet.args[0]
        self.kill(holder_id)
        self._listener.holder_failed(holder_id, NO_ROOM, why)

    def _first_fds(self, packet: packets.Packet) -> HolderFds:
        """Channel and output, then what ``holder_ready`` says is there."""
        holder_id, _, what = packet.args
        fds = _worker_fds(packet)
        if what["endpoint"]:
            fds.endpoint = packet.fds.pop(0)
        if what["freezer"]:
            fds.freezer = GroupFreezer(what["freezer"], packet.fds.pop(0))
        elif self._report is not None and self._report.mechanisms.get("freeze", "").startswith("signals"):
            fds.freezer = SignalFreezer(lambda frozen: self._ask(["freeze", holder_id, frozen]))
        fds.peak_file, fds.cpu_file, fds.cpu_before_s = what.get("peak_file"), what.get("cpu_file"), what.get("cpu_before_s", 0.0)
        return fds

    def _forget(self) -> None:
        """The broker is gone, and everything that was said to it and known of it."""
        self._serving = False
        self._broker_pid = None
        self._outbox.clear()
        self._errands.forget()
        self._stuck = False
        self._wishes.lost()
        self.zygote_pids.clear()
        if self._sock is not None:
            self._loop.remove_writer(self._sock.fileno())

    def _again(self) -> None:
        """Tell the keeper to start another broker; its report follows."""
        if self._sock is not None and not self._closing:
            try:
                packets.send(self._sock, ["again"])
            except OSError as e:
                self._lost(e.strerror or str(e))

    def _add_zygotes_again(self) -> None:
        for order in self._wishes.again():
            self._ask(order)
        for spec in list(self._specs.values()):
            self.add_zygote(spec)

    def _drop_socket(self) -> None:
        self._forget()
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.remove_reader(sock.fileno())
            sock.close()

    def _lost(self, reason: str) -> None:
        self._drop_socket()
        self._listener.broker_lost(reason)
        if self.renounced is not None and not self._closing:
            self.renounced(f"the keeper of the sandbox broker is lost ({reason}), and starting another one takes root's powers")
        elif not self._closing:
            self._restart = self._loop.call_later(_RESTART_S, self._begin_restart)

    def _begin_restart(self) -> None:
        if not self._closing:
            self._starting = self._loop.create_task(self._reopen())

    async def _reopen(self) -> None:
        old, self._process = self._process, None
        if old is not None:
            old.kill()
            await self._loop.run_in_executor(None, old.wait)
        try:
            self._report = await self._open()
        except SandboxUnavailable as e:
            self._listener.broker_lost(str(e))
            self._restart = self._loop.call_later(_RESTART_S * 10, self._begin_restart)
            return
        self._add_zygotes_again()


def _read(data: bytes) -> object:
    """As ``packets.decode``, in a tenth of its time."""
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        # Names of files and reasons with one in them need not be UTF-8.
        return packets.decode(data)


@functools.lru_cache(256)
def _spelt_make(zygote_key: str, network: str, template: bool, hurried: bool) -> bytes:
    """What ``make`` says after the holder, without its brackets."""
    return packets.encode([zygote_key, network, template, hurried])[1:-1]


def _spelt(spec: SpecialiseSpec) -> bytes:
    """As the broker reads it."""
    return packets.encode([{
        "code_dir": spec.code_dir, "layers": list(spec.layers), "memory_mib": spec.memory_mib,
        "tmp_mib": spec.tmp_mib, "pids": spec.pids, "cpu_shares": spec.cpu_shares, "hostname": spec.hostname,
        "cpu_quota_us": spec.cpu_quota_us, "image": spec.image, "reserved_mib": spec.reserved_mib,
        "file_system": spec.file_system,
    }])[1:-1]  # fmt: skip


def _worker_fds(packet: packets.Packet) -> HolderFds:
    channel, output = packet.fds[:2]
    del packet.fds[:2]
    return HolderFds(channel, output)


def report_of(members: dict[str, Any]) -> SandboxReport:
    """The broker's report as a value."""
    return SandboxReport(
        members["level"], members["asked"], members["network"], dict(members["mechanisms"]), tuple(members["advice"]),
        members["no_vpc"],
    )
