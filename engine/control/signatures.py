"""Signed packages: how a signature is made, read and judged.

AWS Signer's format is not published, so this is a documented one of our own (docs/code-signing.md): the archive's entry ``META-INF/lambda-engine.jws`` is
a JSON Web Signature (RFC 7515, compact) over the digest of every other entry and what it unpacks to. Its key id is the ARN of a
signing profile version, whose public key the operator names in ``signing_profiles``. Needs the package ``cryptography`` (extra ``signing``).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import stat
import zipfile
import zlib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from engine.errors import ConfigurationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

ENTRY = "META-INF/lambda-engine.jws"
MAX_SIGNATURE = 16 * 1024 * 1024
_UNIX = 3
_encode = msgspec.json.Encoder(order="sorted").encode


class Verdict(StrEnum):
    """What is wrong with a package, in the words of the service's documentation."""

    TRUSTED = "trusted"
    MISMATCH = "mismatch"
    EXPIRED = "expired"
    INTEGRITY = "integrity"


class Judgement(NamedTuple):
    """``profile`` and ``job`` are the signature's, when it is trusted; ``why`` is for the log and for whoever deploys."""

    verdict: Verdict
    why: str
    profile: str | None = None
    job: str | None = None


class _Head(msgspec.Struct):
    alg: str
    kid: str


class _Claims(msgspec.Struct):
    entries: dict[str, tuple[str, str]]
    iat: int
    exp: int | None = None
    job: str | None = None


class _Broken(Exception):
    """The signature is there and cannot be right."""


class Profiles:
    """Public keys by the ARN of a signing profile version, read when they are first needed."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._keys: dict[str, PublicKeyTypes] = {}

    def key(self, arn: str) -> PublicKeyTypes | None:
        """The profile's key, None when none is configured. Raises ConfigurationError when it cannot be read."""
        path = self._files.get(arn)
        if path is None:
            return None
        if arn not in self._keys:
            load = _serialization().load_pem_public_key
            try:
                self._keys[arn] = load(path.read_bytes())
            except (OSError, ValueError) as e:
                raise ConfigurationError(f"signing_profiles: {path} is not a public key in PEM: {e}") from e
        return self._keys[arn]


def _serialization() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - an extra, and 50 ms that few starts need
    except ModuleNotFoundError as e:
        raise ConfigurationError("signed packages need the extra: pip install 'lambda-engine[signing]'") from e
    return serialization


def judge(data: bytes, publishers: list[str], profiles: Profiles, now_epoch_s: float) -> Judgement:
    """Whether one of ``publishers`` has signed exactly this archive, which has been unpacked without complaint.

    Raises ConfigurationError when a key cannot be read or the extra is missing.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if ENTRY not in archive.namelist():
                return Judgement(Verdict.MISMATCH, "it is not signed")
            return _judge(archive, publishers, profiles, now_epoch_s)
    except _Broken as e:
        return Judgement(Verdict.INTEGRITY, str(e))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as e:
        return Judgement(Verdict.INTEGRITY, f"the archive cannot be read: {e}")


def _judge(archive: zipfile.ZipFile, publishers: list[str], profiles: Profiles, now_epoch_s: float) -> Judgement:
    info = archive.getinfo(ENTRY)
    if info.file_size > MAX_SIGNATURE:
        raise _Broken("its signature is too big")
    protected, head, claims, signature = _parse(archive.read(info))
    if head.kid not in publishers:
        return Judgement(Verdict.MISMATCH, f"it is signed by {head.kid}, which is not an allowed publisher")
    key = profiles.key(head.kid)
    if key is None:
        return Judgement(Verdict.MISMATCH, f"no public key of {head.kid} is configured (signing_profiles)")
    if not _verifies(key, head.alg, protected, signature):
        raise _Broken("its signature is not that of its content by this key")
    if digests(archive) != claims.entries:
        raise _Broken("its entries are not the ones that were signed")
    if claims.exp is not None and claims.exp < now_epoch_s:
        return Judgement(Verdict.EXPIRED, "its signature has expired")
    return Judgement(Verdict.TRUSTED, "", head.kid, claims.job)


def _parse(text: bytes) -> tuple[bytes, _Head, _Claims, bytes]:
    protected, _, signature = text.strip().rpartition(b".")
    head, _, claims = protected.partition(b".")
    try:
        return (
            protected,
            msgspec.json.decode(_unpadded(head), type=_Head),
            msgspec.json.decode(_unpadded(claims), type=_Claims),
            _unpadded(signature),
        )
    except (msgspec.DecodeError, binascii.Error, ValueError) as e:
        raise _Broken(f"its signature is not a JSON Web Signature of this kind: {e}") from None


def digests(archive: zipfile.ZipFile) -> dict[str, tuple[str, str]]:
    """What each entry but the signature unpacks to: its kind and the SHA-256 of its content. Raises _Broken for an ambiguous archive."""
    found: dict[str, tuple[str, str]] = {}
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise _Broken("it has several entries of one name")
    for info in archive.infolist():
        if info.filename != ENTRY:
            digest = hashlib.sha256()
            with archive.open(info) as file:
                while chunk := file.read(1 << 18):
                    digest.update(chunk)
            found[info.filename] = (_kind(info), digest.hexdigest())
    return found


def _kind(info: zipfile.ZipInfo) -> str:
    mode = info.external_attr >> 16 if info.create_system == _UNIX else 0
    if info.is_dir():
        return "directory"
    if stat.S_ISLNK(mode):
        return "link"
    return "program" if mode & 0o111 else "file"


def _verifies(key: PublicKeyTypes, alg: str, protected: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is ``key``'s over ``protected``. A key has one algorithm: what the head says must be that one."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - there is a key, so it is installed
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils  # noqa: PLC0415

    try:
        if isinstance(key, ed25519.Ed25519PublicKey) and alg == "EdDSA":
            key.verify(signature, protected)
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1) and alg == "ES256":
            if len(signature) != 64:
                return False
            pair = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            key.verify(utils.encode_dss_signature(*pair), protected, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey) and alg == "RS256":
            key.verify(signature, protected, padding.PKCS1v15(), hashes.SHA256())
        else:
            return False
    except InvalidSignature:
        return False
    return True


def sign(data: bytes, private_pem: bytes, profile: str, now_epoch_s: int, *, valid_s: int | None = None, job: str | None = None) -> bytes:
    """The archive with a signature in it, replacing one that is there. Raises ValueError for a key or an archive that will not do."""
    key = _serialization().load_pem_private_key(private_pem, None)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as given, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for info in given.infolist():
            if info.filename != ENTRY:
                made.writestr(info, given.read(info))
    with zipfile.ZipFile(io.BytesIO(out.getvalue())) as made:
        try:
            entries = digests(made)
        except _Broken as e:
            raise ValueError(f"the archive cannot be signed: {e}") from None
    claims = {"entries": entries, "iat": now_epoch_s}
    claims |= {"exp": now_epoch_s + valid_s} if valid_s is not None else {}
    claims |= {"job": job} if job else {}
    alg, make = _signer(key)
    protected = _padless(_encode({"alg": alg, "kid": profile})) + b"." + _padless(_encode(claims))
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as made:
        made.writestr(ENTRY, protected + b"." + _padless(make(protected)))
    return out.getvalue()


def _signer(key: PrivateKeyTypes) -> tuple[str, Any]:
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - there is a key, so it is installed
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils  # noqa: PLC0415

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "EdDSA", key.sign
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):

        def es256(text: bytes) -> bytes:
            r, s = utils.decode_dss_signature(key.sign(text, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")

        return "ES256", es256
    if isinstance(key, rsa.RSAPrivateKey):
        return "RS256", lambda text: key.sign(text, padding.PKCS1v15(), hashes.SHA256())
    raise ValueError("keys of this kind do not sign here: use Ed25519, P-256 or RSA")


def _unpadded(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _padless(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
