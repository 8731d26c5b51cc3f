"""The measuring tools themselves: a wrong ruler makes every figure wrong."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bench.rows import Latencies, Row, row
from bench.scenarios import layers
from engine.wire import messages as m
from tests.framework import host
from tests.framework.frame_server import FrameServer


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stall_s: ClassVar[float] = 0.0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        stall, type(self).stall_s = self.stall_s, 0.0
        time.sleep(stall)
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture(scope="module")
def limit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    host.require("no C compiler")
    from bench import native

    return native.build(tmp_path_factory.mktemp("native"))


def test_histograms_keep_three_digits() -> None:

    seen = Latencies(range(1000, 1_001_000, 1000))
    assert len(seen) == 1000
    assert seen.us(50) == pytest.approx(500, rel=0.002)
    assert seen.us(100) == pytest.approx(1000, rel=0.002)
    assert Latencies().us(99) == 0.0
    percentiles, values = zip(*seen.curve(), strict=True)
    assert percentiles[-1] == 100
    assert list(values) == sorted(values)


def test_http_answers_are_found_whole_or_not_at_all() -> None:
    from bench import http1

    answer = b"HTTP/1.1 201 Created\r\nA: b\r\nCONTENT-LENGTH:  3\r\n\r\nabc"
    for cut in range(len(answer)):
        assert http1.find(b"xx" + answer[:cut], 2) is None
    assert http1.find(b"xx" + answer + b"HTTP/1.1", 2) == (len(answer), 201, len(answer) + 2 - 3)
    with pytest.raises(ValueError, match="without Content-Length"):
        http1.find(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 0)


def test_generated_signatures_are_those_of_botocore() -> None:
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    from bench.signing import Signer, signed_source

    body, path = b'{"a":1}', "/2015-03-31/functions/echo/invocations"
    mine = Signer("AKID", "secret", "us-east-1", "127.0.0.1:4566", body).headers(path, time.time())
    request = AWSRequest("POST", f"http://127.0.0.1:4566{path}", data=body, headers={"X-Amz-Content-SHA256": mine["X-Amz-Content-SHA256"]})
    SigV4Auth(Credentials("AKID", "secret"), "lambda", "us-east-1").add_auth(request)
    if request.headers["X-Amz-Date"] != mine["X-Amz-Date"]:
        mine = Signer("AKID", "secret", "us-east-1", "127.0.0.1:4566", body).headers(
            path, time.mktime(time.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ")) - time.timezone
        )
    assert mine["Authorization"] == request.headers["Authorization"]
    source = signed_source(Signer("AKID", "secret", "r", "h", body), "h", path, body, every_request=True)
    assert source(0)[0].endswith(body)


def test_a_closed_loop_counts_every_answer_and_every_error(web: str) -> None:
    from bench import http1
    from bench.loadgen import Generator, Http, Plan

    good, bad = (http1.request(web, path, b"{}") for path in ("/", "/missing"))
    outcome = Generator(Plan(web, Http(), lambda n: (bad if n % 10 == 3 else good, None), connections=3, count=50, seconds=20)).run()
    assert outcome.errors == 5
    assert len(outcome.latencies()) == 45
    assert "status 404" in outcome.first_error


def test_an_open_loop_counts_the_time_a_stalled_server_kept_others_waiting(web: str) -> None:
    from bench import http1
    from bench.loadgen import Generator, Http, Plan

    raw = http1.request(web, "/", b"{}")
    _Echo.stall_s = 0.3
    outcome = Generator(Plan(web, Http(), lambda _n: (raw, None), connections=1, rate=200, seconds=0.5)).run()
    seen = outcome.latencies()
    assert len(seen) == 100
    # The one stall of 0.3 s delayed the sixty requests that were due in it; a closed loop would have shown a single slow one.
    assert seen.us(100) > 290_000
    assert seen.us(50) > 40_000


def test_samples_are_sorted_by_what_the_answer_says(web: str) -> None:
    from bench import http1
    from bench.loadgen import Generator, Http, Plan
    from bench.scenarios.cold import only_cold

    bodies = [http1.request(web, "/", body) for body in (b"1", b"2", b'{"errorMessage": "no"}')]
    outcome = Generator(Plan(web, Http(), lambda n: (bodies[n % 3], None), count=9, check=only_cold)).run()
    assert {k: len(v) for k, v in outcome.kinds.items()} == {"cold": 3, "warm": 3, "error": 3}
    assert outcome.errors == 3


def test_frames_in_flight_are_matched_by_number(tmp_path: Path) -> None:
    from bench.loadgen import Frames, Generator, Plan

    path = str(tmp_path / "e.sock")
    request = m.encode_call(m.Call(0, "batch-4", None, 0, None, None, None, b"{}"))
    with FrameServer(path) as server:
        outcome = Generator(Plan(path, Frames(), lambda _n: (request, None), depth=4, count=40, seconds=20)).run()
        assert len(outcome.latencies()) == 40
        assert {c.call_id for c in server.calls} == {0, 1, 2, 3}
        assert server.connections == 1


def test_a_server_that_goes_away_ends_the_run(tmp_path: Path) -> None:
    from bench.loadgen import Frames, Generator, Plan

    path = str(tmp_path / "e.sock")
    request = m.encode_call(m.Call(0, "drop", None, 0, None, None, None, b"{}"))
    with FrameServer(path), pytest.raises(ConnectionError):
        Generator(Plan(path, Frames(), lambda _n: (request, None), count=5)).run()


def test_the_c_generator_measures_frames_and_http(limit: Path, web: str, tmp_path: Path) -> None:
    from bench import http1, native

    path = str(tmp_path / "e.sock")
    hello = m.pack(m.CLIENT_HELLO, m.VERSION, {"role": "client"})
    with FrameServer(path):
        request = m.encode_call(m.Call(0, "echo", None, 0, None, None, None, b"x" * 100_000))
        got = native.load(limit, "frames", path, request, preamble=hello, depth=4, count=60, status=200)
        assert (len(got.latencies), got.errors) == (60, 0)
        refused = m.encode_call(m.Call(0, "refuse", None, 0, None, None, None, b"{}"))
        assert native.load(limit, "frames", path, refused, preamble=hello, depth=2, count=10, status=200).errors == 10
    got = native.load(limit, "http", web, http1.request(web, "/missing", b"{}"), connections=2, count=20)
    assert (len(got.latencies), got.errors) == (20, 20)
    with pytest.raises(RuntimeError, match="closed a connection"):
        native.load(limit, "http", web, b"NONSENSE\r\n\r\n", count=1)


def test_the_c_generators_histogram_is_that_of_its_clock(limit: Path, web: str) -> None:
    from bench import http1, native

    _Echo.stall_s = 0.2
    got = native.load(limit, "http", web, http1.request(web, "/", b"{}"), count=20)
    assert got.latencies.us(100) == pytest.approx(200_000, rel=0.2)
    assert got.latencies.us(50) < 100_000


@pytest.mark.parametrize("python", [False, True])
def test_the_c_dispatcher_answers_each_caller_with_its_own(limit: Path, tmp_path: Path, python: bool) -> None:
    from bench import native
    from bench.loadgen import Frames, Generator, Plan

    requests = [m.encode_call(m.Call(0, "f", None, 0, None, None, None, bytes((n,)) * 3000 * n)) for n in range(8)]
    with native.dispatcher(limit, tmp_path, 3, python=python) as path:
        plan = Plan(path, Frames(echo=True), lambda n: (requests[n % 8], None), connections=4, depth=8, count=400, seconds=20)
        assert len(Generator(plan).run().latencies()) == 400


def test_results_survive_the_disk_and_become_tables_promises_and_comparisons(tmp_path: Path) -> None:
    from bench import compare, report
    from bench.rows import Latencies, from_array, load, row, save
    from bench.scenarios.limit import PYTHON_WORKER
    from bench.scenarios.warm import BINARY, HTTP

    def made(scenario: str, subject: str, us: int, **more: object) -> Row:
        values = from_array(array("q", [us * 1000] * 100))
        return row(scenario, subject, "c", generator="C", latencies=values, seconds=0.005, payload=100, in_flight=1, **more)  # type: ignore[arg-type]

    rows = [made("limit", PYTHON_WORKER, 10, bound=True), made("warm", BINARY, 25), made("warm", HTTP, 50, cpu_us=3)]
    machine = dict.fromkeys(("cpu", "cores", "kernel", "python", "revision", "when", "pinning", "load_before"), "x")
    save(tmp_path / "r.json", machine, rows)
    about, back = load(tmp_path / "r.json")
    assert about == machine
    assert [(r.subject, r.p50_us, r.rate) for r in back] == [(r.subject, r.p50_us, r.rate) for r in rows]
    assert "cpu_us=3" in report.table(rows)
    page = report.promises_page(machine, rows)
    assert re.search(r"2\.(49|50)×", page)
    assert "20,000/s (1 in flight, C) | **no** |" in page
    slower = [made("limit", PYTHON_WORKER, 20, bound=True), made("warm", BINARY, 50), made("warm", HTTP, 200)]
    changes = {c.key[1]: c for c in compare.compare(rows, slower)}
    # The machine was twice as slow: only HTTP, four times as slow, got worse.
    assert changes[BINARY].p50 == pytest.approx(1, rel=0.01)
    assert changes[HTTP].p50 == pytest.approx(2, rel=0.01)
    assert len(Latencies()) == 0


def test_the_engines_part_of_a_cold_start_is_what_it_takes_beyond_a_warm_call(web: str) -> None:
    from bench import http1
    from bench.promises import PROMISES, Results
    from bench.rows import Latencies, row
    from bench.scenarios.cold import ENGINES_PART, SUBJECT, _ask

    host, _, port = web.rpartition(":")
    with socket.create_connection((host, int(port))) as sock:
        took_ns, body = _ask(sock, http1.request(web, "/x", b"1"))
        assert (took_ns > 0, body) == (True, b"1")
        assert _ask(sock, http1.request(web, "/missing", b"1"))[1] == b""
    promise = next(p for p in PROMISES if p.text == "Engine part of a cold start")
    assert promise.measure(Results([])) is None
    for slow_ms, holds in ((1.2, True), (1.8, False)):
        samples = Latencies([int(slow_ms * 1e6)] * 20)
        got = promise.measure(Results([row("cold", SUBJECT, ENGINES_PART, generator="Python", latencies=samples, seconds=1.0)]))
        assert got is not None
        assert got.holds is holds
        assert f"p50 {slow_ms:.2f} ms" in got.text


def test_every_scenario_and_promise_is_described() -> None:
    from bench.promises import PROMISES
    from bench.scenarios import SCENARIOS, describe

    text = describe()
    assert all(f"  {name} " in text for name in SCENARIOS)
    for promise in PROMISES:
        for name in promise.scenario.split(", "):
            assert name in SCENARIOS or promise.pending


def test_each_fence_that_the_layers_scenario_cuts_out_is_gone_in_the_copy(tmp_path: Path) -> None:
    root = layers.cut(tmp_path, tuple(layers.CUTS))
    check = """
from engine.sandbox import cgroups, kernel, levels, lockdown, nest
assert levels._landlock()[0] is False
assert kernel.filter_step(b"").name == "no filter"
assert cgroups.Groups(frozenset()).mechanisms["memory"] == "none: left out"
fences = lockdown.Fences(True, True, False, b"")
from engine.sandbox.holder import Build
print([s.name for s in nest.plan(Build(fences, False, print, 1)).furnish], levels.__file__)
"""
    done = subprocess.run([sys.executable, "-c", check], cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split("]")[0] == "['host name'", done.stderr
    assert str(root) in done.stdout
    assert layers.cut(tmp_path, ()) == Path(layers.__file__).parents[2]


def test_a_cold_start_in_a_vpc_may_cost_five_milliseconds_more() -> None:
    from bench.promises import PROMISES, Results

    promise = next(p for p in PROMISES if p.text.startswith("A cold start in a VPC"))

    def measured(inside_us: int, errors: int = 0) -> bool | None:
        rows = [
            row("layers", layer, kind, generator="", latencies=Latencies([us * 1000] * 3), seconds=1, errors=errors, cpu_ms_per_start=1)
            for kind in (layers.FROM_STOCK, layers.ON_DEMAND)
            for layer, us in ((layers.DEFAULT, 2000), (layers.VPC, inside_us))
        ]
        got = promise.measure(Results(rows))
        return got.holds if got is not None else None

    assert measured(6900) is True
    assert measured(7100) is False
    assert measured(6900, errors=1) is False


def test_a_core_keeps_its_cold_starts_when_one_core_does_whatever_all_do_with_the_generator_on_them() -> None:
    from bench.promises import PROMISES, Results
    from bench.scenarios.sustained import ALL, ALONE, TOGETHER

    promise = next(p for p in PROMISES if p.text == "Later: cold starts per core, sustained")
    assert promise.measure(Results([])) is None

    def measured(alone: int, errors: int = 0) -> Any:
        rows = [
            row("sustained", "s", case, generator="", latencies=Latencies([1000] * rate), seconds=1, errors=errors, cores=cores, not_cold=1, bare_fork_us=340)
            for case, rate, cores in ((ALONE, alone, 1), (TOGETHER, 260, 1), (ALL, 480, 2))
        ]
        return promise.measure(Results(rows))

    got = measured(280)
    assert (got.holds, "280/s a core, one core" in got.text, "240/s a core, all" in got.text, "3 warm" in got.text) == (True, True, True, True)
    assert measured(240).holds is False
    assert measured(280, errors=1).holds is False


def test_promises_about_events_are_read_from_their_rows() -> None:
    from bench.promises import PROMISES, Results

    def made(case: str, us: float = 1000, count: int = 100, **extra: Any) -> Row:
        return row("events", "engine", case, generator="C", latencies=Latencies([round(us * 1000)] * count), seconds=0.01, **extra)

    rows = [
        made("accepted while they run", engine_cpu_us=300.0),
        made("run", per_s=1900.0, per_s_alone=2100.0),
        made("a backlog", engine_cpu_us=52.0, queued=1_002_001, disk_bytes_per_event=386, growth_mib={"supervisor": 0.0, "control": 33.0}),
        made("warm calls alone", 100),
        made("warm calls beside a drain", 120),
        made("10000 messages drained beside warm calls", per_s=2900),
        made("400 calls/s alone", 100),
        made("400 calls/s beside a drain", 124),
        made("10000 messages drained beside 400 calls/s", per_s=2300),
    ]
    found = {p.text: p.measure(Results(rows)) for p in PROMISES if p.scenario == "events"}
    assert [got.holds for got in found.values() if got is not None] == [True, True, False, True, True]
    rows[4], rows[8] = made("warm calls beside a drain", 126), made("10000 messages drained beside 400 calls/s", per_s=1900)
    drained = [p.measure(Results(rows)) for p in PROMISES if p.scenario == "events"][-2:]
    assert [got.holds for got in drained if got is not None] == [False, False]
    assert all(p.measure(Results([])) is None for p in PROMISES if p.scenario == "events")


def test_a_ratio_of_p99s_tells_what_chance_may_have_made_of_it() -> None:
    from bench import alternating

    quiet = [[100] * 98 + [200, 300] for _ in range(20)]
    twice = [[value * 2 for value in turn] for turn in quiet]
    assert alternating.ratio(quiet, quiet) == (1.0, 1.0, 1.0)
    assert alternating.ratio(twice, quiet) == (2.0, 2.0, 2.0)
    # One bad turn of twenty makes the p99 of all of them, and half of the draws or so are without it.
    once = [[9000] * 100, *quiet[1:]]
    found = alternating.ratio(once, quiet)
    assert found.value == 45.0
    assert (found.low, found.high) == (1.0, 45.0)
    assert alternating.worse(once, quiet, 1.2) == 1
    assert alternating.worse(twice, quiet, 1.9) == 20
    with pytest.raises(ValueError, match="20 turns cannot be compared with 19"):
        alternating.ratio(quiet, quiet[1:])
    with pytest.raises(ValueError, match="no calls"):
        alternating.ratio([[]], [[]])


_ALTERNATING = """
import json, os
from bench import alternating, http1
from bench.beside import Companion, stand_in
from bench.loadgen import Http, Plan

policy = os.sched_getscheduler(0)
with stand_in(100) as address:
    request = http1.request(address, "/", b"hello")
    calls = Plan(address, Http(), lambda _n: (request, None), connections=4, seconds=0.2, rate=100, lead_s=0.1)
    load = Companion(Plan(address, Http(), lambda _n: (request, None), connections=2, rate=50))
    try:
        groups = {"self": [os.getpid()], "load": [load.pid], "gone": [2**22 + 1]}
        found = alternating.alternate(calls, {"alone": None, "beside": load}, 2, lambda: groups)
    finally:
        load.close()
print(json.dumps({
    "samples": [[len(turn) for turn in side.turns] for side in found.values()],
    "load": load.counts["ok"],
    "told": dict(alternating.told(found["alone"])),
    "policy kept": os.sched_getscheduler(0) == policy,
}))
"""


def test_turns_alternate_beside_a_load_and_nothing() -> None:
    """In a process of its own, which forks: this one may have threads."""
    done = subprocess.run([sys.executable, "-c", _ALTERNATING], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)

    assert got["samples"] == [[10, 10], [10, 10]], "half of each turn's calls are no samples"
    assert got["load"] > 0, "how many of them there are is the machine's doing"
    assert got["policy kept"]
    assert got["told"]["self"]["cpu_ms"] > 0
    assert got["told"]["gone"] == {"cpu_ms": 0.0, "waited_ms": 0.0, "turns": 0.0, "displaced": 0.0}


def test_warm_calls_beside_operations_are_judged_only_where_chance_cannot_have_made_the_difference() -> None:
    from bench.promises import PROMISES, Results
    from bench.scenarios import control

    (promise,) = [p for p in PROMISES if "do not delay warm invocations" in p.text]

    def judged(ratio: list[float]) -> bool | None:
        extra: dict[str, dict[str, Any]] = {control.ALONE: {}, control.BESIDE: {"p99_ratio": ratio, "failed_operations": 0}, control.CLIENT: {"p99_ratio": [1, 1, 1]}}
        rows = [row("control", control.SUBJECT, case, generator="Python", latencies=Latencies([1000]), seconds=1.0, **more) for case, more in extra.items()]
        assert promise.measure(Results(rows[:2])) is None
        got = promise.measure(Results(rows))
        assert got is not None
        return got.holds

    assert judged([1.1, 1.0, 1.2]) is True
    assert judged([1.4, 1.21, 1.6]) is False
    assert judged([1.1, 0.9, 1.3]) is None
