"""Reading msgpack, without a ``msgpack`` that the function could see or break.

The messages a worker gets at every cold start are plain strings, integers and maps; a reader of just those takes 25 us for an INIT where
msgpack's pure-Python decoder takes 200 to 500 (its C decoder is built for one interpreter, the runtime directory serves six). Anything
else goes to the library: the copy in ``_vendor`` beside this file (filled when the runtime directory is prepared), or else the installed
one, loaded under a name of its own so that the function may bring, import or replace ``msgpack`` as it likes.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from typing import Any, Callable, Optional

_VENDOR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_vendor")
_PRIVATE = "_lambda_runtime_msgpack"


class _Unusual(Exception):
    """A value that only the library reads."""


def _load() -> Optional[Callable[..., Any]]:
    """The library's ``unpackb``; None when there is no copy of it."""
    for path in ([_VENDOR], None):
        found = importlib.machinery.PathFinder.find_spec("msgpack", path)
        if found is None or found.origin is None:
            continue
        spec = importlib.util.spec_from_file_location(_PRIVATE, found.origin, submodule_search_locations=[os.path.dirname(found.origin)])
        if spec is None or spec.loader is None:
            continue
        module = importlib.util.module_from_spec(spec)
        sys.modules[_PRIVATE] = module
        try:
            spec.loader.exec_module(module)
        except ImportError:
            del sys.modules[_PRIVATE]
            continue
        return module.unpackb  # type: ignore[no-any-return]
    return None


_library = _load()


def unpack(data: bytes) -> Any:
    """The one value in ``data``. Raises ValueError for anything else."""
    try:
        value, end = _value(data, 0)
    except (_Unusual, IndexError):
        pass
    else:
        if end == len(data):
            return value
    if _library is None:
        raise ValueError("a message that needs msgpack, of which this runtime has no copy")
    try:
        return _library(data, strict_map_key=False)
    except TypeError as e:
        # A key that Python cannot have.
        raise ValueError(str(e)) from None


def _value(data: bytes, at: int) -> "tuple[Any, int]":
    """The value that begins at ``at`` and where the next one begins. Raises _Unusual, IndexError, ValueError."""
    tag = data[at]
    at += 1
    if tag < 0x80:
        return tag, at
    if 0xA0 <= tag <= 0xBF:
        return _text(data, at, tag & 0x1F)
    if tag == 0xD9:
        return _text(data, at + 1, data[at])
    if tag == 0xDA:
        return _text(data, at + 2, data[at] << 8 | data[at + 1])
    if tag == 0xC0:
        return None, at
    if tag in (0xC2, 0xC3):
        return tag == 0xC3, at
    if 0xCC <= tag <= 0xCF:
        end = at + (1 << (tag - 0xCC))
        return int.from_bytes(data[at:end], "big"), end
    if tag < 0x90 or tag in (0xDE, 0xDF):
        return _map(data, at, tag)
    if tag < 0xA0 or tag in (0xDC, 0xDD):
        return _array(data, at, tag)
    raise _Unusual


def _text(data: bytes, at: int, size: int) -> "tuple[str, int]":
    end = at + size
    if end > len(data):
        raise IndexError
    return data[at:end].decode(), end


def _array(data: bytes, at: int, tag: int) -> "tuple[list[Any], int]":
    if tag < 0xA0:
        count = tag & 0x0F
    else:
        width = 2 if tag == 0xDC else 4
        count = int.from_bytes(data[at : at + width], "big")
        at += width
    values = []
    for _ in range(count):
        value, at = _value(data, at)
        values.append(value)
    return values, at


def _map(data: bytes, at: int, tag: int) -> "tuple[dict[Any, Any], int]":
    if tag < 0x90:
        count = tag & 0x0F
    else:
        width = 2 if tag == 0xDE else 4
        count = int.from_bytes(data[at : at + width], "big")
        at += width
    values: "dict[Any, Any]" = {}
    end = len(data)
    key: Any = None
    for n in range(2 * count):
        # Strings below 256 bytes, nearly all there is in an INIT, without a call for each.
        tag = data[at]
        start = at + 1
        size = -1
        if 0xA0 <= tag <= 0xBF:
            size = tag & 0x1F
        elif tag == 0xD9:
            size = data[start]
            start += 1
        if 0 <= size <= end - start:
            at = start + size
            value: Any = data[start:at].decode()
        else:
            value, at = _value(data, at)
        if n & 1:
            values[key] = value
        elif isinstance(value, str):
            key = value
        else:
            raise _Unusual
    return values, at
