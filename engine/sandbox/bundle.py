"""/var/runtime: the bootstrap, a private msgpack and the AWS SDK, in one directory that every zygote shows to its sandboxes.

Copied once from the engine's own installation into ``<cache_dir>/runtime/<digest>``, which all engines of a user share, and compiled
for each interpreter that asks: the bootstrap before its first zygote starts, the SDK in the background. The digest covers what was
copied, so an upgrade of either makes a new directory; one that no engine has started with for a month is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from typing import Any

from engine import turns
from engine.sandbox import kernel, node_sdk

_BOOTSTRAP = "runtime_bootstrap"
_KEPT_S = 30 * 24 * 3600
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", "*.pyx", "tests", "*.pyi")
# Of ours, what was compiled (for no interpreter in particular) comes along.
_LEFT_OUT_OF_OURS = shutil.ignore_patterns("__pycache__", "*.c")
_COMPILED = ".compiled"
# The marker comes last: without it the compilation was interrupted and is done again.
_COMPILE = (
    "import sys, compileall, py_compile; "
    "compileall.compile_dir(sys.argv[1], quiet=2, maxlevels=20, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH); "
    "len(sys.argv) > 2 and open(sys.argv[2], 'w').close()"
)


class Bundle:
    """``config``: ``cache_dir``, ``bootstrap_dir`` (a directory called runtime_bootstrap), ``sdk``: name -> installed path,
    ``sdk_version``.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._root = os.path.join(config["cache_dir"], "runtime")
        self._bootstrap = str(config["bootstrap_dir"])
        self._sdk: dict[str, str] = config["sdk"]
        self._version = str(config["sdk_version"])
        self._directory = ""
        self._compiled: set[str] = set()
        self._children: set[int] = set()

    def ready(self, interpreter: str) -> str:
        """The directory, present and with the bootstrap compiled for ``interpreter``. Raises OSError."""
        if not self._directory:
            self._directory = self._copy()
        # Bytecode is the same for every build of a minor release.
        marker = os.path.join(self._directory, _COMPILED, os.path.basename(interpreter))
        if interpreter not in self._compiled and not os.path.exists(marker):
            os.waitpid(self._compile(interpreter, [os.path.join(self._directory, _BOOTSTRAP)]), 0)
            self._children.add(self._compile(interpreter, [self._directory, marker], background=True))
        self._compiled.add(interpreter)
        return self._directory

    def stop(self) -> None:
        """End compilations still running; their files are whole or absent."""
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def children(self) -> frozenset[int]:
        """The compilations still running."""
        return frozenset(self._children)

    def reaped(self, pid: int) -> None:
        """A child of this process has ended; it may have been one of ours."""
        self._children.discard(pid)

    def _digest(self) -> str:
        digest = hashlib.sha256(repr((_COMPILED, node_sdk.DIRECTORY, self._version, sorted(self._sdk.items()))).encode())
        for path in sorted(_sources(self._bootstrap)):
            digest.update(path.encode() + b"\0")
            with open(path, "rb") as f:
                digest.update(f.read())
        return digest.hexdigest()[:20]

    def _copy(self) -> str:
        target = os.path.join(self._root, self._digest())
        os.makedirs(self._root, exist_ok=True)
        os.makedirs(os.path.join(os.path.dirname(self._root), node_sdk.DIRECTORY), mode=0o755, exist_ok=True)
        self._forget_old(target)
        if os.path.isdir(target):
            os.utime(target)
            return target
        building = f"{target}.{os.getpid()}"
        os.mkdir(building)
        shutil.copytree(self._bootstrap, os.path.join(building, _BOOTSTRAP), ignore=_LEFT_OUT_OF_OURS)
        for name, path in self._sdk.items():
            inside = os.path.join(building, _BOOTSTRAP, "_vendor", name) if name == "msgpack" else os.path.join(building, name)
            if os.path.isdir(path):
                shutil.copytree(path, inside, ignore=_LEFT_OUT)
            else:
                shutil.copyfile(path, f"{inside}.py")
        os.mkdir(os.path.join(building, _COMPILED))
        # Where rootfs shows the SDK for Node.js, whatever is installed of it and whenever.
        os.mkdir(os.path.join(building, node_sdk.DIRECTORY))
        _make_readable(building)
        os.symlink(f"{node_sdk.DIRECTORY}/{node_sdk.CURRENT}/node_modules", os.path.join(building, "node_modules"))
        try:
            os.rename(building, target)
        except OSError:
            # Another engine was faster; its copy is the same by construction.
            shutil.rmtree(building, ignore_errors=True)
            if not os.path.isdir(target):
                raise
        return target

    def _forget_old(self, target: str) -> None:
        oldest_s = time.time() - _KEPT_S
        for name in os.listdir(self._root):
            path = os.path.join(self._root, name)
            with contextlib.suppress(FileNotFoundError):
                if path != target and os.stat(path).st_mtime < oldest_s:
                    shutil.rmtree(path, ignore_errors=True)

    @staticmethod
    def _compile(interpreter: str, arguments: list[str], background: bool = False) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            kernel.die_with_parent()
            signal.pthread_sigmask(signal.SIG_SETMASK, set())
            if background:
                os.nice(19)
                turns.long()
            null = os.open("/dev/null", os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(2, 1)
            kernel.close_from(3)
            os.execve(interpreter, [interpreter, "-I", "-S", "-c", _COMPILE, *arguments], {"PATH": "/usr/bin:/bin"})
        finally:
            os._exit(127)


def _sources(directory: str) -> Iterator[str]:
    for path, _, files in os.walk(directory):
        if os.path.basename(path) != "__pycache__":
            for name in files:
                if name.endswith((".py", ".js", ".mjs", ".rb", ".so")):
                    yield os.path.join(path, name)


def _make_readable(directory: str) -> None:
    """The sandbox's user owns none of it: everybody may read, directories may be entered."""
    for path, _, files in os.walk(directory):
        os.chmod(path, 0o755)
        for name in files:
            os.chmod(os.path.join(path, name), 0o644)
