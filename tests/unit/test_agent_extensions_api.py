"""The agent's Extensions, Telemetry and Logs APIs: statuses, error types and texts of everything that can be asked wrongly, and TCP delivery."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.wire import messages as m
from tests.framework.agent import BASE, ID, Rig, rigged

EXTENSION = "/2020-01-01/extension"
HTTP = {"protocol": "HTTP", "URI": "http://sandbox.localdomain:1234"}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with rigged(tmp_path, function_name="f", function_version="7", handler="h", account_id="123456789012", memory_mb=128) as running:
        yield running


def register(rig: Rig, name: str = "inner", events: Any = ("INVOKE",), **headers: str) -> tuple[int, dict[str, str], bytes]:
    return rig.call("POST", f"{EXTENSION}/register", json.dumps({"events": events}), lambda_extension_name=name, **headers)


def registered(rig: Rig, name: str = "inner") -> str:
    status, headers, _ = register(rig, name)
    assert status == 200
    return headers["lambda-extension-identifier"]


def subscribe(rig: Rig, who: str, path: str = "/2022-07-01/telemetry", **members: Any) -> tuple[int, dict[str, str], bytes]:
    body = {"types": ["platform", "function"], "destination": HTTP, **members}
    return rig.call("PUT", path, json.dumps(body), lambda_extension_identifier=who)


def test_registration(rig: Rig) -> None:
    status, headers, body = register(rig)
    assert status == 200
    assert json.loads(body) == {"functionName": "f", "functionVersion": "7", "handler": "h"}
    assert len(headers["lambda-extension-identifier"]) == 36
    body = register(rig, "other", lambda_extension_accept_feature="accountId")[2]
    assert json.loads(body)["accountId"] == "123456789012"


def test_registrations_that_are_refused(rig: Rig) -> None:
    assert rig.refused(403, "Extension.InvalidExtensionName", rig.call("POST", f"{EXTENSION}/register", b"{}")) == "Empty extension name"
    assert rig.refused(403, "Extension.InvalidEventType", register(rig, events=["X"])) == "X: ErrorInvalidEventType"
    text = rig.refused(403, "Extension.InvalidEventType", register(rig, events=["SHUTDOWN"]))
    assert text == "SHUTDOWN: ShutdownEventNotSupportedForInternalExtension"
    for body in (b"{", b"[]", b'{"configurationKeys":[]}'):
        rig.refused(403, "InvalidRequestFormat", rig.call("POST", f"{EXTENSION}/register", body, lambda_extension_name="x"))
    registered(rig)
    text = rig.refused(403, "Extension.InvalidExtensionState", register(rig))
    assert text == "Extension with this name already registered"
    for n in range(9):
        registered(rig, f"more-{n}")
    assert rig.refused(403, "Extension.TooManyExtensions", register(rig, "eleventh")) == "Extension limit (10) reached"


def test_registration_closes_with_the_first_next(rig: Rig) -> None:
    rig.ask_next()
    assert rig.agent.receive() == [m.NEXT]
    other = Rig(rig.agent, rig.path)
    text = other.refused(403, "Extension.RegistrationClosed", register(other))
    assert text == "Extension registration closed already"
    other.http.close()


def test_callers_that_are_nobody(rig: Rig) -> None:
    def call(**headers: str) -> tuple[int, dict[str, str], bytes]:
        return rig.call("GET", f"{EXTENSION}/event/next", **headers)

    assert rig.refused(403, "Extension.MissingExtensionIdentifier", call()) == "Missing Lambda-Extension-Identifier header"
    text = rig.refused(403, "Extension.InvalidExtensionIdentifier", call(lambda_extension_identifier="x"))
    assert text == "Invalid Lambda-Extension-Identifier"
    assert rig.refused(403, "Extension.UnknownExtensionIdentifier", call(lambda_extension_identifier=ID)) == f"Unknown extension {ID}"
    rig.refused(403, "Extension.UnknownExtensionIdentifier", subscribe(rig, ID))


def test_errors_need_their_type(rig: Rig) -> None:
    who = registered(rig)
    answer = rig.call("POST", f"{EXTENSION}/init/error", b"", lambda_extension_identifier=who)
    assert rig.refused(403, "Extension.MissingHeader", answer) == "Lambda-Extension-Function-Error-Type not found"
    headers = {"lambda_extension_identifier": who, "lambda_extension_function_error_type": "Extension.Mine"}
    # What carries the answer to us ends with the agent, before or after it has.
    with contextlib.suppress(http.client.RemoteDisconnected, ConnectionError):
        assert rig.call("POST", f"{EXTENSION}/init/error", b"", **headers)[0] == 202
    kind, error_type, document = rig.agent.receive()
    assert (kind, error_type) == (m.INIT_ERROR, "Extension.InitError")
    assert json.loads(document) == {"errorType": "Extension.InitError", "errorMessage": "Error: Extension.Mine"}
    assert rig.agent.process.wait(30) == 1


def test_init_and_invocations_wait_for_extensions(rig: Rig) -> None:
    who = registered(rig)
    rig.ask_next()
    inner = Rig(rig.agent, rig.path)
    inner.http.request("GET", f"{EXTENSION}/event/next", headers={"Lambda-Extension-Identifier": who})
    line = rig.agent.receive()
    assert line[4] == b"EXTENSION\tName: inner\tState: Ready\tEvents: [INVOKE]"
    assert rig.agent.receive() == [m.NEXT]
    rig.agent.invoke(ID, trace_id="Root=1")
    rig.event()
    answer = inner.http.getresponse()
    event = json.loads(answer.read())
    assert len(answer.headers["Lambda-Extension-Event-Identifier"]) == 36
    assert event == {
        "eventType": "INVOKE", "deadlineMs": 1_900_000_000_000, "requestId": ID, "invokedFunctionArn": "arn:aws:lambda:x",
        "tracing": {"type": "X-Amzn-Trace-Id", "value": "Root=1"},
    }  # fmt: skip
    rig.call("POST", f"{BASE}/invocation/{ID}/response", b"1")
    assert rig.agent.receive()[0] == m.RESPONSE
    rig.ask_next()
    # Only with the extension's own request is the instance free.
    inner.http.request("GET", f"{EXTENSION}/event/next", headers={"Lambda-Extension-Identifier": who})
    assert rig.agent.receive() == [m.NEXT]
    inner.http.close()


@pytest.mark.parametrize(
    "members",
    [
        {"schemaVersion": "1999-01-01"},
        {"types": []},
        {"types": ["other"]},
        {"types": "platform"},
        {"buffering": {"maxItems": 999}},
        {"buffering": {"maxBytes": 262143}},
        {"buffering": {"timeoutMs": 24}},
        {"buffering": {"timeoutMs": 30001}},
        {"buffering": {"timeoutMs": "100"}},
        {"buffering": []},
        {"destination": None},
        {"destination": {"protocol": "UDP"}},
        {"destination": {"protocol": "HTTP", "URI": "http://example.com:80"}},
        {"destination": {"protocol": "HTTP", "URI": "https://sandbox:80"}},
        {"destination": {"protocol": "HTTP", "URI": "http://sandbox:9001"}},
        {"destination": {"protocol": "HTTP", "URI": "http://sandbox:x"}},
        {"destination": {"protocol": "TCP", "port": 0}},
        {"destination": {"protocol": "TCP", "port": 9001}},
    ],
)
def test_subscriptions_that_are_refused(rig: Rig, members: dict[str, Any]) -> None:
    who = registered(rig)
    assert rig.refused(400, "ValidationError", subscribe(rig, who, **members))
    assert rig.refused(400, "Logs.ValidationError", subscribe(rig, who, "/2020-08-15/logs", **members))


def test_subscriptions_close_with_init(rig: Rig) -> None:
    who = registered(rig)
    rig.ask_next()
    inner = Rig(rig.agent, rig.path)
    inner.http.request("GET", f"{EXTENSION}/event/next", headers={"Lambda-Extension-Identifier": who})
    assert rig.agent.receive()[0] == m.LOG
    assert rig.agent.receive() == [m.NEXT]
    other = Rig(rig.agent, rig.path)
    text = other.refused(403, "Telemetry.SubscriptionClosed", subscribe(other, who))
    assert text == "Telemetry API subscription is closed"
    other.refused(403, "Logs.SubscriptionClosed", subscribe(other, who, "/2020-08-15/logs"))
    for rest in (inner, other):
        rest.http.close()


def test_delivery_over_tcp(rig: Rig) -> None:
    who = registered(rig)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        destination = {"protocol": "TCP", "port": listener.getsockname()[1]}
        answer = subscribe(rig, who, destination=destination, buffering={"timeoutMs": 25})
        assert (answer[0], answer[2]) == (200, b'"OK"')
        assert rig.agent.receive()[4] == b"TELEMETRY\tName: inner\tState: Subscribed\tTypes: [Platform, Function]"
        sock, _ = listener.accept()
        with sock, sock.makefile() as lines:
            first, second = json.loads(lines.readline()), json.loads(lines.readline())
    assert (first["type"], second["type"]) == ("platform.initStart", "platform.telemetrySubscription")
    assert first["record"]["instanceMaxMemory"] == 128 * 1024 * 1024
