"""What a container image starts: its entrypoint and command, found as a container engine finds them.

Source: github.com/opencontainers/image-spec/blob/main/conversion.md and recorded log lines.
"""

from __future__ import annotations

import os
from typing import Any

from runtime_bootstrap.agent.processes import error_text


class LaunchError(Exception):
    """The image cannot be started: ``kind`` is AWS's error type, the text its message."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def prepare(image: "dict[str, Any]", env: "dict[str, str]") -> "list[str]":
    """Stand in the image's working directory; the command line, its program a path. Raises LaunchError."""
    argv = [*image["entrypoint"], *image["cmd"]]
    workdir = image["workdir"] or "/"
    try:
        os.chdir(workdir)
    except OSError as e:
        raise LaunchError("Runtime.InvalidWorkingDir", "chdir %s: %s" % (workdir, error_text(e))) from None
    if not argv:
        raise LaunchError("Runtime.InvalidEntrypoint", "Couldn't find valid bootstrap(s): []")
    return [_program(argv[0], env.get("PATH", "")), *argv[1:]]


def _program(name: str, path: str) -> str:
    if "/" in name:
        return name
    for directory in path.split(":"):
        candidate = os.path.join(directory or ".", name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise LaunchError("Runtime.InvalidEntrypoint", 'exec: "%s": executable file not found in $PATH' % name)


def line(image: "dict[str, Any]", text: str) -> bytes:
    """What the log says of a failed start."""
    parts = (",".join(image["entrypoint"]), ",".join(image["cmd"]), image["workdir"])
    return ("IMAGE\tLaunch error: %s\tEntrypoint: [%s]\tCmd: [%s]\tWorkingDir: [%s]" % (text, *parts)).encode()
