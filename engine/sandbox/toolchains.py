"""Finding the interpreters of the managed runtimes that are not Python on this host: Node.js, Ruby, and JDKs for Java functions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

NODE_MAJORS = (20, 22, 24)
RUBIES = ("3.2", "3.3", "3.4")
_ASK_S = 10.0
_RUBY_VERSION = re.compile(r"ruby ((\d+\.\d+)\.\d+)\S* ")
_JAVA_VERSION = re.compile(r'^JAVA_VERSION="((\d+)[^"]*)"', re.MULTILINE)
_VERSION = re.compile(r"v(\d+)\.(\d+)\.(\d+)\s*")


@dataclass(frozen=True, slots=True)
class Toolchain:
    """One usable program. ``shows``: the directory it is installed in, where that is not the system's own."""

    runtime: str
    path: str
    version: str
    shows: tuple[str, ...]


def discover(overrides: Mapping[str, Path] | None = None) -> dict[str, Toolchain]:
    """Runtime id (``nodejs22.x``, ``ruby3.3``) to program. The first place wins: overrides, PATH, version managers. An override that is not the version
    it claims to be is left out.
    """
    chosen = {k: str(v) for k, v in (overrides or {}).items() if k.startswith(("nodejs", "ruby"))}
    nodes = [p for k, p in chosen.items() if k.startswith("nodejs")]
    rubies = [p for k, p in chosen.items() if k.startswith("ruby")]
    asked = [
        *((_node, p) for p in dict.fromkeys(map(os.path.realpath, [*nodes, *_nodes()]))),
        *((_ruby, p) for p in dict.fromkeys(map(os.path.realpath, [*rubies, *_rubies()]))),
    ]
    with ThreadPoolExecutor(max_workers=4) as pool:
        known = [t for t in pool.map(lambda ask: ask[0](ask[1]), asked) if t is not None]
    found: dict[str, Toolchain] = {}
    for toolchain in known:
        override = chosen.get(toolchain.runtime)
        if override is None or os.path.realpath(override) == toolchain.path:
            found.setdefault(toolchain.runtime, toolchain)
    return found


def java() -> dict[str, Toolchain]:
    """Runtime id (``java21``) to the JDK of that version, from the file that every JDK since 8 carries."""
    homes = [os.environ.get("JAVA_HOME", ""), *map(str, sorted(Path("/usr/lib/jvm").glob("*")))]
    on_path = shutil.which("java")
    if on_path:
        homes.append(os.path.dirname(os.path.dirname(os.path.realpath(on_path))))
    found: dict[str, Toolchain] = {}
    for home in filter(None, homes):
        real = os.path.realpath(home)
        program = os.path.join(real, "bin/java")
        try:
            match = _JAVA_VERSION.search(Path(real, "release").read_text(errors="replace"))
        except OSError:
            continue
        if match is not None and os.access(program, os.X_OK):
            shows = () if real.startswith("/usr/") else (real,)
            found.setdefault(f"java{match[2]}", Toolchain(f"java{match[2]}", program, match[1], shows))
    return found


def _nodes() -> Iterator[str]:
    for name in ("node", *(f"node{major}" for major in NODE_MAJORS), "nodejs"):
        path = shutil.which(name)
        if path:
            yield path
    home = Path.home()
    managers = (
        (Path(os.environ.get("NVM_DIR", home / ".nvm")) / "versions/node", "*/bin/node"),
        (Path(os.environ.get("FNM_DIR", home / ".local/share/fnm")) / "node-versions", "*/installation/bin/node"),
        (Path("/opt"), "node*/bin/node"),
        (Path("/usr/local"), "node*/bin/node"),
    )
    for base, pattern in managers:
        try:
            yield from sorted(map(str, base.glob(pattern)), reverse=True)
        except OSError:
            continue


def _rubies() -> Iterator[str]:
    for name in ("ruby", *(f"ruby{version}" for version in RUBIES)):
        path = shutil.which(name)
        # A version manager's shim is no interpreter.
        if path and "/shims/" not in path:
            yield path
    home = Path.home()
    managers = (
        (Path(os.environ.get("RBENV_ROOT", home / ".rbenv")) / "versions", "*/bin/ruby"),
        (home / ".rubies", "*/bin/ruby"),
        (home / ".asdf/installs/ruby", "*/bin/ruby"),
        (Path("/opt/rubies"), "*/bin/ruby"),
        (Path("/opt"), "ruby*/bin/ruby"),
        (Path("/usr/local"), "ruby*/bin/ruby"),
    )
    for base, pattern in managers:
        try:
            yield from sorted(map(str, base.glob(pattern)), reverse=True)
        except OSError:
            continue


def _answer(path: str) -> str:
    """What a program says to ``--version``, "" if it does not run."""
    try:
        return subprocess.run(  # noqa: S603 - the candidates are the operator's own programs
            [path, "--version"], capture_output=True, text=True, timeout=_ASK_S, check=True, stdin=subprocess.DEVNULL
        ).stdout
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""


def _shows(path: str) -> tuple[str, ...]:
    return () if path.startswith("/usr/") else (os.path.dirname(os.path.dirname(path)),)


def _ruby(path: str) -> Toolchain | None:
    match = _RUBY_VERSION.match(_answer(path))
    if match is None or match[2] not in RUBIES:
        return None
    return Toolchain(f"ruby{match[2]}", path, match[1], _shows(path))


def _node(path: str) -> Toolchain | None:
    answer = _answer(path)
    match = _VERSION.fullmatch(answer)
    if match is None or int(match[1]) not in NODE_MAJORS:
        return None
    return Toolchain(f"nodejs{match[1]}.x", path, answer.strip()[1:], _shows(path))
