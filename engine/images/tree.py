"""The file system of an image: its layers laid over each other with hard links, in a directory that is made once and never written again.

A hard link costs no room and works at every isolation level, where overlayfs wants privileges, stacks two deep and counts layers. What a
sandbox mounts into an image must be there to be mounted upon: those places are made here.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable

from engine.images.layers import Unpacked

# Mounted over in every sandbox, so that the image's own are never seen; /mnt only where a function has a file system.
_DIRECTORIES = ("proc", "sys", "dev", "tmp", "mnt")
_FILES = ("etc/hosts", "etc/resolv.conf")


def lay(layers: Iterable[tuple[str, Unpacked]], into: str) -> None:
    """Make the file system in an existing empty directory. The lowest layer comes first. Raises OSError."""
    for root, said in layers:
        for path in said.opaque:
            _empty(into, path)
        for path in said.gone:
            _remove(into, path)
        _lay_over(root, into)
    for name in _DIRECTORIES:
        _place(into, name, os.path.isdir, lambda path: os.mkdir(path, 0o755))
    for name in _FILES:
        _place(into, name, os.path.isfile, lambda path: open(path, "x").close())
    os.chmod(into, 0o755)  # noqa: S103 - functions run as other users


def _inside(root: str, path: str) -> str | None:
    """The place of a layer's path in the tree, None where a part of the way is no directory."""
    parts = path.split("/") if path else []
    place = root
    for part in parts[:-1]:
        place = os.path.join(place, part)
        if os.path.islink(place) or not os.path.isdir(place):
            return None
    return os.path.join(place, parts[-1]) if parts else root


def _empty(root: str, path: str) -> None:
    place = _inside(root, path)
    if place is not None and os.path.isdir(place) and not os.path.islink(place):
        for name in os.listdir(place):
            _delete(os.path.join(place, name))


def _remove(root: str, path: str) -> None:
    place = _inside(root, path)
    if place is not None and place != root:
        _delete(place)


def _delete(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _lay_over(layer: str, into: str) -> None:
    """As overlayfs shows it: directories are merged, everything else is replaced by what is above."""
    for directory, folders, files in os.walk(layer):
        there = os.path.join(into, os.path.relpath(directory, layer)) if directory != layer else into
        links = [name for name in folders if os.path.islink(os.path.join(directory, name))]
        for name in folders:
            if name not in links:
                _merge_directory(os.path.join(directory, name), os.path.join(there, name))
        for name in (*files, *links):
            _link(os.path.join(directory, name), os.path.join(there, name))


def _merge_directory(source: str, target: str) -> None:
    if os.path.islink(target) or not os.path.isdir(target):
        _delete(target)
        os.mkdir(target)
    shutil.copystat(source, target)


def _link(source: str, target: str) -> None:
    _delete(target)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        # Too many links, or a file system without them.
        shutil.copy2(source, target, follow_symlinks=False)


def _place(root: str, name: str, right: Callable[[str], bool], make: Callable[[str], None]) -> None:
    """See that there is something of the right kind, and no link, to mount upon."""
    folder = os.path.join(root, os.path.dirname(name))
    if os.path.islink(folder) or not os.path.isdir(folder):
        _delete(folder)
        os.mkdir(folder, 0o755)
    path = os.path.join(root, name)
    if os.path.islink(path) or not right(path):
        _delete(path)
        make(path)


