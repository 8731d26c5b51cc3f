"""Shared libraries beside the function: what LD_LIBRARY_PATH does on AWS.

The dynamic linker reads that variable when a program starts, and this process started long before it knew its function. So when an
extension module or ``ctypes`` misses a library, it is looked for in the function's LD_LIBRARY_PATH (/var/task/lib, /opt/lib and
others) and loaded; the linker then finds it by its name among the loaded ones. Programs that the function starts need none of this.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import os
import re
from typing import Any, Callable, TypeVar

_T = TypeVar("_T")
_MISSING = re.compile(r"([^/\s]+): cannot open shared object file")
_load_extension = importlib.machinery.ExtensionFileLoader.create_module
_open_library: "Callable[..., Any]" = ctypes._dlopen  # type: ignore[attr-defined]


def install(search_path: str) -> None:
    """Serve the directories of ``search_path`` (as in LD_LIBRARY_PATH) to this process."""
    directories = [d for d in search_path.split(":") if d]

    def create_module(self: Any, spec: Any) -> Any:
        return _with_missing(lambda: _load_extension(self, spec), directories)

    def open_library(name: Any, mode: int = ctypes.DEFAULT_MODE) -> Any:
        try:
            return _with_missing(lambda: _open_library(name, mode), directories)
        except OSError:
            # A library that does not say its own name is not found among the loaded ones: open it by its path.
            found = _find(name, directories) if isinstance(name, str) and "/" not in name else None
            if found is None:
                raise
            return _with_missing(lambda: _open_library(found, mode), directories)

    importlib.machinery.ExtensionFileLoader.create_module = create_module  # type: ignore[method-assign]
    ctypes._dlopen = open_library  # type: ignore[attr-defined]


def _with_missing(load: "Callable[[], _T]", directories: "list[str]") -> _T:
    """``load()``, after loading what it complains to miss. Raises its ImportError or OSError when that is nowhere."""
    tried = set()
    while True:
        try:
            return load()
        except (ImportError, OSError) as e:
            missing = _MISSING.match(str(e))
            if missing is None or missing.group(1) in tried:
                raise
            tried.add(missing.group(1))
            found = _find(missing.group(1), directories)
            if found is None:
                raise
            try:
                _with_missing(functools.partial(_open_library, found, ctypes.DEFAULT_MODE), directories)
            except OSError as deeper:
                # As the linker puts it: the one that is missing, in the error of the one that was asked for.
                raise type(e)(str(deeper)) from None


def _find(name: str, directories: "list[str]") -> "str | None":
    for directory in directories:
        path = os.path.join(directory, name)
        if os.path.isfile(path):
            return path
    return None
