"""What a host may lack without a test being at fault.

A test that cannot run on a host skips through ``require``; each reason has a condition that can be checked. Where ``CI`` is set, any other
skip fails the run (see ``tests/conftest.py``): a machine that should have run the test must not stay green by not running it.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable

import pytest


def _no_postgres() -> bool:
    from tests.framework.postgres import binaries

    return binaries() is None


def _no_interpreter(runtime: str) -> bool:
    from engine.config import load
    from engine.sandbox.interpreters import discover

    return runtime not in discover(load().runtimes)


# Reason (a pattern matching the whole of it) -> whether the host really lacks it, told the pattern's groups.
REASONS: dict[str, Callable[..., bool]] = {
    "not Linux": lambda: sys.platform != "linux",
    "not root": lambda: os.geteuid() != 0,
    "root": lambda: os.geteuid() == 0,
    "no C compiler": lambda: not (shutil.which("gcc") or shutil.which("cc")),
    "no iproute2": lambda: not shutil.which("ip"),
    "one core": lambda: len(os.sched_getaffinity(0)) < 2,
    "no hadolint wheel for this processor": lambda: platform.machine() != "x86_64",
    "no PostgreSQL": _no_postgres,
    "no IPv6 loopback": lambda: not os.path.exists("/proc/net/if_inet6"),
    r"no (python3\.\d+) on this host": _no_interpreter,
}


def lacking(reason: str) -> bool | None:
    """Whether this host lacks what ``reason`` names; None when no such reason is known."""
    for pattern, condition in REASONS.items():
        match = re.fullmatch(pattern, reason)
        if match:
            return condition(*match.groups())
    return None


def require(reason: str) -> None:
    """Skip the calling test when the host lacks what ``reason`` (e.g. ``not root``) names. ValueError for a reason not on the list."""
    is_lacking = lacking(reason)
    if is_lacking is None:
        raise ValueError(f"{reason!r} is not a reason to skip: see tests/framework/host.py")
    if is_lacking:
        pytest.skip(reason)
