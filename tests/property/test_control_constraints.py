"""Every constraint of every operation served, broken one at a time, over a socket: the right code, and the service's words for it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from engine.protocol.model import load
from tests.framework.constraints import Breakage, breakages
from tests.framework.control import ControlServer
from tests.framework.raw import RawClient
from tests.structure.pages import served

MODEL = load()
# The supervisor and the queue's intake answer these.
ELSEWHERE = {"Invoke", "InvokeAsync", "InvokeWithResponseStream"}
NAMES = [name for name in served() if name not in ELSEWHERE]
# A later layer of the service judges these, with a code and words of its own, after it has looked for the function.
LATER = {
    ("CreateFunction", "runtime"): (400, "InvalidParameterValueException"),
    ("UpdateFunctionConfiguration", "runtime"): (404, "ResourceNotFoundException"),
}
HEAD = re.compile(r"(\d+) validation errors? detected: Value")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    with ControlServer(tmp_path_factory.mktemp("control")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: ControlServer) -> Iterator[RawClient]:
    made = RawClient(server.url)
    yield made
    made.close()


def said(message: str, breakage: Breakage) -> bool:
    """Whether the message says of the path what the model's constraint says."""
    about = f" at '{breakage.path}' failed to satisfy constraint: "
    for part in re.split(r"(?:; |: )(?=Value)", message):
        _, found, text = part.partition(about)
        if not found:
            continue
        expected = breakage.text
        if "..." in expected:
            opening, inner, _ = expected.split("...")
            if text.startswith(opening) and _same(inner, text[len(opening) :]):
                return True
        elif _same(expected, text):
            return True
    return False


def _same(expected: str, text: str) -> bool:
    if "enum value set" not in expected:
        return expected in text
    found = re.search(r"enum value set: \[(.*?)\]", text)
    return found is not None and sorted(found[1].split(", ")) == expected[expected.index("[") + 1 : -1].split("|")


@pytest.mark.parametrize("name", NAMES)
def test_each_broken_constraint_is_named(client: RawClient, name: str) -> None:
    operation = MODEL.operation(name)
    for breakage in breakages(operation):
        answer = client.call(name, breakage.params)
        context = (name, breakage.path, breakage.text, answer.status, answer.body)
        later = LATER.get((name, breakage.path))
        assert (answer.status, answer.code) == (later or (400, "ValidationException")), context
        if later:
            continue
        head = HEAD.match(answer.message)
        assert head is not None, context
        assert int(head[1]) == len(re.findall(r" at '[^']+' failed to satisfy constraint: ", answer.message)), context
        assert ("errors" in answer.message[:30]) is (int(head[1]) > 1), context
        assert said(answer.message, breakage), context
        assert answer.headers["x-amzn-errortype"] == "ValidationException"
        assert answer.headers["x-amzn-requestid"]
        assert answer.headers["content-type"] == "application/json"


def test_every_operation_has_something_to_break_and_it_was_found() -> None:
    found = {name: len(list(breakages(MODEL.operation(name)))) for name in NAMES}
    assert [name for name, count in found.items() if not count] == ["GetAccountSettings"]
    assert sum(found.values()) > 300
