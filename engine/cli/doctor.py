"""``doctor``: what this host allows the engine, why, and how to get more."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from engine.cli.options import Json
from engine.cli.output import coloured, data, document, progress
from engine.cli.session import settings_of
from engine.supervisor import lanes

if TYPE_CHECKING:
    from engine.config import Settings

CGROUPS = Path("/sys/fs/cgroup")
KNOBS = {
    "user.max_user_namespaces": "/proc/sys/user/max_user_namespaces",
    "kernel.unprivileged_userns_clone": "/proc/sys/kernel/unprivileged_userns_clone",
    "kernel.apparmor_restrict_unprivileged_userns": "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
}


class Verdict(StrEnum):
    """``problem``: the engine cannot start as configured. ``note``: it starts, with less."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    subject: str
    verdict: Verdict
    text: str


def host_findings() -> list[Finding]:
    """The kernel, the Python and the cgroup hierarchy."""
    kernel = f"{platform.system()} {platform.release()} on {platform.machine()}"
    linux = sys.platform == "linux"
    found = [
        Finding("kernel", Verdict.OK if linux else Verdict.NOTE, kernel if linux else f"{kernel}: functions are not isolated here"),
        Finding("python", Verdict.OK, f"{platform.python_version()} ({sys.executable})"),
        Finding("user", Verdict.OK, "root" if os.geteuid() == 0 else f"uid {os.geteuid()}, not root: level full is out of reach"),
    ]
    found.append(_lane())
    if linux:
        found += [_cgroups(), namespaces()]
    return found


def _lane() -> Finding:
    if lanes.load() is not None:
        return Finding("compiled lane", Verdict.OK, "built: plain warm invocations are answered by compiled code")
    fix = "install a C compiler and Python's headers (Debian: gcc, python3-dev) and install the engine again"
    return Finding("compiled lane", Verdict.NOTE, f"not built, warm invocations take Python's time: {fix}")


def _cgroups() -> Finding:
    unified = CGROUPS / "cgroup.controllers"
    if unified.exists():
        return Finding("cgroups", Verdict.OK, f"v2, controllers: {unified.read_text().strip() or 'none'}")
    v1 = sorted(p.name for p in CGROUPS.iterdir() if p.is_dir()) if CGROUPS.exists() else []
    if v1:
        return Finding("cgroups", Verdict.OK, f"v1, hierarchies: {', '.join(v1)}")
    return Finding("cgroups", Verdict.NOTE, f"none mounted at {CGROUPS}: memory and process limits rest on rlimits")


def namespaces(root: str = "/") -> Finding:
    """What this host has of them, and what keeps an ordinary user from them. ``root`` stands for ``/``."""
    from engine.sandbox.hints import obstacles

    kinds = sorted(p.name for p in Path("/proc/self/ns").iterdir() if "_for_children" not in p.name)
    files = {name: Path(root, path.lstrip("/")) for name, path in KNOBS.items()}
    knobs = [f"{name}={path.read_text().strip()}" for name, path in files.items() if path.exists()]
    text = f"{', '.join(kinds)}; {', '.join(knobs)}"
    steps = obstacles(root)
    if not steps:
        return Finding("namespaces", Verdict.OK, text)
    return Finding("namespaces", Verdict.NOTE, f"{text}; for level user: {'; '.join(steps)}")


def sandbox_findings(settings: Settings) -> list[Finding]:
    """Which level runs, what each mechanism rests on, and advice."""
    from engine.errors import SandboxUnavailable
    from engine.sandbox.probe import probe

    try:
        report = probe(settings)
    except SandboxUnavailable as e:
        return [Finding("sandbox", Verdict.PROBLEM, str(e))]
    verdict = Verdict.OK if report.level == "full" else Verdict.NOTE
    text = f"level {report.level} (asked: {report.asked}), network {report.network}"
    if report.level == "process":
        text += ": FUNCTIONS ARE NOT ISOLATED from this host and from each other"
    found = [Finding("sandbox", verdict, text)]
    for mechanism, how in report.mechanisms.items():
        found.append(Finding(f"  {mechanism}", Verdict.NOTE if how.startswith("none") else Verdict.OK, how))
    found += [Finding("  advice", Verdict.NOTE, line) for line in report.advice]
    return found


def interpreter_findings(settings: Settings) -> list[Finding]:
    """The runtimes this host can run."""
    from engine.sandbox import toolchains
    from engine.sandbox.interpreters import discover

    interpreters = discover({k: v for k, v in settings.runtimes.items() if k.startswith("python")})
    if not interpreters:
        return [
            Finding("runtimes", Verdict.PROBLEM, "no Python 3.9 to 3.14 found: install one or set LAMBDA_ENGINE_RUNTIMES")
        ]
    found = [Finding(f"runtime {name}", Verdict.OK, f"{i.version} ({i.path})") for name, i in interpreters.items()]
    others = {**toolchains.discover(settings.runtimes), **(toolchains.java() if settings.java_client is not None else {})}
    found += [Finding(f"runtime {name}", Verdict.OK, f"{t.version} ({t.path})") for name, t in others.items()]
    if any(name.startswith("nodejs") for name in others):
        found.append(_node_sdk(settings))
    found += [
        Finding(f"runtime {name}", Verdict.PROBLEM, f"{path} (LAMBDA_ENGINE_RUNTIMES) is not a working interpreter of that version")
        for name, path in settings.runtimes.items()
        if name not in interpreters and name not in others
    ]
    return found


def _node_sdk(settings: Settings) -> Finding:
    from engine.sandbox import node_sdk

    versions = node_sdk.installed(settings.cache_dir())
    if versions:
        return Finding("AWS SDK for Node.js", Verdict.OK, f"{len(versions)} packages, @aws-sdk/client-s3 {versions.get('@aws-sdk/client-s3', 'missing')}")
    npm = "" if shutil.which("npm") else " (npm is not on PATH)"
    return Finding("AWS SDK for Node.js", Verdict.NOTE, f"not installed, functions must bring it; on Lambda they need not: {node_sdk.COMMAND}{npm}")


def port_finding(settings: Settings) -> Finding:
    """Whether the HTTP port is free, or an engine already answers there."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as e:
            if _engine_answers(settings):
                return Finding("port", Verdict.OK, f"an engine answers at {settings.endpoint_url()}")
            return Finding("port", Verdict.PROBLEM, f"{settings.host}:{settings.port}: {e.strerror}; choose another with --port")
    return Finding("port", Verdict.OK, f"{settings.host}:{settings.port} is free")


def _engine_answers(settings: Settings) -> bool:
    import urllib.request

    try:
        with urllib.request.urlopen(f"{settings.endpoint_url()}/livez", timeout=3) as answer:  # noqa: S310 - our own URL
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def tool_findings(settings: Settings) -> list[Finding]:
    """The embedded AWS and the AWS CLI."""
    from engine.aws.embedded import available

    missing = available() if settings.aws_endpoint == "embedded" else None
    found = [Finding("other AWS services", Verdict.NOTE if missing else Verdict.OK, missing or settings.aws_endpoint)]
    beside = Path(sys.executable).with_name("aws")
    cli = str(beside) if beside.exists() else shutil.which("aws")
    found.append(Finding("aws cli", Verdict.OK if cli else Verdict.NOTE, cli or "not installed (pip install awscli)"))
    return found


def doctor(as_json: Json = False) -> None:
    """Say which isolation level runs here, why, and how to get a better one. Status 1 when the engine could not start."""
    settings = settings_of()
    with progress("looking around"):
        findings = [
            *host_findings(),
            *sandbox_findings(settings),
            *interpreter_findings(settings),
            port_finding(settings),
            *tool_findings(settings),
        ]
    if as_json:
        document([{**asdict(f), "subject": f.subject.strip()} for f in findings])
    else:
        _print(findings)
    if any(f.verdict is Verdict.PROBLEM for f in findings):
        raise typer.Exit(1)


def _print(findings: list[Finding]) -> None:
    colours = {Verdict.OK: "32", Verdict.NOTE: "33", Verdict.PROBLEM: "31"}
    width = max(len(f.subject) for f in findings)
    for f in findings:
        mark = f.verdict.value.ljust(7)
        shown = f"\x1b[{colours[f.verdict]}m{mark}\x1b[0m" if coloured(sys.stdout) else mark
        data(f"{shown}  {f.subject.ljust(width)}  {f.text}")
