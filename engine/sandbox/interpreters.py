"""Finding the Python interpreters of the managed runtimes on this host.

Candidates come from the places people install Python to; each is run once to learn what it really is, so that a virtual
environment resolves to the interpreter under it and a broken one is left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

MINORS = range(9, 15)
_ASK = (
    "import json, os, sys, sysconfig; print(json.dumps([list(sys.version_info[:3]), sys.implementation.name, sys.base_prefix, "
    "sys.base_exec_prefix, getattr(sys, '_base_executable', sys.executable), sysconfig.get_config_var('abiflags') or '', "
    "sysconfig.get_config_var('Py_GIL_DISABLED') or 0]))"
)
_ASK_S = 10.0


@dataclass(frozen=True, slots=True)
class Interpreter:
    """One usable interpreter. ``path`` is the program itself, never a link; ``prefixes`` the directories it needs to run."""

    runtime: str
    path: str
    version: str
    prefixes: tuple[str, ...]


def discover(overrides: Mapping[str, Path] | None = None, remembered: Path | None = None) -> dict[str, Interpreter]:
    """Runtime id (``python3.12``) to interpreter, for 3.9 to 3.14. An override that does not work is left out.

    ``remembered``: a file with what programs that have not changed since were found to be, and where that is written.

    The first place wins: overrides, the engine's own interpreter, PATH, system directories, pyenv, uv; within one place
    the highest patch release.
    """
    groups = [list(group) for group in _places()]
    chosen = {runtime: str(path) for runtime, path in (overrides or {}).items()}
    paths = list(dict.fromkeys([*chosen.values(), *(p for group in groups for p in group)]))
    if remembered is not None:
        _recall(remembered)
    with ThreadPoolExecutor(max_workers=4) as pool:
        known = dict(zip(paths, pool.map(inspect, paths), strict=True))
    if remembered is not None:
        _remember(remembered)
    found: dict[str, Interpreter] = {}
    for runtime, path in chosen.items():
        interpreter = known[path]
        if interpreter is not None and interpreter.runtime == runtime:
            found[runtime] = interpreter
    for group in groups:
        here = [i for p in group if (i := known[p]) is not None]
        for interpreter in sorted(here, key=lambda i: [int(n) for n in i.version.split(".")], reverse=True):
            if interpreter.runtime not in chosen:
                found.setdefault(interpreter.runtime, interpreter)
    return dict(sorted(found.items(), key=lambda item: int(item[0].rsplit(".", 1)[1])))


def _places() -> Iterator[Iterator[str]]:
    names = [f"python3.{minor}" for minor in MINORS]
    yield iter([sys.executable])
    home = Path.home()
    path = [Path(d) for d in os.environ.get("PATH", "").split(os.pathsep) if d and not d.endswith("/shims")]
    for directory in dict.fromkeys([*path, Path("/usr/local/bin"), Path("/usr/bin")]):
        yield (str(directory / n) for n in names if _is_file(directory / n))
    pyenv = Path(os.environ.get("PYENV_ROOT", home / ".pyenv")) / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR", home / ".local/share/uv/python"))
    for base, pattern in ((pyenv, "*/bin/{}"), (uv, "*/bin/{}"), (Path("/opt"), "*/bin/{}"), (Path("/opt/python"), "*/bin/{}")):
        yield (str(p) for n in names for p in sorted(_glob(base, pattern.format(n))))


def _glob(base: Path, pattern: str) -> list[Path]:
    try:
        return [p for p in base.glob(pattern) if _is_file(p)]
    except OSError:
        return []


def _is_file(path: Path) -> bool:
    """Whether it is a file that we may look at: PATH can name directories that are closed to us."""
    try:
        return path.is_file()
    except OSError:
        return False


def inspect(path: str) -> Interpreter | None:
    """What a program is, by running it; None when it is no CPython 3.9 to 3.14 or does not run.

    Links are followed first: that leaves virtual environments behind, and an interpreter started through ``/bin`` on a system
    where that is a link to ``/usr/bin`` would take ``/`` for its prefix.
    """
    real = os.path.realpath(path)
    try:
        stat = os.stat(real)
    except OSError:
        return None
    key = (real, stat.st_mtime_ns, stat.st_ino, stat.st_size)
    if key not in _known:
        _known[key] = _inspect(real)
    return _known[key]


# What programs were found to be, by what tells that they have not changed: running one takes a twentieth of a second, and there may be a dozen.
_Key = tuple[str, int, int, int]
_known: dict[_Key, Interpreter | None] = {}


def _recall(path: Path) -> None:
    """What an earlier process found out. A file that is not as it was written counts as none."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        for (real, modified_ns, inode, size), (runtime, program, version, prefixes) in json.loads(path.read_bytes()):
            _known.setdefault((real, modified_ns, inode, size), Interpreter(runtime, program, version, tuple(prefixes)))


def _remember(path: Path) -> None:
    """Keep it for the next one; what did not run may run then."""
    facts = [[list(key), [i.runtime, i.path, i.version, list(i.prefixes)]] for key, i in _known.items() if i is not None]
    data = json.dumps(facts).encode()
    with contextlib.suppress(OSError):
        if path.exists() and path.read_bytes() == data:
            return
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.write_bytes(data)
        new.replace(path)


def _inspect(path: str) -> Interpreter | None:
    command = [path, "-I", "-S", "-c", _ASK]
    try:
        answer = subprocess.run(  # noqa: S603 - the candidates are the operator's own programs
            command, capture_output=True, timeout=_ASK_S, check=True, stdin=subprocess.DEVNULL
        ).stdout
        version, name, prefix, exec_prefix, program, flags, free_threaded = json.loads(answer)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    # A debug or free-threaded build is not what a managed runtime is.
    if name != "cpython" or version[0] != 3 or version[1] not in MINORS or flags or free_threaded:
        return None
    real = os.path.realpath(program or path)
    prefixes = tuple(dict.fromkeys(os.path.realpath(p) for p in (prefix, exec_prefix)))
    runtime = f"python{version[0]}.{version[1]}"
    return Interpreter(runtime, real, ".".join(map(str, version)), prefixes)


def prefixes_of(path: str) -> list[str]:
    """Directories an interpreter needs. Raises OSError when the program does not run."""
    interpreter = inspect(path)
    if interpreter is None:
        raise OSError(f"{path} is not a usable CPython 3.9 to 3.14")
    return list(interpreter.prefixes)
