"""Objects of the zygote whose reference counts nobody writes to any more, so that workers go on sharing their pages.

In Python even reading an object writes to it: its reference count goes up and down, and in a fork the page that it is on is copied for that. Since
3.12 the interpreter leaves the count alone of objects marked as *immortal* (PEP 683), as ``None`` is. What a zygote has imported lives for
ever anyway, in it and in the workers, so all of it is marked before the first fork. Nothing else changes for a function: it
can replace, delete and forget these objects as before; only the memory is not given back, which a fork could not do before either.

Older interpreters, and builds that count differently, are left as they are. Python 3.9, standard library.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import types
from typing import Any

# What of a code object is an object of its own; the collector does not look into code.
_OF_CODE = ("co_consts", "co_names", "co_filename", "co_name", "co_qualname", "co_linetable", "co_exceptiontable")


def make_immortal() -> int:
    """Mark everything that the collector knows, and what hangs on it; how many objects that were, 0 where it cannot be done.

    For a process with one thread, in which nothing but the caller is under way.
    """
    mark = _mark()
    if not mark:
        return 0
    count = ctypes.c_uint32
    found = _reachable()
    for address in found:
        count.from_address(address).value = mark
    return len(found)


def _mark() -> int:
    """The reference count of ``None``, if an object that is given it keeps it; else 0."""
    if sys.implementation.name != "cpython" or sys.byteorder != "little" or sys.maxsize < 1 << 32 or sys.version_info < (3, 12):
        return 0
    mark = ctypes.c_uint32.from_address(id(None)).value
    if mark < 1 << 31:
        # Not a count: a build for several threads at once keeps something else in this place.
        return 0
    probe = [None]
    count = ctypes.c_uint32.from_address(id(probe))
    before = count.value
    count.value = mark
    held = [probe, probe]
    kept = count.value == mark
    del held
    kept = kept and count.value == mark
    count.value = before
    return mark if kept else 0


def _reachable() -> dict[int, Any]:
    """By address. Frames are what is under way, and are left out with what only they hold."""
    queue = gc.get_objects()
    found = {id(thing): thing for thing in queue if not isinstance(thing, types.FrameType)}
    while queue:
        thing = queue.pop()
        if isinstance(thing, types.FrameType):
            continue
        parts = gc.get_referents(thing)
        if isinstance(thing, types.CodeType):
            parts += [getattr(thing, name) for name in _OF_CODE if hasattr(thing, name)]
        for part in parts:
            if id(part) not in found and not isinstance(part, types.FrameType):
                found[id(part)] = part
                queue.append(part)
        del thing, parts
    return found
