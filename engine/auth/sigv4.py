"""Signature Version 4, the verifying side.

Rebuilds the canonical request from the raw bytes received and compares signatures in constant time
(docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv4-create-signed-request.html). Runs on the invoke path of the data plane,
so the frequent form (an ``Authorization`` header as SDKs write it) takes no detour and signing keys are kept: deriving one costs
four HMACs. A key enters the cache only after a signature verified with it, so strangers cannot fill it.

Two canonical forms are tried before a request is refused: the path and query as sent, and their decoded and re-encoded form. SDKs
agree on paths and queries that are already canonical and differ on odd ones; both forms mean the same request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from urllib.parse import quote_from_bytes, unquote_to_bytes

from engine.auth.principals import Credential, KeyRing, Principal, account_of_key
from engine.errors import (
    ExpiredToken,
    IncompleteSignature,
    InvalidSignature,
    MissingAuthenticationToken,
    NotImplementedHere,
    UnrecognizedClient,
)

Headers = Iterable[tuple[bytes, bytes]] | Mapping[str, str]

SKEW_S = 300
MAX_PRESIGNED_S = 604_800
MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and "
    "signing method. Consult the service documentation for details."
)
INVALID_TOKEN = "The security token included in the request is invalid."
EXPIRED_TOKEN = "The security token included in the request is expired"
_ALGORITHM = b"AWS4-HMAC-SHA256"
_UNSIGNED = b"UNSIGNED-PAYLOAD"
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest().encode()
_MAX_KEYS = 1024
_AUTHORIZATION = re.compile(
    rb"AWS4-HMAC-SHA256 Credential=(([^/,\s]+)/(\d{8})/([^/,\s]+)/([^/,\s]+)/aws4_request), ?"
    rb"SignedHeaders=([^,\s]+), ?Signature=([0-9a-f]{64})"
)
_SCOPE = re.compile(rb"(.+)/(\d{8})/([^/]+)/([^/]+)/aws4_request", re.DOTALL)
_CANONICAL_QUERY = re.compile(r"(?:[A-Za-z0-9._~=&-]|%[0-9A-F]{2})*")
_ODD_PATH = re.compile(r"//|/\.")
_AMZ_DATE = re.compile(rb"\d{8}T\d{6}Z")


class _Claim:
    """What a request says about its own signature."""

    __slots__ = ("access_key", "date", "region", "scope", "service", "signature", "signed")

    def __init__(
        self, scope: bytes, access_key: bytes, date: bytes, region: bytes, service: bytes, signed: bytes, signature: bytes
    ) -> None:
        self.scope = scope
        self.access_key = access_key
        self.date = date
        self.region = region
        self.service = service
        self.signed = signed
        self.signature = signature


class Verifier:
    """Verifies requests against a key ring.

    Not safe for several threads writing the ring at once with verification, but reads are plain dictionary look-ups.
    """

    def __init__(self, keys: KeyRing, *, skew_s: int = SKEW_S) -> None:
        self._keys = keys
        self._skew_s = skew_s
        self._signing_keys: dict[bytes, tuple[Credential, bytes]] = {}

    def verify(
        self, method: str, raw_path: str, raw_query: str, headers: Headers, body: bytes, now_epoch_s: float
    ) -> Principal:
        """The caller who signed this request.

        ``raw_path`` and ``raw_query`` are as received (Latin-1 text, nothing decoded), ``headers`` in any case and order,
        ``body`` complete. Raises MissingAuthenticationToken when there is no signature, IncompleteSignature when it is
        malformed, UnrecognizedClient for an unknown key or session token, ExpiredToken for an expired one, InvalidSignature
        when it is wrong, too old or leaves out headers that must be signed, and NotImplementedHere for chunk-signed bodies.
        """
        fields = _index(headers)
        authorization = fields.get(b"authorization")
        if authorization is None:
            return self._verify_presigned(method, raw_path, raw_query, fields, body, now_epoch_s)
        match = _AUTHORIZATION.fullmatch(authorization)
        claim = _Claim(*match.groups()) if match is not None else _read_authorization(authorization, fields)
        stamp = fields.get(b"x-amz-date")
        if stamp is None:
            stamp = _stamp_of_date(authorization, fields.get(b"date"))
        self._check_time(claim, stamp, now_epoch_s)
        credential = self._credential(claim, fields.get(b"x-amz-security-token"), now_epoch_s)
        headers_block = _canonical_headers(claim.signed, fields)
        payload = _payload_hash(fields.get(b"x-amz-content-sha256"), body, claim.service)
        self._compare(claim, credential, stamp, method, raw_path, raw_query, headers_block, payload)
        return credential.principal

    def _verify_presigned(
        self, method: str, raw_path: str, raw_query: str, fields: dict[bytes, bytes], body: bytes, now_epoch_s: float
    ) -> Principal:
        """The query form: ``X-Amz-Algorithm``, ``-Credential``, ``-Date``, ``-Expires``, ``-SignedHeaders``, ``-Signature``."""
        given, rest = _presigned_parts(raw_query)
        if not given:
            raise MissingAuthenticationToken("Missing Authentication Token")
        claim, stamp, expires_s = _read_presigned(given)
        signed_at = _epoch(stamp)
        if claim.date != stamp[:8]:
            raise InvalidSignature(_scope_date_text(claim, stamp))
        if signed_at - now_epoch_s > self._skew_s:
            raise InvalidSignature(_not_yet(stamp, now_epoch_s, self._skew_s))
        if now_epoch_s > signed_at + expires_s:
            raise InvalidSignature(f"Signature expired: {_iso(signed_at + expires_s)} is now earlier than {_iso(now_epoch_s)}")
        token = given.get("X-Amz-Security-Token")
        credential = self._credential(claim, token, now_epoch_s)
        headers_block = _canonical_headers(claim.signed, fields)
        stated = fields.get(b"x-amz-content-sha256")
        if stated is None and claim.service == b"s3":
            stated = _UNSIGNED
        payload = _payload_hash(stated, body, claim.service)
        self._compare(claim, credential, stamp, method, raw_path, rest, headers_block, payload)
        return credential.principal

    def _check_time(self, claim: _Claim, stamp: bytes, now_epoch_s: float) -> None:
        signed_at = _epoch(stamp)
        if claim.date != stamp[:8]:
            raise InvalidSignature(_scope_date_text(claim, stamp))
        late_s = now_epoch_s - signed_at
        if late_s > self._skew_s:
            window = f"{_iso(now_epoch_s - self._skew_s)} ({_iso(now_epoch_s)} - {self._skew_s // 60} min.)"
            raise InvalidSignature(f"Signature expired: {_shown(stamp)} is now earlier than {window}")
        if -late_s > self._skew_s:
            raise InvalidSignature(_not_yet(stamp, now_epoch_s, self._skew_s))

    def _credential(self, claim: _Claim, token: bytes | None, now_epoch_s: float) -> Credential:
        credential = self._keys.get(claim.access_key.decode("latin-1"))
        if credential is None:
            raise UnrecognizedClient(INVALID_TOKEN)
        expected = credential.session_token
        if expected is None:
            if token is not None:
                raise UnrecognizedClient(INVALID_TOKEN)
        elif token is None or not hmac.compare_digest(token, expected.encode()):
            raise UnrecognizedClient(INVALID_TOKEN)
        if credential.expires_epoch_s is not None and now_epoch_s >= credential.expires_epoch_s:
            raise ExpiredToken(EXPIRED_TOKEN)
        return credential

    def _compare(
        self,
        claim: _Claim,
        credential: Credential,
        stamp: bytes,
        method: str,
        raw_path: str,
        raw_query: str,
        headers_block: bytes,
        payload: bytes,
    ) -> None:
        """Raises InvalidSignature unless one canonical form of the request has the claimed signature."""
        kept = self._signing_keys.get(claim.scope)
        fresh = kept is None or kept[0] is not credential
        key = _signing_key(credential, claim) if kept is None or fresh else kept[1]
        scope = claim.scope[len(claim.access_key) + 1 :]
        verb = method.encode("latin-1", "replace")
        tail = b"%b\n%b\n%b" % (headers_block, claim.signed, payload)
        for path, query in _forms(raw_path, raw_query, claim.service == b"s3"):
            canonical = b"%b\n%b\n%b\n%b" % (verb, path, query, tail)
            digest = hashlib.sha256(canonical).hexdigest()
            to_sign = b"AWS4-HMAC-SHA256\n%b\n%b\n%b" % (stamp, scope, digest.encode())
            if hmac.compare_digest(hmac.digest(key, to_sign, "sha256").hex().encode(), claim.signature):
                if fresh:
                    if len(self._signing_keys) >= _MAX_KEYS:
                        self._signing_keys.clear()
                    self._signing_keys[claim.scope] = (credential, key)
                return
        raise InvalidSignature(MISMATCH)


def credential_account(headers: Headers, default: str, raw_query: str = "") -> str:
    """The account a request's access key names when it is 12 digits, else ``default``. Nothing is verified."""
    return account_of_key(claimed_access_key(headers, raw_query)) or default


def claimed_access_key(headers: Headers, raw_query: str = "") -> str:
    """The access key id in the ``Authorization`` header or presigned query, unverified; empty when there is none."""
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        if len(name) == 13 and name.lower() in (b"authorization", "authorization"):
            text = value if isinstance(value, str) else value.decode("latin-1")
            return text.partition("Credential=")[2].partition("/")[0].strip()
    if "X-Amz-Credential=" in raw_query:
        value = raw_query.partition("X-Amz-Credential=")[2].partition("&")[0]
        return unquote_to_bytes(value).decode("latin-1").partition("/")[0]
    return ""


def _index(headers: Headers) -> dict[bytes, bytes]:
    """Lower-case name to value; repeated headers joined by commas as canonicalisation wants them."""
    fields: dict[bytes, bytes] = {}
    if isinstance(headers, Mapping):
        headers = [(n.encode("latin-1", "replace"), v.encode("latin-1", "replace")) for n, v in headers.items()]
    for raw_name, value in headers:
        name = raw_name.lower()
        if name in fields:
            fields[name] = fields[name] + b"," + value.strip()
        else:
            fields[name] = value
    return fields


def _read_authorization(value: bytes, fields: dict[bytes, bytes]) -> _Claim:
    """An Authorization header in an unusual but legal layout (parts in any order, spaces around commas)."""
    algorithm, _, rest = value.strip().partition(b" ")
    if algorithm != _ALGORITHM:
        raise IncompleteSignature(f"Unsupported AWS 'algorithm': '{_shown(algorithm)}'.")
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
        missing.append("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    if missing:
        raise IncompleteSignature(f"{' '.join(missing)} {_quoted_authorization(value)}")
    return _claim(parts[b"Credential"], parts[b"SignedHeaders"], parts[b"Signature"])


def _claim(credential: bytes, signed: bytes, signature: bytes) -> _Claim:
    match = _SCOPE.fullmatch(credential)
    if match is None:
        raise IncompleteSignature(
            "Credential must have at least 5 slash-delimited elements "
            f"(keyid/date/region/service/term), got '{_shown(credential)}'."
        )
    return _Claim(credential, match[1], match[2], match[3], match[4], signed, signature)


def _quoted_authorization(value: bytes) -> str:
    """What may be repeated to the caller: the hash of the header, never the header."""
    return f"(Hashed with SHA-256 and encoded with Base16) Authorization={hashlib.sha256(value).hexdigest()}"


def _stamp_of_date(authorization: bytes, date: bytes | None) -> bytes:
    """The signing moment from a ``Date`` header, in the form the string to sign carries."""
    if date is None:
        raise IncompleteSignature(
            "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. "
            + _quoted_authorization(authorization)
        )
    if _AMZ_DATE.fullmatch(date):
        return date
    try:
        moment = parsedate_to_datetime(date.decode("latin-1"))
    except (ValueError, IndexError, TypeError):
        raise IncompleteSignature(_bad_date(date)) from None
    return _iso((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()).encode()


def _presigned_parts(raw_query: str) -> tuple[dict[str, bytes], str]:
    """The decoded ``X-Amz-*`` parameters of the signature, and the query without ``X-Amz-Signature``."""
    if "X-Amz-" not in raw_query:
        return {}, raw_query
    given: dict[str, bytes] = {}
    rest = []
    for part in raw_query.split("&"):
        name, _, value = part.partition("=")
        if name.startswith("X-Amz-"):
            given[name] = unquote_to_bytes(value)
        if name != "X-Amz-Signature":
            rest.append(part)
    if "X-Amz-Signature" not in given and "X-Amz-Algorithm" not in given and "X-Amz-Credential" not in given:
        return {}, raw_query
    return given, "&".join(rest)


def _read_presigned(given: dict[str, bytes]) -> tuple[_Claim, bytes, int]:
    names = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature", "X-Amz-SignedHeaders", "X-Amz-Date")
    missing = [f"AWS query-string parameters must include '{name}'." for name in names if not given.get(name)]
    if missing:
        raise IncompleteSignature(f"{' '.join(missing)} Re-examine the query-string parameters.")
    if given["X-Amz-Algorithm"] != _ALGORITHM:
        raise IncompleteSignature(f"Unsupported AWS 'algorithm': '{_shown(given['X-Amz-Algorithm'])}'.")
    expires = given.get("X-Amz-Expires", str(SKEW_S).encode())
    if not expires.isdigit() or len(expires) > 9:
        raise IncompleteSignature("X-Amz-Expires should be a number of seconds.")
    if int(expires) > MAX_PRESIGNED_S:
        raise IncompleteSignature(f"X-Amz-Expires must be less than a week (in seconds); that is {MAX_PRESIGNED_S}.")
    claim = _claim(given["X-Amz-Credential"], given["X-Amz-SignedHeaders"], given["X-Amz-Signature"])
    return claim, given["X-Amz-Date"], int(expires)


@lru_cache(maxsize=512)
def _signed_names(signed: bytes) -> tuple[tuple[bytes, ...], frozenset[bytes]]:
    """The names in a SignedHeaders list, in its order and as a set. Raises InvalidSignature when host is not among them."""
    names = tuple(signed.split(b";"))
    found = frozenset(names)
    if b"host" not in found and b":authority" not in found:
        raise InvalidSignature("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
    return names, found


def _canonical_headers(signed: bytes, fields: dict[bytes, bytes]) -> bytes:
    """The canonical header block. Raises InvalidSignature for an ``x-amz-*`` header left out of it or a signed one not sent."""
    names, known = _signed_names(signed)
    for name in fields:
        if name.startswith(b"x-amz-") and name not in known:
            raise InvalidSignature(f"'{name.decode('latin-1')}' must be a 'SignedHeader' in the AWS Authorization.")
    block = b""
    for name in names:
        value = fields.get(b"host" if name == b":authority" else name)
        if value is None:
            raise InvalidSignature(MISMATCH)
        if b"  " in value or b"\t" in value:
            value = b" ".join(value.split())
        block += b"%b:%b\n" % (name, value.strip())
    return block


def _payload_hash(stated: bytes | None, body: bytes, service: bytes) -> bytes:
    """The last line of the canonical request. Raises InvalidSignature when the stated hash is not the body's."""
    if stated == _UNSIGNED:
        return _UNSIGNED
    if stated is not None and stated.startswith(b"STREAMING-"):
        raise NotImplementedHere(
            f"Lambda Engine does not verify aws-chunked bodies ({_shown(stated)}) for {_shown(service)}; "
            "send the payload in one piece with its SHA-256 or UNSIGNED-PAYLOAD."
        )
    actual = hashlib.sha256(body).hexdigest().encode() if body else _EMPTY_SHA256
    if stated is not None and not hmac.compare_digest(stated, actual):
        raise InvalidSignature("The provided 'x-amz-content-sha256' header does not match what was computed.")
    return actual


def _forms(raw_path: str, raw_query: str, single: bool) -> Iterable[tuple[bytes, bytes]]:
    """Canonical (path, query) candidates; the second only where it differs."""
    path, query = _path_as_sent(raw_path, single), _query_as_sent(raw_query) if raw_query else b""
    yield path, query
    other = (_path_reencoded(raw_path, single), _query_reencoded(raw_query))
    if other != (path, query):
        yield other


@lru_cache(maxsize=1024)
def _path_as_sent(raw_path: str, single: bool) -> bytes:
    """S3 signs the path as it is on the wire; every other service encodes that once more, without dot and empty segments."""
    raw = raw_path.encode("latin-1", "replace")
    if single:
        return raw or b"/"
    if _ODD_PATH.search(raw_path):
        raw = _without_dot_segments(raw)
    return quote_from_bytes(raw, safe="/~").encode() or b"/"


def _path_reencoded(raw_path: str, single: bool) -> bytes:
    raw = raw_path.encode("latin-1", "replace")
    once = quote_from_bytes(unquote_to_bytes(raw), safe="/~") if single else quote_from_bytes(raw, safe="/~")
    return once.encode() or b"/"


def _without_dot_segments(path: bytes) -> bytes:
    """RFC 3986 section 5.2.4, and empty segments removed, as the signing specification asks for."""
    kept: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment not in (b"", b"."):
            kept.append(segment)
    joined = b"/" + b"/".join(kept)
    return joined + b"/" if kept and path.endswith(b"/") else joined


@lru_cache(maxsize=1024)
def _query_as_sent(raw_query: str) -> bytes:
    pairs = sorted(part.partition("=")[::2] for part in raw_query.split("&"))
    return "&".join(f"{name}={value}" for name, value in pairs).encode("latin-1", "replace")


def _query_reencoded(raw_query: str) -> bytes:
    if _CANONICAL_QUERY.fullmatch(raw_query) and "&&" not in raw_query:
        return _query_as_sent(raw_query) if raw_query else b""
    pairs = []
    for part in raw_query.split("&"):
        if part:
            name, _, value = part.partition("=")
            pairs.append((_reencode(name), _reencode(value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs)).encode()


def _reencode(text: str) -> str:
    """Decoded and encoded anew; a plus sign is a space, as HTML forms write it."""
    return quote_from_bytes(unquote_to_bytes(text.replace("+", " ").encode("latin-1", "replace")), safe="~")


def _signing_key(credential: Credential, claim: _Claim) -> bytes:
    key = hmac.digest(b"AWS4" + credential.secret.encode(), claim.date, "sha256")
    for part in (claim.region, claim.service, b"aws4_request"):
        key = hmac.digest(key, part, "sha256")
    return key


@lru_cache(maxsize=256)
def _epoch(stamp: bytes) -> float:
    """Epoch seconds of ``YYYYMMDDTHHMMSSZ``. Raises IncompleteSignature for anything else."""
    if not _AMZ_DATE.fullmatch(stamp):
        raise IncompleteSignature(_bad_date(stamp))
    try:
        return datetime.strptime(stamp.decode(), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise IncompleteSignature(_bad_date(stamp)) from None


def _iso(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y%m%dT%H%M%SZ")


def _bad_date(value: bytes) -> str:
    return f"Date must be in ISO-8601 'basic format'. Got '{_shown(value)}'. See http://en.wikipedia.org/wiki/ISO_8601"


def _not_yet(stamp: bytes, now_epoch_s: float, skew_s: int) -> str:
    latest = _iso(now_epoch_s + skew_s)
    return f"Signature not yet current: {_shown(stamp)} is still later than {latest} ({_iso(now_epoch_s)} + {skew_s // 60} min.)"


def _scope_date_text(claim: _Claim, stamp: bytes) -> str:
    return (
        "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
        f"'{_shown(claim.date)}' != '{_shown(stamp[:8])}', from '{_shown(stamp)}'."
    )


def _shown(value: bytes) -> str:
    """Bytes of a stranger, cut and made printable."""
    return value[:200].decode("ascii", "replace")
