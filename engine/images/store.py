"""Images on disk, below one directory.

``layers/<diff id>/`` is a layer as unpacked and ``layers/<diff id>.json`` what it says besides its files; ``trees/<digest>/`` the file system
that a sequence of layers makes, ``images/<digest>.json`` an image: its tree, its layers and what its configuration says of the process.
``names.json`` says which image a name means. Everything is complete or absent: made under another name, flushed, then renamed.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.images import layers, tree
from engine.images.archive import Archive, Image
from engine.images.refused import ImageRefused

BUILDING = ".building-"
# What a registry's blobs are fetched into.
PULLING = ".pulling-"
_SETTINGS = {"Entrypoint": "entrypoint", "Cmd": "cmd", "WorkingDir": "workdir", "Env": "env"}


class ImageStore:
    """The directory and what is in it. Methods block; changes are for one process at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for path in (root, *(root / name for name in ("layers", "trees", "images"))):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Functions run as other users and reach their tree through these.
        root.chmod(0o711)
        (root / "trees").chmod(0o711)

    def tree(self, name: str) -> Path:
        """Where the file system of this name is."""
        return self.root / "trees" / name

    def image(self, digest: str) -> dict[str, Any] | None:
        """What is kept of an image; None when it is not, or not whole."""
        try:
            found: dict[str, Any] = json.loads((self.root / "images" / f"{digest}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return found if self.tree(found["tree"]).is_dir() else None

    def names(self) -> dict[str, dict[str, Any]]:
        """Name to ``digest`` and ``imported_ms``."""
        try:
            found: dict[str, dict[str, Any]] = json.loads((self.root / "names.json").read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def set_names(self, names: dict[str, dict[str, Any]]) -> None:
        """Replace all names."""
        self._write(self.root / "names.json", names)

    def take(self, archive: Path) -> dict[str, Any]:
        """Unpack an archive's image: its digest, names, size and how many device files were left out. Raises ImageRefused and OSError."""
        opened = Archive(archive)
        try:
            image = opened.image()
            said = self._layers(opened, image)
        finally:
            opened.close()
        name = hashlib.sha256("\n".join(layer.diff_id for layer in image.layers).encode()).hexdigest()
        self._tree(name, [(str(self.root / "layers" / layer.diff_id), s) for layer, s in zip(image.layers, said, strict=True)])
        document = {
            "tree": name,
            "layers": [layer.diff_id for layer in image.layers],
            "size": sum(s.size for s in said),
            **_settings(image),
        }
        self._write(self.root / "images" / f"{image.digest}.json", document)
        return {"digest": image.digest, "names": image.names, "size": document["size"], "devices": sum(s.devices for s in said)}

    def _layers(self, archive: Archive, image: Image) -> list[layers.Unpacked]:
        budget = layers.Budget()
        said = []
        for layer in image.layers:
            note = self.root / "layers" / f"{layer.diff_id}.json"
            place = self.root / "layers" / layer.diff_id
            if note.exists() and place.is_dir():
                found = layers.Unpacked(**json.loads(note.read_bytes()))
                budget.spend(found.size)
            else:
                with self._building("layers") as scratch:
                    with archive.open(layer.path) as file:
                        found = layers.unpack(file, str(scratch), layer.digest, layer.diff_id, budget)
                    self._write(note, dataclasses.asdict(found))
                    _flush(scratch)
                    _put(scratch, place)
            said.append(found)
        return said

    def _tree(self, name: str, parts: list[tuple[str, layers.Unpacked]]) -> None:
        target = self.tree(name)
        if target.is_dir():
            return
        with self._building("trees") as scratch:
            tree.lay(parts, str(scratch))
            _flush(scratch)
            _put(scratch, target)

    @contextlib.contextmanager
    def _building(self, where: str) -> Any:
        scratch = Path(tempfile.mkdtemp(dir=self.root / where, prefix=BUILDING))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _write(self, path: Path, document: Any) -> None:
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=BUILDING)
        with os.fdopen(fd, "w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)

    def collect(self, used: Iterable[str]) -> int:
        """Remove what neither a name nor one of the ``used`` digests needs, and what was left half made; how many images went."""
        kept = {*used, *(entry["digest"] for entry in self.names().values())}
        gone, trees, diff_ids = 0, set(), set()
        for path in (self.root / "images").glob("*.json"):
            image = self.image(path.stem)
            if path.stem in kept and image is not None:
                trees.add(image["tree"])
                diff_ids.update(image["layers"])
            else:
                path.unlink()
                gone += 1
        for where, wanted in (("trees", trees), ("layers", diff_ids), ("images", None)):
            for path in (self.root / where).iterdir():
                rubbish = path.name.startswith(BUILDING)
                if rubbish or (wanted is not None and path.name.removesuffix(".json") not in wanted):
                    _discard(path)
        return gone


def _settings(image: Image) -> dict[str, Any]:
    """What the configuration says of the process, under our names. Raises ImageRefused for values of other types."""
    found: dict[str, Any] = {"entrypoint": [], "cmd": [], "workdir": "", "env": []}
    for theirs, ours in _SETTINGS.items():
        value = image.settings.get(theirs)
        if value is None:
            continue
        right = isinstance(value, str) if ours == "workdir" else isinstance(value, list) and all(isinstance(v, str) for v in value)
        if not right:
            raise ImageRefused(f"the image's {theirs} is not what it should be: {value!r}")
        found[ours] = value
    return found


def _put(scratch: Path, target: Path) -> None:
    try:
        os.rename(scratch, target)
    except OSError:
        # Made by somebody else meanwhile, and the same by construction.
        if not target.is_dir():
            raise


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Everything below reaches the disk before the rename that makes it visible."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "syncfs"):
        os.sync()
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        libc.syncfs(fd)
    finally:
        os.close(fd)
