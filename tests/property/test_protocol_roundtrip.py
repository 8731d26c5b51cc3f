"""Our side of rest-json against botocore's, for every operation of the model."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import botocore.loaders
import pytest
from botocore.awsrequest import create_request_object, prepare_request_dict
from botocore.model import ServiceModel
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.protocol.model import Operation, load
from engine.protocol.parse import parse_request
from engine.protocol.router import Router
from engine.protocol.serialize import serialize_response
from tests.framework.shapes import inputs, outputs

MODEL = load()
ROUTER = Router(MODEL)
THEIRS = ServiceModel(botocore.loaders.Loader().load_service_model("lambda", "service-2"), "lambda")
SERIALIZER = create_serializer("rest-json", include_validation=False)
PARSER = create_parser("rest-json")
NAMES = MODEL.operation_names()
LIGHT = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def send(name: str, params: dict[str, Any]) -> tuple[str, str, str, dict[str, str], bytes]:
    """(method, raw path, raw query, lower-case headers, body) as botocore puts them on the wire."""
    request = SERIALIZER.serialize_to_request(params, THEIRS.operation_model(name))
    prepare_request_dict(request, "http://127.0.0.1:4566")
    prepared = create_request_object({**request, "context": {}}).prepare()
    parts = urlsplit(prepared.url)
    headers = {key.lower(): value if isinstance(value, str) else value.decode() for key, value in prepared.headers.items()}
    body = prepared.body or b""
    return prepared.method, parts.path, parts.query, headers, body if isinstance(body, bytes) else body.encode()


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
        THEIRS.operation_model(name).output_shape,
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
