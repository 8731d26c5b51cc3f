"""Function URLs of Node.js functions: an Express application behind an adapter, and a handler that streams."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.framework import clients, host
from tests.framework.engine import Engine, engine
from tests.integration.test_urls import ask, url_of

RUNTIME = "nodejs22.x"
Served = tuple[Engine, str]


@pytest.fixture(scope="module")
def running() -> Iterator[Engine]:
    host.require("no Node.js with npm")
    with engine(runtimes={RUNTIME: str(clients.node_program(22))}, pool_size=1) as started:
        yield started


@pytest.fixture(scope="module")
def shop(running: Engine) -> Served:
    running.deploy("express", clients.express(), "index.handler", Runtime=RUNTIME, Timeout=30, MemorySize=512)
    return running, url_of(running, "express")


def test_an_express_application_is_served(shop: Served) -> None:
    home = ask(*shop)
    assert (home.status, home.body.decode(), home.headers["content-type"]) == (200, "<h1>Grüezi</h1>", "text/html; charset=utf-8")
    made = ask(*shop, "POST", "/items/7?tag=a%26b", json.dumps({"name": "Tasse"}), Content_Type="application/json")
    assert (made.status, made.json()) == (201, {"id": "7", "name": "Tasse", "tag": "a&b"})
    assert ask(*shop, path="/bytes").body == bytes([0, 255, 1, 254])
    assert ask(*shop, path="/nowhere").status == 404
    assert ask(*shop, path="/fail").status == 500
    cookies = [value for name, value in ask(*shop, "POST", "/login").pairs if name == "set-cookie"]
    assert [c.partition(";")[0] for c in cookies] == ["session=abc", "theme=dark"]
    assert ask(*shop, path="/me", Cookie="session=abc; theme=dark").json() == {"session": "abc", "theme": "dark"}


def test_a_handler_streams_through_its_url(running: Engine) -> None:
    running.deploy("streamed", clients.express(), "index.streamed", Runtime=RUNTIME, Timeout=3, MemorySize=512)
    target = url_of(running, "streamed", InvokeMode="RESPONSE_STREAM")
    answer = ask(running, target, path="/now")
    assert (answer.status, answer.body) == (203, b"first second")
    assert (answer.headers["x-path"], answer.headers["set-cookie"], answer.headers["content-type"]) == ("/now", "a=b", "text/plain")
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(running.url).port, timeout=60)
    connection.request("GET", "/wait", headers={"Host": target})
    early = connection.getresponse()
    assert (early.status, early.read(6)) == (203, b"first "), "it is there long before the function could have ended"
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        early.read()
    early.close()
    connection.close()
