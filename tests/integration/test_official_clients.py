"""AWS's published runtime clients, unmodified, as custom runtimes: what each language's function sees and what its caller gets."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.framework import clients, host
from tests.framework.engine import Engine, engine, zip_of

CONTEXT = {"custom": {"k": "v"}, "env": {"locale": "de"}}
LIMIT = 6 * 1024 * 1024 + 100


class Language(NamedTuple):
    """``error``: what its document calls an error of the function. ``needs``: what the host may lack."""

    package: Callable[[], bytes]
    handler: str
    error: str
    needs: str
    memory: int = 256


LANGUAGES = {
    "python": Language(lambda: clients.python(os.path.realpath(sys.executable)), "client.handler", "ValueError", "not Linux"),
    "go": Language(clients.go, "bootstrap", "errorString", "no Go compiler"),
    "rust": Language(lambda: clients.rust("buffered"), "bootstrap", "alloc::boxed::Box", "no Rust 1.85 or newer"),
    "node": Language(clients.node, "index.handler", "Error", "nothing to build Node.js's client with"),
    "java": Language(clients.java, "client.Handler", "java.lang.IllegalStateException", "no JDK with Maven", 512),
}


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request: pytest.FixtureRequest, shared: Engine) -> Iterator[tuple[Language, str, Any]]:
    """A language, the name of its function, a client."""
    spec = LANGUAGES[request.param]
    host.require(spec.needs)
    name = f"official-{request.param}"
    shared.deploy(name, spec.package(), spec.handler, Runtime="provided.al2023", MemorySize=spec.memory, Timeout=30)
    yield spec, name, shared.client()
    shared.client().delete_function(FunctionName=name)


def invoke(client: Any, name: str, event: Any, **options: Any) -> tuple[Any, str | None, dict[str, Any]]:
    answer = client.invoke(FunctionName=name, Payload=json.dumps(event), **options)
    return json.loads(answer["Payload"].read()), answer.get("FunctionError"), answer


@pytest.mark.timeout(1000)
def test_echo_and_what_it_prints(language: tuple[Language, str, Any]) -> None:
    _, name, client = language
    event = {"op": "echo", "text": "é\U0001f600", "n": [1, 2.5, None]}
    payload, error, answer = invoke(client, name, event, LogType="Tail")
    assert (payload, error) == (event, None)
    tail = base64.b64decode(answer["LogResult"]).decode()
    assert tail.startswith("START RequestId: ")
    assert "handling echo" in tail
    assert "REPORT RequestId: " in tail


def test_the_error_of_a_handler(language: tuple[Language, str, Any]) -> None:
    spec, name, client = language
    payload, error, _ = invoke(client, name, {"op": "error"})
    assert error == "Unhandled"
    assert payload["errorMessage"] == "boom"
    assert spec.error in payload["errorType"]
    assert invoke(client, name, {"op": "again"})[0] == {"op": "again"}


def test_a_timeout(language: tuple[Language, str, Any]) -> None:
    _, name, client = language
    client.update_function_configuration(FunctionName=name, Timeout=1)
    client.get_waiter("function_updated_v2").wait(FunctionName=name)
    payload, error, answer = invoke(client, name, {"op": "sleep", "seconds": 20})
    assert error == "Unhandled"
    request_id = answer["ResponseMetadata"]["RequestId"]
    assert payload == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": f"RequestId: {request_id} Error: Task timed out after 1.00 seconds",
    }
    client.update_function_configuration(FunctionName=name, Timeout=30)
    client.get_waiter("function_updated_v2").wait(FunctionName=name)
    assert invoke(client, name, {"op": "sleep", "seconds": 0.01})[1] is None


def test_its_end_in_the_middle(language: tuple[Language, str, Any]) -> None:
    _, name, client = language
    payload, error, answer = invoke(client, name, {"op": "exit"})
    assert error == "Unhandled"
    assert payload == {
        "errorType": "Runtime.ExitError",
        "errorMessage": f"RequestId: {answer['ResponseMetadata']['RequestId']} Error: Runtime exited with error: exit status 3",
    }
    assert invoke(client, name, {"op": "after"})[0] == {"op": "after"}


def test_payloads_up_to_the_limits(language: tuple[Language, str, Any]) -> None:
    _, name, client = language
    big = {"op": "echo", "x": "y" * (6 * 1024 * 1024 - 100)}
    assert invoke(client, name, big)[0] == big
    payload, error, _ = invoke(client, name, {"op": "big", "size": LIMIT - 2})
    assert (len(payload), error) == (LIMIT - 2, None)
    payload, error, _ = invoke(client, name, {"op": "big", "size": LIMIT - 1})
    assert error == "Unhandled"
    assert payload == {
        "errorMessage": f"Response payload size exceeded maximum allowed payload size ({LIMIT} bytes).",
        "errorType": "Function.ResponseSizeTooLarge",
    }
    assert invoke(client, name, {"op": "after"})[0] == {"op": "after"}


def test_the_context(language: tuple[Language, str, Any]) -> None:
    spec, name, client = language
    before_ms = time.time() * 1000
    encoded = base64.b64encode(json.dumps(CONTEXT).encode()).decode()
    seen, error, answer = invoke(client, name, {"op": "context"}, ClientContext=encoded)
    assert error is None
    assert seen["request_id"] == answer["ResponseMetadata"]["RequestId"]
    assert seen["arn"] == f"arn:aws:lambda:us-east-1:000000000000:function:{name}"
    assert before_ms + 25_000 < seen["deadline_ms"] < time.time() * 1000 + 31_000
    assert (seen["function"], seen["version"], int(seen["memory"])) == (name, "$LATEST", spec.memory)
    assert seen["custom"] == {"k": "v"}
    assert str(seen["trace"]).startswith("Root=1-")


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_a_managed_java_function(tmp_path: Path) -> None:
    """The package holds the function alone; the client is the engine's to bring."""
    host.require("no JDK with Maven")
    folder = clients.java_folder()
    classes = folder / "classes/client/Handler.class"
    version = subprocess.run(["javac", "-version"], capture_output=True, text=True, check=True).stdout.split()[1].split(".")[0]
    with engine(java_client=str(folder / "lib")) as running:
        package = zip_of({"client/Handler.class": classes.read_bytes()})
        running.deploy("java", package, "client.Handler", Runtime=f"java{version}", MemorySize=512, Timeout=30)
        client = running.client()
        assert invoke(client, "java", {"op": "echo"})[0] == {"op": "echo"}
        payload, error, _ = invoke(client, "java", {"op": "error"})
        assert (payload["errorMessage"], error) == ("boom", "Unhandled")
        with pytest.raises(client.exceptions.InvalidParameterValueException, match="LAMBDA_ENGINE_JAVA_CLIENT"):
            running.deploy("older", package, "client.Handler", Runtime="java8.al2")
