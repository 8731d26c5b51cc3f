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


def speaks_frames(runtime: str) -> bool:
    """Whether its workers are ours; others need the agent's HTTP API."""
    return runtime.startswith(("python", "nodejs"))
