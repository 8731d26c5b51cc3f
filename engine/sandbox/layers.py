"""Where a function finds its layers at level process, which has no mounts to merge them with.

No layer: a directory that is not there. One: the layer's own. Several: a merged copy made of hard links under the data directory,
named after what is in it and made once. Shared by the broker, which makes it, and the supervisor, which tells the worker.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Sequence


def opt_root(data_dir: str, layers: Sequence[str]) -> str:
    """The directory that plays /opt."""
    if len(layers) == 1:
        return layers[0]
    digest = hashlib.sha256("\0".join(layers).encode()).hexdigest()[:32]
    return os.path.join(data_dir, "opt", digest if layers else "none")


def materialise(data_dir: str, layers: Sequence[str]) -> str:
    """Make ``opt_root`` exist where it is made of several layers, later ones covering earlier ones. Raises OSError."""
    target = opt_root(data_dir, layers)
    if len(layers) < 2 or os.path.isdir(target):
        return target
    building = f"{target}.{os.getpid()}"
    shutil.rmtree(building, ignore_errors=True)
    for layer in layers:
        for directory, folders, files in os.walk(layer):
            there = os.path.join(building, os.path.relpath(directory, layer))
            os.makedirs(there, exist_ok=True)
            links = [f for f in folders if os.path.islink(os.path.join(directory, f))]
            for name in (*files, *links):
                _link(os.path.join(directory, name), os.path.join(there, name))
    try:
        os.rename(building, target)
    except OSError:
        if not os.path.isdir(target):
            raise
        shutil.rmtree(building, ignore_errors=True)
    return target


def _link(source: str, target: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
