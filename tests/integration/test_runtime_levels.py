"""Custom runtimes, extensions and official clients where the network or everything is shared: the agent listens on the host's loopback."""

from __future__ import annotations

import json
import os
import sys

import pytest

from tests.framework import clients, host
from tests.framework.engine import engine, zip_of
from tests.integration.test_custom_runtimes import BASH
from tests.integration.test_extensions import EXTENSION


@pytest.mark.slow
@pytest.mark.parametrize(("level", "network"), [("process", "auto"), ("user", "auto"), ("full", "host")])
def test_agents_on_a_shared_network(level: str, network: str) -> None:
    if level == "full":
        host.require("not root")
    python = os.path.realpath(sys.executable)
    with engine(sandbox=level, network=network) as running:
        client = running.client()

        def said(name: str, event: object) -> object:
            return json.loads(client.invoke(FunctionName=name, Payload=json.dumps(event))["Payload"].read())

        running.deploy("bash", {"bootstrap": BASH}, Runtime="provided.al2023")
        running.deploy("official", clients.python(python), "client.handler", Runtime="provided.al2023", MemorySize=256)
        layer = zip_of({"extensions/watcher": EXTENSION.format(python=python)})
        arn = client.publish_layer_version(LayerName="watcher", Content={"ZipFile": layer})["LayerVersionArn"]
        running.deploy("extended", {"m.py": "def f(e, c): return e"}, Layers=[arn], Timeout=10)
        # Two agents at once, each with a port and functions of its own.
        for n in range(2):
            assert said("bash", n) == {"echo": n}
            assert said("official", {"op": "echo", "n": n}) == {"op": "echo", "n": n}
            assert said("extended", n) == n
        exited = said("bash", "exit")
        assert isinstance(exited, dict)
        assert exited["errorType"] == "Runtime.ExitError"
        assert said("bash", 3) == {"echo": 3}


HUNGRY = """
export const handler = async (event) => {
  const kept = []
  for (let n = 0; n < event.mb; n++) kept.push(Buffer.alloc(1 << 20, 1))
  return kept.length
}
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_node_24_where_allocations_are_what_is_limited() -> None:
    """It maps half a gigabyte at its start; what the function takes is limited all the same."""
    host.require("no Node.js with npm")
    with engine(sandbox="process", runtimes={"nodejs24.x": str(clients.node_program(24))}) as running:
        for name, variables in (("early", {}), ("late", {"NODE_OPTIONS": "--enable-source-maps"})):
            running.deploy(name, {"index.mjs": HUNGRY}, "index.handler", Runtime="nodejs24.x", Timeout=30, Environment={"Variables": variables})
            answer = running.client().invoke(FunctionName=name, Payload=b'{"mb": 10}')
            assert json.loads(answer["Payload"].read()) == 10
            answer = running.client().invoke(FunctionName=name, Payload=b'{"mb": 250}')
            assert json.loads(answer["Payload"].read())["errorType"] == "Runtime.ExitError"
