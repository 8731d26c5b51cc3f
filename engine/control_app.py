"""The control plane's process: builds its parts, connects them, serves HTTP on a Unix socket until it is told to stop.

``python -m engine.control_app``, settings in the environment. It may be killed at any moment: everything it knows is in the store, and
the first thing it does with a new link is to replace the supervisor's catalogue.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import setproctitle
import structlog
import uvicorn
import uvloop

from engine import __version__, turns
from engine.auth.identity import root_of
from engine.auth.principals import Credential, KeyRing
from engine.auth.sigv4 import Verifier
from engine.client import AsyncClient
from engine.clock import ShiftedClock, SystemClock
from engine.config import AuthMode, Settings, load
from engine.control import operations
from engine.control.access import Access, Identities
from engine.control.autoscaling import AutoScaler
from engine.control.catalogue import Catalogue
from engine.control.changes import Changes
from engine.control.code_links import CodeLinks
from engine.control.event_invoke import StoredPolicies
from engine.control.file_systems import FileSystems
from engine.control.gateways import PATH as GATEWAY_PATH
from engine.control.gateways import GatewayEndpoint, Gateways
from engine.control.hands import PATH as TIME_PATH
from engine.control.hands import TimeRoute
from engine.control.images import Images
from engine.control.layer_permissions import LayerPolicies
from engine.control.link import ControlLink, Hello
from engine.control.packages import Packages
from engine.control.plane import Plane
from engine.control.pollers import Pollers
from engine.control.provisioned import ProvisionedOperations
from engine.control.pushes import PushRoute
from engine.control.queued import PATH as EVENTS_PATH
from engine.control.queued import EventRoutes
from engine.control.restore import restore
from engine.control.roles import PATH as CREDENTIALS_PATH
from engine.control.roles import CredentialsEndpoint, Roles
from engine.control.sealed import PATH as ENVIRONMENT_PATH
from engine.control.sealed import EnvironmentEndpoint, SealedEnvironments
from engine.control.sealed_packages import PackageOpener
from engine.control.signatures import Profiles
from engine.control.sources import Sources
from engine.control.vpcs import Vpcs
from engine.core.push import PATH as PUSH_PATH
from engine.errors import ConfigurationError, ServiceError
from engine.eventing.delivery import Delivery
from engine.eventing.dispatcher import Dispatcher
from engine.eventing.intake import Intake
from engine.http import images as image_routes
from engine.http import vpcs
from engine.http.app import build_app
from engine.http.joined import JoiningProtocol
from engine.http.operations import Registry
from engine.parent import end_with
from engine.protocol.model import load as load_model
from engine.store.code import DiskCodeStore
from engine.store.database import Database
from engine.store.functions import SqlFunctionStore
from engine.store.layers import SqlLayerStore
from engine.store.mappings import SqlMappingStore
from engine.store.memory import MemoryFunctionStore
from engine.store.queue import SqlEventQueue
from engine.store.signing import SqlSigningStore
from engine.store.vpcs import SqlVpcStore
from engine.telemetry import logs, metrics, processes

COLLECT_S = 60.0
GRACEFUL_S = 5
PARENT_CHECK_S = 1.0
BACKLOG = 1024
# Behind the supervisor (335 parts of the processor to its 1,024), and further behind functions, whose group weighs four times as much. Further
# back (ADR 14) asynchronous invocations, which go through here, ran at two thirds of the rate.
NICE = 5
log = structlog.get_logger("control")


def main() -> int:
    """Run until SIGTERM or until the parent, whose number may be the argument, is gone; the exit status."""
    parent = int(sys.argv[1]) if len(sys.argv) > 1 else os.getppid()
    if not end_with(parent):
        return 0
    setproctitle.setproctitle("lambda-engine: control plane")
    turns.long()
    try:
        settings = load()
        logs.configure(settings.log_level)
        for path in (settings.data_dir, settings.run_dir()):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (
            contextlib.closing(Database(settings.database())) as database,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(serve(settings, database, parent))
    except ConfigurationError as e:
        print(f"lambda-engine: control plane: {e}", file=sys.stderr)  # noqa: T201 - logging may not be configured yet
        return 2
    return 0


def _plane(
    settings: Settings, database: Database, code: DiskCodeStore, clock: SystemClock, keys: KeyRing
) -> tuple[Plane, Catalogue]:
    """What the operations share, connected. ``keys`` learns the functions' own key at each hello."""
    with _no_collection():
        store = MemoryFunctionStore(SqlFunctionStore(database))
    images = Images(settings.data_dir, store, clock, settings.image_registries)
    catalogue = Catalogue(code, images)
    with _no_collection():
        # The supervisor may still be on its way to where it can be told.
        catalogue.load(store.everything())
    greeted: list[Hello] = []
    sources = Sources(settings, keys)
    packages = Packages(code, opener=PackageOpener(sources, lambda: greeted[0]))

    def on_hello(hello: Hello) -> None:
        greeted[:] = [hello]
        key, secret, token = hello.function_key
        owner = root_of(settings.account_id) if settings.auth is AuthMode.IAM else None
        keys.put(Credential(key, secret, settings.account_id, token, identity=owner))

    def snapshot() -> list[dict[str, Any]]:
        if not catalogue.loaded:
            with _no_collection():
                restore(store, packages, catalogue, greeted[0])
        return [*plane.vpcs.entries(), *catalogue.entries()]

    link = ControlLink(settings.run_dir() / "control.sock", snapshot, on_hello)
    changes = Changes(store, catalogue, link, clock)
    links = CodeLinks(database.secret("code-links"), packages.download, clock)
    plane = Plane(
        store=store,
        layers=SqlLayerStore(database),
        signing=SqlSigningStore(database),
        mappings=SqlMappingStore(database),
        profiles=Profiles(settings.signing_profiles),
        code=code,
        packages=packages,
        sources=sources,
        changes=changes,
        link=link,
        links=links,
        clock=clock,
        roles=Roles(settings, clock, link.ready),
        images=images,
        environments=SealedEnvironments(sources, store, link.ready),
        vpcs=Vpcs(settings, SqlVpcStore(database), link, sources, catalogue, clock),
        file_systems=FileSystems(settings, sources),
        account_concurrency=settings.account_concurrency,
        ignore_architecture=settings.ignore_architecture,
    )
    return plane, catalogue


async def serve(settings: Settings, database: Database, parent: int) -> None:
    """Serve HTTP at ``http.sock`` of the run directory until SIGTERM or the end of the process ``parent``."""
    clock = SystemClock()
    enforce = settings.auth is AuthMode.IAM
    secrets = {k: v.get_secret_value() for k, v in settings.access_keys.items()}
    keys = KeyRing.of_secrets(secrets, settings.account_id, root_of if enforce else None)
    code = DiskCodeStore(database, settings.data_dir, clock)
    plane, catalogue = _plane(settings, database, code, clock, keys)
    link = plane.link
    registry = Registry(load_model())
    operations.register(registry, plane)
    queue = SqlEventQueue(database)
    client = AsyncClient(settings.run_dir() / "engine.sock", events=True)
    delivery = Delivery(plane.roles.clients)
    # Queued events go by a clock of their own, whose hands can be turned.
    event_clock = ShiftedClock()
    dispatcher = _dispatcher(plane, queue, client, delivery, event_clock, settings)

    async def loaded() -> None:
        if not catalogue.loaded:
            await link.ready()

    intake = Intake(queue, catalogue, event_clock, ready=loaded, wake=dispatcher.wake)
    intake.register(registry)
    link.on_events = intake.take
    verifier = Verifier(keys) if settings.auth is not AuthMode.OFF else None
    pollers = Pollers(plane, settings)
    figures = Figures(settings, link, queue, intake, event_clock, dispatcher, delivery, pollers)
    app = build_app(
        registry,
        settings,
        verifier,
        learn=Identities(keys, link, enforce=enforce).learn,
        authorize=_access(plane).authorize if enforce else None,
        metrics=figures.render,
        code=plane.links.source,
        bytecode=plane.packages.figures,
        runtimes=lambda: {name: runtime.version for name, runtime in link.hello.runtimes.items()} if link.hello else {},
        extra_routes=_inside(settings, plane, queue, intake, event_clock, dispatcher),
    )
    await asyncio.to_thread(code.sweep)
    await asyncio.to_thread(plane.images.collect)
    link.start()
    dispatcher.start()
    try:
        scaler = _auto_scaler(plane, settings, clock)
        async with _helpers(_collect(code), _watch(parent), _step_back(link), plane.vpcs.run(), scaler.run(), pollers.run()):
            with _listening(settings.run_dir() / "http.sock") as listener:
                await _until_signal(app, listener)
    finally:
        await dispatcher.close()
        await asyncio.to_thread(delivery.close)
        await client.close()
        await plane.images.registries.close()
        await plane.changes.close()
        await link.close()
        for part in (app, plane.packages):
            part.close()


def _access(plane: Plane) -> Access:
    policies = LayerPolicies(plane.layers)
    return Access(plane.store, plane.clock, policies, mappings=plane.mappings, signing=plane.signing, networks=plane.vpcs)


def _dispatcher(
    plane: Plane, queue: SqlEventQueue, client: AsyncClient, delivery: Delivery, clock: SystemClock, settings: Settings
) -> Dispatcher:
    return Dispatcher(
        queue,
        client,
        clock,
        region=settings.region,
        retry_base_s=settings.async_retry_base_s,
        policies=StoredPolicies(plane.store),
        delivery=delivery,
        ready=plane.link.ready,
    )


def _inside(
    settings: Settings, plane: Plane, queue: SqlEventQueue, intake: Intake, event_clock: ShiftedClock, dispatcher: Dispatcher
) -> dict[str, Any]:
    """What only the engine's own socket serves."""
    return {
        vpcs.PATH: vpcs.VpcRoutes(plane.vpcs, settings.account_id),
        image_routes.PATH: image_routes.ImageRoutes(plane.images),
        PUSH_PATH: PushRoute(plane.store, intake, region=settings.region, account=settings.account_id),
        EVENTS_PATH: EventRoutes(queue, event_clock, dispatcher.wake, account=settings.account_id),
        ENVIRONMENT_PATH: EnvironmentEndpoint(plane.environments, plane.link.ready),
        CREDENTIALS_PATH: CredentialsEndpoint(plane.roles, plane.link.ready),
        GATEWAY_PATH: GatewayEndpoint(Gateways(settings), plane.link.ready),
        TIME_PATH: TimeRoute(plane.link, event_clock, dispatcher.wake, embedded=settings.aws_endpoint == "embedded"),
    }


def _auto_scaler(plane: Plane, settings: Settings, clock: SystemClock) -> AutoScaler:
    return AutoScaler(
        plane.link,
        plane.sources,
        ProvisionedOperations(plane),
        clock,
        account=settings.account_id,
        region=settings.region,
        period_s=settings.autoscaling_period_s,
    )


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """What is made here stays: the garbage collector neither looks through it meanwhile, again and again, nor ever after."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class Figures:
    """``GET /metrics``: the supervisor's figures, the queue's, and what the processes use."""

    def __init__(
        self,
        settings: Settings,
        link: ControlLink,
        queue: SqlEventQueue,
        intake: Intake,
        clock: SystemClock,
        dispatcher: Dispatcher,
        delivery: Delivery,
        pollers: Pollers,
    ) -> None:
        self._pollers = pollers
        self._dispatcher = dispatcher
        self._delivery = delivery
        self._settings = settings
        self._link = link
        self._queue = queue
        self._intake = intake
        self._clock = clock

    async def render(self, accept: str) -> tuple[bytes, str]:
        """(body, content type). Without the supervisor it says no more than that the engine is not ready."""
        try:
            stats = await self._link.query("stats")
        except ServiceError:
            stats = {"version": __version__, "ready": False}
        return await asyncio.to_thread(self._render, dict(stats), accept)

    def _render(self, stats: dict[str, Any], accept: str) -> tuple[bytes, str]:
        backlog = self._queue.backlog()
        oldest_ms = self._clock.epoch_ms() if backlog.oldest_ms is None else backlog.oldest_ms
        stats["async"] = {
            "depth": backlog.depth,
            "oldest_age_s": max(0.0, (self._clock.epoch_ms() - oldest_ms) / 1000),
            "dropped": self._dispatcher.dropped,
            "received": dict(self._intake.received),
            "undelivered": dict(self._delivery.failures),
        }
        stats["event_sources"] = self._pollers.counts()
        stats["iterator_ages_ms"] = self._pollers.ages_ms()
        stats["offset_lags"] = self._pollers.lags()
        samples = processes.sample(stats.get("processes", {}))
        return metrics.render(stats, samples, accept, default_account=self._settings.account_id)


async def _until_signal(app: Callable[..., Any], listener: socket.socket) -> None:
    config = uvicorn.Config(
        app,
        http=JoiningProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        timeout_graceful_shutdown=GRACEFUL_S,
        timeout_keep_alive=75,
        backlog=BACKLOG,
    )
    # The server raises the signals it caught once more when it is done; that must not end the process before it has cleaned up.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    await uvicorn.Server(config).serve(sockets=[listener])


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """A Unix socket that only this user can open; what a killed predecessor left is replaced."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        yield listener


@contextlib.asynccontextmanager
async def _helpers(*works: Any) -> AsyncIterator[None]:
    """Run background work while the block runs."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _collect(code: DiskCodeStore) -> None:
    """Remove packages nobody uses any more, now and then."""
    while True:
        try:
            gone = await asyncio.to_thread(code.collect)
        except OSError as e:
            log.warning("unused code was not removed", reason=str(e))
        else:
            if gone:
                log.info("removed unused code", packages=len(gone))
        await asyncio.sleep(COLLECT_S)


async def _step_back(link: ControlLink) -> None:
    """Once functions can be invoked, leave the processor to invocations first: an operation may wait a moment, they may not."""
    while not link.is_open:
        with contextlib.suppress(ServiceError):
            await link.ready()
    niceness = min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICE)
    # On Linux niceness is a thread's own, and a new thread has that of the one that starts it; elsewhere it is the process's.
    done: set[int] = set()
    while new := _threads() - done:
        for thread in new:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, thread, niceness)
        done |= new


def _threads() -> set[int]:
    return {t.id for t in psutil.Process().threads()} if sys.platform == "linux" else {0}


async def _watch(parent: int) -> None:
    """End when the parent does, where the kernel does not see to it."""
    while os.getppid() == parent:
        await asyncio.sleep(PARENT_CHECK_S)
    signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
