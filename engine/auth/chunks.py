r"""Bodies signed in chunks (aws-chunked): each chunk's signature covers the one before, the first one's the request's.

``<hex size>;chunk-signature=<64 hex>\r\n<data>\r\n`` repeats until a chunk of size 0; with trailers, ``name:value`` lines follow it, in the
signed form with ``x-amz-trailer-signature`` as the last. Pure.
Source: docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html and sigv4-streaming-trailers.html.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable

from engine.auth.canonical import MISMATCH, shown
from engine.errors import IncompleteSignature, InvalidSignature, NotImplementedHere

SIGNED = b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER = b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER = b"STREAMING-UNSIGNED-PAYLOAD-TRAILER"
_FORMS = frozenset({SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER})
_HEAD = re.compile(rb"([0-9a-fA-F]{1,16})(?:;chunk-signature=([0-9a-f]{64}))?\r\n")
_TRAILER_SIGNATURE = b"x-amz-trailer-signature"
_EMPTY = hashlib.sha256(b"").hexdigest().encode()

# (what is signed, the lines after algorithm, date and scope) -> its signature in hex.
Sign = Callable[[bytes, bytes], bytes]


def check(form: bytes, body: bytes, decoded_length: bytes | None, seed: bytes, sign: Sign) -> None:
    """Raises InvalidSignature unless every chunk and the trailer are what was signed, IncompleteSignature for a body that is not framed
    so or whose length is not ``decoded_length`` (the ``x-amz-decoded-content-length`` header), NotImplementedHere for a form unknown
    here. ``seed`` is the signature of the request itself.
    """
    if form not in _FORMS:
        raise NotImplementedHere(f"Lambda Engine does not verify bodies signed as {shown(form)}.")
    signed, previous, at, total = form != UNSIGNED_TRAILER, seed, 0, 0
    while True:
        head = _HEAD.match(body, at)
        if head is None or signed != (head[2] is not None):
            raise IncompleteSignature("The request body is not framed in chunks as x-amz-content-sha256 says.")
        size, start = int(head[1], 16), head.end()
        data = body[start : start + size]
        if len(data) != size:
            raise IncompleteSignature("The request body ends within a chunk.")
        if signed:
            digest = hashlib.sha256(data).hexdigest().encode()
            expected = sign(b"AWS4-HMAC-SHA256-PAYLOAD", b"%b\n%b\n%b" % (previous, _EMPTY, digest))
            if not hmac.compare_digest(expected, head[2]):
                raise InvalidSignature(MISMATCH)
            previous = head[2]
        at, total = start + size, total + size
        if not size:
            break
        if body[at : at + 2] != b"\r\n":
            raise IncompleteSignature("A chunk of the request body is not followed by a line end.")
        at += 2
    if decoded_length is None or not decoded_length.isdigit() or int(decoded_length) != total:
        raise IncompleteSignature("x-amz-decoded-content-length is not the length of the decoded body.")
    if form == SIGNED_TRAILER:
        _check_trailer(body[at:], previous, sign)


def _check_trailer(trailer: bytes, previous: bytes, sign: Sign) -> None:
    lines = [line for line in trailer.split(b"\r\n") if line]
    if not lines or not lines[-1].lower().startswith(_TRAILER_SIGNATURE + b":"):
        raise IncompleteSignature("The trailer has no x-amz-trailer-signature.")
    *fields, last = lines
    pairs = (line.partition(b":") for line in fields)
    canonical = b"".join(b"%b:%b\n" % (name.strip().lower(), value.strip()) for name, _, value in pairs)
    digest = hashlib.sha256(canonical).hexdigest().encode()
    expected = sign(b"AWS4-HMAC-SHA256-TRAILER", b"%b\n%b" % (previous, digest))
    if not hmac.compare_digest(expected, last.partition(b":")[2].strip()):
        raise InvalidSignature(MISMATCH)
