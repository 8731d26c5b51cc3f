"""What the operations share: their parts, and how a request's function name becomes a function."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from engine.arn import FunctionRef, parse_function_name
from engine.auth.principals import Principal
from engine.clock import Clock
from engine.control import rules
from engine.control.api import Caller
from engine.control.changes import Changes
from engine.control.code_links import CodeLinks
from engine.control.file_systems import FileSystems
from engine.control.images import Images
from engine.control.link import ControlLink, Hello
from engine.control.packages import Package, Packages
from engine.control.roles import Roles
from engine.control.sealed import SealedEnvironments
from engine.control.signatures import Profiles
from engine.control.sources import Sources
from engine.control.vpcs import Vpcs
from engine.errors import InvalidParameterValue, ResourceNotFound
from engine.local_names import LocalNames
from engine.store.api import LATEST, CodeStore, Function, FunctionStore, LayerStore, MappingStore, SigningStore, Version

ONLY_FUNCTIONS = (
    "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. "
    "Please specify either a function name or an unqualified function ARN."
)

# Bytes from which hashing is left to another thread.
MUCH = 64 * 1024


@dataclass(frozen=True, slots=True)
class Plane:
    """The control plane's parts, made once by the composition root. ``account_concurrency`` is the limit of every account."""

    store: FunctionStore
    layers: LayerStore
    signing: SigningStore
    mappings: MappingStore
    profiles: Profiles
    code: CodeStore
    packages: Packages
    sources: Sources
    changes: Changes
    link: ControlLink
    links: CodeLinks
    clock: Clock
    roles: Roles
    vpcs: Vpcs
    file_systems: FileSystems
    images: Images
    environments: SealedEnvironments
    account_concurrency: int = 1000
    ignore_architecture: bool = False
    names: LocalNames = field(default_factory=LocalNames)
    # Set by whoever changes an event source mapping, for whoever has it polled.
    mappings_changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def find(self, ref: FunctionRef) -> Function | None:
        """The function named, if there is one."""
        return self.store.get(ref.account, ref.name)

    async def read(self, ref: FunctionRef) -> Function:
        """The function named. Raises ResourceNotFound."""
        function = await self.find(ref)
        if function is None:
            raise not_found(ref)
        return function

    async def fetch(self, code: Mapping[str, Any], account: str, hello: Hello, caller: Principal) -> bytes:
        """The package a request brings or names. Raises as ``Sources.fetch``."""
        rules.refuse_unsupported("FunctionCode", code)
        if code.get("ZipFile") is not None:
            # It is here already.
            return self.sources.fetch(code, account, hello)
        return await asyncio.to_thread(self.sources.fetch, code, account, hello, caller)

    @asynccontextmanager
    async def installed(self, data: bytes, runtime: str, hello: Hello, sealed: bytes | None = None) -> AsyncIterator[Package]:
        """The package, kept as ``sealed`` if that is given, extracted and compiled, kept while the block runs: a version must refer to it by then."""
        # Only what takes longer than changing threads is worth it.
        kept = data if sealed is None else sealed
        sha256 = _digest(kept) if len(kept) < MUCH else await asyncio.to_thread(_digest, kept)
        async with self.holding(sha256):
            package = self.packages.known(sha256, runtime, len(data)) if sealed is None else None
            if package is None:
                package = await asyncio.to_thread(self.packages.install, data, runtime, hello.runtimes[runtime].interpreter, sealed)
            yield package

    @asynccontextmanager
    async def holding(self, sha256: str) -> AsyncIterator[None]:
        """A package may be put on the disk while the block runs. What is there when the block fails, and nothing refers to, goes again."""
        try:
            with self.code.hold(sha256):
                yield
        except BaseException:
            await asyncio.to_thread(self.code.discard, sha256)
            raise

    async def check_storage(self, account: str, added: int) -> None:
        """Raises CodeStorageExceeded."""
        stored = self.store.stored_bytes
        known = self.store.known_layer_bytes(account) is not None
        rules.check_storage(stored(account) if known else await asyncio.to_thread(stored, account), added)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def locate(caller: Caller, name: str, qualifier: str | None = None) -> FunctionRef:
    """The function a request names. Raises what ``parse_function_name`` raises, and AccessDenied for another account's."""
    ref = parse_function_name(name, account=caller.account, region=caller.region, qualifier=qualifier)
    rules.check_account(ref.account, caller.account, verified=caller.principal.verified and caller.principal.identity is None)
    return ref


def locate_unqualified(caller: Caller, name: str) -> FunctionRef:
    """As ``locate``, for operations on ``$LATEST`` only. Raises InvalidParameterValue for any other qualifier."""
    ref = locate(caller, name)
    if ref.qualifier not in (None, LATEST):
        raise InvalidParameterValue(ONLY_FUNCTIONS)
    return FunctionRef(ref.account, ref.region, ref.name)


def pick(function: Function, ref: FunctionRef) -> Version:
    """The version a qualifier means, of an alias its main one. Raises ResourceNotFound with the ARN as asked for."""
    qualifier = ref.qualifier or LATEST
    alias = function.aliases.get(qualifier)
    version = function.versions.get(qualifier if alias is None else alias.version)
    if version is None:
        raise not_found(ref)
    return version


def not_found(ref: FunctionRef) -> ResourceNotFound:
    return ResourceNotFound(f"Function not found: {ref.arn()}")
