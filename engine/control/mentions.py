"""Whether the code of a package asks Lambda's HTTP APIs itself, told from what is written in it when it is unpacked.

Beside a worker that speaks frames nothing serves HTTP, and most functions never miss it: those that do get the agent beside them. A program
must name the variable that holds the address, the path of the Extensions API or the header that registers an extension; whoever names none
of them in one piece is not found. Runtime clients that some put into every package are never run by a managed runtime: they do not count.
"""

from __future__ import annotations

import mmap
import os
from enum import StrEnum
from pathlib import Path

_ADDRESS = b"AWS_LAMBDA_RUNTIME_API"
_EXTENSIONS = (b"2020-01-01/extension", b"extension/register", b"Lambda-Extension-Name", b"lambda-extension-name")
_CLIENTS = frozenset(("awslambdaric", "aws-lambda-ric"))
_CODE = frozenset(("", ".py", ".pyc", ".so", ".js", ".cjs", ".mjs", ".node", ".rb", ".sh"))


class Mention(StrEnum):
    """What was found. Also the ending of the marker's name beside the tree."""

    ASKS = "asks"
    EXTENDS = "extends"


def find(tree: Path) -> Mention | None:
    """``EXTENDS`` when it registers extensions, ``ASKS`` when it knows the address only. Links are not followed."""
    found = None
    for directory, folders, files in os.walk(tree):
        folders[:] = [name for name in folders if name not in _CLIENTS]
        for name in files:
            if os.path.splitext(name)[1].lower() in _CODE:
                mention = _in_file(os.path.join(directory, name))
                if mention is Mention.EXTENDS:
                    return mention
                found = found or mention
    return found


def _in_file(path: str) -> Mention | None:
    if os.path.islink(path) or not os.path.getsize(path):
        return None
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        if any(content.find(text) >= 0 for text in _EXTENSIONS):
            return Mention.EXTENDS
        return Mention.ASKS if content.find(_ADDRESS) >= 0 else None
