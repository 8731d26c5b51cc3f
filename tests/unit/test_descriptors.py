"""Whether a process has descriptors left, at limits of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import os, resource, sys
sys.path.insert(0, sys.argv[1])
from engine.sandbox.descriptors import raise_limit, shortage
resource.setrlimit(resource.RLIMIT_NOFILE, (600, 700))
opened = []
while not shortage():
    opened.append(os.open("/dev/null", os.O_RDONLY))
print(len(os.listdir("/proc/self/fd")) - 1, shortage())
# What is in use near the limit says nothing while there is room below.
for fd in opened[:100]:
    os.close(fd)
print(repr(shortage()), repr(shortage(98)), bool(shortage(120)))
while True:
    try:
        opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        break
print(shortage())
raise_limit()
raise_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE), bool(shortage()))
resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
print(bool(shortage()))
"""


def test_some_are_kept_and_none_is_forgotten() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, str(Path(__file__).parents[2])], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.splitlines() == [
        "537 537 of 600 file descriptors are in use (ulimit -n)",
        "'' '' True",
        "600 of 600 file descriptors are in use (ulimit -n)",
        "(700, 700) False",
        "True",
    ], done.stderr
