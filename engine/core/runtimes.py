"""What kind of thing a runtime identifier names, and what follows from it. Pure.

Source: docs.aws.amazon.com/lambda/latest/dg/lambda-runtimes.html
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache


class Family(StrEnum):
    """``PROVIDED``: the function brings its own runtime. ``IMAGE``: it is a container image, with everything in it."""

    PYTHON = "python"
    NODEJS = "nodejs"
    JAVA = "java"
    RUBY = "ruby"
    PROVIDED = "provided"
    IMAGE = "image"


_CODE_RANGE_MIB = 512
_MAPS_CODE_RANGE = 24
CUSTOM = ("provided.al2023", "provided.al2")


@lru_cache(maxsize=256)
def family(runtime: str) -> Family | None:
    """The family of a runtime id; None for one that nothing here runs."""
    for kind in Family:
        if runtime.startswith(kind.value):
            return kind
    return None


def compiles(runtime: str) -> bool:
    """Whether packages are compiled to the interpreter's bytecode at deploy."""
    return runtime.startswith("python")


@lru_cache(maxsize=256)
def reserved_mib(runtime: str) -> int:
    """Memory that an interpreter maps as if it wrote there and does not use: no allocation of the function's, where allocations are what is
    limited. V8 maps the range for its code so, since the version that is in Node.js 24.
    """
    release = runtime.removeprefix("nodejs").partition(".")[0]
    return _CODE_RANGE_MIB if runtime.startswith("nodejs") and release.isdigit() and int(release) >= _MAPS_CODE_RANGE else 0


def speaks_frames(runtime: str) -> bool:
    """Whether its workers are ours; others need the agent's HTTP API."""
    return runtime.startswith(("python", "nodejs"))
