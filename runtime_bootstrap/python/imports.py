"""Which packages a function imports and what each costs; and importing them ahead, in a process that instances are copied from.

Theory of operation. ``Watch`` measures while the handler is loaded: whatever is imported counts for the package at the top of its name,
without what that imports in turn. ``preload`` is the other half: a worker that imports what was learnt, and nothing of the function's
own, looks whether that has left traces that a copy must not have, and then becomes the template of instances, each of which runs the whole
init of its function afterwards.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import threading
import time
import types
from typing import Any, Callable, Optional

from runtime_bootstrap.python.channel import Channel

_bootstrap: Any = importlib._bootstrap
_MOST_MODULES = 4000
_TMP = "/tmp"  # noqa: S108 - the function's own
# In the file whose frames Python itself leaves out of tracebacks.
_SOURCE = """
def watching(find, clock, main, ident, stack, spent, mark):
    def _find_and_load(name, import_):
        if ident() != main:
            return find(name, import_)
        top, now = name.partition(".")[0], clock()
        if stack:
            spent[stack[-1]] += now - mark[0]
        stack.append(top)
        spent.setdefault(top, 0.0)
        mark[0] = now
        try:
            return find(name, import_)
        finally:
            now = clock()
            spent[stack.pop()] += now - mark[0]
            mark[0] = now
    return _find_and_load
"""
_PROGRAM = compile(_SOURCE, _bootstrap._find_and_load.__code__.co_filename, "exec")


class Watch:
    """Measures imports inside a ``with`` block."""

    def __init__(self) -> None:
        self._spent: "dict[str, float]" = {}
        # Not all names: reading them writes to them, and each page written to is copied, on the way of a function's first start.
        self._newest = next(reversed(sys.modules))
        self._took_s = 0.0
        self._find: "Optional[Callable[..., Any]]" = None
        self._code: "Optional[types.CodeType]" = None
        self._modules: "list[str]" = []

    def __enter__(self) -> "Watch":
        space: "dict[str, Any]" = {}
        exec(_PROGRAM, space)  # noqa: S102 - the text above
        self._find = _bootstrap._find_and_load
        made = space["watching"](
            self._find, time.perf_counter, threading.get_ident(), threading.get_ident, [], self._spent, [0.0]
        )
        self._code = made.__code__
        _bootstrap._find_and_load = made
        self._took_s = -time.perf_counter()
        return self

    def __exit__(self, _kind: object, error: "Optional[BaseException]", _traceback: object) -> None:
        self._took_s += time.perf_counter()
        _bootstrap._find_and_load = self._find
        self._modules = _after(self._newest)
        if error is not None:
            self._erase(error)

    def _erase(self, error: BaseException) -> None:
        """What the function's author sees must not show that somebody measured."""
        before, trace = None, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code is not self._code:
                before = trace
            elif before is None:
                error.__traceback__ = trace.tb_next
            else:
                before.tb_next = trace.tb_next
            trace = trace.tb_next

    def document(self, directories: "list[str]") -> bytes:
        """The report; ``directories`` are those of the function and its layers."""
        installed = _installed(directories)
        packages = []
        for name, spent_s in self._spent.items():
            kind = _kind(name, directories, installed)
            if kind is not None:
                packages.append([name, kind, int(spent_s * 1e6)])
        wanted = {name for name, kind, _ in packages if kind == "package"}
        modules = [name for name in self._modules if name.partition(".")[0] in wanted and isinstance(sys.modules.get(name), types.ModuleType)]
        return json.dumps({"took_us": int(self._took_s * 1e6), "packages": packages, "modules": modules[:_MOST_MODULES]}).encode()


def _after(name: str) -> "list[str]":
    """Names of the modules imported after this one."""
    names: "list[str]" = []
    for newer in reversed(sys.modules):
        if newer == name:
            break
        names.append(newer)
    return names[::-1]


def _kind(name: str, directories: "list[str]", installed: "set[str]") -> Optional[str]:
    """``package``: installed by somebody else; ``own``: the function's; ``runtime``: brought along; None: the standard library's, or unknown."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    places = [getattr(spec, "origin", None) or "", *(getattr(spec, "submodule_search_locations", None) or ())]
    if name == "runtime_bootstrap":
        return None
    for place in places:
        if any(place.startswith(directory + "/") for directory in directories):
            return "package" if name in installed else "own"
        if "/site-packages/" in place or place.startswith("/var/runtime/"):
            return "runtime"
    return None


def _installed(directories: "list[str]") -> "set[str]":
    """Names at the top of ``directories`` that installed distributions say are theirs."""
    names: "set[str]" = set()
    for directory in directories:
        try:
            distributions = [entry for entry in os.listdir(directory) if entry.endswith(".dist-info")]
        except OSError:
            continue
        for distribution in distributions:
            try:
                with open(os.path.join(directory, distribution, "RECORD"), encoding="utf-8", errors="replace") as lines:
                    names.update(line.partition(",")[0].partition("/")[0] for line in lines)
            except OSError:
                continue
    return {name[:-3] if name.endswith(".py") else name.partition(".")[0] for name in names}


def preload(channel: Channel, init: "dict[str, Any]", copies: Any) -> "dict[str, Any]":
    """Import ``init["preload"]`` and wait to be copied; in a copy, its INIT. In a process that must not be copied: tell why, and end it."""
    before = _traces()
    for name in init["preload"]:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: S112 - the function's own import will say it
            continue
        except BaseException:
            _refuse(channel, "importing %s ends the process" % name)
    threads, sockets = copies.findings(channel.fileno())
    if threads > 1:
        _refuse(channel, "they leave threads running, which a copy would not have")
    if sockets:
        _refuse(channel, "they open connections")
    changed = [what for what, value in _traces().items() if value != before[what]]
    if changed:
        _refuse(channel, "they change " + " and ".join(changed))
    gc.collect()
    gc.freeze()
    channel.restore_next()
    channel.adopt(copies.wait_for_copy())
    from runtime_bootstrap.python.channel import INIT, Closed, message_of

    message = message_of(channel.receive())
    if message[0] != INIT:
        raise Closed
    return message[1]  # type: ignore[no-any-return]


def _refuse(channel: Channel, why: str) -> None:
    channel.imports(json.dumps({"refused": why}).encode())
    os._exit(0)


def _traces() -> "dict[str, Any]":
    """What importing a package should leave alone."""
    try:
        os.waitpid(-1, os.WNOHANG)
        children = True
    except ChildProcessError:
        children = False
    return {
        "the environment": dict(os.environ),
        "the working directory": os.getcwd(),
        _TMP: sorted(os.listdir(_TMP)),
        "signal handlers": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "open files": _files(),
        "child processes": children,
    }


def _files() -> "list[str]":
    """Open files; the kernel's sources of nothing and of randomness may be shared."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            place = os.readlink("/proc/self/fd/" + name)
        except OSError:
            continue
        if place not in ("/dev/null", "/dev/urandom", "/dev/random") and not place.startswith(("/proc/", "socket:")):
            found.append(place)
    return sorted(found)
