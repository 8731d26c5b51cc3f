"""What can be invoked, in memory: fed by the control plane, read on every invocation, never waiting for anybody.

An entry replaces the function's former one. A version whose ``generation`` did not change keeps its pool of instances; otherwise the
new generation gets a new pool and the old one drains. Counters belong to the function and survive updates.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.arn import FunctionRef, function_arn
from engine.core.concurrency import REQUEST_RATE, SCALING_BURST, SCALING_PERIOD_S, Account, FunctionQuota, ScalingRate
from engine.core.model import LATEST, AliasConfig, EfsPlace, FunctionConfig, ProvisionedConfig, UrlConfig, VersionConfig
from engine.core.pool import VersionPool
from engine.core.shared_pool import SharedPool
from engine.core.stats import FunctionStats
from engine.errors import AwsError, InvalidRuntime, ResourceConflict, ResourceNotFound, WireError
from engine.supervisor import zygotes
from engine.supervisor.logs import FunctionLog, LogStore

if TYPE_CHECKING:
    from engine.sandbox.api import SpecialiseSpec
    from engine.supervisor.imports import Imports
    from engine.supervisor.instance import Instance
    from engine.supervisor.provision import Provision
    from engine.supervisor.request import Request
    from engine.supervisor.setting import InitSent
    from engine.supervisor.templates import Template
    from engine.supervisor.tracer import Tracer


class Version:
    """One generation of one version, with its pool of instances. ``provisioned`` is None while none are asked for.

    ``stock_key``: where its sandboxes are taken from, its template's stock while there is one. ``refusal``: what invocations get instead.
    ``tenants``: of a version that keeps its tenants apart, the one that runs each tenant's invocations (see ``tenants.py``); None for all others.
    ``tenant``: whose ``shared`` version this is one.
    """

    __slots__ = (
        "announced",
        "base_env",
        "config",
        "expires_s",
        "extensions",
        "function",
        "imports",
        "init_more",
        "init_sent",
        "limit",
        "log",
        "pool",
        "provisioned",
        "refusal",
        "sandbox",
        "shared",
        "stock_key",
        "template",
        "tenant",
        "tenants",
        "tracer",
        "zygote_key",
    )  # fmt: skip

    def __init__(
        self, function: Function, config: VersionConfig, tracer: Tracer | None = None, log: FunctionLog | None = None, of: tuple[Version, str] | None = None
    ) -> None:
        """``tracer``: of those whose tracing is active. ``log``: that of its log group, where it is not the function's own. ``of``: the version
        whose tenant this one is for, and the tenant.
        """
        self.shared: Version | None = None if of is None else of[0]
        self.tenant: str | None = None if of is None else of[1]
        self.tenants: dict[str, Version] | None = {} if config.tenants_apart and of is None else None
        self.function = function
        self.log = log or function.log
        self.tracer = tracer if config.tracing == "Active" else None
        self.config = config
        external = zygotes.has_extensions(config)
        behind_agent = external or zygotes.asks_apis(config)
        # Whether it may have any, who then hear of its end.
        self.extensions = external or config.api == "extends"
        # Invocations that an instance may run at once; a pool of such instances is another.
        self.limit = zygotes.places(config, behind_agent=behind_agent)
        # Monotonic: no instance on demand will have been idle for too long before.
        self.expires_s = 0.0
        self.pool: VersionPool[Instance, Request] = SharedPool(self.limit) if self.limit > 1 else VersionPool()
        self.provisioned: Provision | None = None
        self.zygote_key = self.stock_key = zygotes.key(config, behind_agent=behind_agent)
        self.template: Template | None = None
        # What its first instance imported, once that is known.
        self.imports: Imports | None = None
        self.refusal: AwsError | None = None
        self.base_env: dict[str, str] | None = None
        # The INIT last sent (see ``setting``), and what its sandboxes are made.
        self.init_sent: InitSent | None = None
        # INIT_START (False) and RESTORE_START (True) of its instances as text, empty where there is none.
        self.announced: dict[bool, str] = {}
        self.sandbox: SpecialiseSpec | None = None
        # Members of INIT that this version has beyond the usual.
        self.init_more: dict[str, Any] = {"features": ["stream"], "account_id": config.account}


class Function:
    """A function by name: versions, aliases, its share of the account's concurrency, its numbers, its log.

    ``revision`` is another one whenever its names may mean something else, and after its end: what was resolved before is not valid then.
    """

    __slots__ = (
        "account", "aliases", "config", "keep_alive_s", "log", "max_age_s", "name", "quota", "revision", "stats", "tenant_instances", "tenants_apart",
        "versions",
    )  # fmt: skip

    def __init__(self, name: str, account: Account, log: FunctionLog, scaling: ScalingRate) -> None:
        self.name = name
        self.revision = 0
        self.account = account
        self.quota = FunctionQuota(scaling=scaling)
        self.stats = FunctionStats()
        self.log = log
        self.versions: dict[str, Version] = {}
        self.aliases: dict[str, AliasConfig] = {}
        self.config: FunctionConfig | None = None
        # None: the engine's own setting.
        self.keep_alive_s: float | None = None
        self.max_age_s: float | None = None
        # Whether invocations are of a tenant each, and how many instances there are for all of them.
        self.tenants_apart = False
        self.tenant_instances = 0


class FunctionUrl(NamedTuple):
    """A function URL and what it invokes."""

    ref: FunctionRef
    config: UrlConfig


def parse_entry(entry: Any) -> FunctionConfig:
    """A catalogue entry as the control plane sends it. Raises WireError naming what is missing or of the wrong type."""
    try:
        account, name = str(entry["account"]), str(entry["name"])
        versions = {str(key): _version(account, name, v) for key, v in entry["versions"].items()}
        aliases = {
            str(key): AliasConfig(
                str(key), str(a["version"]), tuple((str(v), float(w)) for v, w in (a.get("weights") or {}).items())
            )
            for key, a in (entry.get("aliases") or {}).items()
        }
        urls = tuple(
            UrlConfig(str(u["id"]), u.get("qualifier"), str(u["auth_type"]), u.get("cors"), u.get("policy"), bool(u.get("streamed")))
            for u in entry.get("urls") or ()
        )
        reserved = entry.get("reserved")
        provisioned = tuple(
            ProvisionedConfig(str(key), int(p["requested"]), str(p["revision"]))
            for key, p in (entry.get("provisioned") or {}).items()
        )
        return FunctionConfig(
            account,
            name,
            versions,
            aliases,
            None if reserved is None else int(reserved),
            may_loop=bool(entry.get("may_loop")),
            keep_alive_s=_seconds(entry.get("keep_alive_s")),
            max_age_s=_seconds(entry.get("max_age_s")),
            provisioned=provisioned,
            urls=urls, policies={str(k): str(p) for k, p in (entry.get("policies") or {}).items()},
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise WireError(f"catalogue entry: {type(e).__name__}: {e}") from e


def _version(account: str, name: str, v: Any) -> VersionConfig:
    return VersionConfig(
        account=account,
        name=name,
        version=str(v["version"]),
        generation=str(v["generation"]),
        state=str(v["state"]),
        runtime=str(v["runtime"]),
        handler=str(v["handler"]),
        timeout_s=int(v["timeout_s"]),
        memory_mib=int(v["memory_mb"]),
        tmp_mib=int(v["tmp_mb"]),
        code_dir=str(v["code_dir"]),
        env={str(k): str(x) for k, x in (v.get("env") or {}).items()},
        layers=tuple(v.get("layers") or ()),
        preload=tuple(v.get("preload") or ()),
        role=str(v.get("role") or ""),
        log_format=str(v.get("log_format") or "Text"),
        log_level=v.get("log_level"),
        system_log_level=v.get("system_log_level"),
        log_group=str(v.get("log_group") or f"/aws/lambda/{name}"),
        tracing=str(v.get("tracing") or "PassThrough"),
        snap_start=bool(v.get("snap_start")),
        network=str(v.get("network") or ""),
        image=v.get("image"),
        max_concurrency=int(v.get("max_concurrency") or 1),
        sealed=bool(v.get("sealed")),
        api=str(v.get("api") or ""),
        file_system=_file_system(v.get("file_system")),
        tenants_apart=bool(v.get("tenants_apart")),
        refusal=str(v.get("refusal") or ""),
    )


def _same(former: VersionConfig, now: VersionConfig) -> bool:
    """Whether instances of one serve the other."""
    return former.generation == now.generation and former.max_concurrency == now.max_concurrency and former.refusal == now.refusal


def _file_system(value: Any) -> tuple[str, str, EfsPlace | None] | None:
    if value is None:
        return None
    arn, place, own = value
    return str(arn), str(place), None if own is None else EfsPlace(own["id"], own["path"], own["uid"], own["gid"], own["made"] and tuple(own["made"]))


def _seconds(value: Any) -> float | None:
    return None if value is None else float(value)


class Catalogue:
    """All functions of all accounts. ``on_drain(version)`` is told of every pool that must wind down."""

    def __init__(
        self,
        *,
        region: str,
        account_limit: int,
        logs: LogStore,
        on_drain: Callable[[Version], None],
        on_new: Callable[[Version], None],
        on_change: Callable[[Function, Mapping[str, AliasConfig]], None] = lambda _function, _former: None,
        on_delete: Callable[[Function], None] = lambda _function: None,
        request_rates: tuple[int, int | None] = (REQUEST_RATE, None),
        scaling: tuple[int, float] = (SCALING_BURST, SCALING_PERIOD_S),
        tracer: Tracer | None = None,
    ) -> None:
        self.region = region
        self.account_limit = account_limit
        self.revision = 0
        self.loaded = False
        self._logs = logs
        self._on_drain = on_drain
        self._on_new = on_new
        self._on_change = on_change
        self._on_delete = on_delete
        self._rates = request_rates
        self._scaling = scaling
        self._tracer = tracer
        self._accounts: dict[str, Account] = {}
        self._functions: dict[tuple[str, str], Function] = {}
        self._keep: set[tuple[str, str]] | None = None
        # Told of every function of which something resolved is not valid any more.
        self.on_stale: Callable[[Function], None] = lambda _function: None
        # Stocks of sandboxes by key, and how many versions take theirs from each.
        self.stocks: Counter[str] = Counter()
        self.urls: dict[str, FunctionUrl] = {}
        self._draw = random.Random().random  # noqa: S311 - routing weights, not secrets

    def account(self, account_id: str) -> Account:
        account = self._accounts.get(account_id)
        if account is None:
            account = self._accounts[account_id] = Account(self.account_limit, *self._rates)
        return account

    def policy(self, ref: FunctionRef) -> str | None:
        """The resource policy of what is named, JSON text; None when it has none."""
        function = self._functions.get((ref.account, ref.name))
        if function is None or function.config is None:
            return None
        return function.config.policies.get(ref.qualifier or "")

    def functions(self) -> list[tuple[str, Function]]:
        """(account id, function) of everything registered."""
        return [(key[0], f) for key, f in self._functions.items()]

    def accounts(self) -> dict[str, Account]:
        return self._accounts

    def begin(self) -> None:
        """A full snapshot starts: what is not put before ``commit`` goes."""
        self._keep = set()

    def commit(self) -> None:
        keep, self._keep = self._keep, None
        if keep is not None:
            for key in [k for k in self._functions if k not in keep]:
                self._drop(key)
        self.loaded = True

    def put(self, config: FunctionConfig) -> None:
        """Create or replace a function."""
        key = (config.account, config.name)
        if self._keep is not None:
            self._keep.add(key)
        function = self._functions.get(key)
        if function is None:
            log = self._logs.of(config.account, config.name)
            rate = ScalingRate(*self._scaling)
            function = self._functions[key] = Function(config.name, self.account(config.account), log, rate)
        if function.config == config:
            return
        self.rerouted(function)
        self._rename(function.config, config)
        function.config = config
        function.keep_alive_s, function.max_age_s = config.keep_alive_s, config.max_age_s
        function.tenants_apart = any(v.tenants_apart for v in config.versions.values())
        former_aliases, function.aliases = function.aliases, config.aliases
        function.account.reserve(function.quota, config.reserved)
        former = function.versions
        function.versions = {}
        for name, version in config.versions.items():
            old = former.get(name)
            if old is not None and _same(old.config, version):
                former.pop(name)
                for one in (old, *(old.tenants or {}).values()):
                    one.config = version
                    one.init_sent = one.sandbox = None
                function.versions[name] = old
            else:
                function.versions[name] = new = Version(function, version, self._tracer, self._logs.of(config.account, config.name, version.log_group))
                self.stocks[new.zygote_key] += 1
                self._on_new(new)
        for version_entry in former.values():
            self._ended(version_entry)
        self._on_change(function, former_aliases)

    def rerouted(self, function: Function) -> None:
        """What a name of this function means, or what its versions answer, may be something else from now on."""
        self.revision += 1
        function.revision += 1
        self.on_stale(function)

    def _ended(self, version: Version) -> None:
        self.stocks[version.zygote_key] -= 1
        if not self.stocks[version.zygote_key]:
            del self.stocks[version.zygote_key]
        for one in (version, *(version.tenants or {}).values()):
            self._on_drain(one)

    def delete(self, account_id: str, name: str) -> None:
        """Forget a function; unknown ones are ignored."""
        if (account_id, name) in self._functions:
            self._drop((account_id, name))

    def _drop(self, key: tuple[str, str]) -> None:
        function = self._functions.pop(key)
        self.rerouted(function)
        self._rename(function.config, None)
        function.account.reserve(function.quota, None)
        self._on_delete(function)
        self._logs.forget(*key)
        # Function and versions know each other, and the collector of cycles comes by rarely.
        versions, function.versions = function.versions, {}
        for version in versions.values():
            self._logs.forget(*key, version.config.log_group)
            self._ended(version)

    def stats(self, ref: FunctionRef) -> FunctionStats | None:
        """The function's numbers."""
        function = self._functions.get((ref.account, ref.name))
        return None if function is None else function.stats

    def _rename(self, former: FunctionConfig | None, now: FunctionConfig | None) -> None:
        """The function's URLs, as they were and as they are."""
        if former is not None:
            for url in former.urls:
                del self.urls[url.url_id]
        if now is not None:
            for url in now.urls:
                self.urls[url.url_id] = FunctionUrl(FunctionRef(now.account, self.region, now.name, url.qualifier), url)

    def named(self, ref: FunctionRef) -> Function | None:
        """The function that is meant, if it has such a version or alias, in whatever state."""
        function = self._functions.get((ref.account, ref.name))
        qualifier = ref.qualifier or LATEST
        return function if function is not None and (qualifier in function.versions or qualifier in function.aliases) else None

    def resolve(self, ref: FunctionRef) -> tuple[Version, bool]:
        """The version to run and whether the choice was drawn by weight (and must be drawn again next time).

        Raises ResourceNotFound with AWS's text, ResourceConflict while the function is Pending or Failed, InvalidRuntime when it is so because
        of its runtime.
        """
        function = self._functions.get((ref.account, ref.name))
        qualifier = ref.qualifier or LATEST
        if function is not None:
            alias = function.aliases.get(qualifier)
            drawn = alias is not None and bool(alias.weights)
            chosen = alias.choose(self._draw() if drawn else 0.0) if alias is not None else qualifier
            version = function.versions.get(chosen)
            if version is not None:
                if version.config.state != "Active":
                    if version.config.refusal:
                        raise InvalidRuntime(version.config.refusal)
                    raise ResourceConflict(
                        "The operation cannot be performed at this time. The function is currently in the following state: "
                        + version.config.state
                    )
                if version.refusal is not None:
                    raise version.refusal
                return version, drawn
        arn = function_arn(ref.region, ref.account, ref.name, qualifier)
        raise ResourceNotFound(f"Function not found: {arn}")
