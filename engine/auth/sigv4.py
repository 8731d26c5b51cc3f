"""Signature Version 4, the verifying side.

Rebuilds the canonical request from the bytes received and compares signatures in constant time. It runs on the invoke path of the
data plane, so what an ``Authorization`` header says apart from its signature (the same for every request an SDK sends with one
key on one day) is parsed once and kept with its signing key, whose derivation costs four HMACs. An entry is kept only after a
signature verified with it, so strangers cannot fill the memory.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from engine.auth import chunks
from engine.auth.canonical import (
    MISMATCH,
    UNSIGNED_PAYLOAD,
    Headers,
    index,
    path_as_sent,
    path_reencoded,
    payload_hash,
    query_as_sent,
    query_reencoded,
    shown,
)
from engine.auth.claims import (
    SIGNATURE_LENGTH,
    Claim,
    epoch,
    iso,
    read_authorization,
    read_presigned,
    split_presigned,
    stamp_of_date,
)
from engine.auth.principals import Credential, KeyRing, Principal, account_of_key
from engine.errors import ExpiredToken, InvalidSignature, MissingAuthenticationToken, NotImplementedHere, UnrecognizedClient

SKEW_S = 300
# Of S3, which is more patient (docs.aws.amazon.com/AmazonS3/latest/API/RESTAuthentication.html).
S3_SKEW_S = 900
MISSING = "Missing Authentication Token"
UNKNOWN_CALLER = "The security token included in the request is invalid."
EXPIRED_SESSION = "The security token included in the request is expired"
_MAX_KEPT = 1024
_BLOCK = 64
# The first byte of STREAMING-...; hashes in hex and UNSIGNED-PAYLOAD have others.
_CHUNKED = ord("S")
_INNER_PAD = bytes(b ^ 0x36 for b in range(256))
_OUTER_PAD = bytes(b ^ 0x5C for b in range(256))
_AUTHORIZATION = ("authorization", b"authorization")


class _Signer:
    """A claim with the credential it names and that credential's signing key, prepared as HMAC's two padded blocks.

    Two plain SHA-256 calls over them cost half of one ``hmac.digest`` (RFC 2104 gives the construction).
    """

    __slots__ = ("claim", "credential", "inner", "outer", "single")

    def __init__(self, claim: Claim, credential: Credential) -> None:
        key = hmac.digest(b"AWS4" + credential.secret.encode(), claim.date, "sha256")
        for part in (claim.region, claim.service, b"aws4_request"):
            key = hmac.digest(key, part, "sha256")
        block = key.ljust(_BLOCK, b"\0")
        self.claim = claim
        self.credential = credential
        self.inner = block.translate(_INNER_PAD)
        self.outer = block.translate(_OUTER_PAD)
        self.single = claim.service == b"s3"

    def signature(self, stamp: bytes, canonical: bytes) -> bytes:
        """The signature, in hex, of a canonical request signed at ``stamp``."""
        digest = hashlib.sha256(canonical).hexdigest().encode()
        to_sign = b"%bAWS4-HMAC-SHA256\n%b\n%b\n%b" % (self.inner, stamp, self.claim.scope, digest)
        return hashlib.sha256(self.outer + hashlib.sha256(to_sign).digest()).hexdigest().encode()

    def check_chunks(self, form: bytes, fields: dict[bytes, bytes], body: bytes, stamp: bytes, seed: bytes) -> None:
        """Raises as ``engine.auth.chunks.check``; of Lambda's own API, NotImplementedHere."""
        if self.claim.service == b"lambda":
            raise NotImplementedHere(
                f"Lambda Engine does not take aws-chunked bodies ({shown(form)}) for Lambda's API: send the payload in one piece, "
                "with its SHA-256 or UNSIGNED-PAYLOAD in x-amz-content-sha256."
            )

        def sign(algorithm: bytes, rest: bytes) -> bytes:
            to_sign = b"%b%b\n%b\n%b\n%b" % (self.inner, algorithm, stamp, self.claim.scope, rest)
            return hashlib.sha256(self.outer + hashlib.sha256(to_sign).digest()).hexdigest().encode()

        chunks.check(form, body, fields.get(b"x-amz-decoded-content-length"), seed, sign)


class Repeat:
    """A header-signed request head that was verified together with a body of the hash ``payload``.

    The signature covers nothing but the head and that hash, so the same head, byte for byte, is as good with any body of that hash,
    for as long as the key is known and its date is near enough.
    """

    __slots__ = ("_credential", "_key", "_payload", "_since_s", "_until_s", "principal")

    def __init__(self, claim: Claim, credential: Credential, payload: bytes, since_s: float, until_s: float) -> None:
        self._key = claim.access_key
        self._credential = credential
        self._payload = payload
        self._since_s = since_s
        self._until_s = until_s
        self.principal = credential.principal

    def holds(self, keys: KeyRing, body: bytes, now_epoch_s: float) -> bool:
        """Whether the same head with ``body`` is verified by what was; if not, it has to be looked at anew."""
        expires_s = self._credential.expires_epoch_s
        return (
            self._since_s <= now_epoch_s <= self._until_s
            and keys.get(self._key) is self._credential
            and (expires_s is None or now_epoch_s < expires_s)
            and hmac.compare_digest(hashlib.sha256(body).hexdigest().encode(), self._payload)
        )


class Verifier:
    """Verifies requests against a key ring. For one thread: verification keeps what it learnt about keys.

    ``repeat`` is what the last successful ``verify`` lets a caller keep, or None.
    """

    def __init__(self, keys: KeyRing, *, skew_s: int = SKEW_S) -> None:
        """``skew_s``: how far a header-signed request's date may be from now, either way, in seconds; for S3 it may be as far as there."""
        self._keys = keys
        self._skew_s = skew_s
        self._s3_skew_s = max(skew_s, S3_SKEW_S)
        self._signers: dict[bytes, _Signer] = {}
        self.repeat: Repeat | None = None

    def verify(
        self,
        method: str,
        raw_path: str,
        raw_query: str,
        headers: Headers,
        body: bytes,
        now_epoch_s: float,
        service: bytes | None = None,
    ) -> Principal:
        """The caller who signed this request, for ``service`` if one is given.

        ``raw_path`` and ``raw_query`` are as received (Latin-1 text, nothing decoded), ``headers`` in any case and order,
        ``body`` complete. Raises MissingAuthenticationToken when there is no signature, IncompleteSignature when it is
        malformed, UnrecognizedClient for an unknown key or session token, ExpiredToken for an expired one, InvalidSignature
        when it is wrong, too old, for another service or leaves out headers that must be signed, and what ``check_chunks`` raises for chunked bodies.
        """
        self.repeat = None
        fields = index(headers)
        authorization = fields.get(b"authorization")
        if authorization is None:
            return self._verify_presigned(method, raw_path, raw_query, fields, body, now_epoch_s, service)
        start = authorization[:-SIGNATURE_LENGTH]
        signer = self._signers.get(start)
        usual = False
        if signer is not None and self._keys.get(signer.claim.access_key) is signer.credential:
            signature = authorization[-SIGNATURE_LENGTH:]
        else:
            claim, signature, usual = read_authorization(authorization, fields)
            signer = _Signer(claim, self._find(claim))
        if service is not None and signer.claim.service != service:
            raise _misdirected(service)
        _check_token(signer.credential, fields.get(b"x-amz-security-token"), now_epoch_s)
        stamp = fields.get(b"x-amz-date") or stamp_of_date(authorization, fields.get(b"date"))
        self._check_time(signer.claim, stamp, now_epoch_s)
        payload = payload_hash(fields.get(b"x-amz-content-sha256"), body)
        tail = b"%b\n%b\n%b" % (signer.claim.signed.block(fields), signer.claim.signed.raw, payload)
        _compare(signer, signature, stamp, method, raw_path, raw_query, tail)
        if payload[0] == _CHUNKED:
            signer.check_chunks(payload, fields, body, stamp, signature)
        if usual:
            self._keep(start, signer)
        if len(payload) == SIGNATURE_LENGTH:
            signed_s = epoch(stamp)
            self.repeat = Repeat(signer.claim, signer.credential, payload, signed_s - self._skew_s, signed_s + self._skew_s)
        return signer.credential.principal

    def holds(self, repeat: Repeat, body: bytes, now_epoch_s: float) -> bool:
        """As ``Repeat.holds``, for the keys of this verifier."""
        return repeat.holds(self._keys, body, now_epoch_s)

    def _verify_presigned(
        self,
        method: str,
        raw_path: str,
        raw_query: str,
        fields: dict[bytes, bytes],
        body: bytes,
        now_epoch_s: float,
        service: bytes | None,
    ) -> Principal:
        """The query form; the signature holds from ``X-Amz-Date`` for ``X-Amz-Expires`` seconds."""
        given, rest = split_presigned(raw_query)
        if not given:
            raise MissingAuthenticationToken(MISSING)
        claim, signature, valid_s = read_presigned(given)
        signer = _Signer(claim, self._find(claim))
        if service is not None and claim.service != service:
            raise _misdirected(service)
        _check_token(signer.credential, given.get("X-Amz-Security-Token"), now_epoch_s)
        stamp = given["X-Amz-Date"]
        signed_at = epoch(stamp)
        _check_scope_date(claim, stamp)
        skew_s = self._s3_skew_s if signer.single else self._skew_s
        if signed_at - now_epoch_s > skew_s:
            raise InvalidSignature(_too_early(stamp, now_epoch_s, skew_s))
        if now_epoch_s > signed_at + valid_s:
            end = iso(signed_at + valid_s)
            raise InvalidSignature(f"Signature expired: {end} is now earlier than {iso(now_epoch_s)}")
        stated = fields.get(b"x-amz-content-sha256")
        payload = payload_hash(UNSIGNED_PAYLOAD if stated is None and signer.single else stated, body)
        tail = b"%b\n%b\n%b" % (claim.signed.block(fields), claim.signed.raw, payload)
        _compare(signer, signature, stamp, method, raw_path, rest, tail)
        if payload[0] == _CHUNKED:
            signer.check_chunks(payload, fields, body, stamp, signature)
        return signer.credential.principal

    def _find(self, claim: Claim) -> Credential:
        credential = self._keys.get(claim.access_key)
        if credential is None:
            raise UnrecognizedClient(UNKNOWN_CALLER, claim.access_key)
        return credential

    def _keep(self, start: bytes, signer: _Signer) -> None:
        if len(self._signers) >= _MAX_KEPT:
            self._signers.clear()
        self._signers[start] = signer

    def _check_time(self, claim: Claim, stamp: bytes, now_epoch_s: float) -> None:
        late_s = now_epoch_s - epoch(stamp)
        _check_scope_date(claim, stamp)
        skew_s = self._s3_skew_s if claim.service == b"s3" else self._skew_s
        if late_s > skew_s:
            window = f"{iso(now_epoch_s - skew_s)} ({iso(now_epoch_s)} - {skew_s // 60} min.)"
            raise InvalidSignature(f"Signature expired: {shown(stamp)} is now earlier than {window}")
        if -late_s > skew_s:
            raise InvalidSignature(_too_early(stamp, now_epoch_s, skew_s))


def _too_early(stamp: bytes, now_epoch_s: float, skew_s: int) -> str:
    window = f"{iso(now_epoch_s + skew_s)} ({iso(now_epoch_s)} + {skew_s // 60} min.)"
    return f"Signature not yet current: {shown(stamp)} is still later than {window}"


def credential_account(headers: Headers, default: str, raw_query: str = "") -> str:
    """The account a request's access key names when it is 12 digits, else ``default``. Nothing is verified."""
    return account_of_key(claimed_access_key(headers, raw_query)) or default


def claimed_access_key(headers: Headers, raw_query: str = "") -> str:
    """The access key id in the ``Authorization`` header or presigned query, unverified; empty when there is none."""
    return _claimed_credential(headers, raw_query).partition("/")[0].strip()


def claimed_region(headers: Headers, raw_query: str = "") -> str:
    """The region in the credential's scope, likewise."""
    parts = _claimed_credential(headers, raw_query).split("/", 3)
    return parts[2] if len(parts) == 4 else ""


def _claimed_credential(headers: Headers, raw_query: str) -> str:
    """What begins with the credential, or nothing."""
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        if name.lower() in _AUTHORIZATION:
            text = value if isinstance(value, str) else value.decode("latin-1")
            return text.partition("Credential=")[2]
    if "X-Amz-Credential=" in raw_query:
        value = raw_query.partition("X-Amz-Credential=")[2].partition("&")[0]
        return unquote_to_bytes(value).decode("latin-1")
    return ""


def _misdirected(service: bytes) -> InvalidSignature:
    return InvalidSignature(f"Credential should be scoped to correct service: '{service.decode()}'. ")


def _check_token(credential: Credential, token: bytes | None, now_epoch_s: float) -> None:
    expected = credential.session_token
    if expected is None:
        if token is not None:
            raise UnrecognizedClient(UNKNOWN_CALLER)
    elif token is None or not hmac.compare_digest(token, expected.encode()):
        raise UnrecognizedClient(UNKNOWN_CALLER)
    if credential.expires_epoch_s is not None and now_epoch_s >= credential.expires_epoch_s:
        raise ExpiredToken(EXPIRED_SESSION)


def _check_scope_date(claim: Claim, stamp: bytes) -> None:
    if stamp[:8] != claim.date:
        raise InvalidSignature(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{shown(claim.date)}' != '{shown(stamp[:8])}', from '{shown(stamp)}'."
        )


def _compare(signer: _Signer, signature: bytes, stamp: bytes, method: str, raw_path: str, raw_query: str, tail: bytes) -> None:
    """Raises InvalidSignature unless one canonical form of the request has this signature."""
    verb = method.encode("latin-1", "replace")
    path, query = path_as_sent(raw_path, signer.single), query_as_sent(raw_query)
    if hmac.compare_digest(signer.signature(stamp, b"%b\n%b\n%b\n%b" % (verb, path, query, tail)), signature):
        return
    other = (path_reencoded(raw_path, signer.single), query_reencoded(raw_query))
    if other != (path, query):
        canonical = b"%b\n%b\n%b\n%b" % (verb, *other, tail)
        if hmac.compare_digest(signer.signature(stamp, canonical), signature):
            return
    raise InvalidSignature(MISMATCH)
