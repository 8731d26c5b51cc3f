"""Requests as members: locations, types, and what is refused with SerializationException."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from engine.errors import SerializationError
from engine.protocol.model import load
from engine.protocol.parse import parse_request

MODEL = load()


def parse(name: str, body: bytes = b"", query: str = "", uri: dict[str, str] | None = None, **headers: str) -> dict[str, Any]:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return parse_request(MODEL.operation(name), uri or {}, query, named, body)


def parse_json(name: str, document: Any) -> dict[str, Any]:
    return parse(name, json.dumps(document).encode())


def test_invoke_takes_headers_query_and_the_raw_body() -> None:
    params = parse("Invoke", b"\xff", "Qualifier=live", {"FunctionName": "f"}, x_amz_invocation_type="Event")
    assert params == {"FunctionName": "f", "Qualifier": "live", "InvocationType": "Event", "Payload": b"\xff"}


def test_an_empty_body_is_an_empty_object() -> None:
    assert parse("PublishVersion", b"") == parse("PublishVersion", b" \n") == parse("PublishVersion", b"null") == {}


def test_null_reads_as_absent_and_unknown_members_are_ignored() -> None:
    assert parse_json("CreateFunction", {"Role": None, "Handler": "a.b", "Nonsense": 1}) == {"Handler": "a.b"}
    assert parse_json("CreateFunction", {"VpcConfig": {"SubnetIds": None}}) == {"VpcConfig": {}}


def test_null_inside_a_list_stays_for_validation_to_name() -> None:
    assert parse_json("CreateFunction", {"Layers": ["a", None]}) == {"Layers": ["a", None]}


def test_blobs_in_json_are_base64() -> None:
    assert parse_json("CreateFunction", {"Code": {"ZipFile": "AAH/"}}) == {"Code": {"ZipFile": b"\x00\x01\xff"}}


@pytest.mark.parametrize(
    "given", [1700000000.5, "2023-11-14T22:13:20.5Z", "2023-11-14T22:13:20.500", "1700000000.5", "2023-11-15T00:13:20.5+02:00"]
)
def test_timestamps_are_epoch_seconds_or_iso_text(given: float | str) -> None:
    params = parse_json("CreateEventSourceMapping", {"StartingPositionTimestamp": given})
    assert params == {"StartingPositionTimestamp": datetime(2023, 11, 14, 22, 13, 20, 500_000, UTC)}


def test_query_values_take_their_member_s_type() -> None:
    params = parse("ListDurableExecutionsByFunction", b"", "MaxItems=5&ReverseOrder=TRUE&StartedAfter=2023-11-14T22:13:20Z")
    assert params == {"MaxItems": 5, "ReverseOrder": True, "StartedAfter": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)}
    assert parse("UntagResource", b"", "tagKeys=a&tagKeys=b%2Fc") == {"TagKeys": ["a", "b/c"]}


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"Timeout": "3"}, "STRING_VALUE can not be converted to an Integer"),
        ({"Timeout": True}, "TRUE_VALUE can not be converted to an Integer"),
        ({"Timeout": 1.5}, "NUMBER_VALUE can not be converted to an Integer"),
        ({"Timeout": 2**40}, "NUMBER_VALUE can not be converted to an Integer"),
        ({"Timeout": {}}, "Start of structure or map found where not expected."),
        ({"Timeout": []}, "Start of list found where not expected."),
        ({"Role": 5}, "NUMBER_VALUE can not be converted to a String"),
        ({"Role": False}, "FALSE_VALUE can not be converted to a String"),
        ({"Publish": "true"}, "STRING_VALUE can not be converted to a Boolean"),
        ({"TracingConfig": 5}, "NUMBER_VALUE found where a structure or map was expected."),
        ({"TracingConfig": []}, "Start of list found where not expected."),
        ({"Layers": "a"}, "Expected list or null"),
        ({"Layers": {}}, "Start of structure or map found where not expected."),
        ({"Tags": "a"}, "Expected map or null"),
        ({"Tags": []}, "Start of list found where not expected."),
        ({"Code": {"ZipFile": "*"}}, "Unable to decode a blob: it is not base64"),
        ({"Code": {"ZipFile": 1}}, "NUMBER_VALUE can not be converted to a Blob"),
    ],
)
def test_json_of_the_wrong_type_is_a_serialization_exception(document: dict[str, Any], text: str) -> None:
    with pytest.raises(SerializationError) as caught:
        parse_json("CreateFunction", document)
    assert (caught.value.message, caught.value.status, caught.value.code) == (text, 400, "SerializationException")


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[1]", b"5", b'"x"', b'{"a":1} x', b"[" * 5000 + b"]" * 5000])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(SerializationError):
        parse("CreateFunction", body)


@pytest.mark.parametrize("stamp", ["1e300", "nan", "inf", "-1e18", "soon", "2023-13-01T00:00:00Z"])
def test_an_impossible_timestamp_is_refused(stamp: str) -> None:
    with pytest.raises(SerializationError, match="can not be converted to a Timestamp"):
        parse("ListDurableExecutionsByFunction", b"", f"StartedAfter={stamp}")


@pytest.mark.parametrize("text", ["x", "", "1.0", "²", "9" * 30, "--1", " 1"])
def test_a_query_number_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SerializationError, match=r"(STRING|NUMBER)_VALUE can not be converted to an Integer"):
        parse("ListFunctions", b"", f"MaxItems={text}")


def test_a_query_boolean_that_is_none_is_refused() -> None:
    with pytest.raises(SerializationError, match="STRING_VALUE can not be converted to a Boolean"):
        parse("GetDurableExecutionHistory", b"", "ReverseOrder=yes")
