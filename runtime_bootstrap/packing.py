"""A private msgpack: used here, invisible to the function, which may bring its own.

It is imported once, in the zygote, from ``_vendor`` beside this file or else from wherever it is installed, and then forgotten by
``sys.modules``. Only INIT and unusual frames need it; the usual ones are read at fixed offsets.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Callable

_VENDOR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_vendor")


def _load() -> Any:
    taken = {n: m for n, m in sys.modules.items() if n == "msgpack" or n.startswith("msgpack.")}
    for name in taken:
        del sys.modules[name]
    sys.path.insert(0, _VENDOR)
    try:
        return importlib.import_module("msgpack")
    finally:
        sys.path.remove(_VENDOR)
        sys.path_importer_cache.pop(_VENDOR, None)
        for name in [n for n in sys.modules if n == "msgpack" or n.startswith("msgpack.")]:
            del sys.modules[name]
        sys.modules.update(taken)


_msgpack = _load()
pack: Callable[[Any], bytes] = _msgpack.packb
unpack: Callable[[bytes], Any] = _msgpack.unpackb
