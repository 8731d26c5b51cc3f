"""What the supervisor says of itself: readiness, the state dump, the numbers behind /metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine import __version__
from engine.clock import Clock
from engine.core.pool import VersionPool
from engine.core.stats import BOUNDS
from engine.sandbox.api import SandboxReport
from engine.supervisor import imports
from engine.supervisor.catalogue import Catalogue, Function, Version
from engine.supervisor.holders import HolderPool
from engine.supervisor.instance import Instance
from engine.supervisor.invoker import Invoker


class Status:
    """Reads live state; changes nothing but ``draining``."""

    def __init__(
        self,
        *,
        clock: Clock,
        started_s: float,
        catalogue: Catalogue,
        invoker: Invoker,
        holders: HolderPool,
        report: SandboxReport,
        pids: Callable[[], dict[str, int]],
    ) -> None:
        self.report = report
        self.draining = False
        self._clock = clock
        self._started_s = started_s
        self._catalogue = catalogue
        self._invoker = invoker
        self._holders = holders
        self._pids = pids
        self._seen_sandbox = False

    def not_ready(self) -> list[str]:
        """Why the engine should not get traffic; empty when it should."""
        reasons = []
        if self.draining:
            reasons.append("draining")
        if not self._catalogue.loaded:
            reasons.append("the catalogue is not loaded yet")
        else:
            reasons += self._invoker.provisioner.pending()
        self._seen_sandbox = self._seen_sandbox or self._holders.ready_anywhere()
        if not self._seen_sandbox:
            failures = self._holders.failures()
            reasons.append(f"no sandbox is ready{': ' + str(failures) if failures else ''}")
        return reasons

    def stats(self) -> dict[str, Any]:
        """The map that the metrics page renders."""
        by_function: dict[int, list[Instance]] = {}
        for instance in self._invoker.instances:
            by_function.setdefault(id(instance.version.function), []).append(instance)
        accounts = self._catalogue.accounts().values()
        concurrent = 0
        functions = []
        for account, function in self._catalogue.functions():
            concurrent += function.quota.concurrent
            functions.append(self._function(account, function, by_function.get(id(function), [])))
        return {
            "version": __version__,
            "uptime_s": self._clock.monotonic() - self._started_s,
            "level": self.report.level,
            "ready": not self.not_ready(),
            "bounds": list(BOUNDS),
            "functions": functions,
            "account": {
                "concurrent": concurrent,
                "limit": max((a.limit for a in accounts), default=0),
                "unreserved": sum(a.unreserved_in_flight for a in accounts),
                "claimed": sum(a.claimed for a in accounts),
            },
            "provisioned": self._invoker.provisioner.figures(),
            "pool": self._holders.counts(),
            "processes": {**self._pids(), **{f"zygote {k}": p for k, p in self._holders.zygote_pids().items()}},
        }

    def _function(self, account: str, function: Function, instances: list[Instance]) -> dict[str, Any]:
        states: dict[str, int] = {}
        for instance in instances:
            states[instance.state] = states.get(instance.state, 0) + 1
        now_ms = self._clock.epoch_ms()
        memory = []
        for instance in instances:
            instance.peak_memory_mib(now_ms)
            instance.read_cpu()
            memory.append([instance.stream[-32:], instance.memory_bytes])
        return {
            "account": account,
            "name": function.name,
            **function.stats.snapshot(),
            "instances": states,
            "concurrent": function.quota.concurrent,
            "provisioned_in_use": function.quota.provisioned_in_flight,
            "memory": memory,
        }

    def cold_starts(self) -> list[dict[str, Any]]:
        """What functions import, and what that costs them."""
        found = [imports.figures(a, v) for a, f in self._catalogue.functions() for v in f.versions.values()]
        return [f for f in found if f is not None]

    def state(self) -> dict[str, Any]:
        """Everything at one glance, for people and tests; no secrets, no payloads."""
        now_s = self._clock.monotonic()
        return {
            "version": __version__,
            "ready": not self.not_ready(),
            "not_ready": self.not_ready(),
            "uptime_s": now_s - self._started_s,
            "sandbox": {
                "level": self.report.level,
                "asked": self.report.asked,
                "network": self.report.network,
                "mechanisms": self.report.mechanisms,
                "advice": list(self.report.advice),
            },
            "in_flight": self._invoker.in_flight,
            "provisioned": self._invoker.provisioner.figures(),
            "templates": self._invoker.standing.templates.figures(),
            "pool": self._holders.counts(),
            "pool_failures": self._holders.failures(),
            "processes": {**self._pids(), **{f"zygote {k}": p for k, p in self._holders.zygote_pids().items()}},
            "functions": [
                {
                    "account": account,
                    "name": f.name,
                    "in_flight": f.quota.concurrent,
                    "reserved": f.quota.reserved,
                    "provisioned": f.quota.provisioned,
                    "versions": {v.config.version: _version(v) for v in f.versions.values()},
                }
                for account, f in self._catalogue.functions()
            ],
            "instances": [_instance(i, now_s) for i in self._invoker.instances],
        }


def _version(v: Version) -> dict[str, Any]:
    """A version with its pool; one that keeps its tenants apart with the pools of all, and that of each."""
    tenants = v.tenants or {}
    pools = [v.pool, *(t.pool for t in tenants.values())]
    whose = {} if v.tenants is None else {"tenants": {name: _pooled([t.pool]) for name, t in tenants.items()}}
    return {
        "state": v.config.state,
        "generation": v.config.generation,
        **_pooled(pools),
        "provisioned": None if v.provisioned is None else v.provisioned.have().ready,
        **whose,
    }


def _pooled(pools: Sequence[VersionPool[Any, Any]]) -> dict[str, int]:
    return {
        "idle": sum(p.idle_count for p in pools),
        "busy": sum(len(p.busy) for p in pools),
        "starting": sum(len(p.starting) for p in pools),
        "waiting": sum(len(p.waiting) for p in pools),
    }


def _instance(i: Instance, now_s: float) -> dict[str, Any]:
    if not i.cpu_s:
        i.read_cpu()
    return {
        "id": i.stream[-32:],
        "function": i.version.function.name,
        "version": i.version.config.version,
        **({} if i.version.tenant is None else {"tenant": i.version.tenant}),
        "state": i.state,
        "kind": i.kind,
        "pid": i.pid,
        "age_s": now_s - i.born_s,
        "sandbox_ms": None if i.init_started_s is None else (i.init_started_s - i.born_s) * 1000,
        "init_ms": None if i.init_took_s is None else i.init_took_s * 1000,
        "invocations": i.invocations,
        "running": len(i.crew) if i.crew is not None else int(i.state == "busy"),
        "limit": i.version.limit if i.crew is not None else 1,
        "memory_bytes": i.memory_bytes,
        "cpu_s": i.cpu_s,
        "frozen": i.frozen,
    }
