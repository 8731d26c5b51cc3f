"""Where the zygote's objects lie: those that workers write to side by side, so that each worker copies few of its pages.

In Python even reading an object writes to it, and in a fork the page that it is on is copied for that. Of 2,900 pages that a zygote of Python 3.11 has, a
worker on its way to its first response writes to 750, but to no more than some thousand objects on them, of 100 bytes each. Which ones is the same every
time. So it is learnt, once for an interpreter and what it imports, in two zygotes that serve nobody: the first says on which pages a worker writes in its
life (``trial``), the second, with every object of those pages on a page of its own, on which objects. All later zygotes put these together (``_layout.c``), and
fill the gaps that imports have left between objects, so that what workers allocate themselves does not lie strewn either.

An object is known by its size and its place in line among those of that size. Where that is not what it was, an object lies somewhere else, and that is all.

What no worker writes to lies on large pages (``_pages.h``), of which a fork copies, and at its end drops, a few entries or runs of them in place of thousands.
And once all is in its place, one more worker lives, to show which pages that writes to. The others come with copies of these, which the kernel makes with
the fork (``_pins.h``) for half of what being interrupted for each of them costs; or copy them with a few calls where it does not. Either way they need no
rehearsal of their own any more.

``layouts`` is the broker's part. Python 3.9, standard library.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import types
from typing import TYPE_CHECKING, Any

from engine.sandbox import kernel

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_layout.so")
# Bytes of a key in a file: phase and size, and the place in line.
KEY = 8
_MOST_KEYS = 1 << 18
# A life takes milliseconds. One that hangs must not keep the zygote from starting for ever.
PATIENCE_S = 60


def _load() -> Any:
    try:
        return ctypes.PyDLL(LIBRARY)
    except OSError:
        return None


# While the engine's own files can be seen. It is the one that was there before the interpreter, if one was.
_library = _load()


def mark() -> None:
    """From here on nothing depends on where this engine is installed and keeps its data."""
    if _library is not None:
        _library.layout_mark()


def forget_lookups() -> None:
    """Empty the interpreter's memory of attributes that it has looked up in types. A worker's own would take the places of what imports left in it, and
    write to the names of those, which lie anywhere.
    """
    if sys.implementation.name == "cpython":
        ctypes.pythonapi.PyType_ClearCache()


def thaw() -> int:
    """Give functions of frozen modules code of their own, which has a place like every other object; how many. That of the interpreter (3.11's) is part of
    its data, strewn over it, and being run writes to it: reference counts, and what the interpreter learns about the run.
    """
    if sys.version_info[:2] != (3, 11):
        return 0
    functions = [f for f in gc.get_objects() if type(f) is types.FunctionType and f.__code__.co_filename.startswith("<frozen ")]
    for function in functions:
        function.__code__ = _thawed(function.__code__)
    return len(functions)


def _thawed(code: types.CodeType) -> types.CodeType:
    return code.replace(co_consts=tuple(_thawed(one) if isinstance(one, types.CodeType) else one for one in code.co_consts))


def finish() -> int:
    """All that lives as long as the zygote is there. Returns how many bytes were spent on filling gaps."""
    if _library is None or sys.implementation.name != "cpython":
        return 0
    pool = 1 << 14 if sys.version_info >= (3, 10) else 1 << 12
    _library.layout_finish.restype = ctypes.c_long
    return int(_library.layout_finish(ctypes.c_long(pool)))


def learn(out: int, live: Callable[[], int | None]) -> None:
    """Write to ``out`` which objects were written to by a fork in which ``live`` was called, or by the process whose number that returned, which has been
    forked there: nothing, when it cannot be found out. Raises OSError.
    """
    keys = ctypes.create_string_buffer(KEY * _MOST_KEYS)
    _library.layout_learn.restype = ctypes.c_long

    def tell(process: bytes) -> None:
        found = _library.layout_learn(process, keys, ctypes.c_long(_MOST_KEYS))
        if found > 0:
            os.write(out, keys.raw[: KEY * found])

    _library.layout_close()
    _in_a_fork(live, tell)


def watch(live: Callable[[], int | None]) -> int:
    """Remember to which pages the same was written; how many, 0 when that cannot be found out. Raises OSError."""
    if _library is None or _library.pages_watch() < 0:
        return 0
    _library.pages_keep.restype = ctypes.c_long
    _in_a_fork(live, _library.pages_seen)
    return int(_library.pages_keep())


def pin() -> bool:
    """Have all forks come with copies of those pages; whether they will. For as long as this process lives. To be called when nothing else runs."""
    return _library is not None and bool(_library.pages_pin())


def touch() -> bool:
    """In a worker: make those pages its own before it needs them, all at once, unless forks of the zygote come with copies. Whether there were any: then
    it need not rehearse.
    """
    return _library is not None and _library.pages_touch() > 0


def guard() -> None:
    """In the fork that is about to have another one live: what it writes to from here on is not taken for what the other wrote to."""
    if _library is not None:
        _library.pages_guard.restype = ctypes.c_long
        _guards.append(int(_library.pages_guard()))


_guards: list[int] = []


def _in_a_fork(live: Callable[[], int | None], then: Callable[[bytes], object]) -> None:
    """Both, in a process that is waited for but given up when it hangs. ``then`` gets the name of the process to look at, as in /proc."""
    pid, pidfd = kernel.clone3(0)
    if pid:
        os.close(pidfd)
        os.waitpid(pid, 0)
        return
    try:
        kernel.die_with_parent()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(PATIENCE_S)
        lived = live()
        then(b"self" if lived is None else b"%d" % lived)
        for other in (*_guards, *(() if lived is None else (lived,))):
            if other > 0:
                os.kill(other, signal.SIGKILL)
                os.waitpid(other, 0)
    finally:
        os._exit(0)
