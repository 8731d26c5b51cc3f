"""Asynchronous invocations: accepted and run per second, what a backlog takes in memory and on disk; warm calls beside a drained queue."""

from __future__ import annotations

import contextlib
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import psutil
from botocore.config import Config

from bench import http1, native
from bench.context import Context
from bench.engine import ACCESS_KEY, ECHO, REGION, SECRET, SLEEP, Engine, zipped
from bench.loadgen import Generator, Http, Plan
from bench.rows import Latencies, Row, row

SUBJECT = "engine, HTTP, Event"
WARM = "engine, HTTP"
IN_FLIGHT = 256
# Calls a second of a function that is in use, as against one that is driven at what it can do.
PACED = 400
NOTHING = {"app.py": b"def handler(event, context):\n    return None\n"}
BODY = b'{"text": "' + b"x" * 88 + b'"}'
_DEPTH = re.compile(r"^lambda_engine_async_queue_depth (\S+)$", re.MULTILINE)


def run(context: Context) -> list[Row]:
    """Every case; each with an engine of its own."""
    return [*_accepted(context), *_backlog(context), *_drained(context)]


def _event(engine: Engine, function: str, body: bytes = BODY) -> bytes:
    return http1.request(engine.host, engine.path(function), body, {"X-Amz-Invocation-Type": "Event"})


def _depth(engine: Engine) -> int:
    found = _DEPTH.search(engine.get("/metrics")[1].decode())
    return int(float(found[1])) if found else 0


def _runs(engine: Engine) -> int:
    text = engine.get("/metrics")[1].decode()
    return sum(int(float(n)) for n in re.findall(r'^lambda_engine_invocations_total\{[^}]*outcome="success"[^}]*\} (\S+)$', text, re.MULTILINE))


def _accepted(context: Context) -> list[Row]:
    """Events of an echo: accepted while those before run, then the rest of them alone."""
    context.say("accepted while they run")
    with context.engine() as engine:
        engine.deploy("later", zipped(ECHO))
        engine.settle()
        request, binary = _event(engine, "later"), context.limit()
        native.load(binary, "http", engine.host, request, connections=IN_FLIGHT, seconds=1)
        _until_done(engine)
        before, began = engine.cpu_s(), time.monotonic()
        got = native.load(binary, "http", engine.host, request, connections=IN_FLIGHT, seconds=context.seconds)
        left, at = _depth(engine), time.monotonic()
        _until_done(engine)
        ended = time.monotonic()
        cpu = [after - then for after, then in zip(engine.cpu_s(), before, strict=True)]
        count = len(got.latencies)
        accepted = row(
            "events", SUBJECT, "accepted while they run", generator="C", latencies=got.latencies, seconds=got.seconds, errors=got.errors,
            in_flight=IN_FLIGHT, payload=len(BODY), supervisor_cpu_us=round(cpu[0] / count * 1e6, 1), engine_cpu_us=round(cpu[1] / count * 1e6, 1),
        )  # fmt: skip
        both = row(
            "events", SUBJECT, "run", generator="C", latencies=Latencies([round((ended - began) * 1e9)]), seconds=ended - began,
            payload=len(BODY), events=count, left=left, per_s=round(count / (ended - began), 1),
            per_s_alone=round(left / (ended - at), 1) if left > count // 20 else None,
        )  # fmt: skip
        return [accepted, both]


def _until_done(engine: Engine, timeout_s: float = 300.0) -> None:
    end = time.monotonic() + timeout_s
    while _depth(engine):
        if time.monotonic() > end:
            raise TimeoutError(f"{_depth(engine)} events are still queued")
        time.sleep(0.02)


def _backlog(context: Context) -> list[Row]:
    """Events of a function whose only place is taken."""
    count = 50_000 if context.quick else 1_000_000
    context.say(f"a backlog of {count}")
    with context.engine() as engine:
        engine.deploy("narrow", zipped(SLEEP), Timeout=900)
        engine.client().put_function_concurrency(FunctionName="narrow", ReservedConcurrentExecutions=1)
        binary, long, request = context.limit(), _event(engine, "narrow", b"800"), _event(engine, "narrow", b"8" * 100)
        native.load(binary, "http", engine.host, long, connections=1, count=1, seconds=10)
        native.load(binary, "http", engine.host, request, connections=IN_FLIGHT, count=2000, seconds=60)
        planes = _planes(engine)
        before = [_rss(p) for p in planes]
        cpu = engine.cpu_s()
        got = native.load(binary, "http", engine.host, request, connections=IN_FLIGHT, count=count, seconds=900)
        used = [after - then for after, then in zip(engine.cpu_s(), cpu, strict=True)]
        after = [_rss(p) for p in planes]
        accepted = len(got.latencies)
        return [
            row(
                "events", SUBJECT, "a backlog", generator="C", latencies=got.latencies, seconds=got.seconds, errors=got.errors, in_flight=IN_FLIGHT,
                payload=100, queued=_depth(engine), disk_bytes_per_event=round(_disk(engine.data_dir) / accepted),
                growth_mib={name: round((b - a) / 2**20, 1) for name, a, b in zip(("supervisor", "control"), before, after, strict=True)},
                supervisor_cpu_us=round(used[0] / accepted * 1e6, 1), engine_cpu_us=round(used[1] / accepted * 1e6, 1),
            )
        ]  # fmt: skip


def _drained(context: Context) -> list[Row]:
    """Warm calls alone, and while a mapping drains a full queue: as fast as they are answered, and at a rate."""
    count, seconds = (4_000, 1.0) if context.quick else (10_000, 3.0)
    rows = []
    with context.engine() as engine:
        for name in ("hot", "sink"):
            engine.deploy(name, zipped(NOTHING))
        queue = _queue(engine)
        mapping = engine.client().create_event_source_mapping(EventSourceArn=queue.arn, FunctionName="sink", BatchSize=10, Enabled=False)["UUID"]
        binary, request = context.limit(), http1.request(engine.host, engine.path("hot"), BODY)

        def closed(took_s: float) -> tuple[Latencies, float, int]:
            got = native.load(binary, "http", engine.host, request, seconds=took_s)
            return got.latencies, got.seconds, got.errors

        def paced(took_s: float) -> tuple[Latencies, float, int]:
            plan = Plan(engine.host, Http(), lambda _n: (request, None), connections=64, seconds=took_s, rate=PACED)
            got = Generator(plan).run()
            return got.latencies(), got.seconds, got.errors

        def measured(case: str, generator: str, got: tuple[Latencies, float, int]) -> Row:
            latencies, took_s, errors = got
            return row("events", WARM, case, generator=generator, latencies=latencies, seconds=took_s, errors=errors, payload=len(BODY))

        for kind, generator, load in (("warm calls", "C", closed), (f"{PACED} calls/s", "Python, open loop", paced)):
            context.say(f"{count} messages drained beside {kind}")
            _fill(queue, count)
            engine.settle()
            load(0.5)
            rows.append(measured(f"{kind} alone", generator, load(seconds)))
            engine.client().update_event_source_mapping(UUID=mapping, Enabled=True)
            before = _left(queue)
            while before > count - 100:
                time.sleep(0.01)
                before = _left(queue)
            cpu, began = engine.cpu_s(), time.monotonic()
            # Nobody asks how far it is meanwhile: that would be an operation of SQS among what is measured.
            got = load(seconds)
            took_s, left = time.monotonic() - began, _left(queue)
            own, total = (after - then for after, then in zip(engine.cpu_s(), cpu, strict=True))
            rows.append(measured(f"{kind} beside a drain", generator, got))
            rows.append(
                row(
                    "events", "engine, SQS mapping", f"{count} messages drained beside {kind}", generator="-", latencies=Latencies([round(took_s * 1e9)]),
                    seconds=took_s, per_s=round((before - left) / took_s), left=left, supervisor_cpu_s=round(own, 2), engine_cpu_s=round(total, 2),
                )
            )  # fmt: skip
            while _left(queue):
                time.sleep(0.1)
            engine.client().update_event_source_mapping(UUID=mapping, Enabled=False)
            while engine.client().get_event_source_mapping(UUID=mapping)["State"] != "Disabled":
                time.sleep(0.1)
    return rows


def _queue(engine: Engine) -> _Queue:
    """A new queue."""
    sqs = boto3.client(
        "sqs", endpoint_url=f"http://{engine.host}", region_name=REGION, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET,
        config=Config(read_timeout=120, max_pool_connections=4),
    )  # fmt: skip
    url = sqs.create_queue(QueueName="full", Attributes={"VisibilityTimeout": "120"})["QueueUrl"]
    return _Queue(sqs, url, sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"])


def _fill(queue: _Queue, count: int) -> None:
    """Send so many messages."""

    def send(first: int) -> None:
        queue.sqs.send_message_batch(QueueUrl=queue.url, Entries=[{"Id": str(n), "MessageBody": f"message {first + n}"} for n in range(10)])

    with ThreadPoolExecutor(4) as senders:
        list(senders.map(send, range(0, count, 10)))


class _Queue(NamedTuple):
    sqs: Any
    url: str
    arn: str


def _left(queue: _Queue) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = queue.sqs.get_queue_attributes(QueueUrl=queue.url, AttributeNames=names)["Attributes"]
    return sum(int(found[name]) for name in names)


def _planes(engine: Engine) -> list[psutil.Process]:
    """The supervisor and the control plane."""
    pids: dict[str, Any] = engine.state()["processes"]
    return [psutil.Process(pids["supervisor"]), psutil.Process(pids["control"])]


def _rss(process: psutil.Process) -> int:
    return int(process.memory_info().rss)


def _disk(data_dir: Path | None) -> int:
    total = 0
    for path in () if data_dir is None else data_dir.glob("engine.db*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total
