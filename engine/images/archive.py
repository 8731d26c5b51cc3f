"""What is in an image archive: the tar of an OCI layout, or what ``docker save`` writes.

Everything named by a digest is checked against it. Of an index the manifest for this machine is taken.
Source: github.com/opencontainers/image-spec (image-layout, image-index, manifest, config) and github.com/moby/docker-image-spec.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from engine.images.refused import ImageRefused

MAX_DOCUMENT = 8 << 20
_MAX_DEPTH = 4
_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"


def machine() -> str:
    """This machine's processor in the words of images."""
    return _MACHINES.get(platform.machine().lower(), platform.machine().lower())


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's place in the archive. ``digest`` (hexadecimal SHA-256) is that of the bytes as stored, "" where the format has none;
    ``diff_id`` that of the tar in them.
    """

    path: str
    digest: str
    diff_id: str


@dataclass(frozen=True, slots=True)
class Image:
    """``digest``: the hexadecimal SHA-256 of its manifest or, in archives without one, of its configuration. ``settings``: what the
    configuration says of the process. ``names``: what the archive calls it.
    """

    digest: str
    settings: Mapping[str, Any]
    layers: tuple[Layer, ...]
    names: tuple[str, ...]


class Archive:
    """An opened archive. Closing is the caller's."""

    def __init__(self, path: Path) -> None:
        """Raises ImageRefused for what is no tar file."""
        try:
            self._tar = tarfile.open(path, "r:*")  # noqa: SIM115 - closed by ``close``
            self._members = {m.name.removeprefix("./"): m for m in self._tar.getmembers()}
        except (tarfile.TarError, EOFError, OSError, ValueError) as e:
            raise ImageRefused(f"not a tar archive of an image: {e}") from e

    def close(self) -> None:
        """Give the file back."""
        self._tar.close()

    def open(self, name: str) -> IO[bytes]:
        """A file of the archive; links within it are followed. Raises ImageRefused when it is not there."""
        member = self._members.get(name)
        try:
            file = None if member is None else self._tar.extractfile(member)
        except (KeyError, tarfile.TarError, RecursionError) as e:
            raise ImageRefused(f"{name} is a link that leads nowhere in the archive") from e
        if file is None:
            raise ImageRefused(f"the archive has no {name}")
        return file

    def image(self) -> Image:
        """The image for this machine. Raises ImageRefused."""
        try:
            if "index.json" in self._members:
                return self._oci()
            if "manifest.json" in self._members:
                return self._docker()
        except (KeyError, TypeError, AttributeError, IndexError) as e:
            raise ImageRefused(f"the archive's documents are not those of an image: {e!r}") from e
        raise ImageRefused("the archive is neither an OCI layout (index.json) nor of docker save (manifest.json)")

    def _document(self, name: str, digest: str = "") -> Any:
        with self.open(name) as file:
            data = file.read(MAX_DOCUMENT + 1)
        if len(data) > MAX_DOCUMENT:
            raise ImageRefused(f"{name} has more than {MAX_DOCUMENT} bytes")
        if digest and hashlib.sha256(data).hexdigest() != digest:
            raise ImageRefused(f"{name} is damaged: its digest is another")
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as e:
            raise ImageRefused(f"{name} is not JSON: {e}") from e

    def _oci(self) -> Image:
        index = self._document("index.json")
        names = self._docker_names() or _names(index)
        digest, manifest = self._manifest(index, 0)
        config = self._document(*_blob(manifest["config"]))
        diff_ids = config["rootfs"]["diff_ids"]
        _check_machine(config)
        if len(diff_ids) != len(manifest["layers"]):
            raise ImageRefused("the manifest and the configuration count different layers")
        pairs = zip(manifest["layers"], diff_ids, strict=True)
        layers = tuple(Layer(*_blob(descriptor), _hex(diff_id)) for descriptor, diff_id in pairs)
        return Image(digest, config.get("config") or {}, layers, names)

    def _manifest(self, index: Mapping[str, Any], depth: int) -> tuple[str, dict[str, Any]]:
        """The manifest for this machine and its digest."""
        if depth > _MAX_DEPTH:
            raise ImageRefused("the archive's indexes are nested too deep")
        offered = [d for d in index["manifests"] if not (d.get("annotations") or {}).get("vnd.docker.reference.type")]
        fitting = [d for d in offered if d.get("platform") is None or _fits(d["platform"])]
        if not fitting:
            there = ", ".join(sorted(f"{d['platform'].get('os')}/{d['platform'].get('architecture')}" for d in offered)) or "none"
            raise ImageRefused(f"there is no image for linux/{machine()} in the archive; it has {there}")
        if len(fitting) > 1 and depth == 0 and len({d["digest"] for d in fitting}) > 1:
            raise ImageRefused(f"the archive holds {len(fitting)} images: save one at a time")
        path, digest = _blob(fitting[0])
        document = self._document(path, digest)
        return self._manifest(document, depth + 1) if "manifests" in document else (digest, document)

    def _docker_names(self) -> tuple[str, ...]:
        if "manifest.json" not in self._members:
            return ()
        return tuple(str(name) for entry in self._document("manifest.json") for name in entry.get("RepoTags") or ())

    def _docker(self) -> Image:
        entries = self._document("manifest.json")
        if len(entries) != 1:
            raise ImageRefused(f"the archive holds {len(entries)} images: save one at a time")
        entry = entries[0]
        with self.open(str(entry["Config"])) as file:
            digest = hashlib.sha256(file.read(MAX_DOCUMENT + 1)).hexdigest()
        config = self._document(str(entry["Config"]))
        _check_machine(config)
        diff_ids = config["rootfs"]["diff_ids"]
        if len(diff_ids) != len(entry["Layers"]):
            raise ImageRefused("the manifest and the configuration count different layers")
        layers = tuple(Layer(str(path), "", _hex(diff_id)) for path, diff_id in zip(entry["Layers"], diff_ids, strict=True))
        return Image(digest, config.get("config") or {}, layers, tuple(map(str, entry.get("RepoTags") or ())))


def _names(index: Mapping[str, Any]) -> tuple[str, ...]:
    noted = [descriptor.get("annotations") or {} for descriptor in index["manifests"]]
    return tuple(dict.fromkeys(str(n.get(_CONTAINERD_NAME) or n[_NAME]) for n in noted if n.get(_CONTAINERD_NAME) or n.get(_NAME)))


def _fits(wanted: Mapping[str, Any]) -> bool:
    return wanted.get("os", "linux") == "linux" and wanted.get("architecture") == machine()


def _check_machine(config: Mapping[str, Any]) -> None:
    architecture, system = config.get("architecture") or machine(), config.get("os") or "linux"
    if (system, architecture) != ("linux", machine()):
        raise ImageRefused(f"the image is for {system}/{architecture}; this machine is linux/{machine()}")


def _hex(digest: str) -> str:
    kind, _, value = digest.partition(":")
    if kind != "sha256" or len(value) != 64 or not all(c in "0123456789abcdef" for c in value):
        raise ImageRefused(f"{digest!r} is not a SHA-256 digest")
    return value


def _blob(descriptor: Mapping[str, Any]) -> tuple[str, str]:
    """Where a descriptor's content is in the archive, and its digest."""
    value = _hex(str(descriptor["digest"]))
    return f"blobs/sha256/{value}", value
