"""Why a level cannot be had on this very host, and what its operator can do about it.

Only what the kernel and the distribution say of themselves is read here; whether a level works is found out elsewhere, by trying.
``root`` stands for ``/`` so that other hosts can be described.
"""

from __future__ import annotations

import os
import sys

_LEAST_KERNEL = "Linux 5.12 or later"
_PROFILE = "/etc/apparmor.d/lambda-engine"


def fix(level: str, root: str = "/") -> str:
    """How to get ``level`` here, as the end of a sentence that began with ``to fix it:``."""
    return _full(root) if level == "full" else _user(root)


def _full(root: str) -> str:
    container = container_kind(root)
    if container is None:
        return f"run the engine as root with CAP_SYS_ADMIN, on {_LEAST_KERNEL}"
    return f"this is a {container} container: start it with --privileged, as root, on {_LEAST_KERNEL}"


def obstacles(root: str = "/") -> list[str]:
    """What the kernel and the distribution have switched off that level user needs, as what to do about each."""
    steps = []
    if _knob(root, "user/max_user_namespaces") == "0":
        steps.append("sysctl -w user.max_user_namespaces=15000")
    if _knob(root, "kernel/unprivileged_userns_clone") == "0":
        steps.append("sysctl -w kernel.unprivileged_userns_clone=1")
    if _knob(root, "kernel/apparmor_restrict_unprivileged_userns") == "1":
        steps.append(
            "AppArmor keeps unprivileged user namespaces from programs without a profile (Ubuntu 23.10 and later): allow them to this interpreter by "
            f"putting '{apparmor_profile()}' into {_PROFILE} and running apparmor_parser -r {_PROFILE}, "
            "or to everybody by sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        )
    return steps


def _user(root: str) -> str:
    steps = obstacles(root)
    container = container_kind(root)
    if container is not None:
        steps.append(
            f"this is a {container} container: start it with --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
            "--security-opt systempaths=unconfined"
        )
    if masked := masked_proc(root):
        steps.append(f"unmask /proc (something is mounted on {', '.join(masked)}): inside a user namespace it can only be shown whole")
    if not steps:
        steps.append(f"allow unprivileged user namespaces and an unmasked /proc, on {_LEAST_KERNEL}")
    return "; ".join(steps)


def apparmor_profile(interpreter: str = "") -> str:
    """A profile that allows user namespaces to one interpreter and restricts nothing, on one line."""
    path = os.path.realpath(interpreter or sys.executable)
    return f"abi <abi/4.0>, include <tunables/global> profile lambda-engine {path} flags=(unconfined) {{ userns, }}"


def container_kind(root: str = "/") -> str | None:
    """``Docker``, ``Podman`` or another container's name for itself; None outside of one."""
    if os.path.exists(os.path.join(root, ".dockerenv")):
        return "Docker"
    if os.path.exists(os.path.join(root, "run/.containerenv")):
        return "Podman"
    try:
        with open(os.path.join(root, "proc/1/environ"), "rb") as f:
            for variable in f.read().split(b"\0"):
                if variable.startswith(b"container="):
                    return variable[10:].decode(errors="replace") or None
    except OSError:
        pass
    return None


def masked_proc(root: str = "/") -> list[str]:
    """What is mounted over parts of /proc, as container engines do."""
    try:
        with open(os.path.join(root, "proc/self/mountinfo")) as f:
            places = [line.split()[4] for line in f]
    except (OSError, IndexError):
        return []
    return [p for p in places if p.startswith("/proc/") and not p.startswith("/proc/sys/fs/binfmt_misc")]


def _knob(root: str, name: str) -> str | None:
    try:
        with open(os.path.join(root, "proc/sys", name)) as f:
            return f.read().strip()
    except OSError:
        return None
