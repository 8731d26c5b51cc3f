"""``python -m engine.images ARCHIVE DIRECTORY``: unpack an image's archive into the image store, in a process that may come to grief over it.

The outcome is a line of JSON on standard output: what ``ImageStore.take`` returns, or ``{"refused": why}``.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

from engine.images.refused import ImageRefused
from engine.images.store import ImageStore

# The documents of an archive and the headers of its members are held in memory; the files are not.
_MEMORY = 2 << 30


def main() -> int:
    """Exit status: 0 done, 1 refused."""
    archive, directory = sys.argv[1:]
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    try:
        outcome = ImageStore(Path(directory)).take(Path(archive))
    except ImageRefused as e:
        outcome = {"refused": str(e)}
    except MemoryError:
        outcome = {"refused": "the archive's documents need more memory than there is for them"}
    except OSError as e:
        outcome = {"refused": f"the image could not be unpacked: {e}"}
    sys.stdout.write(json.dumps(outcome) + "\n")
    return 1 if "refused" in outcome else 0


if __name__ == "__main__":
    sys.exit(main())
