"""The data plane's process: what it owns, how it starts, how it ends.

Start: the broker and the control plane are on their way already (``engine.start``); sockets, then ready once the catalogue is loaded and a sandbox stands. End: SIGTERM stops accepting, lets
invocations in flight finish up to the drain time, then takes everything down; a second signal does not wait. Nothing here runs per
invocation.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from engine.clock import Clock
from engine.config import AuthMode, Settings
from engine.errors import AwsError, RequestEntityTooLarge, UnrecognizedClient
from engine.sandbox import layers
from engine.sandbox.api import NO_IMAGES, NO_MOUNTS, NO_ROOM, ExitCause, HolderFds, Sandbox, SandboxReport, ZygoteSpec
from engine.sandbox.wishes import VpcDone
from engine.supervisor import lanes, replies, routing, zygotes
from engine.supervisor.api import InvokeApi, Verifier
from engine.supervisor.aws_endpoint import AwsEndpoint
from engine.supervisor.binary import ClientConnection, LinkConnection
from engine.supervisor.catalogue import Catalogue
from engine.supervisor.changes import Changes
from engine.supervisor.children import Child
from engine.supervisor.container_credentials import PATH as CREDENTIALS_PATH
from engine.supervisor.container_credentials import CredentialsPage
from engine.supervisor.door import MOST_BYTES_OF_ALL, Allowance, Door
from engine.supervisor.environment import CREDENTIALS, NO_DAEMON, Home
from engine.supervisor.event_lane import EventLane
from engine.supervisor.exchanges import Head, Passed
from engine.supervisor.front import Connection
from engine.supervisor.gateway.front import Gateways
from engine.supervisor.guard import Guard
from engine.supervisor.guests import GuestConnection
from engine.supervisor.holders import Holder, HolderPool
from engine.supervisor.invoker import Invoker
from engine.supervisor.logs import LogStore
from engine.supervisor.passthrough import Collecting, Passing
from engine.supervisor.refusals import refusal
from engine.supervisor.role_credentials import RoleCredentials
from engine.supervisor.rounds import Rounds
from engine.supervisor.sealed_environments import SealedEnvironments
from engine.supervisor.status import Status
from engine.supervisor.streaming import Pacing
from engine.supervisor.tracer import Tracer
from engine.supervisor.upstreams import Upstreams
from engine.supervisor.urls import FunctionUrls
from engine.supervisor.zygotes import Interpreter

log = structlog.get_logger("engine")

# Inside an isolated sandbox the endpoint is always here, whatever port the engine itself listens on.
INNER_ENDPOINT = "http://127.0.0.1:4566"
FLUSH_S = 0.05
EXPIRE_S = 0.1
TICK_S = 1.0
FULL_TOLD_S = 10.0
# A restarted control plane imports for a second or two on a quiet machine, and much longer on a loaded one.
CONTROL_WAIT_S = 20.0
MAX_SIGNED_BODY = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Commands:
    """How to start the other processes; the composition root knows, the supervisor does not."""

    control: Callable[[], tuple[list[str], dict[str, str]]]
    embedded: Callable[[int, str], tuple[list[str], dict[str, str]]]
    embedded_unavailable: str | None
    # A control plane that has been started already.
    control_begun: subprocess.Popen[bytes] | None = None


class Supervisor:
    """One engine. ``run`` returns the exit status."""

    # When it was last said that the broker is full.
    _full_s = float("-inf")
    # The catalogue's revision for which stocks of networks were last compared.
    _retained = 0

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        settings: Settings,
        *,
        listeners: list[socket.socket],
        runtimes: dict[str, Interpreter],
        commands: Commands,
        guard: Guard | None,
        function_key: tuple[str, str, str],
    ) -> None:
        self._loop = loop
        self._clock = clock
        self.settings = settings
        self._listeners = listeners
        self._runtimes = runtimes
        self.verifier: Verifier | None = guard
        self._function_key = function_key
        self._run_dir = settings.run_dir()
        self._started_s = clock.monotonic()
        self._exit_status = 0
        self._connections: set[Connection] = set()
        self._allowance = Allowance(MOST_BYTES_OF_ALL)
        self._clients: set[asyncio.Protocol] = set()
        self._servers: list[asyncio.Server] = []
        self._link: LinkConnection | None = None
        self._stopping = asyncio.Event()
        self._now = asyncio.Event()
        self._drained = asyncio.Event()
        self._rounds = Rounds(loop)
        self._sandbox: Sandbox
        self._logs = LogStore(settings.data_dir / "logs", settings.log_file_mib * 1024 * 1024)
        self._invoker = self._new_invoker()
        self._invoker.on_connection_accepted = self._serve_function
        self.catalogue = Catalogue(
            region=settings.region,
            account_limit=settings.account_concurrency,
            logs=self._logs,
            on_drain=self._invoker.drain,
            on_new=self._invoker.prepare,
            on_change=self._invoker.provisioner.configure,
            on_delete=self._invoker.provisioner.forget,
            request_rates=(settings.request_rate, settings.account_request_rate),
            scaling=(settings.scaling_burst, settings.scaling_period_s),
            tracer=Tracer(clock, settings.region, settings.xray_daemon),
        )
        self.api = InvokeApi(
            self.catalogue, self._invoker, clock, region=settings.region, account_id=settings.account_id
        )
        self._events = self.api.events = EventLane(loop)
        self._address(guard)
        self._invoker.lanes = self.api.lanes = lanes.load(replies.date_header) if settings.compiled else None
        self._control = Child(loop, clock, "control", commands.control, lambda s: self._child_ended("control plane", s), commands.control_begun)
        self._embedded: Child | None = None
        self._commands = commands
        self._aws = AwsEndpoint(
            loop, clock, settings.aws_endpoint, commands.embedded_unavailable, self._start_embedded, scaled=settings.data_dir / "autoscaling"
        )
        self._status: Status
        self._guard = self._posted(guard)

    def _new_invoker(self) -> Invoker:
        settings = self.settings
        invoker = Invoker(
            self._loop,
            self._clock,
            keep_alive_s=settings.keep_alive_s,
            init_timeout_s=settings.init_timeout_s,
            max_instances=settings.max_instances,
            cpu_quota=settings.cpu_quota,
            host_wait_s=settings.host_wait_s,
            memory_budget_mib=settings.memory_budget_mib,
            memory_reserve_mib=settings.memory_reserve_mib,
            max_age_s=settings.max_age_s,
            snapshots=settings.snapshots,
            learn_imports=settings.learn_imports,
            home=Home(settings.region, INNER_ENDPOINT, INNER_ENDPOINT, self._function_key),
            isolated_paths=True,
        )
        if settings.stream_bandwidth_mib_s:
            invoker.pacing = Pacing(settings.stream_bandwidth_mib_s, self._clock.monotonic, self._loop.call_later)
        return invoker

    def _address(self, guard: Guard | None) -> None:
        """What has addresses of its own on the port: function URLs and APIs."""
        settings = self.settings
        self.urls = FunctionUrls(self.catalogue, self.api, guard, self._clock, region=settings.region, account_id=settings.account_id)
        self.gateways = Gateways(
            self._loop,
            self._clock,
            self.catalogue,
            self.api,
            guard,
            self._connect_control,
            self._function_key[2],
            region=settings.region,
            account_id=settings.account_id,
            written_here=settings.aws_endpoint == "embedded",
        )
        self._changes = Changes(guard, self.gateways)

    def _posted(self, guard: Guard | None) -> Guard | None:
        """The guard, put at its doors."""
        if guard is None:
            return None
        self.api.authorize = guard.authorize
        guard.on_forget = self.api.forget_decisions
        if self.settings.auth is AuthMode.IAM:
            self.urls.gate = lambda url, caller: guard.may_call(url, caller, self.catalogue)
        if self.settings.aws_endpoint == "embedded":
            guard.connect = self._aws.connect
            guard.running = lambda: self._aws.embedded_port is not None
        return guard

    # Start and end.

    def attach(self, sandbox: Sandbox, report: SandboxReport, pids: Callable[[], dict[str, int]]) -> None:
        """The sandbox has started: everything that depends on its level follows."""
        self._sandbox = sandbox
        self._kept = Upstreams(self._loop)
        settings = self.settings
        isolated = report.network != "host"
        endpoint = INNER_ENDPOINT if isolated else self.endpoint_url()
        self._invoker.setting.home = Home(
            settings.region, None if settings.aws_endpoint == "aws" else endpoint, endpoint, self._credentials(), settings.xray_daemon or NO_DAEMON
        )
        self._invoker.setting.isolated_paths = report.level != "process"
        self._invoker.standing.on_rerouted = self.catalogue.rerouted
        self._invoker.standing.rebuilding = lambda: not self.catalogue.loaded
        self._invoker.standing.templates.possible = report.level != "process"
        if report.level == "process":
            self._invoker.setting.opt_root = functools.partial(layers.opt_root, str(settings.data_dir))
        self._invoker.setting.sealed = SealedEnvironments(self._loop, self._connect_control, self._function_key[2])
        if settings.assumes_roles():
            self._invoker.setting.roles = RoleCredentials(self._loop, self._clock, self._connect_control, self._function_key[2])
        self._holders = HolderPool(self._loop, sandbox, settings.pool_size, self._zygote_spec)
        self._invoker.setting.runtimes = self._runtimes
        self._invoker.wire(sandbox, self._holders)
        self._status = Status(
            clock=self._clock,
            started_s=self._started_s,
            catalogue=self.catalogue,
            invoker=self._invoker,
            holders=self._holders,
            report=report,
            pids=lambda: {**self._pids(), **pids()},
        )

    def _credentials(self) -> tuple[str, str, str] | None:
        if self.settings.aws_endpoint == "aws":
            own = tuple(os.environ.get(n, "") for n in CREDENTIALS)
            return (own[0], own[1], own[2]) if own[0] else None
        return self._function_key

    def _zygote_spec(self, key: str) -> ZygoteSpec | str:
        zygote, _, network = key.partition("@")
        if network and self._status.report.no_vpc:
            return self._status.report.no_vpc
        return zygotes.spec(zygote, self._runtimes)

    def endpoint_url(self) -> str:
        host, port = self._listeners[0].getsockname()[:2]
        host = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def run(self, warm_runtime: str | None) -> int:
        """Serve until a signal. ``attach`` must have been called."""
        self._signals()
        if warm_runtime is not None:
            self._holders.use(warm_runtime)
        await self._listen()
        self._control.start()
        self._go_round()
        self._tell_port()
        log.info("listening", url=self.endpoint_url(), sandbox=self._status.report.level, data_dir=str(self.settings.data_dir))
        await self._stopping.wait()
        await self._drain()
        await self._close()
        return self._exit_status

    def fail(self, reason: str) -> None:
        """End the engine with status 1: it cannot go on, and whoever started it can start it again."""
        log.error("the engine ends", reason=reason)
        self._exit_status = 1
        self._stopping.set()

    def _tell_port(self) -> None:
        if self.settings.port_file is not None:
            self.settings.port_file.write_text(f"{self.endpoint_url()}\n")

    def _signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        if self._stopping.is_set():
            self._now.set()
            return
        log.info("stopping", signal=signal.Signals(number).name, in_flight=self._invoker.in_flight)
        self._stopping.set()

    async def _listen(self) -> None:
        keys = None
        if self.settings.auth is not AuthMode.OFF:
            keys = {k: v.get_secret_value() for k, v in self.settings.access_keys.items()}
        for sock in self._listeners:
            self._servers.append(await self._loop.create_server(self._connection, sock=sock, backlog=1024))
        account = self.settings.account_id
        client_path, link_path = self._run_dir / "engine.sock", self._run_dir / "control.sock"
        self._servers.append(
            await self._unix(lambda: ClientConnection(self.api, account, self._clients, None), client_path)
        )
        self._servers.append(await self._unix(lambda: LinkConnection(self, self._link_opened, self._events.closed), link_path))
        if self.settings.binary_address:
            host, _, port = self.settings.binary_address.rpartition(":")
            self._servers.append(
                await self._loop.create_server(
                    lambda: ClientConnection(self.api, account, self._clients, keys), host or "127.0.0.1", int(port)
                )
            )

    async def _unix(self, factory: Callable[[], asyncio.Protocol], path: Path) -> asyncio.Server:
        return await self._loop.create_unix_server(factory, sock=_private_socket(path), backlog=1024)

    def _connection(self) -> Connection:
        return Connection(self, self._connections)

    def _serve_function(self, sock: socket.socket, door: Door) -> None:
        """A function opened a connection to the engine from inside its sandbox."""
        sock.setblocking(False)

        async def accept() -> None:
            try:
                await self._loop.connect_accepted_socket(lambda: GuestConnection(self, self._connections, door, self._allowance), sock)
            except OSError:
                door.left()

        self._loop.create_task(accept())

    def _link_opened(self, link: LinkConnection) -> None:
        former, self._link = self._link, link
        if former is not None:
            former.close()
        self._events.opened(link.send)

    async def _drain(self) -> None:
        """No new work; what runs may finish."""
        self.api.draining = True
        self._status.draining = True
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.close_when_idle()
        self._invoker.on_idle = self._drained.set
        if self._invoker.in_flight and not self._now.is_set():
            waits = [asyncio.ensure_future(e.wait()) for e in (self._drained, self._now)]
            await asyncio.wait(waits, timeout=self.settings.drain_s, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    async def _close(self) -> None:
        self._rounds.end()
        self._holders.closed = True
        self._invoker.stop()
        while self._invoker.farewell.pending and not self._now.is_set():
            await asyncio.sleep(0.01)
        self._holders.close()
        self._kept.close()
        await asyncio.gather(
            self._control.stop(5.0), *([self._embedded.stop(5.0)] if self._embedded is not None else [])
        )
        for connection in list(self._connections):
            connection.transport.close()
        self._logs.flush()
        for name in ("engine.sock", "control.sock", "http.sock"):
            with contextlib.suppress(FileNotFoundError):
                (self._run_dir / name).unlink()

    def _go_round(self) -> None:
        """From now on look after what nobody asks for."""
        rounds, after_s = self._rounds, self.settings.freeze_after_s
        rounds.add(FLUSH_S, self._flush)
        rounds.add(TICK_S, self._tick)
        rounds.add(EXPIRE_S, self._invoker.expire)
        if after_s:
            rounds.add(after_s / 2, lambda: self._invoker.freeze_idle(after_s))
        rounds.begin()

    def _flush(self) -> None:
        self._invoker.write_starts()
        problem = self._logs.flush()
        if problem is not None:
            log.error("function logs were lost", reason=problem)
        self._invoker.folding.fold()

    def _tick(self) -> None:
        self._invoker.tick()
        if self._retained != self.catalogue.revision:
            self._retained = self.catalogue.revision
            self._holders.retain(self.catalogue.stocks)

    def _child_ended(self, name: str, status: int) -> None:
        log.warning("child ended; it is started again", child=name, status=status)

    def _start_embedded(self, port: int) -> None:
        self._embedded = Child(
            self._loop,
            self._clock,
            "embedded-aws",
            lambda: self._commands.embedded(port, self._invoker.setting.home.lambda_url),
            self._embedded_ended,
        )
        self._embedded.start()

    def _embedded_ended(self, status: int) -> None:
        self._child_ended("embedded AWS", status)
        self._aws.ended()
        self._changes.forget()

    def _pids(self) -> dict[str, int]:
        pids = {"supervisor": os.getpid()}
        if self._control.pid is not None:
            pids["control"] = self._control.pid
        if self._embedded is not None and self._embedded.pid is not None:
            pids["embedded-aws"] = self._embedded.pid
        return pids

    # LinkServices

    def link_hello(self) -> dict[str, Any]:
        return {
            "runtimes": {k: {"interpreter": r.path, "version": r.version} for k, r in self._runtimes.items()},
            "endpoint_url": self.endpoint_url(),
            "function_key": list(self._function_key),
            "region": self.settings.region,
            "account_id": self.settings.account_id,
            "no_vpc": self._status.report.no_vpc,
            "no_mounts": NO_MOUNTS if self._status.report.level == "process" else "",
            "no_images": NO_IMAGES if self._status.report.level == "process" else "",
        }

    def accepted(self, seq: int, problem: str | None) -> None:
        self._events.settled(seq, problem)

    def vpc(self, name: str, document: dict[str, Any] | None, then: VpcDone) -> None:
        self._sandbox.vpc(name, document, then)

    def queries(self) -> dict[str, Callable[[], Any]]:
        return {
            "stats": lambda: {**self._status.stats(), "gateway": self.gateways.figures()},
            "provisioned": self._invoker.provisioner.figures,
            "templates": self._invoker.standing.templates.figures,
            "autoscaling": lambda: self._aws.autoscaling,
            "embedded": lambda: {"port": self._aws.embedded(), "token": "" if self._guard is None else self._guard.token},
        }

    def identity(self, access_key: str, answer: Callable[[dict[str, Any] | None], None]) -> None:
        if self._guard is None:
            answer(None)
            return
        task = self._loop.create_task(self._guard.record(access_key))
        task.add_done_callback(lambda done: answer(done.result()))

    # FrontServices

    def local(self, head: Head) -> tuple[int, bytes, bytes] | None:
        """The pages that must work when nothing else does."""
        path = head.path
        if path == b"/livez":
            return 200, b"text/plain", b"ok\n"
        if path == b"/readyz":
            reasons = self._status.not_ready()
            return (503, b"text/plain", f"{'; '.join(reasons)}\n".encode()) if reasons else (200, b"text/plain", b"ok\n")
        if path == b"/_engine/state":
            return 200, b"application/json", msgspec.json.encode(self._status.state())
        if path == b"/_engine/cold-starts":
            return 200, b"application/json", msgspec.json.encode(self._status.cold_starts())
        return None

    def pass_through(self, head: Head, client: Connection) -> Passed:
        """Send a request where it belongs; with authentication on, only after its signature was checked."""
        if head.url == CREDENTIALS_PATH and head.method == b"GET":
            return CredentialsPage(head, client, self._invoker.setting.container)
        where = routing.target(head.url, head.headers)
        if where is routing.Target.CONTROL:
            extra = [(b"x-lambda-engine-peer", head.peer.encode())]
            if self._guard is not None:
                extra.append((b"x-lambda-engine-identities", b"%d" % self._guard.revision))
            return Passing(head, client, self._connect_control, extra, kept=self._kept)
        service = routing.service(head.url, head.headers)
        if service == "application-autoscaling":
            self._aws.scales()
        if self._guard is None:
            return Passing(head, client, self._aws.connect, [], self._changes.of(service, head))
        return Collecting(
            MAX_SIGNED_BODY, lambda body: self._verified(head, client, body), lambda: self._too_large_to_verify(head, client)
        )

    def _too_large_to_verify(self, head: Head, client: Connection) -> None:
        error = RequestEntityTooLarge(f"With auth=sigv4 a request must be smaller than {MAX_SIGNED_BODY} bytes to be verified")
        client.answer(replies.error(error, keep_alive=head.keep_alive))

    def _verified(self, head: Head, client: Connection, body: bytes, *, learnt: bool = False) -> None:
        guard = self._guard
        assert guard is not None  # noqa: S101 - only reached with authentication on
        if client.transport.is_closing():
            return
        path, _, query = head.url.partition(b"?")
        try:
            caller = guard.verify(
                head.method.decode(), path.decode("latin-1"), query.decode("latin-1"), head.headers, body, time.time()
            )
        except AwsError as e:
            if isinstance(e, UnrecognizedClient) and not learnt:
                again = functools.partial(self._verified, head, client, body, learnt=True)
                if guard.learn(e.access_key, again):
                    return
            service = routing.service(head.url, head.headers)
            client.answer(refusal(e, service, head.headers, keep_alive=head.keep_alive))
            return
        changes = self._changes.of(routing.service(head.url, head.headers), head)
        passing = client.replace_passed(
            Passing(head, client, self._aws.connect, [*guard.headers(caller), (b"x-lambda-engine-peer", head.peer.encode())], changes)
        )
        if body:
            passing.body(body)
        passing.end()

    async def _connect_control(self, factory: Callable[[], asyncio.Protocol]) -> Any:
        """The control plane may be restarting: wait for it a little before giving up."""
        deadline_s = self._clock.monotonic() + CONTROL_WAIT_S
        while True:
            try:
                return await self._loop.create_unix_connection(factory, str(self._run_dir / "http.sock"))
            except OSError:
                if self._clock.monotonic() > deadline_s or self._now.is_set():
                    raise OSError("the control plane is not running") from None
                await asyncio.sleep(0.05)

    # SandboxListener

    def zygote_ready(self, key: str, pid: int) -> None:
        self._holders.zygote_ready(key, pid)
        self._invoker.standing.templates.ready(key)

    def zygote_failed(self, key: str, reason: str) -> None:
        if key.startswith("template:"):
            log.info("template ended", template=key, reason=reason)
            self._invoker.standing.templates.lost(key)
            return
        log.error("zygote failed", zygote=key, reason=reason)
        self._holders.zygote_failed(key, reason)

    def holder_ready(self, holder_id: int, fds: HolderFds, pid: int) -> None:
        holder = Holder(holder_id, "", fds, pid)
        if not self._holders.holder_ready(holder):
            holder.fds.close()
            self._sandbox.kill(holder_id)

    def holder_failed(self, holder_id: int, step: str, reason: str) -> None:
        if step != NO_ROOM:
            log.error("sandbox failed", holder=holder_id, step=step, reason=reason)
        elif (now_s := self._clock.monotonic()) - self._full_s >= FULL_TOLD_S:
            self._full_s = now_s
            log.warning("the host is full", reason=reason)
        self._holders.holder_failed(holder_id, f"{step}: {reason}")
        self._invoker.faults.holder_failed(holder_id, f"{step}: {reason}")

    def worker_exited(self, holder_id: int, cause: ExitCause) -> None:
        self._invoker.faults.worker_exited(holder_id, cause)

    def worker_reset(self, holder_id: int, fds: HolderFds, pid: int) -> None:
        self._invoker.faults.worker_reset(holder_id, fds, pid)

    def holder_gone(self, holder_id: int) -> None:
        self._invoker.faults.gone(holder_id)

    def broker_lost(self, reason: str) -> None:
        log.error("broker lost; a new one is started", reason=reason)
        self._invoker.faults.broker_lost(reason)


def _private_socket(path: Path) -> socket.socket:
    """A Unix socket that only this user can connect to, in place of a former one."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        sock.bind(str(path))
    finally:
        os.umask(mask)
    return sock
