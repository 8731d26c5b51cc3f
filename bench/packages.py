"""Deployment packages with real dependencies, built once per machine and kept under bench/results/.cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.context import RESULTS
from bench.engine import zipped

CACHE = RESULTS / ".cache"


def with_requirements(code: bytes, requirements: list[str], runtime: str) -> bytes:
    """A zip of ``app.py`` and these packages' wheels for ``runtime`` (pythonX.Y). Raises RuntimeError with pip's words."""
    version = runtime.removeprefix("python")
    target = CACHE / f"{'-'.join(requirements)}-{version}"
    if not target.exists():
        partial = target.with_suffix(".partial")
        words = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        words += ["--only-binary=:all:", "--implementation", "cp", "--python-version", version, "--target", str(partial)]
        done = subprocess.run([*words, *requirements], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"pip install {requirements} for {runtime}: {done.stderr.strip()[-500:]}")
        partial.rename(target)
    files = {"app.py": code}
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target)
        if path.is_file() and not ({"tests", "bin", "__pycache__"} & set(name.parts)):
            files[str(name)] = path.read_bytes()
    return zipped(files)


def python_of(directory: Path) -> Path:
    """The interpreter of a virtual environment."""
    return directory / "bin" / "python"
