"""The agent's Runtime API for a runtime that runs several invocations at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.wire import messages as m
from tests.framework.agent import BASE, Rig, rigged

FIRST, SECOND, THIRD = (f"11111111-2222-4333-8444-{n:012d}" for n in range(3))


@pytest.fixture
def rigs(tmp_path: Path) -> Iterator[tuple[Rig, Rig]]:
    """Two pollers of one agent; the first has asked and is told to be ready."""
    with rigged(tmp_path, max_concurrency=2) as one:
        other = Rig(one.agent, one.path)
        one.ask_next()
        assert one.agent.receive() == [m.NEXT]
        yield one, other
        other.http.close()


def answer(rig: Rig, request_id: str, body: bytes, kind: str = "response") -> int:
    return rig.call("POST", f"{BASE}/invocation/{request_id}/{kind}", body)[0]


def test_two_are_open_and_answered_in_any_order(rigs: tuple[Rig, Rig]) -> None:
    one, other = rigs
    agent = one.agent
    agent.invoke(FIRST, b"1")
    assert one.event()[0]["lambda-runtime-aws-request-id"] == FIRST
    agent.invoke(SECOND, b"2")
    other.ask_next()
    headers, body = other.event()
    assert (headers["lambda-runtime-aws-request-id"], body) == (SECOND, b"2"), "it waited for a poll"
    assert answer(other, SECOND, b'"b"') == 202
    assert agent.receive() == [m.RESPONSE, SECOND, False, None, b'"b"']
    assert answer(one, FIRST, b'{"errorType":"E"}', "error") == 202
    assert agent.receive()[:2] == [m.ERROR, FIRST]
    one.ask_next()
    agent.invoke(THIRD)
    assert one.event()[0]["lambda-runtime-aws-request-id"] == THIRD


def test_an_answer_to_nothing_that_runs_is_refused(rigs: tuple[Rig, Rig]) -> None:
    one, other = rigs
    one.agent.invoke(FIRST)
    one.event()
    for request_id in (SECOND, FIRST.upper().replace("1", "A")):
        for kind in ("response", "error"):
            refusal = other.call("POST", f"{BASE}/invocation/{request_id}/{kind}", b"1")
            assert other.refused(400, "InvalidRequestID", refusal) == "Invalid request ID"
    assert answer(one, FIRST, b"1") == 202
    assert one.refused(400, "InvalidRequestID", one.call("POST", f"{BASE}/invocation/{FIRST}/response", b"1"))


def test_a_late_answer_goes_up_and_is_gone(rigs: tuple[Rig, Rig]) -> None:
    one, _ = rigs
    one.agent.send(m.encode_invoke(FIRST, 1, m.invoke_tail("arn:aws:lambda:x"), b"{}"))
    one.event()
    assert one.refused(410, "InvokeTimeout", one.call("POST", f"{BASE}/invocation/{FIRST}/response", b"1")) == "Invoke timeout"
    assert one.agent.receive() == [m.RESPONSE, FIRST, False, None, b"1"]


def test_only_the_first_failed_init_is_heard(tmp_path: Path) -> None:
    with rigged(tmp_path, max_concurrency=2) as one:
        other = Rig(one.agent, one.path)
        document = b'{"errorMessage":"no","errorType":"Boom"}'
        assert one.call("POST", f"{BASE}/init/error", document, lambda_runtime_function_error_type="Runtime.Boom")[0] == 202
        second = other.call("POST", f"{BASE}/init/error", document)
        assert "InitError" in other.refused(403, "InvalidStateTransition", second)
        kind, error_type, body = one.agent.receive()
        assert (kind, error_type, json.loads(body)["errorType"]) == (m.INIT_ERROR, "Runtime.Boom", "Boom")
        other.http.close()
