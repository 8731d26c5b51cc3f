"""Packages of which no copy in clear is kept: with a ``SourceKMSKeyArn`` it is encrypted with that key, with the ``S3ObjectStorageMode``
REFERENCE it stays where it is in S3, and only its place is kept.

An encrypted package's file has a head in clear (the wrapped data key and what KMS must be told with it), then the package under AES-256-GCM;
a referred one's has a head only. Both are named by their own SHA-256 like any other. What a package unpacks to is not part of this: sandboxes mount it from the disk, as on Lambda, where another key guards
that copy. So calls and restarts need neither key nor object; a download and a tree that has to be made again do.
Source: docs.aws.amazon.com/lambda/latest/dg/{encrypt-zip-package,configuration-self-managed-storage}.html.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.arn import FunctionRef
from engine.control import archive
from engine.control.configuration import PACKAGE
from engine.control.keys import Keys
from engine.control.link import Hello
from engine.control.packages import SEALED_HEAD
from engine.control.sources import Sources
from engine.errors import InvalidParameterValue, KmsRefused, NotImplementedHere, ServiceError
from engine.store.api import Version

if TYPE_CHECKING:
    from engine.control.plane import Plane

_NONCE = 12
_OBJECT = ("S3Bucket", "S3Key", "S3ObjectVersion")


def keys_of(sources: Sources) -> Keys:
    """KMS, speaking of packages."""
    return Keys(sources, "deployment package", "function")


class PackageOpener:
    """Gives the package for a file that ``keep`` made. ``hello`` gives what the supervisor said last. Blocks."""

    def __init__(self, sources: Sources, hello: Callable[[], Hello]) -> None:
        self._sources = sources
        self._keys = keys_of(sources)
        self._hello = hello

    def __call__(self, kept: bytes, /) -> bytes:
        """Raises KmsRefused, InvalidParameterValue when S3 refuses, and ServiceError when either cannot be asked or this is not what it was."""
        head, line, encrypted = _split(kept)
        return self._referred(head) if "object" in head else self._decrypted(head, line, encrypted)

    def _referred(self, head: Mapping[str, Any]) -> bytes:
        data = self._sources.fetch(head["object"], head["account"], self._hello())
        if hashlib.sha256(data).hexdigest() != head["sha256"]:
            raise ServiceError("The object that holds the deployment package is not what it was.")
        return data

    def _decrypted(self, head: Mapping[str, Any], line: bytes, encrypted: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an extra; what was encrypted here had it

        plain_key = self._keys.decrypt(head["key"], [head["wrapped"]], head["context"], head["account"], self._hello())
        try:
            return bytes(_cipher(plain_key).decrypt(encrypted[:_NONCE], encrypted[_NONCE:], line))
        except InvalidTag as e:
            raise ServiceError("An encrypted deployment package is damaged.") from e


class Kept(NamedTuple):
    """How a package is kept: the file in its place (None: a copy), and what the function's configuration says of it (None: nothing)."""

    file: bytes | None = None
    note: dict[str, Any] | None = None

    def show(self, config: dict[str, Any]) -> None:
        """Let a configuration say so."""
        config.pop(PACKAGE, None)
        if self.note is not None:
            config[PACKAGE] = self.note

    def stored(self, size: int) -> int:
        """Bytes that count as stored code of a package of ``size``."""
        return 0 if self.note is not None and "Object" in self.note else size


async def keep(
    plane: Plane, data: bytes, members: Mapping[str, Any], ref: FunctionRef, hello: Hello, former: Version | None = None
) -> Kept:
    """How a package is to be kept by the members that brought it. What ``former`` is kept as already is not made anew, so that uploading the
    same again is no change. Raises InvalidParameterValue for contradictions and when KMS will not have the key used.
    """
    key, refers = members.get("SourceKMSKeyArn"), members.get("S3ObjectStorageMode") == "REFERENCE"
    if not key and not refers:
        return Kept()
    if refers and (key or not all(members.get(name) for name in _OBJECT)):
        raise InvalidParameterValue("S3ObjectStorageMode REFERENCE needs S3Bucket, S3Key and S3ObjectVersion, and no SourceKMSKeyArn.")
    noted: dict[str, Any] = {"Sha256": hashlib.sha256(data).hexdigest()}
    noted |= {"Object": {name: members[name] for name in _OBJECT}, "Size": len(data)} if refers else {"Key": key}
    return Kept(await asyncio.to_thread(_file, plane, data, noted, ref, hello, former), noted)


def _file(plane: Plane, data: bytes, noted: Mapping[str, Any], ref: FunctionRef, hello: Hello, former: Version | None) -> bytes:
    if former is not None and former.config.get(PACKAGE) == noted and (path := plane.code.blob(former.code_sha256)).is_file():
        return path.read_bytes()
    archive.inspect(data)
    if "Key" in noted:
        return _sealed(plane, data, noted["Key"], ref, hello)
    head = {"object": noted["Object"], "account": ref.account, "sha256": noted["Sha256"], "unzipped": archive.unzipped_bytes(data)}
    return SEALED_HEAD + json.dumps(head).encode() + b"\n"


def _sealed(plane: Plane, data: bytes, key: str, ref: FunctionRef, hello: Hello) -> bytes:
    context = {"aws:lambda:FunctionArn": ref.unqualified_arn()}
    try:
        plain_key, wrapped = keys_of(plane.sources).data_key(key, context, ref.account, hello)
    except KmsRefused as e:
        raise InvalidParameterValue(
            "Lambda was unable to encrypt the deployment package because KMS access is denied. Check your KMS permissions. "
            f"KMS Exception: {e.kms_code} KMS Message: {e.kms_message}"
        ) from e
    head = {"key": key, "account": ref.account, "context": context, "wrapped": wrapped, "unzipped": archive.unzipped_bytes(data)}
    line = SEALED_HEAD + json.dumps(head).encode() + b"\n"
    nonce = secrets.token_bytes(_NONCE)
    return line + nonce + bytes(_cipher(plain_key).encrypt(nonce, data, line))


async def located(plane: Plane, version: Version, account: str, url: str) -> dict[str, Any]:
    """GetFunction's Code of a package: where it can be had, or why its key does not give it out."""
    noted = version.config.get(PACKAGE)
    if noted is None:
        return {"RepositoryType": "S3", "Location": url}
    if "Object" in noted:
        return {"RepositoryType": "S3", "Location": url, "ResolvedS3Object": noted["Object"]}
    hello = await plane.link.ready()
    try:
        await asyncio.to_thread(_try_key, plane, version, account, hello)
    except KmsRefused as e:
        message = f"KMS access is denied. Check your KMS permissions. KMS Exception: {e.kms_code} KMS Message: {e.kms_message}"
        return {"RepositoryType": "S3", "Error": {"ErrorCode": e.kms_code, "Message": message}, "SourceKMSKeyArn": noted["Key"]}
    return {"RepositoryType": "S3", "Location": url, "SourceKMSKeyArn": noted["Key"]}


def _try_key(plane: Plane, version: Version, account: str, hello: Hello) -> None:
    try:
        with plane.code.blob(version.code_sha256).open("rb") as file:
            head, _, _ = _split(file.read(len(SEALED_HEAD)) + file.readline())
    except FileNotFoundError as e:
        raise ServiceError("The function's code is lost: upload it again with UpdateFunctionCode first.") from e
    keys_of(plane.sources).decrypt(head["key"], [head["wrapped"]], head["context"], account, hello)


def _split(kept: bytes) -> tuple[Mapping[str, Any], bytes, bytes]:
    """(head, its line as it is kept, what follows)."""
    end = kept.index(b"\n", len(SEALED_HEAD)) + 1
    head: Mapping[str, Any] = json.loads(kept[len(SEALED_HEAD) : end])
    return head, kept[:end], kept[end:]


def _cipher(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an extra, and 50 ms that few starts need
    except ImportError:
        raise NotImplementedHere("SourceKMSKeyArn needs the package cryptography: install lambda-engine[signing]. Nothing was changed.") from None
    return AESGCM(key)
