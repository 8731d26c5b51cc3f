"""Accepting asynchronous invocations through the HTTP application: boto3's own requests against uvicorn on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import uvicorn
from botocore.config import Config as BotoConfig
from botocore.exceptions import ClientError

from engine.clock import ManualClock
from engine.config import load as load_settings
from engine.core import tenancy
from engine.errors import ServiceError
from engine.eventing.intake import MAX_PAYLOAD, Intake
from engine.http.app import build_app
from engine.http.operations import Registry
from engine.protocol.model import load
from engine.store.api import Event
from engine.store.database import Database
from engine.store.queue import SqlEventQueue

A = "000000000000"


class Known:
    """``f`` with ``$LATEST`` and version 1; ``apart``, which keeps its tenants apart."""

    def has(self, account: str, name: str, qualifier: str | None) -> bool:
        return account == A and name in ("f", "apart") and qualifier in (None, "$LATEST", "1")

    def tenants_apart(self, account: str, name: str) -> bool:
        return name == "apart"


class Door:
    """An intake behind a port, and what it kept."""

    def __init__(self, database: Database, port: int, woken: list[int], queue: SqlEventQueue, clock: ManualClock) -> None:
        self.port = port
        self.woken = woken
        self._queue = queue
        self._clock = clock
        self.client: Any = boto3.client(
            "lambda",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="y",
            config=BotoConfig(retries={"total_max_attempts": 1}),
        )

    def kept(self) -> list[Event]:
        now = self._clock.epoch_ms()
        return asyncio.run(self._queue.claim(now, now + 1, 100, frozenset()))

    def send(self, body: bytes, path: str = "f/invocations", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        every = {"X-Amz-Invocation-Type": "Event", **{k.replace("_", "-"): v for k, v in headers.items()}}
        connection.request("POST", f"/2015-03-31/functions/{path}", body, every)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content


@contextlib.contextmanager
def serving(app: Any) -> Iterator[int]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None, ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    gate = threading.Event()
    for _ in range(2000):
        if server.started:
            break
        gate.wait(0.005)
    assert server.started
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def ready() -> list[Exception]:
    """What ``ready`` raises, if anything."""
    return []


@pytest.fixture
def door(tmp_path: Path, ready: list[Exception]) -> Iterator[Door]:
    database = Database(tmp_path / "engine.db")
    queue, clock, woken = SqlEventQueue(database), ManualClock(), []

    async def loaded() -> None:
        if ready:
            raise ready[0]

    registry = Registry(load())
    Intake(queue, Known(), clock, ready=loaded, wake=lambda: woken.append(1)).register(registry)
    app = build_app(registry, load_settings(data_dir=tmp_path))
    with serving(app) as port:
        yield Door(database, port, woken, queue, clock)
    app.close()
    database.close()


def test_an_event_is_on_disk_before_the_202(door: Door) -> None:
    answer = door.client.invoke(FunctionName="f", InvocationType="Event", Payload=b'{"a": [1]}', Qualifier="1")
    assert (answer["StatusCode"], answer["Payload"].read()) == (202, b"")
    (event,) = door.kept()
    assert event.request_id == answer["ResponseMetadata"]["RequestId"]
    assert (event.account, event.function, event.qualifier, event.payload) == (A, "f", "1", b'{"a": [1]}')
    assert event.first_ms == event.due_ms == ManualClock().epoch_ms()
    assert (event.failures, event.refusals) == (0, 0)
    assert door.woken == [1]


def test_the_answer_has_no_members_of_a_synchronous_one(door: Door) -> None:
    answer, content = door.send(b"")
    assert (answer.status, content) == (202, b"")
    assert [k.lower() for k, _ in answer.getheaders() if k.lower().startswith("x-amz-")] == []
    assert answer.getheader("x-amzn-RequestId")
    (event,) = door.kept()
    assert event.payload == b"{}"


def test_names_in_every_form_and_trace_ids_are_kept(door: Door) -> None:
    arn = f"arn%3Aaws%3Alambda%3Aus-east-1%3A{A}%3Afunction%3Af%3A1"
    assert door.send(b"1", f"{arn}/invocations", X_Amzn_Trace_Id="Root=1-2-3" + "x" * 300)[0].status == 202
    (event,) = door.kept()
    assert (event.function, event.qualifier, event.payload) == ("f", "1", b"1")
    assert event.trace_id is not None
    assert (event.trace_id[:10], len(event.trace_id)) == ("Root=1-2-3", 255)


def test_the_old_operation_still_works(door: Door) -> None:
    answer = door.client.invoke_async(FunctionName="f", InvokeArgs=b'{"old": true}')
    assert answer["Status"] == 202
    (event,) = door.kept()
    assert (event.payload, event.qualifier) == (b'{"old": true}', None)


@pytest.mark.parametrize(
    ("name", "qualifier", "tail"), [("g", None, "g:$LATEST"), ("f", "2", "f:2"), ("f:live", None, "f:live")]
)
def test_what_does_not_exist_is_said_with_its_qualifier(door: Door, name: str, qualifier: str | None, tail: str) -> None:
    more = {"Qualifier": qualifier} if qualifier else {}
    with pytest.raises(ClientError) as caught:
        door.client.invoke(FunctionName=name, InvocationType="Event", Payload=b"not json", **more)
    error: Any = caught.value.response
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 404
    assert error["Error"]["Code"] == "ResourceNotFoundException"
    assert error["Error"]["Message"] == f"Function not found: arn:aws:lambda:us-east-1:{A}:function:{tail}"
    assert door.kept() == []


@pytest.mark.parametrize("body", [b"{", b"{'a': 1}", b"[" * 100_000, b"\xff", b"1 2"])
def test_a_payload_that_is_not_json_is_refused(door: Door, body: bytes) -> None:
    with pytest.raises(ClientError) as caught:
        door.client.invoke(FunctionName="f", InvocationType="Event", Payload=body)
    error: Any = caught.value.response
    assert (error["ResponseMetadata"]["HTTPStatusCode"], error["Error"]["Code"]) == (400, "InvalidRequestContentException")
    assert error["Error"]["Message"].startswith("Could not parse request body into json: Could not parse payload into json: ")
    assert json.loads(json.dumps(error))["Type"] == "User"
    assert door.kept() == []


def test_one_mebibyte_is_the_limit(door: Door) -> None:
    fits = json.dumps("x" * (MAX_PAYLOAD - 2)).encode()
    assert door.client.invoke(FunctionName="f", InvocationType="Event", Payload=fits)["StatusCode"] == 202
    with pytest.raises(ClientError) as caught:
        door.client.invoke(FunctionName="f", InvocationType="Event", Payload=fits + b" ")
    error = caught.value.response["Error"]
    assert error["Code"] == "RequestEntityTooLargeException"
    assert error["Message"] == "Request must be smaller than 1048576 bytes for the InvokeFunction operation"
    with pytest.raises(ClientError, match="for the InvokeAsync operation"):
        door.client.invoke_async(FunctionName="f", InvokeArgs=fits + b" ")
    assert len(door.kept()) == 1


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"InvocationType": "RequestResponse"}, "InvocationType RequestResponse"),
        ({"InvocationType": "DryRun"}, "InvocationType DryRun"),
        ({"InvocationType": "Event", "DurableExecutionName": "d"}, "DurableExecutionName"),
    ],
)
def test_what_is_not_done_here_is_named(door: Door, members: dict[str, str], named: str) -> None:
    with pytest.raises(ClientError, match=named) as caught:
        door.client.invoke(FunctionName="f", Payload=b"{}", **members)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501
    assert door.kept() == []


def test_an_event_is_a_tenants_just_where_it_must_be(door: Door) -> None:
    for function, more, text in (("f", {"TenantId": "t"}, tenancy.UNWANTED), ("apart", {}, tenancy.MISSING)):
        with pytest.raises(ClientError) as caught:
            door.client.invoke(FunctionName=function, InvocationType="Event", **more)
        assert caught.value.response["Error"] == {"Code": "InvalidParameterValueException", "Message": text}
    assert door.kept() == []
    door.client.invoke(FunctionName="apart", InvocationType="Event", TenantId="blue")
    assert [event.tenant for event in door.kept()] == ["blue"]


def test_events_of_the_supervisor_count_once_they_are_on_the_disk() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        kept, lost = loop.create_future(), loop.create_future()

        class Disk:
            """Keeps one batch of events and loses the next."""

            answers = iter((kept, lost))

            def enqueue_all(self, _events: object) -> asyncio.Future[None]:
                return next(self.answers)

        async def ready() -> None:
            return None

        queue: Any = Disk()
        intake = Intake(queue, Known(), ManualClock(), ready=ready, wake=lambda: None)
        row = ["8f507cfc-4697-455f-9f0e-2d1a1b0c7a55", A, "f", None, "Root=1", b"{}", None]
        for _ in range(2):
            intake.take([row])
        assert not intake.received
        kept.set_result(None)
        lost.set_exception(OSError("disk full"))
        await asyncio.sleep(0)
        assert intake.received == {(A, "f"): 1}

    asyncio.run(scenario())


def test_nothing_is_refused_as_unknown_before_everything_is_known(door: Door, ready: list[Exception]) -> None:
    ready.append(ServiceError("The supervisor could not be reached within 5 s."))
    with pytest.raises(ClientError, match="could not be reached") as caught:
        door.client.invoke(FunctionName="g", InvocationType="Event", Payload=b"{}")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500


def test_a_full_disk_is_no_promise(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(_event: Event) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(door._queue, "enqueue", full)
    with pytest.raises(ClientError) as caught:
        door.client.invoke(FunctionName="f", InvocationType="Event", Payload=b"{}")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert door.woken == []
