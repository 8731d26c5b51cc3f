"""Function URLs as pure translations: requests to events, answers to responses, cross-origin rules."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import cors
from engine.protocol.function_url import MalformedResponse, UrlContext, UrlRequest, UrlResponse, event, prelude, response

ID = "a" * 32
CONTEXT = UrlContext(ID, f"{ID}.lambda-url.us-east-1.localhost", "request-1", 1_583_348_638_390, "Root=1-2-3", "4566", None)
JSON = [("content-type", "application/json")]


def seen(method: str = "GET", path: str = "/", query: str = "", headers: Any = (), body: bytes = b"", iam: Any = None) -> dict[str, Any]:
    """The event of a request."""
    document = event(UrlRequest(method, path, query, headers, body, "127.0.0.9"), CONTEXT._replace(iam=iam))
    return dict(json.loads(document))


def test_a_get_becomes_an_event_of_format_2() -> None:
    headers = [("host", "h"), ("user-agent", "agent"), ("x-a", "1"), ("x-a", "2"), ("cookie", "c1=1; c2=2"), ("cookie", "c3=3")]
    assert seen("GET", "/my/p%20ath", "parameter1=value1&parameter1=value2&p2=a%20b+c&empty=", headers) == {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/my/p%20ath",
        "rawQueryString": "parameter1=value1&parameter1=value2&p2=a%20b+c&empty=",
        "cookies": ["c1=1", "c2=2", "c3=3"],
        "headers": {
            "host": "h",
            "user-agent": "agent",
            "x-a": "1,2",
            "x-amzn-trace-id": "Root=1-2-3",
            "x-forwarded-for": "127.0.0.9",
            "x-forwarded-port": "4566",
            "x-forwarded-proto": "http",
        },
        "queryStringParameters": {"parameter1": "value1,value2", "p2": "a b c", "empty": ""},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": ID,
            "domainName": f"{ID}.lambda-url.us-east-1.localhost",
            "domainPrefix": ID,
            "http": {"method": "GET", "path": "/my/p%20ath", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.9", "userAgent": "agent"},
            "requestId": "request-1",
            "routeKey": "$default",
            "stage": "$default",
            "time": "04/Mar/2020:19:03:58 +0000",
            "timeEpoch": 1_583_348_638_390,
        },
        "isBase64Encoded": False,
    }


def test_what_is_not_there_is_left_out() -> None:
    document = seen()
    for absent in ("body", "cookies", "queryStringParameters"):
        assert absent not in document


def test_a_caller_who_was_asked_for_is_named() -> None:
    iam = {"accessKey": "AK", "accountId": "000000000000", "cognitoIdentity": None}
    context = seen(iam=iam)["requestContext"]
    assert context["accountId"] == "000000000000"
    assert context["authorizer"] == {"iam": iam}


@pytest.mark.parametrize(
    ("kind", "body", "is_text"),
    [
        ("application/json", b'{"a": "\xc3\xa9"}', True),
        ("application/json; charset=utf-8", b"{}", True),
        ("text/csv", b"a,b", True),
        ("application/xml", b"<a/>", True),
        ("application/javascript", b"1", True),
        ("text/plain", b"\xff\xfe", False),
        ("application/octet-stream", b"abc", False),
        ("multipart/form-data; boundary=x", b"--x--", False),
        ("application/x-www-form-urlencoded", b"a=1", False),
        ("", b"abc", False),
    ],
)
def test_text_stays_text_and_the_rest_is_base64(kind: str, body: bytes, is_text: bool) -> None:
    document = seen("POST", headers=[("content-type", kind)] if kind else [], body=body)
    assert document["isBase64Encoded"] is not is_text
    assert document["body"] == (body.decode() if is_text else base64.b64encode(body).decode())


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ('{"statusCode": 201, "headers": {"X-A": "1", "Content-Type": "text/plain"}, "body": "made", "cookies": ["a=b", "c=d; Path=/"]}',
         UrlResponse(201, [("X-A", "1"), ("Content-Type", "text/plain"), ("set-cookie", "a=b"), ("set-cookie", "c=d; Path=/")], b"made")),
        ('{"statusCode": "404"}', UrlResponse(404, JSON, b"")),
        ('{"statusCode": 200, "body": "AAH/", "isBase64Encoded": true}', UrlResponse(200, JSON, b"\x00\x01\xff")),
        ('{"statusCode": 200, "headers": {"X-N": 5, "X-T": true, "Content-Length": "9", "Connection": "close"}, "body": null}',
         UrlResponse(200, [*JSON, ("X-N", "5"), ("X-T", "true")], b"")),
        ('"hello"', UrlResponse(200, JSON, b"hello")),
        ('{"message" : "é", "n": [1, 2.5]}', UrlResponse(200, JSON, '{"message":"é","n":[1,2.5]}'.encode())),
        ("[1, 2]", UrlResponse(200, JSON, b"[1,2]")),
        ("7", UrlResponse(200, JSON, b"7")),
        ("true", UrlResponse(200, JSON, b"true")),
        ("null", UrlResponse(200, JSON, b"null")),
    ],
)  # fmt: skip
def test_answers_become_responses(payload: str, expected: UrlResponse) -> None:
    assert response(payload.encode()) == expected


@pytest.mark.parametrize(
    "payload",
    [
        "not json",
        '{"statusCode": "abc"}',
        '{"statusCode": 99}',
        '{"statusCode": 100}',
        '{"statusCode": 600}',
        '{"statusCode": true}',
        '{"statusCode": null}',
        '{"statusCode": 200, "body": {"a": 1}}',
        '{"statusCode": 200, "body": "!", "isBase64Encoded": true}',
        '{"statusCode": 200, "headers": ["a"]}',
        '{"statusCode": 200, "headers": {"a b": "1"}}',
        '{"statusCode": 200, "headers": {"a": "1\\r\\nSet-Cookie: x=y"}}',
        '{"statusCode": 200, "headers": {"a": ["1"]}}',
        '{"statusCode": 200, "cookies": "a=b"}',
        '{"statusCode": 200, "cookies": ["a=b\\nc"]}',
    ],
)
def test_answers_that_are_no_response_are_refused(payload: str) -> None:
    with pytest.raises(MalformedResponse):
        response(payload.encode())


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(["statusCode", "headers", "body", "cookies"]), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@given(JSON_VALUES)
def test_no_answer_can_smuggle_a_header_or_raise_anything_else(value: Any) -> None:
    try:
        answer = response(json.dumps(value).encode())
    except MalformedResponse:
        return
    assert 200 <= answer.status <= 599
    assert not any(c in part for pair in answer.headers for part in pair for c in "\r\n\0")


def test_a_prelude_may_leave_everything_out() -> None:
    assert prelude(b"{}") == UrlResponse(200, [("content-type", "application/octet-stream")], b"")
    described = b'{"statusCode": 302, "headers": {"Location": "/x"}, "cookies": ["a=b"], "body": "ignored"}'
    assert prelude(described) == UrlResponse(302, [("content-type", "application/octet-stream"), ("Location", "/x"), ("set-cookie", "a=b")], b"")
    for wrong in (b"", b"[]", b"null", b'{"statusCode": "x"}', b'{"headers": {"a": "b\\nc"}}'):
        with pytest.raises(MalformedResponse):
            prelude(wrong)


@given(JSON_VALUES)
def test_no_prelude_can_smuggle_a_header_or_raise_anything_else(value: Any) -> None:
    try:
        answer = prelude(json.dumps(value).encode())
    except MalformedResponse:
        return
    assert 200 <= answer.status <= 599
    assert not any(c in part for pair in answer.headers for part in pair for c in "\r\n\0")


@given(st.text(max_size=40), st.binary(max_size=200), st.text(alphabet=st.characters(max_codepoint=255), max_size=30))
def test_every_request_has_an_event_that_keeps_its_body(query: str, body: bytes, kind: str) -> None:
    document = seen("POST", query=query, headers=[("content-type", kind)], body=body)
    if body:
        kept = document["body"]
        assert (base64.b64decode(kept) if document["isBase64Encoded"] else kept.encode()) == body
    assert document["rawQueryString"] == query


RULES = {
    "AllowOrigins": ["https://a.example"],
    "AllowMethods": ["GET", "POST"],
    "AllowHeaders": ["X-One", "content-type"],
    "ExposeHeaders": ["X-Two"],
    "MaxAge": 300,
    "AllowCredentials": True,
}


def asking(origin: str = "https://a.example", method: str = "POST", headers: str | None = "x-one") -> dict[str, str]:
    asked = {"origin": origin, "access-control-request-method": method}
    return asked if headers is None else {**asked, "access-control-request-headers": headers}


def test_a_preflight_is_answered_from_the_rules() -> None:
    assert cors.is_preflight("OPTIONS", asking())
    assert not cors.is_preflight("OPTIONS", {"origin": "x"})
    assert not cors.is_preflight("GET", asking())
    assert dict(cors.preflight(RULES, asking())) == {
        "access-control-allow-origin": "https://a.example",
        "vary": "Origin",
        "access-control-allow-credentials": "true",
        "access-control-allow-methods": "GET,POST",
        "access-control-allow-headers": "X-One,content-type",
        "access-control-max-age": "300",
    }
    assert cors.preflight(RULES, asking(origin="https://b.example")) == []
    assert cors.preflight(RULES, asking(method="DELETE")) == []
    assert cors.preflight(RULES, asking(headers="x-one, x-other")) == []
    anything = {"AllowOrigins": ["*"], "AllowMethods": ["*"], "AllowHeaders": ["*"]}
    assert dict(cors.preflight(anything, asking(headers="x-other"))) == {
        "access-control-allow-origin": "*",
        "access-control-allow-methods": "*",
        "access-control-allow-headers": "x-other",
    }
    assert cors.preflight({}, asking(headers=None)) == []


def test_configured_values_win_over_the_functions_own() -> None:
    own = [("Access-Control-Allow-Origin", "*"), ("X-Two", "2")]
    assert cors.apply(RULES, "https://a.example", own) == [
        ("X-Two", "2"),
        ("access-control-allow-origin", "https://a.example"),
        ("vary", "Origin"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "X-Two"),
    ]
    assert cors.apply(RULES, "https://b.example", own) == [("X-Two", "2")]
    assert cors.apply(RULES, None, own) == [("X-Two", "2")]
