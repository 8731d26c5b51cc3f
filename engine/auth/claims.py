"""What a request says about its own signature: the Authorization header, the presigned query and their dates."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from engine.auth.canonical import SignedHeaders, shown
from engine.errors import IncompleteSignature

ALGORITHM = b"AWS4-HMAC-SHA256"
SIGNATURE_LENGTH = 64
MAX_PRESIGNED_S = 604_800
_USUAL = re.compile(
    rb"AWS4-HMAC-SHA256 Credential=([^,\s]+), ?SignedHeaders=([^,\s]+), ?Signature=([0-9a-f]{64})",
)
_SCOPE = re.compile(rb"(.+)/((\d{8})/([^/]+)/([^/]+)/aws4_request)", re.DOTALL)
_STAMP = re.compile(rb"\d{8}T\d{6}Z")
_SECONDS = re.compile(rb"-?\d{1,9}")


@dataclass(frozen=True, slots=True)
class Claim:
    """The key a request claims to be signed with and what it says was signed; ``scope`` is without the access key."""

    access_key: str
    scope: bytes
    date: bytes
    region: bytes
    service: bytes
    signed: SignedHeaders


def read_authorization(value: bytes, fields: dict[bytes, bytes]) -> tuple[Claim, bytes, bool]:
    """(claim, signature, whether the header has the usual layout, the signature last).

    Raises IncompleteSignature naming each missing part, InvalidSignature when the host is not signed.
    """
    match = _USUAL.fullmatch(value)
    if match is not None:
        return _claim(match[1], match[2]), match[3], True
    algorithm, _, rest = value.strip().partition(b" ")
    if algorithm != ALGORITHM:
        raise _unsupported(algorithm)
    parts: dict[bytes, bytes] = {}
    for part in rest.split(b","):
        name, _, content = part.strip().partition(b"=")
        parts[name] = content.strip()
    missing = [
        f"Authorization header requires '{name.decode()}' parameter."
        for name in (b"Credential", b"Signature", b"SignedHeaders")
        if not parts.get(name)
    ]
    if b"x-amz-date" not in fields and b"date" not in fields:
        missing.append(_NO_DATE)
    if missing:
        raise IncompleteSignature(f"{' '.join(missing)} {_fingerprint(value)}")
    return _claim(parts[b"Credential"], parts[b"SignedHeaders"]), parts[b"Signature"], False


def split_presigned(raw_query: str) -> tuple[dict[str, bytes], str]:
    """The decoded ``X-Amz-*`` parameters (empty when the query is not signed), and the query without its signature."""
    given: dict[str, bytes] = {}
    rest = []
    for part in raw_query.split("&"):
        name, _, value = part.partition("=")
        if name.startswith("X-Amz-"):
            given[name] = unquote_to_bytes(value)
        if name != "X-Amz-Signature":
            rest.append(part)
    if not given.keys() & {"X-Amz-Signature", "X-Amz-Algorithm", "X-Amz-Credential"}:
        return {}, raw_query
    return given, "&".join(rest)


def read_presigned(given: dict[str, bytes]) -> tuple[Claim, bytes, int]:
    """(claim, signature, validity in seconds). Raises IncompleteSignature naming each missing or malformed part."""
    names = (
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Signature",
        "X-Amz-SignedHeaders",
        "X-Amz-Date",
        "X-Amz-Expires",
    )
    missing = [f"AWS query-string parameters must include '{name}'." for name in names if not given.get(name)]
    if missing:
        raise IncompleteSignature(f"{' '.join(missing)} Re-examine the query-string parameters.")
    if given["X-Amz-Algorithm"] != ALGORITHM:
        raise _unsupported(given["X-Amz-Algorithm"])
    expires = given["X-Amz-Expires"]
    if _SECONDS.fullmatch(expires) is None:
        raise IncompleteSignature("X-Amz-Expires should be a number of seconds.")
    if int(expires) < 0:
        raise IncompleteSignature("X-Amz-Expires must be non-negative.")
    if int(expires) > MAX_PRESIGNED_S:
        raise IncompleteSignature(f"X-Amz-Expires must be less than a week (in seconds); that is {MAX_PRESIGNED_S}.")
    return _claim(given["X-Amz-Credential"], given["X-Amz-SignedHeaders"]), given["X-Amz-Signature"], int(expires)


def stamp_of_date(authorization: bytes, date: bytes | None) -> bytes:
    """The signing moment from a ``Date`` header, in the form the string to sign carries. Raises IncompleteSignature."""
    if date is None:
        raise IncompleteSignature(f"{_NO_DATE} {_fingerprint(authorization)}")
    if _STAMP.fullmatch(date):
        return date
    try:
        moment = parsedate_to_datetime(date.decode("latin-1"))
    except (ValueError, IndexError, TypeError, OverflowError):
        raise IncompleteSignature(_bad_date(date)) from None
    return iso((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()).encode()


@lru_cache(maxsize=256)
def epoch(stamp: bytes) -> float:
    """Epoch seconds of ``YYYYMMDDTHHMMSSZ``. Raises IncompleteSignature for anything else."""
    try:
        if _STAMP.fullmatch(stamp):
            return datetime.strptime(stamp.decode(), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        pass
    raise IncompleteSignature(_bad_date(stamp))


def iso(epoch_s: float) -> str:
    """``YYYYMMDDTHHMMSSZ`` of epoch seconds."""
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y%m%dT%H%M%SZ")


_NO_DATE = "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."


def _claim(credential: bytes, signed: bytes) -> Claim:
    match = _SCOPE.fullmatch(credential)
    if match is None:
        raise IncompleteSignature(
            f"Credential must have at least 5 slash-delimited elements (keyid/date/region/service/aws4_request), got '{shown(credential)}'."
        )
    return Claim(match[1].decode("latin-1"), match[2], match[3], match[4], match[5], SignedHeaders(signed))


def _unsupported(algorithm: bytes) -> IncompleteSignature:
    """Of version 4A, which SDKs choose for multi-region access points and by configuration, it is said what to do."""
    hint = " Lambda Engine verifies Signature Version 4, not 4A: sign for one region." if algorithm.startswith(b"AWS4-ECDSA") else ""
    return IncompleteSignature(f"Unsupported AWS 'algorithm': '{shown(algorithm)}'.{hint}")


def _fingerprint(value: bytes) -> str:
    """What may be repeated to the caller: the hash of the header, never the header."""
    return f"(Hashed with SHA-256 and encoded with Base16) Authorization={hashlib.sha256(value).hexdigest()}"


def _bad_date(value: bytes) -> str:
    return f"Date must be in ISO-8601 'basic format'. Got '{shown(value)}'. See http://en.wikipedia.org/wiki/ISO_8601"
