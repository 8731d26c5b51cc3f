"""What sandboxes come from: a zygote, or a template that copies itself into pods of its own sandbox."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Protocol


class Source(Protocol):
    """Makes sandboxes on request. ``failure`` says why it ended."""

    key: str
    ready: bool
    failure: str
    # The interpreter itself lives where layers belong.
    opt_taken: bool
    # Its sandboxes can be given a file system.
    files: bool

    def send(self, message: list[object], fds: list[int] | None = None) -> None:
        """Ask it for something."""


class Template:
    """A worker whose init is over, as a source of copies. ``send`` reaches its sandbox's init, ``order`` the worker itself.

    ``holder_id`` is the sandbox it lives in, ``network`` the VPC's its copies belong to like itself. The socket for orders is shut for reading: nothing a function writes arrives here.
    """

    def __init__(self, key: str, holder_id: int, send: Callable[..., None], orders: socket.socket, network: str = "") -> None:
        self.key = key
        self.network = network
        self.holder_id = holder_id
        self.ready = True
        self.failure = ""
        self.opt_taken = False
        self.files = False
        self._send = send
        self._orders = orders

    def send(self, message: list[object], fds: list[int] | None = None) -> None:
        """To the init of its sandbox."""
        self._send(message, fds or [])

    def order(self, send: Callable[[socket.socket], None]) -> bool:
        """Have ``send`` write to the worker; False when the worker cannot take it."""
        try:
            send(self._orders)
        except OSError:
            return False
        return True

    def end(self, reason: str) -> None:
        """No more copies."""
        self.ready = False
        self.failure = self.failure or reason
        with contextlib.suppress(OSError):
            self._orders.close()
