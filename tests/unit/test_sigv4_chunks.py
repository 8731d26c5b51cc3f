"""aws-chunked bodies: the two examples of AWS's documentation, byte for byte, and every way to spoil them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.auth import chunks
from engine.auth.claims import epoch
from engine.auth.principals import KeyRing
from engine.auth.sigv4 import Verifier
from engine.errors import AwsError, IncompleteSignature, InvalidSignature, NotImplementedHere

KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
STAMP = "20130524T000000Z"
PATH = "/examplebucket/chunkObject.txt"
SIGNED, TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


def chunk(data: bytes, signature: str | None) -> bytes:
    mark = b"" if signature is None else b";chunk-signature=" + signature.encode()
    return b"%x%b\r\n%b" % (len(data), mark, data + b"\r\n" if data else b"")


# docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html
BODY = (
    chunk(b"a" * 65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648")
    + chunk(b"a" * 1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497")
    + chunk(b"", "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9")
    + b"\r\n"
)
SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
# docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html
TRAILER_BODY = (
    chunk(b"a" * 65536, "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2")
    + chunk(b"a" * 1024, "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7")
    + chunk(b"", "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992")
    + b"x-amz-checksum-crc32c:sOO8/Q==\r\n"
    + b"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"
)
TRAILER_SEED = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"


def verify(form: str, seed: str, body: bytes, *, length: str = "66560", service: str = "s3") -> str:
    fields = {
        "content-encoding": "aws-chunked",
        "host": "s3.amazonaws.com",
        "x-amz-content-sha256": form,
        "x-amz-date": STAMP,
        "x-amz-decoded-content-length": length,
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
    }
    if form == SIGNED:
        fields["content-length"] = "66824"
    else:
        fields["x-amz-trailer"] = "x-amz-checksum-crc32c"
    names = ";".join(sorted(fields))
    scope = f"20130524/us-east-1/{service}/aws4_request"
    authorization = f"AWS4-HMAC-SHA256 Credential={KEY}/{scope},SignedHeaders={names},Signature={seed}"
    headers = [(n.encode(), v.encode()) for n, v in {**fields, "authorization": authorization}.items()]
    verifier = Verifier(KeyRing.of_secrets({KEY: SECRET}, "000000000000"))
    return verifier.verify("PUT", PATH, "", headers, body, epoch(STAMP.encode())).access_key_id


def test_aws_example() -> None:
    assert verify(SIGNED, SEED, BODY) == KEY


def test_aws_example_with_a_trailer() -> None:
    assert verify(TRAILER, TRAILER_SEED, TRAILER_BODY) == KEY


def sign_seed(form: str, length: str) -> str:
    """The seed for bodies that no document signs."""
    import hashlib
    import hmac

    fields = {
        "content-encoding": "aws-chunked", "host": "s3.amazonaws.com", "x-amz-content-sha256": form, "x-amz-date": STAMP,
        "x-amz-decoded-content-length": length, "x-amz-storage-class": "REDUCED_REDUNDANCY", "x-amz-trailer": "x-amz-checksum-crc32c",
    }  # fmt: skip
    block = "".join(f"{n}:{fields[n]}\n" for n in sorted(fields))
    canonical = f"PUT\n{PATH}\n\n{block}\n{';'.join(sorted(fields))}\n{form}"
    scope = "20130524/us-east-1/s3/aws4_request"
    key = f"AWS4{SECRET}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{STAMP}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def test_unsigned_chunks_with_a_trailer_need_only_their_framing() -> None:
    body = chunk(b"hello", None) + chunk(b"", None) + b"x-amz-checksum-crc32c:AAAAAA==\r\n\r\n"
    assert verify(UNSIGNED, sign_seed(UNSIGNED, "5"), body, length="5") == KEY
    with pytest.raises(IncompleteSignature, match="decoded body"):
        verify(UNSIGNED, sign_seed(UNSIGNED, "6"), body, length="6")


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda b: b.replace(b"\r\naaaa", b"\r\nbaaa", 1), InvalidSignature, "does not match"),
        (lambda b: b.replace(b"aaaa\r\n400;", b"aaab\r\n400;"), InvalidSignature, "does not match"),
        (lambda b: b.replace(b"ad80c7", b"ad80c8"), InvalidSignature, "does not match"),
        (lambda b: b[: b.index(b"0;chunk-signature=b6c6")], IncompleteSignature, "not framed"),
        (lambda b: b"10000\r\n" + b[b.index(b"\r\n") + 2 :], IncompleteSignature, "not framed"),
        (lambda b: b[:1000], IncompleteSignature, "ends within a chunk"),
        (lambda b: b.replace(b"\r\n400;", b"xx400;"), IncompleteSignature, "not followed by a line end"),
        (lambda b: b"", IncompleteSignature, "not framed"),
    ],
)
def test_spoilt_bodies_are_refused(spoil: Callable[[bytes], bytes], error: type[AwsError], words: str) -> None:
    with pytest.raises(error, match=words):
        verify(SIGNED, SEED, spoil(BODY))


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b"sOO8/Q==", b"sOO8/R==", InvalidSignature),
        (b"crc32c:", b"crc32:", InvalidSignature),
        (b"x-amz-trailer-signature:d81f", b"x-amz-trailer-signature:e81f", InvalidSignature),
        (b"x-amz-trailer-signature", b"x-amz-other-signature", IncompleteSignature),
    ],
)
def test_spoilt_trailers_are_refused(old: bytes, new: bytes, error: type[AwsError]) -> None:
    with pytest.raises(error):
        verify(TRAILER, TRAILER_SEED, TRAILER_BODY.replace(old, new))


def test_unknown_forms_and_lambdas_own_api_are_refused_by_name() -> None:
    form = "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"
    with pytest.raises(NotImplementedHere, match=form):
        verify(form, sign_seed(form, "5"), b"", length="5")


FRAGMENTS = st.sampled_from([b"5", b"0", b"ffffffffffffffff", b";chunk-signature=", b"a" * 64, b"\r\n", b"hello", b"x-amz-trailer-signature:", b":", b"\xff"])


@given(st.sampled_from([SIGNED, TRAILER, UNSIGNED]), st.lists(FRAGMENTS, max_size=12).map(b"".join), st.sampled_from([b"5", b"0", b"x", None]))
def test_any_body_is_verified_or_refused(form: str, body: bytes, length: bytes | None) -> None:
    try:
        chunks.check(form.encode(), body, length, b"seed", lambda algorithm, rest: b"f" * 64)
    except AwsError:
        return
    assert form == UNSIGNED
