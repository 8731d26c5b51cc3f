"""A virtual environment for the peers, under bench/results/.cache: they are never dependencies of the project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.packages import CACHE, python_of

PACKAGES = ("gunicorn", "uvicorn", "uvloop", "httptools", "awslambdaric", "ministack")


def ready() -> tuple[Path, dict[str, str]]:
    """The environment's interpreter, and why a package is missing for each one pip could not install."""
    directory = CACHE / f"peers-{sys.version_info.major}.{sys.version_info.minor}"
    python = python_of(directory)
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    missing = {}
    for package in PACKAGES:
        shown = subprocess.run([str(python), "-m", "pip", "show", "-q", package], capture_output=True, check=False)
        if shown.returncode == 0:
            continue
        words = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", package]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            missing[package] = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"pip: {done.returncode}"
    return python, missing
