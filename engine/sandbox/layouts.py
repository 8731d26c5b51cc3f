"""The broker's part of ``layout``: what has been learnt is kept in ``<cache_dir>/layouts``, a file for an interpreter and what its zygotes import.

What is missing is learnt before the first zygote starts, in two more processes like it, one after the other; that takes about as long as starting two zygotes
does, once on a machine. When it fails the zygote starts without, and the next engine tries again. A file that nobody has used for a month is removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import time
from typing import Any

from engine.sandbox import layout

_KEPT_S = 30 * 24 * 3600
_PYTHON = "runtime_bootstrap.python.worker"
_VARIABLE = "LAMBDA_ENGINE_LAYOUT"
_WATCH, _SPREAD, _USE, _WITHOUT = "w", "s", "u", "without"
# Of libraries in LD_PRELOAD, which knows no quotes.
_SEPARATORS = frozenset(" :")
_NUMBERS = itertools.count()
# What of a plan decides about what is imported, and in which order.
_DECISIVE = ("level", "network", "engine_root", "runtime_dir", "preload", "entry", "command", "language")


class Course:
    """A zygote's way from knowing nothing to its layout.

    ``begin`` is asked before each process is started and ``ended`` when it has ended; the zygote proper is the first that does not learn.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._stage = ""
        mine = f"{path}.{os.getpid()}.{next(_NUMBERS)}"
        self._candidates, self._learnt = f"{mine}.spread", f"{mine}.new"

    @property
    def learning(self) -> bool:
        """Whether the process that was begun last serves nobody."""
        return self._stage in (_WATCH, _SPREAD)

    @property
    def using(self) -> bool:
        """Whether the process that was begun last has what was learnt."""
        return self._stage == _USE

    def begin(self) -> tuple[dict[str, str], int]:
        """Variables for the process's environment and, if it learns, the descriptor that it writes what it has learnt to, else -1."""
        if self._stage == "":
            self._stage = _USE if os.path.exists(self._path) else _WATCH
        path = {_WATCH: "", _SPREAD: self._candidates, _USE: self._path}.get(self._stage)
        if path is None:
            return {}, -1
        out = -1
        if self.learning:
            target = self._candidates if self._stage == _WATCH else self._learnt
            try:
                out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            except OSError:
                # A cache that cannot be written to, or no room: nothing is learnt, and the zygote starts all the same.
                self._stage = _WITHOUT
                return {}, -1
        elif self._stage == _USE:
            with contextlib.suppress(OSError):
                os.utime(self._path)
        return {"LD_PRELOAD": layout.LIBRARY, _VARIABLE: self._stage + path}, out

    def ended(self) -> None:
        """A process that learns is over, whichever way; the next is another, or the zygote. So is one that ended before it was ready with what was
        learnt: the next does without, and what was learnt is forgotten.
        """
        was, self._stage = self._stage, _WITHOUT
        with contextlib.suppress(OSError):
            if was == _WATCH and os.path.getsize(self._candidates):
                self._stage = _SPREAD
                return
            if was == _SPREAD and os.path.getsize(self._learnt):
                os.rename(self._learnt, self._path)
                self._stage = _USE
            if was == _USE:
                os.unlink(self._path)
        self.give_up()

    def give_up(self) -> None:
        """Leave nothing half done behind."""
        for path in (self._candidates, self._learnt):
            with contextlib.suppress(OSError):
                os.unlink(path)


def course(cache_dir: str, interpreter: str, plan: dict[str, Any]) -> Course | None:
    """For a zygote with this plan; None where there is no helper, or nowhere to keep files, or nothing that can rehearse."""
    interpreter = os.path.realpath(interpreter)
    # Without the interpreter lock (3.13t) its own allocator has to know all objects.
    if plan["entry"] != _PYTHON or not os.path.exists(layout.LIBRARY) or "t" in os.path.basename(interpreter).removeprefix("python"):
        return None
    if set(layout.LIBRARY) & _SEPARATORS:
        return None
    root = os.path.join(cache_dir, "layouts")
    try:
        files = [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in (interpreter, layout.LIBRARY, *_imported(plan))]
        os.makedirs(root, exist_ok=True)
        _forget_old(root)
    except OSError:
        return None
    key = repr((files, [plan.get(name) for name in _DECISIVE]))
    return Course(os.path.join(root, hashlib.sha256(key.encode()).hexdigest()[:32]))


def _imported(plan: dict[str, Any]) -> list[str]:
    """The engine's own of what zygotes import: another version's objects come in another order."""
    places: tuple[str, ...] = (os.path.join(str(plan["engine_root"]), "engine", "sandbox"), os.path.join(str(plan["runtime_dir"]), "runtime_bootstrap"))
    places += (os.path.join(places[1], "python"),)
    return sorted(entry.path for place in places for entry in os.scandir(place) if entry.name.endswith(".py"))


def _forget_old(root: str) -> None:
    oldest_s = time.time() - _KEPT_S
    for name in os.listdir(root):
        path = os.path.join(root, name)
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_mtime < oldest_s:
                os.unlink(path)
