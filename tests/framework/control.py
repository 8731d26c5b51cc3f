"""A control plane in this process: the real application on a loopback port, a scripted supervisor at the other end of its link."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
from pathlib import Path
from typing import Any, Self

import boto3
import pytest
import uvicorn
from botocore.config import Config
from botocore.exceptions import ClientError

from engine.clock import ManualClock
from engine.config import load as load_settings
from engine.control import operations
from engine.control.catalogue import Catalogue
from engine.control.changes import Changes
from engine.control.code_links import CodeLinks
from engine.control.file_systems import FileSystems
from engine.control.images import Images
from engine.control.link import ControlLink
from engine.control.packages import Packages
from engine.control.plane import Plane
from engine.control.restore import restore
from engine.control.roles import Roles
from engine.control.sealed import SealedEnvironments
from engine.control.signatures import Profiles
from engine.control.sources import Sources
from engine.control.vpcs import Vpcs
from engine.http import vpcs
from engine.http.app import build_app
from engine.http.operations import Registry
from engine.local_names import LocalNames
from engine.protocol.model import load
from engine.store.code import DiskCodeStore
from engine.store.database import Database
from engine.store.functions import SqlFunctionStore
from engine.store.layers import SqlLayerStore
from engine.store.mappings import SqlMappingStore
from engine.store.memory import MemoryFunctionStore
from engine.store.signing import SqlSigningStore
from engine.store.vpcs import SqlVpcStore
from tests.framework.engine import OWN_RUNTIME, ROLE, zip_of
from tests.framework.link_peer import LinkPeer

RUNTIMES = {OWN_RUNTIME: {"interpreter": sys.executable, "version": "3.11.7"}}


def refused(call: Any, *args: Any, **members: Any) -> tuple[int, str, str]:
    """(status, code, message) of a call that must fail."""
    with pytest.raises(ClientError) as caught:
        call(*args, **members)
    answer = caught.value.response
    error = answer["Error"]
    return answer["ResponseMetadata"]["HTTPStatusCode"], error["Code"], error.get("Message") or ""


class ControlServer:
    """Runs while in ``with``. ``peer`` is the supervisor's end, ``clock`` the plane's clock; ``about`` goes into the hello."""

    def __init__(
        self,
        folder: Path,
        *,
        runtimes: dict[str, dict[str, str]] | None = None,
        push_timeout_s: float = 5.0,
        settings: dict[str, Any] | None = None,
        **about: Any,
    ) -> None:
        self.settings = load_settings(data_dir=folder, **(settings or {}))
        run_dir = self.settings.run_dir()
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.peer = LinkPeer(run_dir / "control.sock", RUNTIMES if runtimes is None else runtimes, **about)
        self.clock = ManualClock()
        self.url = ""
        self._push_timeout_s = push_timeout_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._task: asyncio.Task[None] | None = None
        self._server: uvicorn.Server | None = None

    def __enter__(self) -> Self:
        self.peer.__enter__()
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(20)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        self.peer.__exit__()

    async def _start(self) -> None:
        self.database = Database(self.settings.data_dir / "engine.db")
        self.store = MemoryFunctionStore(SqlFunctionStore(self.database))
        self.code = DiskCodeStore(self.database, self.settings.data_dir, self.clock)
        self.packages = Packages(self.code)
        self.images = Images(self.settings.data_dir, self.store, self.clock)
        self.catalogue = Catalogue(self.code, self.images)
        self.catalogue.load(self.store.everything())

        def snapshot() -> list[dict[str, Any]]:
            if not self.catalogue.loaded:
                restore(self.store, self.packages, self.catalogue, self.link.hello)
            return [*self.vpcs.entries(), *self.catalogue.entries()]

        self.link = ControlLink(self.settings.run_dir() / "control.sock", snapshot, push_timeout_s=self._push_timeout_s)
        self.changes = Changes(self.store, self.catalogue, self.link, self.clock)
        links = CodeLinks(self.database.secret("code-links"), self.packages.download, self.clock)
        sources = Sources(self.settings)
        self.vpcs = Vpcs(self.settings, SqlVpcStore(self.database), self.link, sources, self.catalogue, self.clock)
        self.registry = registry = Registry(load())
        operations.register(
            registry,
            Plane(
                store=self.store,
                layers=SqlLayerStore(self.database),
                signing=SqlSigningStore(self.database),
                mappings=SqlMappingStore(self.database),
                profiles=Profiles(self.settings.signing_profiles),
                code=self.code,
                packages=self.packages,
                sources=sources,
                changes=self.changes,
                link=self.link,
                links=links,
                clock=self.clock,
                roles=Roles(self.settings, self.clock, self.link.ready),
                vpcs=self.vpcs,
                file_systems=FileSystems(self.settings, sources),
                images=self.images,
                names=LocalNames(lambda _: ["127.0.0.1", "::1"]),
                environments=SealedEnvironments(sources, self.store, self.link.ready),
                account_concurrency=self.settings.account_concurrency,
                ignore_architecture=self.settings.ignore_architecture,
            ),
        )
        routes = {vpcs.PATH: vpcs.VpcRoutes(self.vpcs, self.settings.account_id)}
        self._app = build_app(registry, self.settings, code=links.source, extra_routes=routes)
        self.link.start()
        await self.link.ready(10)
        self._server = uvicorn.Server(uvicorn.Config(self._app, lifespan="off", log_config=None, access_log=False, ws="none"))
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))

    async def _stop(self) -> None:
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task
        await self.changes.close()
        await self.link.close()
        self._app.close()
        self.packages.close()
        self.database.close()

    def client(self, account: str = "000000000000", region: str = "us-east-1") -> Any:
        config = Config(retries={"total_max_attempts": 1}, parameter_validation=False)
        return boto3.client(
            "lambda", endpoint_url=self.url, region_name=region, aws_access_key_id=account, aws_secret_access_key="x", config=config
        )

    def create(self, name: str, **members: Any) -> dict[str, Any]:
        """CreateFunction with everything it needs."""
        given = {
            "FunctionName": name,
            "Role": ROLE,
            "Runtime": OWN_RUNTIME,
            "Handler": "m.f",
            "Code": {"ZipFile": zip_of({"m.py": "def f(e, c): return 1\n"})},
            **members,
        }
        answer = self.client().create_function(**{k: v for k, v in given.items() if v is not None})
        answer.pop("ResponseMetadata")
        return dict(answer)

    def entry(self, name: str, account: str = "000000000000") -> dict[str, Any]:
        """What the supervisor holds of a function."""
        assert self.peer.catalogue is not None
        return self.peer.catalogue[account, name]
