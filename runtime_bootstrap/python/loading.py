"""The modules of a function, read as they were compiled when it was deployed.

Python looks at the source's time and size first and at the bytecode's file in many small steps, in case one is not of the other. What was compiled
at deployment says that it need not be compared: it is read at once, with three system calls in place of eleven. Whatever else is there is loaded as usual.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import SourceFileLoader
from typing import Any

_external: Any = importlib._bootstrap_external
# In the file whose frames Python itself leaves out of tracebacks.
_SOURCE = """
def reading(usual, open, read, close, flags, beginning, suffix, most, compiled):
    def get_code(self, fullname):
        path = self.path
        directory, _, name = path.rpartition("/")
        stored = "%s/__pycache__/%s%s" % (directory, name[:-3], suffix)
        data = b""
        try:
            fd = open(stored, flags)
            try:
                data = read(fd, most)
            finally:
                close(fd)
        except OSError:
            pass
        if data[:8] != beginning or not 16 <= len(data) < most:
            return usual(self, fullname)
        return compiled(memoryview(data)[16:], fullname, stored, path)
    return get_code
"""
_MOST = 1 << 16
# Of bytecode that need not be compared with its source.
_UNCHECKED = importlib.util.MAGIC_NUMBER + b"\x01\0\0\0"


class Loader(SourceFileLoader):
    """Of modules at the top of a function's directory."""


def _install() -> None:
    space: "dict[str, Any]" = {}
    exec(compile(_SOURCE, _external.SourceFileLoader.get_code.__code__.co_filename, "exec"), space)  # noqa: S102 - the text above
    suffix = ".%s.pyc" % sys.implementation.cache_tag
    arguments = (SourceFileLoader.get_code, os.open, os.read, os.close, os.O_RDONLY | os.O_CLOEXEC, _UNCHECKED, suffix, _MOST)
    Loader.get_code = space["reading"](*arguments, _external._compile_bytecode)  # type: ignore[method-assign]


# With an optimisation the files have other names.
if sys.implementation.cache_tag and not sys.flags.optimize and sys.pycache_prefix is None:
    _install()

LOADERS: "list[Any]" = [
    (Loader, suffixes) if kind is SourceFileLoader else (kind, suffixes) for kind, suffixes in _external._get_supported_file_loaders()
]
