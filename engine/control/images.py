"""Container images as functions use them: found by the address they were imported under, judged, told to the supervisor.

An image is imported first (``lambda-engine image import``), under the very address that the function names, which for images of other machines is
that of a registry; or its registry is one that the operator has named, and it is fetched when a function is created of it.
Source: docs.aws.amazon.com/lambda/latest/dg/images-create.html and recorded replies.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from engine.clock import Clock
from engine.control import configuration
from engine.control.image_registries import COMING, Arrived, ImageRegistries, State, work_apart
from engine.control.link import Hello
from engine.errors import InvalidParameterValue, NotImplementedHere
from engine.images.store import BUILDING, ImageStore
from engine.store.api import FunctionStore, Version

RUNTIME = "image"
_ONLY_CODE = "Please don't provide Handler or Runtime or Layer when the intended function PackageType is Image."
_MAX_NAME = 1024


class ImportRefused(Exception):
    """An image cannot be imported or removed; the text says why."""


class Source(NamedTuple):
    """An image as a function has it: its address as given, and what that means now."""

    uri: str
    digest: str


class Images:
    """The image store below ``data_dir``, and the names in it; for one event loop."""

    def __init__(self, data_dir: Path, store: FunctionStore, clock: Clock, registries: Mapping[str, str] | None = None) -> None:
        self._store = ImageStore(data_dir / "images")
        self.registries = ImageRegistries(registries or {}, self._store.root, self.take)
        self._functions = store
        self._clock = clock
        self._lock = asyncio.Lock()
        self._known: dict[str, dict[str, Any]] = {}

    # Functions.

    async def find(self, uri: str, hello: Hello) -> Source:
        """The image a request names, which may have to be fetched. Raises InvalidParameterValue with AWS's words, NotImplementedHere where
        none can run.
        """
        if hello.no_images:
            raise NotImplementedHere(f"Lambda Engine does not run container images here: {hello.no_images}. Nothing was changed.")
        url = self.registries.url(uri)
        if url is not None:
            return Source(uri, await self.registries.digest(uri, url))
        digest = self._digest_of(uri)
        if digest is None or self.image(digest) is None:
            raise InvalidParameterValue(f"Source image {uri} does not exist. Provide a valid source image.")
        return Source(uri, digest)

    def fetch(self, source: Source, arrived: Arrived) -> asyncio.Task[None] | None:
        """Have an image come that is not here; ``arrived`` is called then, or when it is certain that it will not be. None: it is here."""
        url = self.registries.url(source.uri)
        if url is None or self.image(source.digest) is not None:
            return None
        return self.registries.fetch(source.uri, url, source.digest, arrived)

    async def fetched(self, source: Source) -> None:
        """Wait until an image is here. Raises InvalidParameterValue when it does not come."""
        coming = self.fetch(source, _nothing)
        if coming is not None:
            await asyncio.shield(coming)
            state = self.registries.state(source.digest)
            if state is not None:
                raise InvalidParameterValue(f"Source image {source.uri} is not valid: {state.reason}")

    def _digest_of(self, uri: str) -> str | None:
        names = self._store.names()
        repository, at, digest = uri.partition("@sha256:")
        if at:
            there = (entry["digest"] for name, entry in names.items() if repository_of(name) == repository_of(repository))
            return digest if digest in there else None
        entry = names.get(uri) or names.get(f"{uri}:latest")
        return None if entry is None else str(entry["digest"])

    def image(self, digest: str) -> dict[str, Any] | None:
        """What is kept of an image; None when it is not there."""
        known = self._known.get(digest)
        if known is None or not self._store.tree(known["tree"]).is_dir():
            self._known.pop(digest, None)
            known = self._store.image(digest)
            if known is not None:
                self._known[digest] = known
        return known

    def standing(self, digest: str) -> State | None:
        """Why functions of an image are not Active, for who looks: what has come has not until those who run it know. None: it is not for want
        of an image that is to come.
        """
        if self.registries.telling(digest):
            return COMING
        return None if self.image(digest) is not None else self.registries.state(digest)

    def entry(self, version: Version) -> dict[str, Any]:
        """The members of a version's catalogue entry that its image decides."""
        image = self.image(version.code_sha256)
        found: dict[str, Any] = {"runtime": RUNTIME, "handler": "", "layers": [], "code_dir": "", "state": "Failed", "image": None}
        if image is None:
            state = self.registries.state(version.code_sha256)
            return found if state is None else {**found, "state": state.state}
        own = version.config.get("ImageConfigResponse", {}).get("ImageConfig", {})
        start = {
            "entrypoint": own.get("EntryPoint") or image["entrypoint"],
            "cmd": own.get("Command") or image["cmd"],
            "workdir": own.get("WorkingDirectory") or image["workdir"],
            "env": dict(pair.partition("=")[::2] for pair in image["env"] if "=" in pair),
        }
        return {**found, "code_dir": str(self._store.tree(image["tree"])), "state": "Active", "image": start}

    # The store.

    def spool(self) -> Path:
        """A new empty file for an archive that is being received."""
        fd, path = tempfile.mkstemp(dir=self._store.root, prefix=BUILDING)
        os.close(fd)
        return Path(path)

    async def take(self, archive: Path, name: str) -> dict[str, Any]:
        """Import an archive's image under a name; without one, under those it has. Raises ImportRefused."""
        if len(name) > _MAX_NAME or any(c.isspace() for c in name):
            raise ImportRefused(f"{name[:80]!r} is no name for an image")
        async with self._lock:
            found = await self._unpack(archive)
            names = [name] if name else [str(n) for n in found["names"]]
            if not names:
                raise ImportRefused("the archive does not name its image: give it a name with --name")
            kept = self._store.names()
            kept |= {n: {"digest": found["digest"], "imported_ms": self._clock.epoch_ms()} for n in names}
            self._store.set_names(kept)
        return {"names": names, "digest": found["digest"], "size": found["size"], "devices": found["devices"]}

    async def _unpack(self, archive: Path) -> dict[str, Any]:
        """By a process of its own: an archive that brings it down brings down nothing else."""
        outcome = await work_apart(str(archive), str(self._store.root), failing="the archive could not be unpacked")
        if "refused" in outcome:
            raise ImportRefused(str(outcome["refused"]))
        return outcome

    def listed(self) -> list[dict[str, Any]]:
        """Every name, with its image's digest and size."""
        found = []
        for name, entry in sorted(self._store.names().items()):
            image = self.image(entry["digest"])
            found.append({"name": name, **entry, "size": None if image is None else image["size"]})
        return found

    async def remove(self, name: str) -> None:
        """Forget a name; what neither another name nor a function needs goes with it. Raises ImportRefused for an unknown one."""
        async with self._lock:
            names = self._store.names()
            if names.pop(name, None) is None:
                raise ImportRefused(f"there is no image called {name}")
            self._store.set_names(names)
            await asyncio.to_thread(self.collect)

    def collect(self) -> None:
        """Remove what nothing needs. Blocks."""
        self._store.collect(_digests(v for f in self._functions.everything() for v in f.versions.values()))
        for path in self._store.root.glob(f"{BUILDING}*"):
            path.unlink(missing_ok=True)


async def _nothing() -> None:
    """For who waits otherwise."""


def _digests(versions: Iterable[Version]) -> set[str]:
    return {v.code_sha256 for v in versions if configuration.is_image(v.config)}


def repository_of(name: str) -> str:
    """A name without its tag or digest."""
    name = name.partition("@")[0]
    head, _, tail = name.rpartition("/")
    return f"{head}/{tail.partition(':')[0]}" if head else tail.partition(":")[0]


def located(version: Version) -> dict[str, str]:
    """GetFunction's Code of an image."""
    uri = str(version.config[configuration.IMAGE_URI])
    return {"RepositoryType": "ECR", "ImageUri": uri, "ResolvedImageUri": f"{repository_of(uri)}@sha256:{version.code_sha256}"}


def check_members(members: Mapping[str, Any]) -> None:
    """Raises InvalidParameterValue for what only a package has."""
    if members.get("Runtime") or members.get("Handler") or members.get("Layers"):
        raise InvalidParameterValue(_ONLY_CODE)


def check_key(code: Mapping[str, Any]) -> None:
    """Raises InvalidParameterValue for ways of keeping packages: images are kept by their registry."""
    if code.get("SourceKMSKeyArn") or code.get("S3ObjectStorageMode") == "REFERENCE":
        raise InvalidParameterValue("Please don't provide SourceKMSKeyArn or S3ObjectStorageMode when the intended function PackageType is Image.")


def check_new(members: Mapping[str, Any]) -> None:
    """What can be judged of a new function without looking at the image. Raises InvalidParameterValue."""
    check_members(members)
    code = members["Code"]
    if not code.get("ImageUri"):
        raise InvalidParameterValue("Please provide ImageUri when creating a function with packageType Image.")
    if any(code.get(name) for name in ("ZipFile", "S3Bucket", "S3Key", "S3ObjectVersion")):
        raise InvalidParameterValue("Please don't provide ZipFile, S3Bucket, S3Key or S3ObjectVersion when the intended function PackageType is Image.")
    check_key(code)
    if members.get("CodeSigningConfigArn"):
        raise InvalidParameterValue("Code signing is not supported for functions created with container images.")
