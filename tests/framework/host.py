"""What a host may lack without a test being at fault.

A test that cannot run on a host skips through ``require``; each reason has a condition that can be checked. Where ``CI`` is set, any other
skip fails the run (see ``tests/conftest.py``): a machine that should have run the test must not stay green by not running it.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


def _no_postgres() -> bool:
    from tests.framework.postgres import binaries

    return binaries() is None


def _no_rabbitmq() -> bool:
    from tests.framework.rabbitmq import server

    return server() is None or shutil.which("epmd") is None


def _no_interpreter(runtime: str) -> bool:
    from engine.config import load
    from engine.sandbox.interpreters import discover

    return runtime not in discover(load().runtimes)


def _no_rust() -> bool:
    """Debian 12's cargo is too old for the crate."""
    cargo = shutil.which("cargo")
    if cargo is None:
        return True
    words = subprocess.run([cargo, "--version"], capture_output=True, text=True, check=False).stdout.split()
    return len(words) < 2 or tuple(map(int, words[1].split(".")[:2])) < (1, 85)


def _no_recent_go() -> bool:
    """The AWS SDK for Go needs more than Debian 12 has."""
    go = shutil.which("go")
    if go is None:
        return True
    found = re.match(r"go(\d+)\.(\d+)", subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout)
    return found is None or tuple(map(int, found.groups())) < (1, 24)


def _no_terraform() -> bool:
    from tests.framework.terraform import missing

    return missing()


def _no_programs(*names: str) -> Callable[[], bool]:
    return lambda: not all(map(shutil.which, names))


def _nothing_for_the_client_of_node() -> bool:
    if _no_programs("node", "npm", "cmake", "c++", "make", "tar", "xz")():
        return True
    asked = subprocess.run(["c++", "-E", "-x", "c++", "-include", "curl/curl.h", "/dev/null"], capture_output=True, check=False, timeout=60)
    return asked.returncode != 0


def _python_h() -> str:
    return os.path.join(sysconfig.get_path("include"), "Python.h")


def _other_system_python() -> bool:
    """Whether /usr/bin/python3, which everybody may run, is not the version that the engine's packages were built for."""
    ask = ["/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        shown = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return True
    return shown != [str(n) for n in sys.version_info[:2]]


def _no_macvlan() -> bool:
    """Whether interfaces as the engine makes them cannot be made."""
    try_it = "ip link add name v0 type veth peer name v1 && ip link add link v0 name m0 type macvlan mode private"
    done = subprocess.run(["unshare", "-n", "sh", "-c", try_it], capture_output=True, check=False, timeout=30)
    return done.returncode != 0


def _no_landlock() -> bool:
    from engine.sandbox import landlock

    try:
        landlock.version()
    except OSError:
        return True
    return False


_FILTER = """
from engine.sandbox import nft
table = nft.Table("try")
table.base("out", 4, kind="nat")
table.meter("connections")
table.rule("out", nft.known(), nft.source_over("connections", 1), nft.masquerade())
nft.Filter().put(table)
"""


@functools.cache
def _no_packet_filter() -> bool:
    """Whether the kernel takes no tables of nftables with NAT, tried in a network of its own."""
    if shutil.which("unshare") is None:
        return True
    done = subprocess.run(["unshare", "-n", sys.executable, "-c", _FILTER], capture_output=True, check=False, timeout=110, cwd=_ROOT)
    return done.returncode != 0


def _no_lock_count() -> bool:
    from engine.sandbox import locks

    return not os.path.exists(locks.COUNT)


def _no_modern_python() -> bool:
    from engine.sandbox.interpreters import discover

    names = (re.fullmatch(r"python3\.(\d+)", name) for name in discover())
    return not any(int(name[1]) >= 12 for name in names if name)


def _no_slices() -> bool:
    return tuple(int(n) for n in re.findall(r"\d+", platform.release())[:2]) < (6, 12)


def _no_cpu_group() -> bool:
    from engine.sandbox.cgroups import Groups

    groups = Groups()
    try:
        return not groups.mechanisms["cpu"].startswith("cgroup")
    finally:
        groups.close()


def _no_witness() -> bool:
    from engine.sandbox.cgroups import Groups

    groups = Groups()
    try:
        if (witness := groups.witness()) is None:
            return True
        witness.close()
        return False
    finally:
        groups.close()


def _no_start_in_instructions() -> bool:
    from engine.sandbox import init

    return platform.machine() not in init._CODE


# Reason (a pattern matching the whole of it) -> whether the host really lacks it, told the pattern's groups.
REASONS: dict[str, Callable[..., bool]] = {
    "not Linux": lambda: sys.platform != "linux",
    "not x86-64": lambda: platform.machine() != "x86_64",
    "not root": lambda: os.geteuid() != 0,
    "root": lambda: os.geteuid() == 0,
    "no C compiler": lambda: not (shutil.which("gcc") or shutil.which("cc")),
    r"no C\+\+ compiler": _no_programs("c++"),
    "no iproute2": lambda: not shutil.which("ip"),
    "no compiler for extensions": lambda: not (shutil.which("gcc") or shutil.which("cc")) or not os.path.exists(_python_h()),
    "no system Python of the engine's own version": _other_system_python,
    "no macvlan": _no_macvlan,
    "no packet filter": _no_packet_filter,
    "no Landlock": _no_landlock,
    "no count of the kernel's file locks": _no_lock_count,
    "no container tools": _no_programs("unshare", "setpriv", "mount"),
    "one core": lambda: len(os.sched_getaffinity(0)) < 2,
    "no hadolint wheel for this processor": lambda: platform.machine() != "x86_64",
    "no PostgreSQL": _no_postgres,
    "no RabbitMQ": _no_rabbitmq,
    "no IPv6 loopback": lambda: not os.path.exists("/proc/net/if_inet6"),
    "no Go compiler": _no_programs("go"),
    r"no Go 1\.24 or newer": _no_recent_go,
    "no Terraform with a provider": _no_terraform,
    "no Rust 1.85 or newer": _no_rust,
    "no Node.js with npm": _no_programs("node", "npm"),
    "nothing to build Node.js's client with": _nothing_for_the_client_of_node,
    "no Chromium": _no_programs("chromium"),
    "no Ruby": _no_programs("ruby"),
    "no JDK with Maven": _no_programs("javac", "mvn"),
    r"no (python3\.\d+) on this host": _no_interpreter,
    r"no interpreter with immortal objects \(3\.12\) here": _no_modern_python,
    r"SnapStart needs an interpreter of Python 3\.12 or later": _no_modern_python,
    r"the kernel gives every thread the same slice \(older than Linux 6\.12\)": _no_slices,
    "no control group for CPU here": _no_cpu_group,
    "no cgroup v2 directory, or no programs for control groups, on this host": _no_witness,
    "no instructions of ours for this machine": _no_start_in_instructions,
    "the instructions of this test are x86-64's": lambda: platform.machine() != "x86_64",
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
