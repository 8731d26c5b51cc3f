"""What a function finds around it: environment variables, working directory, module search path, and no module of ours in its way."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from importlib.machinery import FileFinder
from typing import Any, Optional

from runtime_bootstrap.python import libraries, loading

_putenv = ctypes.CDLL(None).putenv
_TAG = "python%d.%d" % sys.version_info[:2]
# What AWS's runtime has imported when it loads the handler. A function that ships a module of one of these names does not get its
# own copy there either; of any other name it does, so what the zygote imported ahead must make room.
_LOADED_ON_AWS = frozenset(
    (
        "__future__", "__main__", "abc", "atexit", "builtins", "codecs", "collections", "contextlib", "copyreg", "decimal",
        "encodings", "enum", "functools", "genericpath", "importlib", "io", "itertools", "json", "keyword", "linecache", "logging",
        "marshal", "math", "numbers", "operator", "os", "posix", "posixpath", "re", "reprlib", "runtime_bootstrap", "site", "stat",
        "string", "sys", "textwrap", "threading", "time", "token", "tokenize", "traceback", "types", "warnings", "weakref", "zipimport",
    )
)  # fmt: skip


def replace_variables(env: "dict[str, str]") -> None:
    """Make ``env`` the whole environment; TZ takes effect with ``enter``."""
    # On the path of every cold start. Most variables are what they were in the rehearsal.
    shown: "Optional[dict[bytes, bytes]]" = getattr(os.environ, "_data", None)
    if shown is None:
        os.environ.clear()
        os.environ.update(env)
        return
    encoding = sys.getfilesystemencoding()
    wanted = {n.encode(encoding, "surrogateescape"): v.encode(encoding, "surrogateescape") for n, v in env.items()}
    for name in [n for n in shown if n not in wanted]:
        os.unsetenv(name)
        del shown[name]
    for name, value in wanted.items():
        if shown.get(name) != value:
            os.putenv(name, value)
            shown[name] = value


def search_path(task_root: str, opt_root: str, python_path: str, rest: "list[str]") -> "list[str]":
    """sys.path in AWS's order: code, layers, runtime, PYTHONPATH, interpreter. ``rest`` begins with the runtime's directory."""
    own = [task_root, "%s/python/lib/%s/site-packages" % (opt_root, _TAG), opt_root + "/python"]
    named = [p for p in python_path.split(":") if p and p != "/var/runtime"]
    return list(dict.fromkeys(own + rest[:1] + named + rest[1:]))


def make_room(directories: "list[str]") -> None:
    """Forget modules imported ahead of the function of which it brings a copy of its own (and which are not that copy).

    When one of those is a third-party module, all of them go: boto3 must not stay with another botocore than the function's.
    """
    shipped: "set[str]" = set()
    for directory in directories:
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        shipped.update(name.partition(".")[0] for name in names)
    shadowed = {name for name in shipped if name in sys.modules and not _below(directories, sys.modules[name])} - _LOADED_ON_AWS
    if not shadowed:
        return
    third_party = _third_party()
    if shadowed & third_party:
        shadowed |= third_party
    for name in [n for n in sys.modules if n.partition(".")[0] in shadowed]:
        del sys.modules[name]


def _below(directories: "list[str]", module: Any) -> bool:
    places = [getattr(module, "__file__", None) or "", *(getattr(module, "__path__", None) or ())]
    return any(place.startswith(directory + "/") for place in places for directory in directories)


def _third_party() -> "set[str]":
    """Top-level names of loaded modules that are not the interpreter's own."""
    library = os.path.dirname(os.__file__) + os.sep
    names = set()
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path and (not path.startswith(library) or "/site-packages/" in path):
            names.add(name.partition(".")[0])
    return names - _LOADED_ON_AWS


def settle(task_root: str, opt_root: str, env: "dict[str, str]") -> None:
    """Environment and search path of the function: what takes none of its files."""
    replace_variables(env)
    sys.path[:] = search_path(task_root, opt_root, env.get("PYTHONPATH", ""), sys.path)
    for directory in sys.path[:3]:
        sys.path_importer_cache.pop(directory, None)
    # What the hooks of sys.path come to for a directory, ahead of their asking the file system whether it is one or an archive.
    sys.path_importer_cache[task_root] = FileFinder(task_root, *loading.LOADERS)
    libraries.install(env.get("LD_LIBRARY_PATH", ""))


def enter(task_root: str) -> None:
    """After ``settle``, when the files are there. Raises OSError when ``task_root`` cannot be entered."""
    os.chdir(task_root)
    # Here, because TZ may name a file of the function's.
    time.tzset()
    # The second lies in the third, and mostly there is neither.
    make_room(sys.path[:3] if os.path.isdir(sys.path[2]) else sys.path[:1])


def renew_randomness() -> None:
    """What a fork copied and must not be the same in two functions. (The sandbox sees to the generators of ``random`` and OpenSSL.)"""
    modules = sys.modules
    if "tempfile" in modules:
        modules["tempfile"]._name_sequence = None  # type: ignore[attr-defined]
    numpy_random = modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def event_loop() -> Any:
    """The event loop that asyncio counts as this thread's, in a form for ``keep_event_loop``: a fork makes it forget."""
    policy = getattr(sys.modules.get("asyncio.events"), "_event_loop_policy", None)
    return policy, getattr(policy, "_local", None)


def keep_event_loop(loop: Any) -> None:
    """In a copy, which is no child but the same again: the loop that init made goes on."""
    policy, local = loop
    if local is not None:
        policy._local = local


class TraceVariable:
    """``_X_AMZN_TRACE_ID``, which changes with every invocation.

    The C library's ``setenv`` keeps every value it was ever given: 140 bytes of leak for each invocation, which at our rates ends a
    small function within minutes. So the variable lives in one buffer of ours that is written over.
    """

    _NAME = b"_X_AMZN_TRACE_ID"
    _ROOM = 255
    # Kept: a type that nobody refers to is made again for each buffer.
    _USUAL = ctypes.c_char * (len(_NAME) + _ROOM + 2)

    def __init__(self) -> None:
        self._room = self._ROOM
        self._buffer: Any = self._USUAL()
        self._current: Optional[bytes] = None
        # The dict behind os.environ; without it (another Python) every set goes through setenv.
        self._shown: "Optional[dict[bytes, bytes]]" = getattr(os.environ, "_data", None)

    def set(self, value: Optional[str]) -> None:
        """Set the variable for Python and C code alike, or delete it."""
        if value is None:
            os.environ.pop("_X_AMZN_TRACE_ID", None)
            return
        shown = self._shown
        if shown is None:
            os.environ["_X_AMZN_TRACE_ID"] = value
            return
        raw = value.encode("utf-8", "surrogateescape")
        if len(raw) > self._room:
            self._room = len(raw)
            # The former buffer stays referenced until the C library points to the new one.
            buffer = ctypes.create_string_buffer(self._NAME + b"=" + raw, len(self._NAME) + self._room + 2)
            _putenv(buffer)
            self._buffer = buffer
        else:
            self._buffer.value = self._NAME + b"=" + raw
            if shown.get(self._NAME) is not self._current or self._current is None:
                _putenv(self._buffer)
        self._current = shown[self._NAME] = raw
