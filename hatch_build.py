"""Builds the compiled lane (``engine/supervisor/_lane.pyx``), the copier's fork (``engine/sandbox/_copy.c``), the zygotes' layout
(``engine/sandbox/_layout.c``, ``_pages.h``, ``_pins.h``) and the agent's warm round (``runtime_bootstrap/agent/_warm.c``) when a C compiler and, for the first, Python's headers are here; says so when not.

The engine works without it, so a failure here never fails an installation.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "engine/supervisor/_lane.pyx"
# Libraries that depend on no Python: source, library, and what takes its place.
PLAIN = (
    ("engine/sandbox/_copy.c", "engine/sandbox/_copy.so", "SnapStart's fork is not built, two of Python's take its place"),
    ("engine/sandbox/_layout.c", "engine/sandbox/_layout.so", "the zygotes' objects stay where Python puts them, workers copy more memory"),
    ("runtime_bootstrap/agent/_warm.c", "runtime_bootstrap/agent/_warm.so", "the agent's warm round is not built, Python's takes its place"),
)


class LaneHook(BuildHookInterface):  # type: ignore[misc] # hatchling has no types
    """Run by hatchling for wheels and editable installs."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the extension module to the build."""
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        for source, library, loss in PLAIN:
            self._build_plain(root, source, library, loss, version, build_data)
        module = f"engine/supervisor/_lane{sysconfig.get_config_var('EXT_SUFFIX')}"
        why = build(root / SOURCE, root / module)
        if why is not None:
            print(f"lambda-engine: the compiled lane is not built, the engine runs without it: {why}", file=sys.stderr)  # noqa: T201
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        if version != "editable":
            build_data["force_include"][str(root / module)] = module

    def _build_plain(self, root: Path, source: str, library: str, loss: str, version: str, build_data: dict[str, Any]) -> None:
        why = build_plain(root / source, root / library)
        if why is not None:
            print(f"lambda-engine: {loss}: {why}", file=sys.stderr)  # noqa: T201
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        if version != "editable":
            build_data["force_include"][str(root / library)] = library


def build_plain(source: Path, library: Path) -> str | None:
    """Compile ``source`` to ``library``, which depends on no Python; the reason when that is not possible."""
    library.unlink(missing_ok=True)
    if not sys.platform.startswith("linux"):
        return "it is for Linux"
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    # The checked longjmp refuses to leave for another stack.
    flags = ["-O2", "-fPIC", "-shared", "-Wall", "-U_FORTIFY_SOURCE"]
    # In two mappings instead of five: every fork of a process that has it loaded copies them.
    flags += ["-Wl,-z,noseparate-code", "-Wl,-z,norelro"]
    try:
        done = subprocess.run([*compiler, *flags, str(source), "-o", str(library)], capture_output=True, text=True, check=False)  # noqa: S603 - the interpreter's own compiler
    except OSError as e:
        return f"{type(e).__name__}: {e}"
    return f"{compiler[0]} failed: {done.stderr.strip()[-400:]}" if done.returncode else None


def build(source: Path, module: Path) -> str | None:
    """Compile ``source`` to ``module``; the reason when that is not possible."""
    module.unlink(missing_ok=True)
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").exists():
        return f"no Python.h in {headers} (Debian: apt-get install python3-dev)"
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    try:
        from Cython.Compiler.Main import compile as translate  # noqa: PLC0415 - there only while building

        with tempfile.TemporaryDirectory() as folder:
            c_file = Path(folder) / "_lane.c"
            if translate(str(source), output_file=str(c_file), language_level=3).num_errors:
                return "Cython refused the source"
            flags = ["-O2", "-fPIC", "-shared", "-w", f"-I{headers}"]
            done = subprocess.run([*compiler, *flags, str(c_file), "-o", str(module)], capture_output=True, text=True, check=False)  # noqa: S603 - the interpreter's own compiler
    except (ImportError, OSError) as e:
        return f"{type(e).__name__}: {e}"
    if done.returncode:
        return f"{compiler[0]} failed: {done.stderr.strip()[-400:]}"
    return None
