"""Every way a signature can be refused, with AWS's text for it; and the odd forms that are legal."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import timeit

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from engine.auth.claims import epoch, iso
from engine.auth.principals import Credential, KeyRing, account_of_key
from engine.auth.sigv4 import SKEW_S, Verifier, claimed_access_key, credential_account
from engine.errors import (
    AwsError,
    ExpiredToken,
    IncompleteSignature,
    InvalidSignature,
    MissingAuthenticationToken,
    NotImplementedHere,
    UnrecognizedClient,
)

KEY, SECRET, ACCOUNT = "AKIDEXAMPLE", "secret", "000000000000"
PATH = "/2015-03-31/functions/f/invocations"
Fields = list[tuple[bytes, bytes]]


class Signed:
    """A request signed by botocore, to be bent by a test."""

    def __init__(self, headers: dict[str, str] | None = None, body: bytes = b"{}", token: str | None = None) -> None:
        request = AWSRequest("POST", f"http://localhost{PATH}", headers={"Host": "localhost", **(headers or {})}, data=body)
        SigV4Auth(Credentials(KEY, SECRET, token), "lambda", "us-east-1").add_auth(request)
        self.body = body
        self.headers = {name.lower(): str(value) for name, value in request.headers.items()}
        stamp = self.headers.get("x-amz-date") or request.context["timestamp"]
        self.now = epoch(stamp.encode())

    def fields(self) -> Fields:
        return [(n.encode(), v.encode()) for n, v in self.headers.items()]

    def replace(self, old: str, new: str) -> Signed:
        assert old in self.headers["authorization"]
        self.headers["authorization"] = self.headers["authorization"].replace(old, new)
        return self

    def verify(self, verifier: Verifier, later_s: float = 0.0) -> str:
        return verifier.verify("POST", PATH, "", self.fields(), self.body, self.now + later_s).access_key_id


@pytest.fixture
def keys() -> KeyRing:
    return KeyRing.of_secrets({KEY: SECRET, "123456789012": "other"}, ACCOUNT)


@pytest.fixture
def verifier(keys: KeyRing) -> Verifier:
    return Verifier(keys)


def refused(verifier: Verifier, signed: Signed, error: type[AwsError], later_s: float = 0.0) -> str:
    with pytest.raises(error) as caught:
        signed.verify(verifier, later_s)
    assert caught.value.body() == {"message": caught.value.message}
    return caught.value.message


def test_the_clock_may_differ_by_five_minutes_either_way(verifier: Verifier) -> None:
    signed = Signed()
    assert signed.verify(verifier, SKEW_S) == signed.verify(verifier, -SKEW_S) == KEY


def test_an_old_signature_names_both_times(verifier: Verifier) -> None:
    signed = Signed()
    now = signed.now + SKEW_S + 1
    assert refused(verifier, signed, InvalidSignature, SKEW_S + 1) == (
        f"Signature expired: {iso(signed.now)} is now earlier than {iso(now - SKEW_S)} ({iso(now)} - 5 min.)"
    )


def test_a_signature_of_the_future_names_both_times(verifier: Verifier) -> None:
    signed = Signed()
    now = signed.now - SKEW_S - 1
    assert refused(verifier, signed, InvalidSignature, -SKEW_S - 1) == (
        f"Signature not yet current: {iso(signed.now)} is still later than {iso(now + SKEW_S)} ({iso(now)} + 5 min.)"
    )


def test_a_remembered_signer_still_checks_the_time(verifier: Verifier) -> None:
    signed = Signed()
    signed.verify(verifier)
    assert "Signature expired" in refused(verifier, signed, InvalidSignature, SKEW_S + 1)


def test_no_signature_at_all(verifier: Verifier) -> None:
    with pytest.raises(MissingAuthenticationToken, match="Missing Authentication Token"):
        verifier.verify("GET", "/", "", [(b"host", b"x")], b"", 0)
    with pytest.raises(MissingAuthenticationToken):
        verifier.verify("GET", "/", "a=b&X-Amz-Meta=1", [], b"", 0)


def test_an_unknown_key(verifier: Verifier) -> None:
    text = refused(verifier, Signed().replace(KEY, "AKIDSTRANGER"), UnrecognizedClient)
    assert text == "The security token included in the request is invalid."


def test_a_wrong_secret(keys: KeyRing) -> None:
    keys.put(Credential(KEY, "changed", ACCOUNT))
    assert refused(Verifier(keys), Signed(), InvalidSignature) == (
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and "
        "signing method. Consult the service documentation for details."
    )


def test_a_replaced_or_removed_key_is_not_remembered(keys: KeyRing, verifier: Verifier) -> None:
    signed = Signed()
    signed.verify(verifier)
    keys.put(Credential(KEY, "changed", ACCOUNT))
    refused(verifier, signed, InvalidSignature)
    keys.remove(KEY)
    keys.remove(KEY)
    refused(verifier, signed, UnrecognizedClient)


def test_session_tokens_must_match(keys: KeyRing, verifier: Verifier) -> None:
    invalid = "The security token included in the request is invalid."
    assert refused(verifier, Signed(token="t"), UnrecognizedClient) == invalid
    keys.put(Credential(KEY, SECRET, ACCOUNT, session_token="t"))
    assert Signed(token="t").verify(verifier) == KEY
    assert refused(verifier, Signed(token="u"), UnrecognizedClient) == invalid
    assert refused(verifier, Signed(), UnrecognizedClient) == invalid


def test_an_expired_session(keys: KeyRing, verifier: Verifier) -> None:
    signed = Signed(token="t")
    keys.put(Credential(KEY, SECRET, ACCOUNT, session_token="t", expires_epoch_s=signed.now + 10))
    assert signed.verify(verifier, 9) == KEY
    text = refused(verifier, signed, ExpiredToken, 10)
    assert text == "The security token included in the request is expired"


def test_a_scope_of_another_day(verifier: Verifier) -> None:
    signed = Signed()
    day = iso(signed.now)[:8]
    text = refused(verifier, signed.replace(f"/{day}/", "/20200101/"), InvalidSignature)
    assert text == (
        "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
        f"'20200101' != '{day}', from '{iso(signed.now)}'."
    )


@pytest.mark.parametrize("known", [False, True])
def test_a_scope_of_another_service(verifier: Verifier, known: bool) -> None:
    """A link to an object must not be good for a call of Lambda that happens to have the same path, even once its key is known."""
    signed = Signed()
    query, signed_at = presigned()
    text = "Credential should be scoped to correct service: 's3'"
    if known:
        verifier.verify("POST", PATH, "", signed.fields(), signed.body, signed.now, b"lambda")
    with pytest.raises(InvalidSignature, match=text):
        verifier.verify("POST", PATH, "", signed.fields(), signed.body, signed.now, b"s3")
    verifier.verify("GET", "/x", query, [(b"Host", b"localhost")], b"", signed_at, b"lambda")
    with pytest.raises(InvalidSignature, match=text):
        verifier.verify("GET", "/x", query, [(b"Host", b"localhost")], b"", signed_at, b"s3")


def test_the_host_must_be_signed(verifier: Verifier) -> None:
    text = refused(verifier, Signed().replace("host;", ""), InvalidSignature)
    assert text == "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization."


def test_an_amz_header_slipped_in_is_refused(verifier: Verifier) -> None:
    signed = Signed()
    signed.verify(verifier)
    signed.headers["x-amz-invocation-type"] = "Event"
    text = refused(verifier, signed, InvalidSignature)
    assert text == "'x-amz-invocation-type' must be a 'SignedHeader' in the AWS Authorization."


def test_a_signed_header_taken_away_is_refused(verifier: Verifier) -> None:
    signed = Signed({"x-amz-log-type": "Tail"})
    del signed.headers["x-amz-log-type"]
    assert "does not match" in refused(verifier, signed, InvalidSignature)


def test_headers_of_a_proxy_may_be_added(verifier: Verifier) -> None:
    signed = Signed()
    signed.headers.update({"x-lambda-engine-peer": "127.0.0.1", "x-forwarded-for": "::1", "X-Amzn-Trace-Id": "Root=1"})
    assert signed.verify(verifier) == KEY


@pytest.mark.parametrize(
    ("authorization", "text"),
    [
        ("Bearer abc", "Unsupported AWS 'algorithm': 'Bearer'."),
        (
            "AWS4-HMAC-SHA256 Credential=a",
            "Authorization header requires 'Signature' parameter. Authorization header requires 'Sig",
        ),
        ("AWS4-HMAC-SHA256 SignedHeaders=host, Signature=x", "Authorization header requires 'Credential' parameter. (Hashed"),
        (
            "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=x",
            "Credential must have at least 5 slash-delimited elements (keyid/date/region/service/aws4_request), got 'a/b'.",
        ),
    ],
)
def test_a_malformed_header_names_what_is_missing(verifier: Verifier, authorization: str, text: str) -> None:
    signed = Signed()
    signed.headers["authorization"] = authorization
    assert refused(verifier, signed, IncompleteSignature).startswith(text)


def test_the_header_is_repeated_only_as_its_hash(verifier: Verifier) -> None:
    signed = Signed()
    signed.headers["authorization"] = "AWS4-HMAC-SHA256 Credential=hidden"
    text = refused(verifier, signed, IncompleteSignature)
    assert "hidden" not in text
    assert hashlib.sha256(b"AWS4-HMAC-SHA256 Credential=hidden").hexdigest() in text


@pytest.mark.parametrize("date", ["yesterday", "20261301T000000Z", "2026-01-01T00:00:00Z"])
def test_a_malformed_date(verifier: Verifier, date: str) -> None:
    signed = Signed()
    signed.headers["x-amz-date"] = date
    assert refused(verifier, signed, IncompleteSignature).startswith(f"Date must be in ISO-8601 'basic format'. Got '{date}'")


def test_no_date(verifier: Verifier) -> None:
    signed = Signed()
    del signed.headers["x-amz-date"]
    text = refused(verifier, signed, IncompleteSignature)
    assert "requires existence of either a 'X-Amz-Date' or a 'Date' header." in text
    signed.headers["date"] = "no date"
    assert "Date must be in ISO-8601" in refused(verifier, signed, IncompleteSignature)


def test_the_date_header_may_stand_in(verifier: Verifier) -> None:
    signed = Signed({"Date": "set by the signer"})
    assert "x-amz-date" not in signed.headers
    assert signed.verify(verifier) == KEY


def test_parts_in_another_order_and_spacing(verifier: Verifier) -> None:
    signed = Signed()
    scheme, _, rest = signed.headers["authorization"].partition(" ")
    signed.headers["authorization"] = f"{scheme}  {'  ,'.join(reversed(rest.split(', ')))} "
    for _ in range(2):
        assert signed.verify(verifier) == KEY


def test_names_in_any_case_repeats_and_loose_spaces(verifier: Verifier) -> None:
    signed = Signed({"x-amz-meta": "a b,c"})
    fields = [(n.upper(), v) for n, v in signed.fields() if n != b"x-amz-meta"]
    fields += [(b"X-Amz-Meta", b"  a   b "), (b"x-amz-meta", b"\tc")]
    assert verifier.verify("POST", PATH, "", fields, signed.body, signed.now).access_key_id == KEY


def test_a_mapping_of_text_headers_will_do(verifier: Verifier) -> None:
    signed = Signed()
    assert verifier.verify("POST", PATH, "", signed.headers, signed.body, signed.now).access_key_id == KEY


def test_a_path_signed_with_its_empty_segments(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    request = AWSRequest("GET", "http://localhost/a//b", headers={"Host": "localhost"})
    signer = SigV4Auth(Credentials(KEY, SECRET), "lambda", "us-east-1")
    monkeypatch.setattr(signer, "_normalize_url_path", lambda path: path)  # as an SDK does that keeps them
    signer.add_auth(request)
    fields = [(n.encode(), v.encode()) for n, v in request.headers.items()]
    now = epoch(request.headers["X-Amz-Date"].encode())
    assert verifier.verify("GET", "/a//b", "", fields, b"", now).access_key_id == KEY


def test_a_query_sent_less_encoded_than_it_was_signed(verifier: Verifier) -> None:
    request = AWSRequest("GET", "http://localhost/", headers={"Host": "localhost"}, params={"b": "x y/z", "a": ""})
    SigV4Auth(Credentials(KEY, SECRET), "lambda", "us-east-1").add_auth(request)
    fields = [(n.encode(), v.encode()) for n, v in request.headers.items()]
    now = epoch(request.headers["X-Amz-Date"].encode())
    for query in ("b=x%20y%2Fz&a=", "b=x+y/z&a", "a&&b=x%20y%2fz"):
        assert verifier.verify("GET", "/", query, fields, b"", now).access_key_id == KEY


def test_a_stated_payload_hash_must_be_the_body_s(verifier: Verifier) -> None:
    right = hashlib.sha256(b"{}").hexdigest()
    assert Signed({"X-Amz-Content-SHA256": right}).verify(verifier) == KEY
    wrong = Signed({"X-Amz-Content-SHA256": right}, b"{ }")
    text = refused(verifier, wrong, InvalidSignature)
    assert text == "The provided 'x-amz-content-sha256' header does not match what was computed."


def test_an_unsigned_payload_is_taken_as_stated(verifier: Verifier) -> None:
    signed = Signed({"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
    signed.body = b"anything"
    assert signed.verify(verifier) == KEY


def test_lambdas_own_api_takes_no_chunked_bodies(verifier: Verifier) -> None:
    signed = Signed({"X-Amz-Content-SHA256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"})
    text = refused(verifier, signed, NotImplementedHere)
    assert "aws-chunked" in text
    assert "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" in text


def presigned(expires: int = 60) -> tuple[str, float]:
    request = AWSRequest("GET", "http://localhost/x", headers={"Host": "localhost"})
    SigV4QueryAuth(Credentials(KEY, SECRET), "lambda", "us-east-1", expires=expires).add_auth(request)
    query = request.url.partition("?")[2]
    return query, epoch(query.partition("X-Amz-Date=")[2].partition("&")[0].encode())


def verify_presigned(verifier: Verifier, query: str, now: float) -> str:
    return verifier.verify("GET", "/x", query, [(b"Host", b"localhost")], b"", now).access_key_id


def test_a_presigned_url_lives_as_long_as_it_says(verifier: Verifier) -> None:
    query, signed_at = presigned(60)
    assert verify_presigned(verifier, query, signed_at + 60) == KEY
    with pytest.raises(InvalidSignature, match=f"Signature expired: {iso(signed_at + 60)} is now earlier than {iso(signed_at + 61)}"):
        verify_presigned(verifier, query, signed_at + 61)
    with pytest.raises(InvalidSignature, match="Signature not yet current"):
        verify_presigned(verifier, query, signed_at - SKEW_S - 1)


@pytest.mark.parametrize(
    ("old", "new", "error", "text"),
    [
        ("X-Amz-Expires=60", "X-Amz-Expires=604801", IncompleteSignature, "less than a week"),
        ("X-Amz-Expires=60", "X-Amz-Expires=-1", IncompleteSignature, "must be non-negative"),
        ("X-Amz-Expires=60", "X-Amz-Expires=6e1", IncompleteSignature, "should be a number"),
        ("X-Amz-Expires=60", "X-Amz-Expires=61", InvalidSignature, "does not match"),
        ("X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders=", IncompleteSignature, "must include 'X-Amz-SignedHeaders'"),
        ("X-Amz-Algorithm=AWS4-HMAC-SHA256", "X-Amz-Algorithm=AWS4-ECDSA-P256-SHA256", IncompleteSignature, "Version 4, not 4A: sign for one region"),
        ("X-Amz-Date=20", "X-Amz-Date=19", InvalidSignature, "Date in Credential scope does not match"),
        ("X-Amz-Date=20", "X-Amz-Date=x", IncompleteSignature, "Date must be in ISO-8601"),
        (KEY, "AKIDSTRANGER", UnrecognizedClient, "security token"),
    ],
)
def test_a_bent_presigned_url(verifier: Verifier, old: str, new: str, error: type[AwsError], text: str) -> None:
    query, now = presigned(60)
    assert old in query
    with pytest.raises(error, match=text):
        verify_presigned(verifier, query.replace(old, new), now)


def test_a_twelve_digit_key_selects_the_account(verifier: Verifier) -> None:
    fields = [(b"Authorization", b"AWS4-HMAC-SHA256 Credential=123456789012/20260101/us-east-1/lambda/aws4_request, x")]
    assert credential_account(fields, ACCOUNT) == "123456789012"
    assert credential_account({"authorization": "AWS4-HMAC-SHA256 Credential=AKID/x"}, ACCOUNT) == ACCOUNT
    assert credential_account([], ACCOUNT, "X-Amz-Credential=123456789012%2F2026&x=y") == "123456789012"
    assert credential_account([(b"host", b"x")], ACCOUNT) == ACCOUNT
    assert claimed_access_key([]) == ""
    assert [account_of_key(k) for k in ("12345678901", "1234567890123", "12345678901x", "١" * 12)] == [None] * 4


def test_a_twelve_digit_signing_key_belongs_to_its_account(keys: KeyRing) -> None:
    assert keys.get("123456789012").principal.account == "123456789012"
    assert keys.get(KEY).principal.account == ACCOUNT
    assert "secret" not in repr(keys.get(KEY)).replace("secret=********", "")


def test_a_repeated_head_holds_for_the_same_body_only(keys: KeyRing, verifier: Verifier) -> None:
    signed = Signed(body=b'{"a": 1}')
    signed.verify(verifier)
    repeat = verifier.repeat
    assert repeat is not None
    assert repeat.principal.access_key_id == KEY
    assert verifier.holds(repeat, b'{"a": 1}', signed.now)
    assert not verifier.holds(repeat, b'{"a": 2}', signed.now)
    assert verifier.holds(repeat, b'{"a": 1}', signed.now + SKEW_S)
    assert not verifier.holds(repeat, b'{"a": 1}', signed.now + SKEW_S + 1)
    assert not verifier.holds(repeat, b'{"a": 1}', signed.now - SKEW_S - 1)
    keys.put(Credential(KEY, SECRET, ACCOUNT))
    assert not verifier.holds(repeat, b'{"a": 1}', signed.now), "the key is another one now"


def test_nothing_may_be_repeated_of_what_failed_or_has_no_hash(verifier: Verifier) -> None:
    Signed().verify(verifier)
    with pytest.raises(InvalidSignature):
        Signed().replace("Signature=", "Signature=0").verify(verifier)
    assert verifier.repeat is None
    Signed({"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}).verify(verifier)
    assert verifier.repeat is None


def test_a_session_that_ends_ends_its_repeats(keys: KeyRing, verifier: Verifier) -> None:
    signed = Signed(token="t")
    keys.put(Credential(KEY, SECRET, ACCOUNT, "t", expires_epoch_s=signed.now + 10))
    signed.verify(verifier)
    assert verifier.repeat is not None
    assert verifier.holds(verifier.repeat, signed.body, signed.now + 9)
    assert not verifier.holds(verifier.repeat, signed.body, signed.now + 10)


def test_memory_of_signers_is_bounded(keys: KeyRing, verifier: Verifier) -> None:
    signed = Signed()
    for number in range(1100):
        keys.put(Credential(f"AK{number}", SECRET, ACCOUNT))
        request = AWSRequest("POST", f"http://localhost{PATH}", headers={"Host": "localhost"}, data=b"")
        SigV4Auth(Credentials(f"AK{number}", SECRET), "lambda", "us-east-1").add_auth(request)
        fields = [(n.encode(), v.encode()) for n, v in request.headers.items()]
        verifier.verify("POST", PATH, "", fields, b"", signed.now)
    assert len(verifier._signers) <= 1024


def test_failed_signatures_are_not_remembered(verifier: Verifier) -> None:
    for day in range(5):
        with pytest.raises(AwsError):
            Signed().replace("us-east-1", f"xx-none-{day}").verify(verifier)
    assert verifier._signers == {}


def test_verifying_stays_cheap(verifier: Verifier) -> None:
    """The hot path derives no key: it must cost far less than the first verification of a key (ratio, not time)."""
    signed = Signed({"X-Amz-Invocation-Type": "RequestResponse"}, b"x" * 100)
    fields = signed.fields()

    def warm() -> None:
        verifier.verify("POST", PATH, "", fields, signed.body, signed.now)

    def cold() -> None:
        verifier._signers.clear()
        warm()

    assert min(timeit.repeat(warm, number=200, repeat=7)) * 1.5 < min(timeit.repeat(cold, number=200, repeat=7))


def test_the_module_needs_no_botocore() -> None:
    code = "import sys, engine.auth.sigv4; print([m for m in sys.modules if m.startswith(('boto', 'pydantic', 'asyncio'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
