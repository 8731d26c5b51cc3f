"""Refused signatures in the words of the service that was asked, and which service that is."""

from __future__ import annotations

import pytest

from engine.auth.canonical import MISMATCH
from engine.auth.sigv4 import EXPIRED_SESSION, MISSING, UNKNOWN_CALLER
from engine.errors import AwsError, ExpiredToken, IncompleteSignature, InvalidSignature, MissingAuthenticationToken, UnrecognizedClient
from engine.supervisor import routing
from engine.supervisor.refusals import refusal

SIGNED = [(b"authorization", b"x")]
FORM = [(b"content-type", b"application/x-www-form-urlencoded; charset=utf-8")]
TARGET = [(b"x-amz-target", b"DynamoDB_20120810.Scan")]


@pytest.mark.parametrize(
    ("error", "service", "headers", "status", "words"),
    [
        (UnrecognizedClient(UNKNOWN_CALLER), "s3", SIGNED, 403, "<Code>InvalidAccessKeyId</Code><Message>The AWS Access Key Id you provided does not exist"),
        (InvalidSignature(MISMATCH), "s3", SIGNED, 403, "<Code>SignatureDoesNotMatch</Code>"),
        (InvalidSignature("Signature expired: x"), "s3", SIGNED, 403, "<Code>RequestTimeTooSkewed</Code>"),
        (InvalidSignature("Signature not yet current: x"), "s3", SIGNED, 403, "<Code>RequestTimeTooSkewed</Code>"),
        (InvalidSignature("Signature expired: x"), "s3", [], 403, "<Code>AccessDenied</Code><Message>Request has expired</Message>"),
        (ExpiredToken(EXPIRED_SESSION), "s3", SIGNED, 400, "<Code>ExpiredToken</Code><Message>The provided token has expired.</Message>"),
        (IncompleteSignature("a < b"), "s3", [], 400, "<Code>AuthorizationQueryParametersError</Code><Message>a &lt; b</Message>"),
        (IncompleteSignature("x"), "s3", SIGNED, 400, "<Code>AuthorizationHeaderMalformed</Code>"),
        (MissingAuthenticationToken(MISSING), None, [], 403, "<Code>AccessDenied</Code>"),
        (MissingAuthenticationToken(MISSING), None, FORM, 403, "<Code>MissingAuthenticationToken</Code>"),
        (MissingAuthenticationToken(MISSING), None, TARGET, 400, '"__type": "MissingAuthenticationTokenException"'),
        (UnrecognizedClient(UNKNOWN_CALLER), "sqs", FORM, 403, "<Code>InvalidClientTokenId</Code>"),
        (InvalidSignature("Signature expired: x"), "dynamodb", TARGET, 400, "Signature expired: x"),
        (UnrecognizedClient(UNKNOWN_CALLER), "apigateway", SIGNED, 403, '"message":"The security token'),
    ],
)
def test_refusals(error: AwsError, service: str | None, headers: list[tuple[bytes, bytes]], status: int, words: str) -> None:
    answer = refusal(error, service, headers, keep_alive=True).decode()
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert words in answer


@pytest.mark.parametrize(
    ("url", "authorization", "service"),
    [
        (b"/", b"AWS4-HMAC-SHA256 Credential=AKIA/20260101/us-east-1/sqs/aws4_request, SignedHeaders=host", "sqs"),
        (b"/", b"AWS4-HMAC-SHA256 SignedHeaders=host, Credential= AKIA/20260101/us-east-1/iam/aws4_request", "iam"),
        (b"/?X-Amz-Credential=AKIA%2F20260101%2Fus-east-1%2Fiam%2Faws4_request&b=c", None, "iam"),
        (b"/?a=b&X-Amz-Credential=AKIA/20260101/us-east-1/%69am/aws4_request", None, "iam"),
        (b"/?y=X-Amz-Credential=AKIA/20260101/us-east-1/iam/aws4_request", None, None),
        (b"/", b"Basic x", None),
    ],
)
def test_the_service_of_a_signature_however_it_is_spelled(url: bytes, authorization: bytes | None, service: str | None) -> None:
    headers = [] if authorization is None else [(b"authorization", authorization)]
    assert routing.service(url, headers) == service
