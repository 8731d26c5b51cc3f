"""The supervisor's figures as Prometheus metrics.

Nothing is counted here: the supervisor counts, its snapshot (the stats map of the control link) is turned into metric families at
every scrape, by a collector of its own rather than global metric objects, so that a restart of the control plane resets nothing.
Labels are bounded: functions beyond ``MAX_FUNCTIONS`` are added up as ``__other__``, as are error types beyond
``MAX_ERROR_TYPES`` per function and instances beyond ``MAX_INSTANCES`` in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from engine.telemetry.processes import ProcessSample

PREFIX = "lambda_engine"
OTHER = "__other__"
MAX_FUNCTIONS = 1000
MAX_API_SERIES = 1000
MAX_ERROR_TYPES = 20
MAX_INSTANCES = 2000
DEFAULT_ACCOUNT = "000000000000"

Stats = Mapping[str, Any]


def render(
    stats: Stats,
    processes: Sequence[ProcessSample],
    accept: str,
    *,
    default_account: str = DEFAULT_ACCOUNT,
    max_functions: int = MAX_FUNCTIONS,
) -> tuple[bytes, str]:
    """(body, content type) of a scrape: OpenMetrics when ``accept`` asks for it, else the text format.

    ``stats`` is the supervisor's stats map; the control plane may add ``"async": {"depth": int, "oldest_age_s": float, "dropped":
    int, "received": {(account, function): int}, "undelivered": {"destination": int, "dead_letter": int}}`` about its queue. ``processes`` come from ``engine.telemetry.processes.sample``. A function of another account than
    ``default_account`` is labelled ``<account>:<name>``.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(stats, processes, default_account, max_functions))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Snapshot(Collector):
    """One scrape's metric families."""

    def __init__(self, stats: Stats, processes: Sequence[ProcessSample], default_account: str, max_functions: int) -> None:
        self._stats = stats
        self._processes = processes
        self._default_account = default_account
        self._functions = _bounded(stats.get("functions", ()), default_account, max_functions)

    def collect(self) -> Iterable[Metric]:
        yield from self._engine()
        yield from self._counters()
        yield self._cpu()
        yield self._recursions()
        yield self._durations()
        yield from self._instances()
        yield from self._provisioned()
        yield from self._pool()
        yield from self._queue()
        yield from self._event_sources()
        yield from self._apis()
        yield from self._process_figures()

    def _engine(self) -> Iterator[Metric]:
        stats = self._stats
        info = {"version": str(stats.get("version", "")), "level": str(stats.get("level", ""))}
        yield InfoMetricFamily(f"{PREFIX}_build", "Version and isolation level of the engine.", value=info)
        yield _gauge("ready", "1 when the supervisor takes invocations.", float(bool(stats.get("ready"))))
        yield _gauge("uptime_seconds", "Seconds since the supervisor started.", float(stats.get("uptime_s", 0.0)))
        account = stats.get("account", {})
        yield _gauge("account_concurrent_executions", "Invocations running now (ConcurrentExecutions).", account.get("concurrent", 0))
        yield _gauge("account_concurrency_limit", "Concurrent executions the account may have.", account.get("limit", 0))
        yield _gauge(
            "account_unreserved_concurrent_executions",
            "Invocations running now of functions without a reservation (UnreservedConcurrentExecutions).",
            account.get("unreserved", 0),
        )
        yield _gauge(
            "account_claimed_concurrency",
            "Reserved, provisioned, and unreserved in use (ClaimedAccountConcurrency).",
            account.get("claimed", 0),
        )

    def _counters(self) -> Iterator[Metric]:
        families = (
            ("invocations", "invocations", "outcome", "Invocations that ran, by outcome: success, error or timeout."),
            ("errors", "errors", "error_type", "Failed invocations by error type (Errors)."),
            ("throttles", "throttles", "reason", "Invocations refused with 429, by reason (Throttles)."),
            ("cold_starts", "cold_starts", "kind", "Instances initialised, by kind of start."),
            (
                "url_requests",
                "urls",
                "status",
                "Requests to function URLs by class of status (UrlRequestCount, Url4xxCount, Url5xxCount).",
            ),
            (
                "provisioned_concurrency_invocations",
                "provisioned",
                "kind",
                "Invocations of versions with provisioned concurrency: provisioned (ProvisionedConcurrencyInvocations), "
                "or on demand because it was all in use: spillover (ProvisionedConcurrencySpilloverInvocations).",
            ),
        )
        for name, key, label, text in families:
            family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=("function", label))
            for function, figures in self._functions.items():
                for value, count in figures[key].items():
                    family.add_metric((function, value), count)
            yield family

    def _recursions(self) -> Metric:
        family = CounterMetricFamily(
            f"{PREFIX}_recursive_invocations_dropped",
            "Invocations stopped because they would have gone on with a loop (RecursiveInvocationsDropped).",
            labels=("function",),
        )
        for function, figures in self._functions.items():
            family.add_metric((function,), figures["recursions"])
        return family

    def _cpu(self) -> Metric:
        family = CounterMetricFamily(
            f"{PREFIX}_function_cpu_seconds", "CPU time of the function's instances, where a control group counts it.", labels=("function",)
        )
        for function, figures in self._functions.items():
            family.add_metric((function,), figures["cpu_s"])
        return family

    def _durations(self) -> Metric:
        bounds = [repr(float(bound)) for bound in self._stats.get("bounds", ())]
        family = HistogramMetricFamily(
            f"{PREFIX}_duration_seconds",
            "Time per invocation in each phase: queue (waiting for an instance), init, invoke (the handler), overhead.",
            labels=("function", "phase"),
        )
        for function, figures in self._functions.items():
            for phase, (counts, total) in figures["phases"].items():
                if not any(counts):  # twenty lines of zeros for each phase of each idle function would be most of the page
                    continue
                family.add_metric((function, phase), _cumulative(bounds, counts), total)
        return family

    def _instances(self) -> Iterator[Metric]:
        states = GaugeMetricFamily(f"{PREFIX}_instances", "Instances by state.", labels=("function", "state"))
        running = GaugeMetricFamily(f"{PREFIX}_concurrent_executions", "Invocations of the function running now.", labels=("function",))
        memory = GaugeMetricFamily(f"{PREFIX}_instance_memory_bytes", "Memory of an instance.", labels=("function", "instance"))
        left = MAX_INSTANCES
        for function, figures in self._functions.items():
            for state, count in figures["instances"].items():
                states.add_metric((function, state), count)
            running.add_metric((function,), figures["concurrent"])
            shown, rest = figures["memory"][:left], figures["memory"][left:]
            left -= len(shown)
            for instance, size in shown:
                memory.add_metric((function, str(instance)), size)
            if rest:
                memory.add_metric((function, OTHER), sum(size for _, size in rest))
        yield from (states, running, memory)

    def _label(self, account: str, name: str) -> str:
        return name if account == self._default_account else f"{account}:{name}"

    def _provisioned(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            f"{PREFIX}_provisioned_concurrency",
            "Provisioned instances by configuration: requested, allocated (initialised), available (serving).",
            labels=("function", "qualifier", "state"),
        )
        utilization = GaugeMetricFamily(
            f"{PREFIX}_provisioned_concurrency_utilization",
            "Share of a configuration's available instances that is in use, from 0 to 1 (ProvisionedConcurrencyUtilization).",
            labels=("function", "qualifier"),
        )
        for given in list(self._stats.get("provisioned", ()))[:MAX_FUNCTIONS]:
            account, name = str(given["account"]), str(given["name"])
            label = self._label(account, name)
            for state in ("requested", "allocated", "available"):
                family.add_metric((label, str(given["qualifier"]), state), given[state])
            used = given["in_use"] / given["available"] if given["available"] else 0.0
            utilization.add_metric((label, str(given["qualifier"])), min(1.0, used))
        running = GaugeMetricFamily(
            f"{PREFIX}_provisioned_concurrent_executions",
            "Provisioned instances in use (ProvisionedConcurrentExecutions).",
            labels=("function",),
        )
        for function, figures in self._functions.items():
            if figures["provisioned_in_use"] or any(figures["provisioned"].values()):
                running.add_metric((function,), figures["provisioned_in_use"])
        yield from (family, utilization, running)

    def _pool(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            f"{PREFIX}_pool_sandboxes", "Prepared empty sandboxes by zygote: ready, or being made.", labels=("zygote", "state")
        )
        for zygote, figures in self._stats.get("pool", {}).items():
            for state in ("ready", "making"):
                family.add_metric((str(zygote), state), figures.get(state, 0))
        yield family

    def _queue(self) -> Iterator[Metric]:
        queue = self._stats.get("async")
        if queue is None:
            return
        yield _gauge("async_queue_depth", "Accepted asynchronous events not yet settled.", queue.get("depth", 0))
        yield _gauge(
            "async_queue_age_seconds",
            "Age of the oldest asynchronous event waiting (AsyncEventAge).",
            queue.get("oldest_age_s", 0.0),
        )
        received = CounterMetricFamily(
            f"{PREFIX}_async_events_received", "Asynchronous events taken to be run later (AsyncEventsReceived).", labels=("function",)
        )
        counts: dict[str, int] = {}
        for (account, name), count in queue.get("received", {}).items():
            label = self._label(account, name) if len(counts) < MAX_FUNCTIONS else OTHER
            counts[label] = counts.get(label, 0) + count
        for label, count in counts.items():
            received.add_metric((label,), count)
        yield received
        dropped = CounterMetricFamily(f"{PREFIX}_async_events_dropped", "Asynchronous events given up (AsyncEventsDropped).")
        dropped.add_metric((), queue.get("dropped", 0))
        yield dropped
        undelivered = CounterMetricFamily(
            f"{PREFIX}_async_undelivered",
            "Ended events that a destination or dead-letter queue was not told of (DestinationDeliveryFailures, DeadLetterErrors).",
            labels=("target",),
        )
        for target in ("destination", "dead_letter"):
            undelivered.add_metric((target,), queue.get("undelivered", {}).get(target, 0))
        yield undelivered

    def _event_sources(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            f"{PREFIX}_event_source_events",
            "Events of event source mappings by what became of them, under the names of AWS's metrics.",
            labels=("mapping", "kind"),
        )
        for mapping, counts in list(self._stats.get("event_sources", {}).items())[:MAX_FUNCTIONS]:
            for kind, count in counts.items():
                family.add_metric((mapping, kind), count)
        yield family
        ages = GaugeMetricFamily(
            f"{PREFIX}_event_source_iterator_age_seconds",
            "Age of the last record of the batch that was sent last (IteratorAge); 0 when all that was read is done with.",
            labels=("mapping",),
        )
        for mapping, age_ms in list(self._stats.get("iterator_ages_ms", {}).items())[:MAX_FUNCTIONS]:
            ages.add_metric((mapping,), age_ms / 1000)
        yield ages
        lags = GaugeMetricFamily(
            f"{PREFIX}_event_source_offset_lag", "Records of a topic behind those that were read (OffsetLag).", labels=("mapping",)
        )
        for mapping, lag in list(self._stats.get("offset_lags", {}).items())[:MAX_FUNCTIONS]:
            lags.add_metric((mapping,), lag)
        yield lags

    def _apis(self) -> Iterator[Metric]:
        figures = self._stats.get("gateway", {})
        requests = CounterMetricFamily(
            f"{PREFIX}_api_requests",
            "Requests to APIs by class of status (Count, 4XXError, 5XXError), handshakes of WebSocket APIs among them.",
            labels=("api", "stage", "status"),
        )
        for api, stage, status, count in list(figures.get("requests", ()))[:MAX_API_SERIES]:
            requests.add_metric((str(api), str(stage), str(status)), count)
        connections = GaugeMetricFamily(f"{PREFIX}_websocket_connections", "Open connections of WebSocket APIs.", labels=("api",))
        for api, count in list(figures.get("connections", {}).items())[:MAX_API_SERIES]:
            connections.add_metric((str(api),), count)
        yield from (requests, connections)

    def _process_figures(self) -> Iterator[Metric]:
        figures = (
            ("resident_memory_bytes", "Resident memory of an engine process.", GaugeMetricFamily, "rss_bytes"),
            ("cpu_seconds", "Processor time of an engine process, user and system.", CounterMetricFamily, "cpu_s"),
            ("open_fds", "Open file descriptors of an engine process.", GaugeMetricFamily, "fds"),
            ("threads", "Threads of an engine process.", GaugeMetricFamily, "threads"),
            ("start_time_seconds", "Start of an engine process, epoch seconds.", GaugeMetricFamily, "started_epoch_s"),
        )
        for name, text, kind, attribute in figures:
            family = kind(f"{PREFIX}_process_{name}", text, labels=("role",))
            for sample in self._processes:
                value = getattr(sample, attribute)
                if value is not None:
                    family.add_metric((sample.role,), value)
            yield family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _cumulative(bounds: Sequence[str], counts: Sequence[float]) -> list[tuple[str, float]]:
    """Prometheus buckets hold everything up to their bound; the snapshot's hold what fell between two bounds."""
    running = 0.0
    buckets = []
    for bound, count in zip((*bounds, "+Inf"), counts, strict=True):
        running += count
        buckets.append((bound, running))
    return buckets


def _bounded(functions: Iterable[Mapping[str, Any]], default_account: str, limit: int) -> dict[str, dict[str, Any]]:
    """Figures by function label. The first ``limit`` functions of the snapshot, whose order is the catalogue's, keep their own
    label, so that which ones do does not change with the traffic.
    """
    bounded: dict[str, dict[str, Any]] = {}
    for given in functions:
        account, name = str(given.get("account", default_account)), str(given["name"])
        label = name if account == default_account else f"{account}:{name}"
        if len(bounded) >= limit:
            label = OTHER
        figures = _figures(given)
        bounded[label] = _sum(bounded[label], figures) if label in bounded else figures
    return bounded


def _figures(given: Mapping[str, Any]) -> dict[str, Any]:
    errors = dict(given.get("errors", {}))
    if len(errors) > MAX_ERROR_TYPES:
        total = sum(errors.values())
        errors = dict([item for item in errors.items() if item[0] != OTHER][:MAX_ERROR_TYPES])
        errors[OTHER] = total - sum(errors.values())
    return {
        "invocations": dict(given.get("invocations", {})),
        "errors": errors,
        "throttles": dict(given.get("throttles", {})),
        "cold_starts": dict(given.get("cold_starts", {})),
        "urls": dict(given.get("urls", {})),
        "phases": {phase: (list(counts), total) for phase, (counts, total) in given.get("phases", {}).items()},
        "instances": dict(given.get("instances", {})),
        "provisioned": dict(given.get("provisioned", {})),
        "concurrent": given.get("concurrent", 0),
        "cpu_s": given.get("cpu_s", 0.0),
        "recursions": given.get("recursions", 0),
        "provisioned_in_use": given.get("provisioned_in_use", 0),
        "memory": list(given.get("memory", ())),
    }


def _sum(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    keys = ("invocations", "errors", "throttles", "cold_starts", "urls", "provisioned", "instances")
    total: dict[str, Any] = {key: _sum_counts(one[key], two[key]) for key in keys}
    phases = dict(one["phases"])
    for phase, (counts, seconds) in two["phases"].items():
        if phase in phases:
            mine, my_seconds = phases[phase]
            phases[phase] = ([a + b for a, b in zip(mine, counts, strict=True)], my_seconds + seconds)
        else:
            phases[phase] = (counts, seconds)
    total["phases"] = phases
    for key in ("concurrent", "cpu_s", "provisioned_in_use", "recursions"):
        total[key] = one[key] + two[key]
    total["memory"] = [(OTHER, sum(size for _, size in (*one["memory"], *two["memory"])))]
    return total


def _sum_counts(one: dict[str, float], two: dict[str, float]) -> dict[str, float]:
    return {key: one.get(key, 0) + two.get(key, 0) for key in {**one, **two}}
