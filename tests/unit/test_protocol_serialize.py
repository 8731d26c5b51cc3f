"""Answers: statuses, headers, bodies, and errors in the case each exception's clients bind."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from engine import errors
from engine.errors import AwsError, ResourceNotFound, TooManyRequests
from engine.protocol import faults
from engine.protocol.model import Model, load
from engine.protocol.serialize import Response, epoch_seconds, serialize_response

MODEL = load()


def serialize(name: str, result: dict[str, Any] | None) -> Response:
    return serialize_response(MODEL.operation(name), result)


def test_unset_members_are_absent_and_the_rest_is_in_the_model_s_order() -> None:
    response = serialize("CreateFunction", {"Version": "1", "FunctionName": "f", "Environment": None})
    assert (response.status, response.body) == (201, b'{"FunctionName":"f","Version":"1"}')
    assert response.headers == [("Content-Type", "application/json")]


def test_delete_function_answers_204_without_a_body() -> None:
    assert serialize("DeleteFunction", None) == Response(204, [], b"")


def test_invoke_binds_status_headers_and_raw_payload() -> None:
    result = {"StatusCode": 200, "FunctionError": "Unhandled", "ExecutedVersion": "$LATEST", "Payload": b'{"a": 1}'}
    response = serialize("Invoke", result)
    assert (response.status, response.body) == (200, b'{"a": 1}')
    assert response.headers == [
        ("X-Amz-Function-Error", "Unhandled"),
        ("X-Amz-Executed-Version", "$LATEST"),
        ("Content-Type", "application/json"),
    ]
    assert serialize("Invoke", {"StatusCode": 204}) == Response(204, [], b"")
    assert serialize("Invoke", {"StatusCode": 202}).body == b""


def test_an_operation_without_output_and_without_204_answers_an_empty_object() -> None:
    assert serialize("GetAccountSettings", {}).body == b"{}"
    assert serialize("TagResource", None) == Response(204, [], b"")


def test_timestamps_are_epoch_seconds_with_fraction() -> None:
    moment = datetime(2023, 11, 14, 22, 13, 20, 123_000, UTC)
    body = json.loads(serialize("GetEventSourceMapping", {"LastModified": moment}).body)
    assert body == {"LastModified": 1700000000.123}
    assert epoch_seconds(moment.replace(tzinfo=None)) == epoch_seconds(moment.astimezone(timezone(timedelta(hours=5))))
    assert epoch_seconds(5) == 5


@pytest.mark.parametrize(
    ("name", "result", "text"),
    [
        ("CreateFunction", {"Nme": 1}, "CreateFunction has no output member"),
        ("CreateFunction", {"VpcConfig": {"Subnet": 1}}, "VpcConfigResponse has no member"),
        ("CreateFunction", {"VpcConfig": 5}, "expected members of VpcConfigResponse, got int"),
        ("CreateFunction", {"Timeout": "3"}, "Timeout: '3' is not a integer"),
        ("CreateFunction", {"Timeout": True}, "Timeout: True is not a integer"),
        ("CreateFunction", {"Handler": 3}, "Handler: 3 is not a string"),
        ("TagResource", {"x": 1}, "TagResource returns nothing"),
        ("InvokeWithResponseStream", {"StatusCode": 200}, "answers with an event stream"),
    ],
)
def test_a_result_that_does_not_fit_the_model_is_our_error(name: str, result: dict[str, Any], text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        serialize(name, result)


def test_a_fault_carries_status_type_header_and_body() -> None:
    response = faults.render(ResourceNotFound("Function not found: arn"))
    assert (response.status, response.body) == (404, b'{"Type":"User","Message":"Function not found: arn"}')
    assert ("x-amzn-ErrorType", "ResourceNotFoundException") in response.headers


def test_a_throttle_carries_reason_and_retry_after() -> None:
    response = faults.render(TooManyRequests("Rate Exceeded.", fields={"Reason": "R"}, headers={"Retry-After": "1"}))
    assert response.status == 429
    assert response.body == b'{"Reason":"R","Type":"User","message":"Rate Exceeded."}'
    assert ("Retry-After", "1") in response.headers


def test_a_message_of_none_is_null() -> None:
    assert faults.render(errors.AccessDenied(None)).body == b'{"Message":null}'


def test_an_unimplemented_operation_names_itself() -> None:
    response = faults.render(faults.not_implemented("CreateAlias"))
    assert response.status == 501
    assert b"CreateAlias" in response.body


def all_errors(root: type[AwsError]) -> list[type[AwsError]]:
    return [root, *(deeper for child in root.__subclasses__() for deeper in all_errors(child))]


MODELLED = [e for e in all_errors(AwsError) if e.code in MODEL.error_names() and not e.__name__.startswith("_")]


@pytest.mark.parametrize("error", MODELLED, ids=lambda e: e.__name__)
def test_every_modelled_error_has_the_model_s_status_and_message_key(error: type[AwsError]) -> None:
    assert error.status == MODEL.error_status(error.code)
    assert error.message_key in MODEL.error_members(error.code)


def test_a_model_with_something_new_is_refused_clearly() -> None:
    def model(shape: dict[str, Any], member: dict[str, Any]) -> Model:
        return Model(
            {
                "operations": {"Op": {"http": {"method": "GET", "requestUri": "/"}, "input": {"shape": "In"}}},
                "shapes": {"In": {"type": "structure", "members": {"A": {"shape": "S", **member}}}, "S": shape},
            }
        )

    with pytest.raises(ValueError, match="type 'bigdecimal' is not supported"):
        model({"type": "bigdecimal"}, {}).operation("Op")
    with pytest.raises(ValueError, match="location 'headers' of member A is not supported"):
        model({"type": "string"}, {"location": "headers"}).operation("Op")
    with pytest.raises(KeyError):
        MODEL.operation("Nothing")


def test_a_recursive_shape_closes_on_itself() -> None:
    tree = {"type": "structure", "members": {"Inner": {"shape": "Tree"}, "Name": {"shape": "S"}}}
    model = Model(
        {
            "operations": {"Op": {"http": {"method": "GET", "requestUri": "/"}, "output": {"shape": "Tree"}}},
            "shapes": {"Tree": tree, "S": {"type": "string"}},
        }
    )
    response = serialize_response(model.operation("Op"), {"Inner": {"Inner": {"Name": "x"}}})
    assert response.body == b'{"Inner":{"Inner":{"Name":"x"}}}'
