"""Our verifier against botocore's signers: what they sign verifies, and no altered request does."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch
from urllib.parse import quote, urlsplit

import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.auth.principals import Credential, KeyRing
from engine.auth.sigv4 import Verifier
from engine.errors import AwsError, InvalidSignature

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
KEY, SECRET, TOKEN = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "tok/en+=="
SEGMENT = st.text(st.characters(codec="utf-8"), max_size=12).map(lambda s: quote(s, safe="-_.~"))
PATH = st.lists(SEGMENT | st.sampled_from([".", "..", "", "a%3Ab", "~x"]), max_size=6).map(lambda s: "/" + "/".join(s))
WORD = st.text(st.characters(codec="utf-8"), max_size=8).map(lambda s: quote(s, safe="-_.~"))
QUERY = st.lists(st.tuples(WORD, WORD), max_size=5).map(lambda pairs: "&".join(f"{k}={v}" if v else k for k, v in pairs))
VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
HEADERS = st.dictionaries(
    st.sampled_from(["X-Amz-Invocation-Type", "X-Amz-Log-Type", "x-custom", "Content-Type", "Accept", "X-Amz-Meta-A"]), VALUE
)
METHOD = st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"])
REGION = st.sampled_from(["us-east-1", "eu-west-3", "cn-north-1"])


def ring(token: str | None) -> KeyRing:
    keys = KeyRing()
    keys.put(Credential(KEY, SECRET, "000000000000", session_token=token))
    return keys


def sign(signer: Any, method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> AWSRequest:
    url = f"http://127.0.0.1:4566{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method, url, headers=dict(headers), data=body)
    with patch.object(botocore.auth, "get_current_datetime", lambda: NOW.replace(tzinfo=None)):
        signer.add_auth(request)
    return request


def received(request: AWSRequest) -> tuple[str, str, str, list[tuple[bytes, bytes]]]:
    """(method, raw path, raw query, headers) as the server sees them."""
    parts = urlsplit(request.url)
    headers = [(name.encode(), value.encode("latin-1")) for name, value in request.headers.items()]
    headers += [(b"Host", b"127.0.0.1:4566"), (b"User-Agent", b"x/1"), (b"Content-Length", b"1")]
    return request.method, parts.path, parts.query, headers


@settings(max_examples=300, deadline=None)
@given(
    METHOD,
    PATH,
    QUERY,
    HEADERS,
    st.binary(max_size=50),
    REGION,
    st.sampled_from([None, TOKEN]),
    st.sampled_from(["lambda", "sqs"]),
)
def test_what_botocore_signs_verifies_and_again_from_memory(
    method: str, path: str, query: str, headers: dict[str, str], body: bytes, region: str, token: str | None, service: str
) -> None:
    request = sign(SigV4Auth(Credentials(KEY, SECRET, token), service, region), method, path, query, headers, body)
    verifier = Verifier(ring(token))
    verb, raw_path, raw_query, fields = received(request)
    for _ in range(2):
        principal = verifier.verify(verb, raw_path, raw_query, fields, body, NOW.timestamp())
        assert (principal.access_key_id, principal.account, principal.verified) == (KEY, "000000000000", True)


@settings(max_examples=200, deadline=None)
@given(METHOD, PATH, QUERY, st.sampled_from([None, TOKEN]))
def test_presigned_urls_of_botocore_verify(method: str, path: str, query: str, token: str | None) -> None:
    signer = SigV4QueryAuth(Credentials(KEY, SECRET, token), "lambda", "us-east-1", expires=60)
    request = sign(signer, method, path, query, {}, b"")
    verb, raw_path, raw_query, fields = received(request)
    assert Verifier(ring(token)).verify(verb, raw_path, raw_query, fields, b"", NOW.timestamp() + 59).verified


@settings(max_examples=200, deadline=None)
@given(PATH, QUERY, st.binary(max_size=50), st.booleans())
def test_s3_paths_are_encoded_once(path: str, query: str, body: bytes, presigned: bool) -> None:
    credentials = Credentials(KEY, SECRET)
    signer = S3SigV4QueryAuth(credentials, "s3", "us-east-1") if presigned else S3SigV4Auth(credentials, "s3", "us-east-1")
    # botocore's presigner takes a body for parameters, and its URLs leave the body unsigned.
    request = sign(signer, "PUT", path, query, {}, b"" if presigned else body)
    verb, raw_path, raw_query, fields = received(request)
    assert Verifier(ring(None)).verify(verb, raw_path, raw_query, fields, body, NOW.timestamp()).verified


@settings(max_examples=300, deadline=None)
@given(data=st.data(), path=PATH, query=QUERY, headers=HEADERS, body=st.binary(max_size=20))
def test_no_altered_request_verifies(data: st.DataObject, path: str, query: str, headers: dict[str, str], body: bytes) -> None:
    request = sign(SigV4Auth(Credentials(KEY, SECRET), "lambda", "us-east-1"), "POST", path, query, headers, body)
    verb, raw_path, raw_query, fields = received(request)
    verifier = Verifier(ring(None))
    verifier.verify(verb, raw_path, raw_query, fields, body, NOW.timestamp())
    what = data.draw(st.sampled_from(["method", "path", "query", "body", "header", "signature"]))
    if what == "method":
        verb = "PATCH"
    elif what == "path":
        raw_path += "/x"
    elif what == "query":
        raw_query = f"{raw_query}&zz=1" if raw_query else "zz=1"
    elif what == "body":
        body += b"!"
    else:
        signed = dict(fields)[b"Authorization"].split(b"SignedHeaders=")[1].split(b",")[0].split(b";")
        name = data.draw(st.sampled_from(signed)) if what == "header" else b"authorization"
        at = next(i for i, (n, _) in enumerate(fields) if n.lower() == name)
        old = fields[at][1]
        new = old[:-1] + (b"0" if old[-1:] != b"0" else b"1")
        assume(b" ".join(new.split()) != b" ".join(old.split()))
        fields[at] = (fields[at][0], new)
    with pytest.raises(AwsError) as caught:
        verifier.verify(verb, raw_path, raw_query, fields, body, NOW.timestamp())
    assert caught.value.status == 403


@settings(max_examples=500, deadline=None)
@given(
    authorization=st.binary(max_size=80)
    | st.lists(
        st.sampled_from(
            [
                b"AWS4-HMAC-SHA256 ",
                b"Credential=",
                b"a/20260504/r/lambda/aws4_request",
                b"SignedHeaders=",
                b"host",
                b", ",
                b"Signature=",
                b"%",
            ]
        ),
        max_size=9,
    ).map(b"".join),
    query=st.text(max_size=20)
    | st.lists(st.sampled_from(["X-Amz-Signature=", "X-Amz-Credential=", "X-Amz-Date=", "&", "a/b"])).map("".join),
    date=st.binary(max_size=20) | st.just(b"20260504T030201Z"),
    path=st.text(max_size=20),
)
def test_noise_is_refused_and_never_trips_the_verifier(authorization: bytes, query: str, date: bytes, path: str) -> None:
    for headers in (
        [(b"Authorization", authorization), (b"X-Amz-Date", date)],
        [(b"Authorization", authorization), (b"Date", date)],
        [],
    ):
        with pytest.raises(AwsError) as caught:
            Verifier(ring(None)).verify("GET", path, query, headers, b"", NOW.timestamp())
        assert caught.value.status == 403


def test_the_oracle_itself_can_fail() -> None:
    request = sign(SigV4Auth(Credentials(KEY, "another"), "lambda", "us-east-1"), "GET", "/", "", {}, b"")
    with pytest.raises(InvalidSignature):
        Verifier(ring(None)).verify(*received(request), b"", NOW.timestamp())
