"""Catalogue, function logs, children and the AWS endpoint: the supervisor's parts that touch files, processes and sockets."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import weakref
from pathlib import Path

import pytest

from engine.arn import FunctionRef
from engine.clock import ManualClock, SystemClock
from engine.core.stats import FunctionStats
from engine.errors import ResourceNotFound, WireError
from engine.supervisor import logs as logs_module
from engine.supervisor.aws_endpoint import AwsEndpoint
from engine.supervisor.catalogue import Catalogue, Version, parse_entry
from engine.supervisor.children import Child
from engine.supervisor.environment import Home, base_env
from engine.supervisor.folding import Folding
from engine.supervisor.logs import FunctionLog, LogStore
from engine.supervisor.rounds import BEAT_S, Rounds
from tests.unit.test_invoker import ACCOUNT, entry

REGION = "us-east-1"


def catalogue(tmp: Path, drained: list[Version]) -> Catalogue:
    return Catalogue(
        region=REGION, account_limit=10, logs=LogStore(tmp, 1024), on_drain=drained.append, on_new=lambda v: None
    )


def test_a_version_keeps_its_pool_until_its_generation_changes(tmp_path: Path) -> None:
    drained: list[Version] = []
    c = catalogue(tmp_path, drained)
    ref = FunctionRef(ACCOUNT, REGION, "f")
    c.put(parse_entry(entry()))
    first, _ = c.resolve(ref)
    c.put(parse_entry(entry(reserved=3)))
    assert c.resolve(ref)[0] is first
    assert first.function.quota.reserved == 3
    c.put(parse_entry(entry(generation="g2")))
    second, _ = c.resolve(ref)
    assert second is not first
    assert drained == [first]
    assert second.function is first.function, "counters survive an update"
    c.delete(ACCOUNT, "f")
    c.delete(ACCOUNT, "f")
    assert drained == [first, second]
    with pytest.raises(ResourceNotFound):
        c.resolve(ref)
    assert c.account(ACCOUNT).unreserved_limit == 10


def test_a_deleted_function_needs_no_collector_of_cycles(tmp_path: Path) -> None:
    c = Catalogue(region=REGION, account_limit=10, logs=LogStore(tmp_path, 1024), on_drain=lambda _v: None, on_new=lambda _v: None)
    gc.disable()
    try:
        c.put(parse_entry(entry()))
        version, _ = c.resolve(FunctionRef(ACCOUNT, REGION, "f"))
        # Function and version both have it, and so has the store.
        log = weakref.ref(version.log)
        del version
        assert log() is not None
        c.delete(ACCOUNT, "f")
        assert log() is None
    finally:
        gc.enable()


def test_a_snapshot_replaces_everything_and_counts_as_loaded(tmp_path: Path) -> None:
    drained: list[Version] = []
    c = catalogue(tmp_path, drained)
    c.put(parse_entry(entry("old")))
    c.begin()
    c.put(parse_entry(entry("new")))
    assert not c.loaded
    c.commit()
    assert c.loaded
    assert [f.name for _, f in c.functions()] == ["new"]


def test_a_change_makes_only_its_own_function_stale(tmp_path: Path) -> None:
    c = catalogue(tmp_path, [])
    stale: list[str] = []
    c.on_stale = lambda function: stale.append(function.name)
    for name in ("f", "g"):
        c.put(parse_entry(entry(name)))
    f, g = (c.resolve(FunctionRef(ACCOUNT, REGION, name))[0].function for name in ("f", "g"))
    before = f.revision, g.revision
    stale.clear()
    c.put(parse_entry(entry("g", generation="g2")))
    assert (f.revision, stale) == (before[0], ["g"])
    assert g.revision != before[1]
    c.put(parse_entry(entry("g", generation="g2")))
    assert stale == ["g"], "an entry that changes nothing makes nothing stale"
    c.rerouted(f)
    c.delete(ACCOUNT, "g")
    assert stale == ["g", "f", "g"]
    assert f.revision != before[0]


def test_stocks_are_counted_by_the_versions_that_take_from_them(tmp_path: Path) -> None:
    c = catalogue(tmp_path, [])
    for name, generation in (("f", "1"), ("g", "1"), ("g", "2")):
        c.put(parse_entry(entry(name, generation=generation)))
    (key,) = c.stocks
    assert c.stocks[key] == 2
    c.delete(ACCOUNT, "f")
    assert c.stocks[key] == 1
    c.begin()
    c.commit()
    assert not c.stocks


def test_accounts_do_not_see_each_other(tmp_path: Path) -> None:
    c = catalogue(tmp_path, [])
    c.put(parse_entry(entry()))
    with pytest.raises(ResourceNotFound, match="111111111111"):
        c.resolve(FunctionRef("111111111111", REGION, "f"))


def test_weighted_aliases_draw_each_time(tmp_path: Path) -> None:
    c = catalogue(tmp_path, [])
    both = entry()
    both["versions"] = {n: {**both["versions"]["$LATEST"], "version": n, "generation": n} for n in ("1", "2")}
    both["aliases"] = {"live": {"version": "1", "weights": {"2": 0.5}}, "plain": {"version": "2"}}
    c.put(parse_entry(both))
    seen = {c.resolve(FunctionRef(ACCOUNT, REGION, "f", "live"))[0].config.version for _ in range(200)}
    assert seen == {"1", "2"}
    version, drawn = c.resolve(FunctionRef(ACCOUNT, REGION, "f", "plain"))
    assert (version.config.version, drawn) == ("2", False)


@pytest.mark.parametrize("broken", [None, {}, {"account": "1", "name": "f"}, {**entry(), "versions": {"1": {"version": "1"}}}])
def test_a_broken_entry_is_refused_whole(broken: object) -> None:
    with pytest.raises(WireError, match="catalogue entry"):
        parse_entry(broken)


def test_log_lines_rotate_and_drop_loudly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FunctionLog(tmp_path / "a" / "f.log", 100)
    log.write(1, "s", "x" * 90)
    log.flush()
    log.write(2, "s", "second")
    log.flush()
    assert (tmp_path / "a" / "f.log").read_text() == "2\ts\tsecond\n"
    assert (tmp_path / "a" / "f.log.1").read_text().startswith("1\ts\txxx")
    monkeypatch.setattr(logs_module, "MAX_QUEUED", 2)
    for n in range(5):
        log.write(n, "s", "l")
    log.flush()
    assert "3 log events dropped" in (tmp_path / "a" / "f.log").read_text()


class Numbers:
    """A batch of numbered lines."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def render(self) -> str:
        return "".join(f"{n}\ts\tbatched\n" for n in self.numbers)


def test_batches_keep_their_place_among_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FunctionLog(tmp_path / "f.log", 1000)
    log.write(1, "s", "l")
    batch = Numbers(2)
    assert log.begin(batch, 2)
    assert log.batch is batch
    batch.numbers.append(3)
    log.write(4, "s", "l")
    assert log.batch is None, "what is added now would come before a line that was written earlier"
    assert log.begin(Numbers(5), 5)
    log.flush()
    assert log.batch is None
    assert [line.split("\t")[0] for line in log.path.read_text().splitlines()] == ["1", "2", "3", "4", "5"]
    monkeypatch.setattr(logs_module, "MAX_QUEUED", 4)
    assert log.begin(Numbers(6, 7, 8), 6)
    assert not log.begin(Numbers(9), 9)
    log.write(10, "s", "l")
    log.flush()
    text = log.path.read_text()
    assert "\n8\t" in text
    assert "\n9\t-\t[engine] 2 log events dropped" not in text
    assert "10\t-\t[engine] 2 log events dropped" in text


def test_a_disk_that_refuses_is_reported_and_forgotten(tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_text("")
    store = LogStore(tmp_path / "in-the-way", 100)
    store.of(ACCOUNT, "f").write(1, "s", "lost")
    problem = store.flush()
    assert problem is not None
    assert "f.log" in problem
    assert store.flush() is None


def test_only_logs_with_something_to_write_are_looked_at_and_each_once(tmp_path: Path) -> None:
    store = LogStore(tmp_path, 1000)
    quiet, busy = store.of(ACCOUNT, "quiet"), store.of(ACCOUNT, "busy")
    for text in ("one", "two"):
        busy.write(1, "s", text)
    assert store.flush() is None
    assert not quiet.path.exists()
    busy.write(2, "s", "three")
    assert store.flush() is None
    assert store.flush() is None
    assert busy.path.read_text() == "1\ts\tone\n1\ts\ttwo\n2\ts\tthree\n"


def test_figures_are_folded_of_the_functions_that_have_some_and_counted_once() -> None:
    folding, stats = Folding(), FunctionStats()
    for _ in range(2):
        for _ in range(2):
            if not stats.pending:
                folding.waiting.append(stats)
            stats.pending.append((0.1, 0.2, 0.3))
        # As whoever asks for the figures does.
        assert sum(stats.snapshot()["phases"]["invoke"][0]) in {2, 4}
    folding.fold()
    folding.fold()
    assert (folding.waiting, stats.pending) == ([], [])
    assert (sum(stats.invoke.counts), round(stats.invoke.sum_s, 6)) == (4, 0.8)


def test_chores_come_up_in_their_order_each_after_its_time_whatever_another_does() -> None:
    async def scenario() -> None:
        loop, seen = asyncio.get_running_loop(), []
        rounds = Rounds(loop)
        loop.set_exception_handler(lambda _loop, context: seen.append(str(context["exception"])))

        def break_once() -> None:
            if seen.count("often") == 1:
                raise ValueError("broken")

        rounds.add(0.0, lambda: seen.append("often"))
        rounds.add(3 * BEAT_S, lambda: seen.append("seldom"))
        rounds.add(BEAT_S, break_once)
        loop.call_soon(rounds.begin)
        async with asyncio.timeout(30):
            while seen.count("seldom") < 3:
                await asyncio.sleep(BEAT_S / 10)
        rounds.end()
        assert seen[:9] == ["often", "seldom", "broken", "often", "often", "often", "seldom", "often", "often"]
        before = len(seen)
        await asyncio.sleep(2 * BEAT_S)
        assert len(seen) == before

    asyncio.run(scenario())


def test_a_child_is_started_again_when_it_ends_and_stopped_when_asked() -> None:
    async def scenario() -> None:
        ends: list[int] = []
        argv = [sys.executable, "-c", "import signal; signal.pause()"]
        child = Child(asyncio.get_running_loop(), SystemClock(), "c", lambda: (argv, dict(os.environ)), ends.append)
        child.start()
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(10):
            while child.pid in (first, None):
                await asyncio.sleep(0.005)
        assert ends == [-signal.SIGKILL]
        await child.stop(5.0)
        assert child.pid is None
        assert ends == [-signal.SIGKILL], "a stopped child is not reported as lost"
        await child.stop(5.0)

    asyncio.run(scenario())


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        up = tmp_path / "up"
        code = f"import signal, pathlib; signal.signal(15, signal.SIG_IGN); pathlib.Path({str(up)!r}).touch(); signal.pause()"
        argv = [sys.executable, "-c", code]
        child = Child(asyncio.get_running_loop(), SystemClock(), "c", lambda: (argv, dict(os.environ)), lambda s: None)
        child.start()
        async with asyncio.timeout(10):
            while not up.exists():
                await asyncio.sleep(0.005)
        await child.stop(0.05)
        assert child.pid is None

    asyncio.run(scenario())


def test_the_real_aws_is_not_relayed_and_a_missing_extra_is_named() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        away = AwsEndpoint(loop, ManualClock(), "aws", None, lambda port: None)
        with pytest.raises(OSError, match="real AWS"):
            await away.connect(asyncio.Protocol)
        lacking = AwsEndpoint(loop, ManualClock(), "embedded", "install the extra 'embedded'", lambda port: None)
        with pytest.raises(OSError, match="extra 'embedded'"):
            await lacking.connect(asyncio.Protocol)

    asyncio.run(scenario())


def test_that_somebody_scales_is_remembered_where_the_targets_are(tmp_path: Path) -> None:
    async def scenario() -> None:
        loop, marker = asyncio.get_running_loop(), tmp_path / "autoscaling"

        def at(where: str) -> AwsEndpoint:
            return AwsEndpoint(loop, ManualClock(), where, None, lambda port: None, scaled=marker)

        # The embedded server forgets its targets with the engine, and must not be started to be asked for them.
        forgetful = at("embedded")
        forgetful.scales()
        assert forgetful.autoscaling
        assert not at("embedded").autoscaling
        kept = at("http://127.0.0.1:5000")
        assert not kept.autoscaling
        kept.scales()
        assert kept.autoscaling
        assert at("http://127.0.0.1:5000").autoscaling
        assert not at("embedded").autoscaling

    asyncio.run(scenario())


def test_a_configured_url_and_an_embedded_server_are_connected_to() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport, _ = await AwsEndpoint(loop, SystemClock(), f"http://127.0.0.1:{port}", None, lambda p: None).connect(asyncio.Protocol)
        transport.close()
        started: list[int] = []
        servers: list[asyncio.Server] = []

        def start(at: int) -> None:
            started.append(at)

            async def later() -> None:
                servers.append(await asyncio.start_server(greet, "127.0.0.1", at))

            tasks.append(loop.create_task(later()))

        tasks: list[asyncio.Task[None]] = []
        endpoint = AwsEndpoint(loop, SystemClock(), "embedded", None, start)
        both = await asyncio.gather(endpoint.connect(asyncio.Protocol), endpoint.connect(asyncio.Protocol))
        for transport, _ in both:
            transport.close()
        assert len(started) == 1, "two first requests start one server"
        for s in (server, *servers):
            s.close()
        await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_environment_of_a_function() -> None:
    config = parse_entry(entry(env={"K": "V", "PATH": "/mine", "AWS_REGION": "no"}, log_format="JSON", log_level="DEBUG")).versions["$LATEST"]
    env = base_env(config, Home("eu-west-1", "http://127.0.0.1:4566", "http://l", ("id", "secret", "token")))
    assert (env["K"], env["PATH"], env["AWS_REGION"]) == ("V", "/mine", "eu-west-1")
    assert (env["AWS_EXECUTION_ENV"], env["_HANDLER"], env["LAMBDA_TASK_ROOT"]) == ("AWS_Lambda_python3.11", "m.f", "/var/task")
    assert (env["AWS_LAMBDA_LOG_FORMAT"], env["AWS_LAMBDA_LOG_LEVEL"]) == ("JSON", "DEBUG")
    assert (env["AWS_ENDPOINT_URL"], env["AWS_SESSION_TOKEN"]) == ("http://127.0.0.1:4566", "token")
    real = base_env(config, Home("eu-west-1", None, "http://l", None))
    assert "AWS_ENDPOINT_URL" not in real
    assert "AWS_ACCESS_KEY_ID" not in real
    assert real["AWS_ENDPOINT_URL_LAMBDA"] == "http://l"
