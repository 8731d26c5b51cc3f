r"""The model's regular expressions, which are Java's, compiled for Python.

The service matches the whole value. ``\d``, ``\w`` and ``\s`` mean ASCII in Java, hence ``re.ASCII``. Python lacks the Unicode
categories ``\p{L}``, ``\p{N}`` and ``\p{Z}``; they are spelled out as ranges from the interpreter's own Unicode database.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import lru_cache

_CATEGORY = re.compile(r"\\p\{([A-Z][a-z]?)\}")


@lru_cache(maxsize=512)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """``pattern`` ready for ``fullmatch``."""
    return re.compile(_CATEGORY.sub(lambda found: _ranges(found[1]), pattern), re.ASCII)


@lru_cache(maxsize=16)
def _ranges(category: str) -> str:
    """Characters of a Unicode category, as the inside of a character class."""
    spans: list[list[int]] = []
    for point in range(sys.maxunicode + 1):
        if unicodedata.category(chr(point)).startswith(category):
            if spans and spans[-1][1] == point - 1:
                spans[-1][1] = point
            else:
                spans.append([point, point])
    return "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in spans)
