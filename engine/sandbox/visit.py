"""The visit that most sandboxes get as one run of system calls (``calls``): code opened, carried in and attached, and the way home.

A function without layers, image, file system or a /tmp of its own size needs nothing else. What does not work out is undone, and left to ``furnish``, which
says what is the matter. Between two calls of Python's the processor forgets more than the calls need.
"""

from __future__ import annotations

import ctypes
import os
import struct

from engine.sandbox import calls, kernel

_EMPTY_PATH, _HERE, _FROM_EMPTY = 0x1000, -100, 4
_OPEN, _ENTER, _MOUNT, _LEAVE, _CLOSE = "open the code", "enter the sandbox", "mount the code", "leave the sandbox", "close the code"
# Of the init, of the path, and what comes of them.
_INIT_FD, _PATH, _CODE, _MOUNTED = (calls.Value(n) for n in range(1, 5))


class ShortVisit:
    """``data_fd``: the directory that code lies below. ``home``: the broker's own mount namespace."""

    def __init__(self, data_fd: int, home: int, attributes: int) -> None:
        self._home = home
        how, mount = kernel.beneath(os.O_PATH | os.O_DIRECTORY), struct.pack("QQQQ", attributes, 0, kernel.MS_PRIVATE, 0)
        self._table = calls.table(
            [
                calls.call(_OPEN, "openat2", data_fd, _PATH, how, len(how), result=_CODE),
                calls.call(_OPEN, "open_tree", _CODE, b"", 1 | os.O_CLOEXEC | _EMPTY_PATH, result=_MOUNTED),
                calls.call(_OPEN, "mount_setattr", _MOUNTED, b"", _EMPTY_PATH, mount, len(mount)),
                calls.call(_ENTER, "setns", _INIT_FD, kernel.CLONE_NEWNS),
                calls.call(_MOUNT, "move_mount", _MOUNTED, b"", _HERE, b"/var/task", _FROM_EMPTY),
                calls.call(_LEAVE, "setns", home, kernel.CLONE_NEWNS),
                calls.call(_CLOSE, "close", _CODE, lax=True),
                calls.call(_CLOSE, "close", _MOUNTED, lax=True),
            ]
        )

    def bring(self, init: int, path: str) -> bool:
        """Attach the code at ``path``, relative to the data directory, in the sandbox of the init behind a pidfd. False when it could not be done, or not
        this way, and nothing has changed. Raises SystemExit when the broker cannot come back.
        """
        if self._table is None:
            return False
        name = ctypes.create_string_buffer(os.fsencode(path))
        values = self._table.values
        values[_INIT_FD.place], values[_PATH.place] = init, ctypes.addressof(name)
        values[_CODE.place] = values[_MOUNTED.place] = -1
        try:
            self._table.run()
        except OSError:
            self._undo(values[_CODE.place], values[_MOUNTED.place])
            return False
        return True

    def _undo(self, *fds: int) -> None:
        try:
            kernel.setns(self._home, kernel.CLONE_NEWNS)
        except OSError as e:
            raise SystemExit(f"the broker cannot leave a sandbox: {e}") from e
        for fd in fds:
            if fd >= 0:
                os.close(fd)
