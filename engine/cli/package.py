"""From a directory to a deployment package: its files, and what requirements.txt asks for, in one reproducible zip."""

from __future__ import annotations

import ast
import io
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from engine.cli.interpreters import pip_install
from engine.cli.output import CliError

REQUIREMENTS = "requirements.txt"
# What editors, version control and test tools leave beside a function; AWS would ship it, nobody means to.
LEFT_OUT_DIRS = {".git", ".hg", ".svn", ".venv", "venv", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".idea"}
LEFT_OUT_SUFFIXES = (".pyc", ".pyo", ".DS_Store")
# The oldest moment a zip can hold: equal sources give equal packages, so that CodeSha256 tells whether anything changed.
EPOCH = (1980, 1, 1, 0, 0, 0)
CANDIDATES = ("lambda_function.py", "handler.py", "app.py", "main.py", "index.py")
FUNCTIONS = ("lambda_handler", "handler", "main")


def of_directory(source: Path, runtime: str) -> bytes:
    """The package of ``source``, with its requirements installed for ``runtime``.

    Raises CliError when the directory holds no files, when an entry is not a file or directory, or when pip fails.
    """
    with tempfile.TemporaryDirectory(prefix="lambda-engine-") as work:
        stage = Path(work) / "package"
        stage.mkdir()
        requirements = source / REQUIREMENTS
        if requirements.is_file() and requirements.read_text().strip():
            install(requirements, runtime, stage)
        copied = 0
        for path, name in _files(source):
            target = stage / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            shutil.copymode(path, target)
            copied += 1
        if not copied:
            raise CliError(f"{source} holds no files to deploy", 2)
        return zipped(stage)


def install(requirements: Path, runtime: str, target: Path) -> None:
    """Install the requirements for ``runtime`` into ``target``. Raises CliError with pip's last words when it fails."""
    argv = pip_install(runtime, str(requirements.absolute()), str(target))
    # The caller's virtual environment and user site must not make pip believe that something is there already.
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_USER")}
    done = subprocess.run(  # noqa: S603 - pip is the point
        argv, env=env, cwd=requirements.parent, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        words = "\n".join(done.stderr.strip().splitlines()[-12:])
        raise CliError(f"pip could not install {requirements} for {runtime}:\n{words}")
    # Scripts carry this host's interpreter in their first line and are useless in the function.
    shutil.rmtree(target / "bin", ignore_errors=True)


def zipped(root: Path) -> bytes:
    """A zip of everything below ``root``, the same bytes for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path, name in _files(root):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if os.access(path, os.X_OK) else 0o100644) << 16
            archive.writestr(entry, path.read_bytes())
    return buffer.getvalue()


def _files(root: Path) -> Iterator[tuple[Path, str]]:
    """(path, name in the zip) of every file to ship, sorted by name."""
    found = []
    for directory, subdirectories, names in os.walk(root, followlinks=False):
        subdirectories[:] = [d for d in subdirectories if d not in LEFT_OUT_DIRS]
        for name in names:
            path = Path(directory) / name
            if name.endswith(LEFT_OUT_SUFFIXES):
                continue
            if not path.is_file():
                raise CliError(f"{path} is not a file that can be packaged (a broken link, a socket or a device)", 2)
            found.append((path, path.relative_to(root).as_posix()))
        for name in subdirectories:
            if (Path(directory) / name).is_symlink():
                raise CliError(f"{Path(directory) / name} is a link to a directory: replace it by the directory", 2)
    yield from sorted(found, key=lambda f: f[1])


def detect_handler(source: Path) -> str:
    """``module.function`` of the handler that a directory most likely means. Raises CliError when none is found."""
    others = sorted(p.name for p in source.glob("*.py") if p.name not in CANDIDATES)
    for name in (*CANDIDATES, *others):
        path = source / name
        if not path.is_file():
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError as e:
            raise CliError(f"{path}, line {e.lineno}: {e.msg}", 2) from e
        defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
        defined |= {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
        for function in FUNCTIONS:
            if function in defined:
                return f"{path.stem}.{function}"
    raise CliError(f"no handler found in {source}: name it with --handler module.function", 2)
