"""Work with images in a process that may come to grief over it.

``python -m engine.images ARCHIVE DIRECTORY`` unpacks an archive into the image store, ``python -m engine.images pull URL ARCHIVE`` makes one of what
a registry has. The outcome is a line of JSON on standard output: what ``ImageStore.take`` returns, the image's digest, or ``{"refused": why}`` with
the registry's ``status``.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from engine.images.refused import ImageRefused
from engine.images.registry import Registry, parse
from engine.images.store import PULLING, ImageStore

# The documents of an archive and the headers of its members are held in memory; the files are not.
_MEMORY = 2 << 30


def main() -> int:
    """Exit status: 0 done, 1 refused."""
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    try:
        outcome = _pull(sys.argv[2], Path(sys.argv[3])) if sys.argv[1] == "pull" else ImageStore(Path(sys.argv[2])).take(Path(sys.argv[1]))
    except ImageRefused as e:
        outcome = {"refused": str(e), "status": e.status}
    except MemoryError:
        outcome = {"refused": "the archive's documents need more memory than there is for them"}
    except OSError as e:
        outcome = {"refused": f"the image could not be unpacked: {e}"}
    sys.stdout.write(json.dumps(outcome) + "\n")
    return 1 if "refused" in outcome else 0


def _pull(url: str, archive: Path) -> dict[str, Any]:
    """What a registry has, as an archive."""
    folder = Path(tempfile.mkdtemp(dir=archive.parent, prefix=PULLING))
    try:
        registry = Registry(parse(url))
        registry.pull(folder)
        with tarfile.open(archive, "w") as tar:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    tar.add(path, path.relative_to(folder).as_posix())
        return {"pulled": url}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
