"""Pulling an image from a registry into an OCI layout on disk.

Anonymous, with a token that the registry's own service gives, or with a user's name and password. Every blob is checked against its
digest. What a registry redirects to is followed without the credentials.
Source: github.com/opencontainers/distribution-spec and distribution.github.io/distribution/spec/auth/token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from engine.images.archive import MAX_DOCUMENT, machine
from engine.images.layers import MAX_BYTES
from engine.images.refused import ImageRefused

_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_ACCEPT = ", ".join((*_INDEXES, *_MANIFESTS))
_TIMEOUT_S = 60.0
_CHUNK = 1 << 20
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class Reference(NamedTuple):
    """``https://host/team/app:1`` or ``…@sha256:<digest>``, taken apart."""

    base: str
    host: str
    repository: str
    tag: str

    @property
    def name(self) -> str:
        """As images are called: without the scheme."""
        return f"{self.host}/{self.repository}{'@' if self.tag.startswith('sha256:') else ':'}{self.tag}"


def parse(url: str) -> Reference:
    """Raises ImageRefused for what is no address of an image."""
    try:
        split = urllib.parse.urlsplit(url)
        port = split.port
    except ValueError as e:
        raise ImageRefused(f"{url} is not the address of an image: {e}") from e
    path = split.path.lstrip("/")
    if split.scheme not in ("http", "https") or not split.hostname or not path or split.query or split.fragment:
        raise ImageRefused(f"{url} is not the address of an image: it looks like https://registry.example.com/team/app:1")
    repository, at, digest = path.partition("@")
    head, colon, tag = repository.rpartition(":")
    if at:
        repository, tag = (head if colon and "/" not in tag else repository), digest
    elif colon and "/" not in tag:
        repository = head
    else:
        tag = "latest"
    host = split.hostname if port is None else f"{split.hostname}:{port}"
    return Reference(f"{split.scheme}://{host}", host, repository, tag)


class Registry:
    """One image's registry. ``credentials``: a user's name and password."""

    def __init__(self, reference: Reference, credentials: tuple[str, str] | None = None) -> None:
        self._reference = reference
        self._credentials = credentials
        self._authorization = ""

    def pull(self, into: Path) -> None:
        """Write the image for this machine to an empty directory, as an OCI layout. Raises ImageRefused and OSError."""
        blobs = into / "blobs/sha256"
        blobs.mkdir(parents=True)
        try:
            kind, data = self._described()
            manifest = json.loads(data)
            digest = hashlib.sha256(data).hexdigest()
            (blobs / digest).write_bytes(data)
            for descriptor in (manifest["config"], *manifest["layers"]):
                self._blob(descriptor, blobs)
        except (KeyError, TypeError, AttributeError, ValueError) as e:
            raise ImageRefused(f"{self._reference.name} is not described as images are: {e!r}") from e
        entry = {
            "mediaType": kind,
            "digest": f"sha256:{digest}",
            "size": len(data),
            "annotations": {"org.opencontainers.image.ref.name": self._reference.name},
        }
        (into / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (into / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))

    def digest(self) -> str:
        """The digest (hexadecimal) that the image for this machine has now. Raises ImageRefused and OSError."""
        try:
            return hashlib.sha256(self._described()[1]).hexdigest()
        except (KeyError, TypeError, AttributeError, ValueError) as e:
            raise ImageRefused(f"{self._reference.name} is not described as images are: {e!r}") from e

    def _described(self) -> tuple[str, bytes]:
        """The manifest for this machine and its media type."""
        kind, data = self._manifest(self._reference.tag)
        if kind in _INDEXES or (b'"manifests"' in data and kind not in _MANIFESTS):
            kind, data = self._manifest(self._choose(json.loads(data)))
        return kind, data

    def _choose(self, index: Mapping[str, Any]) -> str:
        there = []
        for descriptor in index["manifests"]:
            wanted = descriptor.get("platform") or {}
            if (wanted.get("os"), wanted.get("architecture")) == ("linux", machine()):
                return str(descriptor["digest"])
            there.append(f"{wanted.get('os')}/{wanted.get('architecture')}")
        raise ImageRefused(f"{self._reference.name} is not there for linux/{machine()}, only for {', '.join(there) or 'nothing'}")

    def _manifest(self, which: str) -> tuple[str, bytes]:
        with self._get(f"/manifests/{which}", _ACCEPT) as answer:
            data = answer.read(MAX_DOCUMENT + 1)
            kind = str(answer.headers.get_content_type())  # type: ignore[attr-defined]
        if len(data) > MAX_DOCUMENT:
            raise ImageRefused(f"the manifest of {self._reference.name} has more than {MAX_DOCUMENT} bytes")
        if which.startswith("sha256:") and hashlib.sha256(data).hexdigest() != which[7:]:
            raise ImageRefused(f"the manifest {which} came damaged")
        return kind, data

    def _blob(self, descriptor: Mapping[str, Any], blobs: Path) -> None:
        digest, size = str(descriptor["digest"]), int(descriptor["size"])
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            raise ImageRefused(f"{digest!r} is not a SHA-256 digest")
        if not 0 <= size <= MAX_BYTES:
            raise ImageRefused(f"a layer of {size} bytes is more than an image may have")
        hashed, left = hashlib.sha256(), size
        with self._get(f"/blobs/{digest}", "*/*") as answer, (blobs / digest[7:]).open("wb") as file:
            while left >= 0 and (data := answer.read(_CHUNK)):
                left -= len(data)
                hashed.update(data)
                file.write(data)
        if left or hashed.hexdigest() != digest[7:]:
            raise ImageRefused(f"the blob {digest} came damaged or cut short")

    def _get(self, path: str, accept: str) -> IO[bytes]:
        url = f"{self._reference.base}/v2/{self._reference.repository}{path}"
        try:
            return self._open(url, accept)
        except urllib.error.HTTPError as e:
            challenge = e.headers.get("WWW-Authenticate") or ""
            e.close()
            if e.code != 401 or self._authorization:
                raise ImageRefused(f"{url}: HTTP {e.code} {e.reason}", status=e.code) from e
        self._authorization = self._permission(challenge)
        try:
            return self._open(url, accept)
        except urllib.error.HTTPError as e:
            e.close()
            raise ImageRefused(f"{url}: HTTP {e.code} {e.reason}", status=e.code) from e

    def _open(self, url: str, accept: str, authorization: str | None = None) -> IO[bytes]:
        request = urllib.request.Request(url, headers={"Accept": accept})  # noqa: S310 - the scheme was checked
        authorization = self._authorization if authorization is None else authorization
        if authorization:
            # Not for whoever the registry sends us on to.
            request.add_unredirected_header("Authorization", authorization)
        try:
            answer: IO[bytes] = urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310 - the scheme was checked
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError as e:
            raise ImageRefused(f"{url}: {e.reason}") from e
        return answer

    def _permission(self, challenge: str) -> str:
        """What to send from now on. Raises ImageRefused."""
        kind = challenge.partition(" ")[0].lower()
        basic = ""
        if self._credentials is not None:
            basic = "Basic " + base64.b64encode(":".join(self._credentials).encode()).decode()
        if kind == "basic":
            if not basic:
                raise ImageRefused(f"{self._reference.host} wants a user's name and password", status=401)
            return basic
        if kind != "bearer":
            raise ImageRefused(f"{self._reference.host} wants an authentication that is not known: {challenge[:200]}")
        asked = dict(_CHALLENGE.findall(challenge))
        realm = asked.pop("realm", "")
        if not realm.startswith(("https://", "http://")):
            raise ImageRefused(f"{self._reference.host} names no service for tokens")
        if basic and self._reference.base.startswith("https:") and not realm.startswith("https:"):
            raise ImageRefused(f"{self._reference.host} wants the password sent in the clear to {realm}")
        asked.setdefault("scope", f"repository:{self._reference.repository}:pull")
        query = urllib.parse.urlencode({k: v for k, v in asked.items() if k in ("service", "scope")})
        try:
            with self._open(f"{realm}?{query}", "application/json", basic) as answer:
                document = json.loads(answer.read(MAX_DOCUMENT))
        except urllib.error.HTTPError as e:
            e.close()
            raise ImageRefused(f"{realm}: HTTP {e.code} {e.reason}", status=e.code) from e
        return f"Bearer {document.get('token') or document['access_token']}"
