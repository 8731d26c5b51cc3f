"""Our side of rest-json against botocore's, for every operation of the model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.protocol.model import Operation, load
from engine.protocol.parse import parse_request
from engine.protocol.router import Router
from engine.protocol.serialize import serialize_response
from tests.framework.raw import PARSER, SERVICE, send
from tests.framework.shapes import inputs, outputs

MODEL = load()
ROUTER = Router(MODEL)
NAMES = MODEL.operation_names()
LIGHT = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def on_the_wire(operation: Operation, params: dict[str, Any]) -> dict[str, Any]:
    """What can be seen of ``params`` after transport: empty query lists and empty raw payloads leave no trace, and an absent
    structure that is the whole body looks like an empty one.
    """
    seen: dict[str, Any] = {}
    if operation.payload_in is not None and operation.input.members[operation.payload_in].kind == "structure":
        seen[operation.payload_in] = {}
    for name, value in params.items():
        member = operation.input.members[name]
        if member.location == "querystring" and value == []:
            continue
        if name == operation.payload_in and value == b"":
            continue
        seen[name] = value
    return seen


@pytest.mark.parametrize("name", NAMES)
@LIGHT
@given(data=st.data())
def test_a_request_of_botocore_parses_to_the_params_it_was_built_from(name: str, data: st.DataObject) -> None:
    operation = MODEL.operation(name)
    params = data.draw(inputs(operation))
    method, path, query, headers, body = send(name, params)
    match = ROUTER.match(method, path, query)
    assert match.operation == name
    assert parse_request(operation, match.uri, query, headers, body) == on_the_wire(operation, params)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "InvokeWithResponseStream"])
@LIGHT
@given(data=st.data())
def test_botocore_reads_back_what_we_serialise(name: str, data: st.DataObject) -> None:
    operation = MODEL.operation(name)
    result = data.draw(outputs(operation))
    response = serialize_response(operation, result)
    # A raw payload reaches botocore's parser as a stream object; only a bytes body would be decoded as text.
    body = response.body if operation.payload_out is None else bytearray(response.body)
    read = PARSER.parse(
        {"status_code": response.status, "headers": dict(response.headers), "body": body, "context": {}},
        SERVICE.operation_model(name).output_shape,
    )
    assert read.pop("ResponseMetadata")["HTTPStatusCode"] == response.status
    expected = dict(result)
    if operation.output is not None:
        for member, shape in operation.output.members.items():
            if shape.location == "statusCode":
                expected[member] = response.status
    if operation.payload_out is not None:
        expected.setdefault(operation.payload_out, b"")
    assert read == expected
