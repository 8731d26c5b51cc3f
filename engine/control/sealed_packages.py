"""Packages of functions with a ``SourceKMSKeyArn``: what is kept of the upload is encrypted with that key.

The file has a head in clear (the wrapped data key and what KMS must be told with it), then the package under AES-256-GCM; it is named by its own
SHA-256 like any other. What a package unpacks to is not part of this: sandboxes mount it from the disk, as on Lambda, where another key guards
that copy. So calls and restarts need no key; a download and a tree that has to be made again do.
Source: docs.aws.amazon.com/lambda/latest/dg/encrypt-zip-package.html.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

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


def keys_of(sources: Sources) -> Keys:
    """KMS, speaking of packages."""
    return Keys(sources, "deployment package", "function")


class PackageOpener:
    """Decrypts what ``sealed`` made. ``hello`` gives what the supervisor said last. Blocks."""

    def __init__(self, sources: Sources, hello: Callable[[], Hello]) -> None:
        self._keys = keys_of(sources)
        self._hello = hello

    def __call__(self, kept: bytes, /) -> bytes:
        """Raises KmsRefused, and ServiceError when KMS cannot be asked or the file is damaged."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an extra; what was encrypted here had it

        head, line, encrypted = _split(kept)
        plain_key = self._keys.decrypt(head["key"], [head["wrapped"]], head["context"], head["account"], self._hello())
        try:
            return bytes(_cipher(plain_key).decrypt(encrypted[:_NONCE], encrypted[_NONCE:], line))
        except InvalidTag as e:
            raise ServiceError("An encrypted deployment package is damaged.") from e


async def sealed(plane: Plane, data: bytes, key: str | None, ref: FunctionRef, hello: Hello) -> bytes | None:
    """The file to keep in place of a package, None without a key. Raises InvalidParameterValue when KMS will not have the key used."""
    return await asyncio.to_thread(_sealed, plane, data, key, ref, hello) if key else None


def _sealed(plane: Plane, data: bytes, key: str, ref: FunctionRef, hello: Hello) -> bytes:
    archive.inspect(data)
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


def reusable(plane: Plane, latest: Version, data: bytes, key: str | None) -> bytes | None:
    """The file that holds this package under this key already, so that uploading it again is no change. Blocks."""
    path = plane.code.blob(latest.code_sha256)
    return path.read_bytes() if key and latest.config.get(PACKAGE) == _note(key, data) and path.is_file() else None


def note(config: dict[str, Any], key: str | None, data: bytes) -> None:
    """Let a configuration say with what key its package is encrypted, if with any, and what the package's own digest is."""
    config.pop(PACKAGE, None)
    if key:
        config[PACKAGE] = _note(key, data)


def _note(key: str, data: bytes) -> dict[str, str]:
    return {"Key": key, "Sha256": hashlib.sha256(data).hexdigest()}


async def located(plane: Plane, version: Version, account: str, url: str) -> dict[str, Any]:
    """GetFunction's Code of a package: where it can be had, or why its key does not give it out."""
    noted = version.config.get(PACKAGE)
    if noted is None:
        return {"RepositoryType": "S3", "Location": url}
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
