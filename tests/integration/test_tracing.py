"""TracingConfig Active in a real engine: the header that functions see, and what an X-Ray daemon is sent."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.core.tracing import Header, read
from tests.framework.engine import Engine, engine

SOURCE = """
import os
def f(event, context):
    if event == "fail": raise ValueError("no")
    return [os.environ["_X_AMZN_TRACE_ID"], os.environ["AWS_XRAY_DAEMON_ADDRESS"]]
"""
ROOT = "1-5759e988-bd862e3fe1be46a994272793"


class Daemon:
    """Takes segments as the X-Ray daemon does."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.address = f"127.0.0.1:{sock.getsockname()[1]}"

    def segments(self, count: int) -> list[dict[str, Any]]:
        """The next so many."""
        found = []
        for _ in range(count):
            head, _, body = self._socket.recv(65536).partition(b"\n")
            assert json.loads(head) == {"format": "json", "version": 1}
            found.append(json.loads(body))
        return found


@contextmanager
def daemon() -> Iterator[Daemon]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(30)
        yield Daemon(sock)


def call(running: Engine, name: str, trace: str | None = None, event: Any = None) -> tuple[Header, str]:
    client = running.client()
    if trace is not None:
        client.meta.events.register("before-sign.lambda.Invoke", lambda request, **_: request.headers.__setitem__("X-Amzn-Trace-Id", trace))
    answer = json.load(client.invoke(FunctionName=name, Payload=json.dumps(event))["Payload"])
    return (read(answer[0]), answer[1]) if isinstance(answer, list) else (Header(), answer["errorType"])


def test_sampled_invocations_of_traced_functions_are_told_to_the_daemon_and_no_others() -> None:
    with daemon() as xray, engine(pool_size=2, xray_daemon=xray.address) as running:
        client = running.client()
        running.deploy("traced", {"m.py": SOURCE}, TracingConfig={"Mode": "Active"})
        running.deploy("plain", {"m.py": SOURCE})
        assert client.get_function_configuration(FunctionName="traced")["TracingConfig"] == {"Mode": "Active"}
        header, address = call(running, "traced")
        assert address == xray.address
        assert header.sampled is True
        service, function = xray.segments(2)
        assert service["trace_id"] == function["trace_id"] == header.root
        assert (function["id"], function["parent_id"], service.get("parent_id")) == (header.parent, service["id"], None)
        assert [s["name"] for s in function["subsegments"]] == ["Initialization", "Invocation"]
        assert service["start_time"] <= function["start_time"] < function["end_time"]
        assert service["aws"]["function_arn"].endswith(":function:traced")
        # Whoever calls has decided: nothing of the first three is told.
        assert call(running, "traced", f"Root={ROOT};Parent=53995c3f42cd8ad8;Sampled=0")[0].sampled is False
        assert call(running, "plain", f"Root={ROOT};Parent=53995c3f42cd8ad8;Sampled=1")[0].parent == "53995c3f42cd8ad8"
        assert call(running, "plain")[0].sampled is False
        header, _ = call(running, "traced", f"Root={ROOT};Parent=53995c3f42cd8ad8;Sampled=1")
        assert (header.root, header.sampled) == (ROOT, True)
        service, function = xray.segments(2)
        assert (service["trace_id"], service["parent_id"], function["id"]) == (ROOT, "53995c3f42cd8ad8", header.parent)
        assert call(running, "traced", f"Root={ROOT};Sampled=1", "fail")[1] == "ValueError"
        service, function = xray.segments(2)
        assert service["fault"] is True
        assert function["subsegments"][-1]["cause"]["exceptions"][0]["type"] == "ValueError"
        client.update_function_configuration(FunctionName="traced", TracingConfig={"Mode": "PassThrough"})
        assert call(running, "traced")[0].sampled is False
