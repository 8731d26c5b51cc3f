"""Deployment packages of the functions in tests/functions, with their dependencies as pip installs them for a runtime.

A package is built once per content: its name in the cache is the hash of everything that goes into it.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"
# Nothing a function needs at run time, and half of numpy's size.
_LEFT_OUT = ("/tests/", "/__pycache__/", "/testing/_private/")


def cache_dir() -> Path:
    """Where packages are kept between runs: LAMBDA_ENGINE_TEST_CACHE, or below XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("LAMBDA_ENGINE_TEST_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lambda-engine-tests"


@functools.cache
def package_of(name: str, python_version: str = f"{sys.version_info.major}.{sys.version_info.minor}") -> bytes:
    """The zip of tests/functions/``name`` for that Python. Raises RuntimeError with pip's words when it cannot be built."""
    folder = FUNCTIONS / name
    sources = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.*")) if "__pycache__" not in p.parts}
    stamp = hashlib.sha256(repr((python_version, sorted(sources.items()), _LEFT_OUT, 1)).encode()).hexdigest()
    kept = cache_dir() / f"{name}-{stamp[:24]}.zip"
    if kept.is_file():
        return kept.read_bytes()
    with tempfile.TemporaryDirectory(prefix="package-") as target:
        if "requirements.txt" in sources:
            _install(folder / "requirements.txt", python_version, target)
        data = _zip(Path(target), sources)
    kept.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=kept.parent)
    with os.fdopen(handle, "wb") as out:
        out.write(data)
    os.replace(unfinished, kept)
    return data


def _install(requirements: Path, python_version: str, target: str) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-compile",
            "--only-binary", ":all:", "--python-version", python_version, "--target", target, "--requirement", str(requirements),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"pip cannot install {requirements}: {done.stderr.strip()[-2000:]}")


def _zip(installed: Path, sources: dict[str, bytes]) -> bytes:
    """One archive; the same content gives the same bytes."""
    files = {p.relative_to(installed).as_posix(): p for p in sorted(installed.rglob("*")) if p.is_file()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, path in files.items():
            if not any(part in f"/{name}" for part in _LEFT_OUT):
                mode = 0o755 if os.access(path, os.X_OK) else 0o644
                _add(archive, name, path.read_bytes(), mode)
        for name, content in sources.items():
            _add(archive, name, content, 0o644)
    return out.getvalue()


def _add(archive: zipfile.ZipFile, name: str, content: bytes, mode: int) -> None:
    info = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, content)
