"""``lambda-engine simulate``: what people and programs read of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_cli import run_here

__all__ = ["run_here"]
Run = Callable[..., tuple[object, str, str]]


def figures(run: Run, *arguments: str) -> dict[str, Any]:
    status, out, _ = run("simulate", "--json", *arguments)
    assert status == 0
    return dict(json.loads(out))


def test_a_burst_in_words_and_numbers(run_here: Run) -> None:
    status, out, said = run_here("simulate", "--burst", "3000", "--account", "500", "--duration", "2")
    assert status == 0
    head, row = out.splitlines()
    assert head.split()[:4] == ["FUNCTION", "RAN", "COLD", "THROTTLED"]
    assert row.split()[1:4] == ["500", "500", "2500"]
    assert said.startswith("3000 arrivals, 500 ran, ")
    assert "; 2500 ConcurrentInvocationLimitExceeded" in said
    (found,) = figures(run_here, "--burst", "3000", "--reserved", "20")["functions"].values()
    assert (found["invocations"], found["throttles"]) == (20, {"ReservedFunctionConcurrentInvocationLimitExceeded": 2980})


def test_settings_change_what_is_predicted(run_here: Run) -> None:
    load = ("--rate", "20", "--seconds", "30", "--duration", "0.3")
    plain = next(iter(figures(run_here, *load)["functions"].values()))
    assert figures(run_here, *load)["functions"] == {"f": plain}, "the same load every time"
    assert figures(run_here, *load, "--seed", "2")["functions"] != {"f": plain}
    provisioned = figures(run_here, *load, "--provisioned", "3")["functions"]["f"]
    assert provisioned["on_provisioned"] + provisioned["spillover"] == provisioned["invocations"]
    assert provisioned["cold_starts"] < plain["cold_starts"]
    together = figures(run_here, *load, "--per-instance", "10")["functions"]["f"]
    assert (together["peak_instances"], together["cold_starts"]) < (plain["peak_instances"], plain["cold_starts"])
    brief = figures(run_here, *load, "--keep-alive", "0.1")["functions"]["f"]
    assert brief["cold_starts"] > plain["cold_starts"]
    small = figures(run_here, *load, "--max-instances", "2")["functions"]["f"]
    assert small["peak_instances"] == 2
    assert small["waited"] > plain["waited"]
    assert figures(run_here, *load, "--memory", "1024")["functions"]["f"]["cost_usd"] > plain["cost_usd"]


def test_azures_public_traces(run_here: Run, tmp_path: Path) -> None:
    # As published: a column per minute of a day, and percentiles beside the averages.
    minutes = ",".join(map(str, range(1, 1441)))
    day = tmp_path / "invocations_per_function_md.anon.d01.csv"
    none = ",0" * 1437
    day.write_text(f"HashOwner,HashApp,HashFunction,Trigger,{minutes}\no,a,{'f' * 64},http,3,0,1{none}\no,a,{'e' * 64},queue,0,2,0{none}\n")
    times = tmp_path / "function_durations_percentiles.anon.d01.csv"
    head = "HashOwner,HashApp,HashFunction,Average,Count,Minimum,Maximum,percentile_Average_0,percentile_Average_1"
    times.write_text(f"{head}\no,a,{'f' * 64},500,4,100,900,100,110\n")
    found = figures(run_here, str(day), "--format", "azure2019", "--durations", str(times), "--duration", "2")
    assert found["arrivals"] == 6
    assert sorted(round(f["busy_s"], 6) for f in found["functions"].values()) == [2.0, 4.0]
    newer = tmp_path / "AzureFunctionsInvocationTraceForTwoWeeksJan2021.txt"
    newer.write_text("app,func,end_timestamp,duration\n" + "".join(f"{'a' * 64},{'b' * 64},{10 + n},0.5\n" for n in range(9)))
    assert figures(run_here, str(newer), "--format", "azure2021")["arrivals"] == 9
    assert figures(run_here, str(newer), "--format", "azure2021", "--limit", "4")["arrivals"] == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--format", "xml"), "--format is one of csv, azure2019, azure2021, not xml"),
        (("/nonexistent",), "No such file"),
        (("--provisioned", "6", "--account", "5"), "need more than --account 5"),
    ],
)
def test_what_cannot_be_simulated_is_said(run_here: Run, arguments: tuple[str, ...], words: str) -> None:
    status, out, said = run_here("simulate", *arguments)
    assert (status, out) == (2, "")
    assert words in said
