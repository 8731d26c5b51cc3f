"""The metrics page: both formats parse, figures arrive, labels stay bounded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from engine.core.stats import BOUNDS as SUPERVISOR_BOUNDS
from engine.core.stats import FunctionStats
from engine.telemetry.metrics import MAX_ERROR_TYPES, MAX_INSTANCES, OTHER, render
from engine.telemetry.processes import ProcessSample, sample

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
BOUNDS = [0.001, 0.1, 900.0]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def function(name: str, account: str = "000000000000", **changes: Any) -> dict[str, Any]:
    none = [[0] * (len(BOUNDS) + 1), 0.0]
    counted = {
        "invocations": {"success": 3, "error": 0, "timeout": 0},
        "errors": {"Runtime.ExitError": 1},
        "throttles": {"ConcurrentInvocationLimitExceeded": 1},
        "cold_starts": {"pool": 1},
        "phases": {"queue": none, "init": none, "invoke": [[1, 1, 0, 1], 5000.0302], "overhead": none},
    }
    live = {"instances": {"idle": 2, "busy": 1}, "concurrent": 1, "memory": [["i-1", 1000], ["i-2", 2000]]}
    return {"account": account, "name": name, **counted, **live, **changes}


def snapshot(*functions: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": "0.1.0",
        "uptime_s": 12.5,
        "level": "full",
        "ready": True,
        "bounds": BOUNDS,
        "functions": list(functions),
        "account": {"concurrent": 4, "limit": 1000},
        "pool": {"python3.12": {"ready": 7, "making": 1}},
        "processes": {},
    }


def scrape(stats: dict[str, Any], accept: str = OPENMETRICS, processes: list[ProcessSample] | None = None, **options: Any) -> Samples:
    body, content_type = render(stats, processes or [], accept, **options)
    assert content_type.startswith("application/openmetrics-text" if accept == OPENMETRICS else "text/plain")
    families = (parse_openmetrics if accept == OPENMETRICS else parse_text)(body.decode())
    found: Samples = {}
    for family in families:
        for line in family.samples:
            key = (line.name, tuple(sorted(line.labels.items())))
            assert key not in found, key
            found[key] = line.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    return found[f"lambda_engine_{name}", tuple(sorted(labels.items()))]


@pytest.mark.parametrize("accept", [OPENMETRICS, "text/plain;version=0.0.4", ""])
def test_figures_of_a_function_in_either_format(accept: str) -> None:
    found = scrape(snapshot(function("f", recursions=2)), accept)
    assert value(found, "recursive_invocations_dropped_total", function="f") == 2
    assert value(found, "invocations_total", function="f", outcome="success") == 3
    assert value(found, "invocations_total", function="f", outcome="timeout") == 0
    assert value(found, "errors_total", function="f", error_type="Runtime.ExitError") == 1
    assert value(found, "throttles_total", function="f", reason="ConcurrentInvocationLimitExceeded") == 1
    assert value(found, "cold_starts_total", function="f", kind="pool") == 1
    assert value(found, "instances", function="f", state="idle") == 2
    assert value(found, "concurrent_executions", function="f") == 1
    assert value(found, "instance_memory_bytes", function="f", instance="i-2") == 2000
    assert value(found, "account_concurrent_executions") == 4
    assert value(found, "account_concurrency_limit") == 1000
    assert value(found, "pool_sandboxes", zygote="python3.12", state="ready") == 7
    assert value(found, "uptime_seconds") == 12.5
    assert value(found, "ready") == 1
    assert value(found, "build_info", version="0.1.0", level="full") == 1


def test_histograms_are_cumulative() -> None:
    found = scrape(snapshot(function("f")))
    labels = {"function": "f", "phase": "invoke"}
    assert value(found, "duration_seconds_bucket", le="0.001", **labels) == 1
    assert value(found, "duration_seconds_bucket", le="0.1", **labels) == 2
    assert value(found, "duration_seconds_bucket", le="900.0", **labels) == 2
    assert value(found, "duration_seconds_bucket", le="+Inf", **labels) == 3
    assert value(found, "duration_seconds_count", **labels) == 3
    assert value(found, "duration_seconds_sum", **labels) == pytest.approx(5000.0302)
    assert {dict(labels).get("phase") for name, labels in found if "duration_seconds" in name} == {"invoke"}


def test_functions_beyond_the_cap_are_added_up() -> None:
    found = scrape(snapshot(*(function(f"f{n}") for n in range(5))), max_functions=2)
    named = {dict(labels)["function"] for (name, labels) in found if name == "lambda_engine_invocations_total"}
    assert named == {"f0", "f1", OTHER}
    assert value(found, "invocations_total", function=OTHER, outcome="success") == 9
    assert value(found, "duration_seconds_bucket", function=OTHER, phase="invoke", le="+Inf") == 9
    assert value(found, "instance_memory_bytes", function=OTHER, instance=OTHER) == 9000
    assert value(found, "concurrent_executions", function=OTHER) == 3


def test_a_merged_function_may_have_phases_another_lacks() -> None:
    found = scrape(snapshot(function("a"), function("b", phases={}), function("c")), max_functions=1)
    assert value(found, "duration_seconds_count", function=OTHER, phase="invoke") == 3


def test_error_types_beyond_the_cap_are_added_up() -> None:
    errors = {OTHER: 5, **{f"E{n}": 1 for n in range(MAX_ERROR_TYPES + 3)}}
    found = scrape(snapshot(function("f", errors=errors)))
    counted = [v for (name, _), v in found.items() if name == "lambda_engine_errors_total"]
    assert len(counted) == MAX_ERROR_TYPES + 1
    assert sum(counted) == sum(errors.values())
    assert value(found, "errors_total", function="f", error_type=OTHER) == 8


def test_instances_beyond_the_cap_are_added_up() -> None:
    memory = [[f"i-{n}", 1] for n in range(MAX_INSTANCES + 10)]
    found = scrape(snapshot(function("f", memory=memory), function("g")))
    assert value(found, "instance_memory_bytes", function="f", instance=OTHER) == 10
    assert value(found, "instance_memory_bytes", function="g", instance=OTHER) == 3000
    assert sum(name == "lambda_engine_instance_memory_bytes" for name, _ in found) == MAX_INSTANCES + 2


def test_another_account_s_function_of_the_same_name_is_told_apart() -> None:
    found = scrape(snapshot(function("f"), function("f", account="111111111111")))
    assert value(found, "concurrent_executions", function="f") == 1
    assert value(found, "concurrent_executions", function="111111111111:f") == 1
    found = scrape(snapshot(function("f", account="111111111111")), default_account="111111111111")
    assert value(found, "concurrent_executions", function="f") == 1


def test_names_need_escaping() -> None:
    found = scrape(snapshot(function("f", errors={'a"b\\c\nd': 2})))
    assert value(found, "errors_total", function="f", error_type='a"b\\c\nd') == 2


def test_the_asynchronous_queue_shows_when_known() -> None:
    assert not any("async" in name for name, _ in scrape(snapshot()))
    found = scrape({**snapshot(), "async": {"depth": 3, "oldest_age_s": 1.5, "received": {("000000000000", "f"): 4, ("111111111111", "f"): 5}}})
    assert value(found, "async_queue_depth") == 3
    assert value(found, "async_queue_age_seconds") == 1.5
    assert value(found, "async_events_received_total", function="f") == 4
    assert value(found, "async_events_received_total", function="111111111111:f") == 5


def test_provisioned_concurrency_by_configuration() -> None:
    def shown(qualifier: str, available: int, in_use: int) -> dict[str, Any]:
        counts = {"requested": 4, "allocated": available, "available": available, "in_use": in_use}
        return {"account": "000000000000", "name": "f", "qualifier": qualifier, "status": "READY", "reason": None, **counts}

    used = function("f", provisioned={"provisioned": 7, "spillover": 2}, provisioned_in_use=3)
    stats = {**snapshot(used), "provisioned": [shown("live", 4, 3), shown("2", 0, 0), shown("3", 1, 2)]}
    stats["account"] |= {"unreserved": 2, "claimed": 12}
    found = scrape(stats)
    for state, number in (("requested", 4), ("allocated", 4), ("available", 4)):
        assert value(found, "provisioned_concurrency", function="f", qualifier="live", state=state) == number
    # More may be in use than are asked for any more.
    for qualifier, share in (("live", 0.75), ("2", 0.0), ("3", 1.0)):
        assert value(found, "provisioned_concurrency_utilization", function="f", qualifier=qualifier) == share
    assert value(found, "provisioned_concurrent_executions", function="f") == 3
    for kind, number in (("provisioned", 7), ("spillover", 2)):
        assert value(found, "provisioned_concurrency_invocations_total", function="f", kind=kind) == number
    assert value(found, "account_unreserved_concurrent_executions") == 2
    assert value(found, "account_claimed_concurrency") == 12


def test_a_supervisor_that_says_nothing_still_renders() -> None:
    found = scrape({})
    assert value(found, "ready") == 0


def test_process_figures_by_role() -> None:
    samples = sample({"control": os.getpid()})
    found = scrape(snapshot(), processes=samples)
    assert value(found, "process_resident_memory_bytes", role="control") > 1_000_000
    assert value(found, "process_cpu_seconds_total", role="control") > 0
    assert value(found, "process_open_fds", role="control") > 2
    assert value(found, "process_threads", role="control") >= 1
    assert value(found, "process_start_time_seconds", role="control") > 1_500_000_000


def test_a_figure_that_cannot_be_read_is_left_out() -> None:
    found = scrape(snapshot(), processes=[ProcessSample("broker", 1, 5, None, None, 1, None)])
    assert value(found, "process_resident_memory_bytes", role="broker") == 5
    assert not any(name == "lambda_engine_process_open_fds" for name, _ in found)


def test_a_process_that_is_gone_is_left_out() -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert sample({"gone": done.pid}) == []


def test_every_family_has_help_and_the_prefix() -> None:
    body, _ = render(snapshot(function("f")), sample({"x": os.getpid()}), "")
    names = re.findall(r"^# TYPE (\S+)", body.decode(), re.MULTILINE)
    assert len(names) > 15
    assert all(name.startswith("lambda_engine_") for name in names)
    assert all(re.search(rf"^# HELP {name} \S", body.decode(), re.MULTILINE) for name in names)


def test_the_supervisor_s_own_counters_render() -> None:
    stats = FunctionStats()
    stats.count_error("Runtime.ExitError")
    stats.invoke.observe(0.02)
    given = {"account": "000000000000", "name": "f", **stats.snapshot()}
    found = scrape({**snapshot(given), "bounds": list(SUPERVISOR_BOUNDS)})
    assert value(found, "errors_total", function="f", error_type="Runtime.ExitError") == 1
    assert value(found, "duration_seconds_bucket", function="f", phase="invoke", le="+Inf") == 1
