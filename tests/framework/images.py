"""Container images put together from files: OCI layouts and what ``docker save`` writes."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.images.archive import machine
from tests.framework.clients import CLIENTS
from tests.framework.runtime_client import installed

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_TAR = "application/vnd.oci.image.layer.v1.tar"
_SMALL = 1 << 20
_LEFT_OUT = {"test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "dist-packages", "pydoc_data", "__pycache__"}


class Layer:
    """A tar in the making."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._out, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by ``bytes``

    def add(
        self,
        name: str,
        content: bytes | str = b"",
        *,
        mode: int = 0o644,
        kind: bytes = tarfile.REGTYPE,
        link: str = "",
        modified_s: float = 1_700_000_000,
    ) -> Layer:
        """An entry. ``link``: where a link leads."""
        data = content.encode() if isinstance(content, str) else content
        info = tarfile.TarInfo(name)
        info.mode, info.type, info.linkname, info.mtime = mode, kind, link, modified_s
        info.size = len(data) if kind == tarfile.REGTYPE else 0
        self._tar.addfile(info, io.BytesIO(data))
        return self

    def folder(self, name: str, mode: int = 0o755) -> Layer:
        return self.add(name, mode=mode, kind=tarfile.DIRTYPE)

    def link(self, name: str, to: str) -> Layer:
        return self.add(name, kind=tarfile.SYMTYPE, link=to)

    def host(self, path: str, name: str = "") -> Layer:
        """A file of this machine, links followed, at its own place or another."""
        return self.add((name or path).lstrip("/"), Path(path).read_bytes(), mode=0o755)

    def bytes(self) -> bytes:
        self._tar.close()
        return self._out.getvalue()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def config_of(layers: Sequence[bytes], config: Mapping[str, Any], architecture: str = "") -> bytes:
    document = {
        "architecture": architecture or machine(),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer) for layer in layers]},
    }
    return json.dumps(document).encode()


def blobs_of(layers: Sequence[bytes], config: Mapping[str, Any], architecture: str = "") -> tuple[dict[str, bytes], str]:
    """Every blob of an image by digest, and its manifest's. Only small layers are compressed."""
    described = config_of(layers, config, architecture)
    packed = [gzip.compress(layer, 1, mtime=0) if len(layer) < _SMALL else layer for layer in layers]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": _digest(described), "size": len(described)},
        "layers": [
            {"mediaType": _TAR if data == layer else f"{_TAR}+gzip", "digest": _digest(data), "size": len(data)}
            for data, layer in zip(packed, layers, strict=True)
        ],
    }
    whole = json.dumps(manifest).encode()
    return {_digest(data): data for data in (*packed, described, whole)}, _digest(whole)


def oci(folder: Path, layers: Sequence[bytes], config: Mapping[str, Any], name: str = "", architecture: str = "") -> str:
    """Write an OCI layout into an existing directory; its manifest's digest."""
    blobs, digest = blobs_of(layers, config, architecture)
    (folder / "blobs/sha256").mkdir(parents=True)
    for key, data in blobs.items():
        (folder / "blobs/sha256" / key[7:]).write_bytes(data)
    entry: dict[str, Any] = {"mediaType": MANIFEST, "digest": digest, "size": len(blobs[digest])}
    if name:
        entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return digest[7:]


def docker_save(layers: Sequence[bytes], config: Mapping[str, Any], names: Sequence[str]) -> bytes:
    """An archive as older Docker writes it."""
    described = config_of(layers, config)
    out = Layer()
    for n, layer in enumerate(layers):
        out.add(f"{n}/layer.tar", layer)
    out.add("config.json", described)
    entry = {"Config": "config.json", "RepoTags": list(names), "Layers": [f"{n}/layer.tar" for n in range(len(layers))]}
    out.add("manifest.json", json.dumps([entry]))
    return out.bytes()


def _libraries(paths: Sequence[str]) -> set[str]:
    """Shared libraries that programs and libraries of this machine need."""
    shown = subprocess.run(["ldd", *paths], capture_output=True, text=True, check=False).stdout
    return {word for line in shown.splitlines() if not line.endswith(":") for word in line.split() if word.startswith("/")}


@functools.cache
def python_layers() -> tuple[list[bytes], dict[str, Any]]:
    """This interpreter with what it needs, AWS's runtime client for it, and the function of tests/clients; and how to start it."""
    program, library = os.path.realpath(sys.executable), sysconfig.get_path("stdlib")
    base = Layer()
    modules = [str(p) for p in Path(library).rglob("*") if p.suffix in (".py", ".so") and not _LEFT_OUT & set(p.relative_to(library).parts)]
    natives = [program, *(m for m in modules if m.endswith(".so")), *map(str, installed().rglob("*.so"))]
    libraries = _libraries(natives)
    for path in sorted({program, *modules, *libraries}):
        base.host(path)
    # Where libraries lie that the loader would find by its cache, which the image does not have.
    folders = sorted({os.path.dirname(found) for found in libraries if "ld-linux" not in found})
    client = Layer()
    for file in sorted(installed().rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            client.host(str(file), f"function/{file.relative_to(installed())}")
    code = Layer().folder("function").add("function/client.py", (CLIENTS / "python/client.py").read_bytes())
    config = {
        "Entrypoint": [program, "-m", "awslambdaric"],
        "Cmd": ["client.handler"],
        "WorkingDir": "/function",
        "Env": ["PYTHONDONTWRITEBYTECODE=1", "GREETING=from the image", f"LD_LIBRARY_PATH={':'.join(folders)}"],
    }
    return [base.bytes(), client.bytes(), code.bytes()], config
