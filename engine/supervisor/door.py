"""How much of the engine's memory functions may hold through the endpoint inside their sandboxes.

A client from outside is whoever the operator lets reach the port. A function reaches it unasked, and a request that never becomes complete is
held in the engine's memory, not in the function's: six megabytes a connection, a thousand connections a function. So each instance has a
``Door``: beyond so many connections at once the next ones wait to be accepted; and all functions have an ``Allowance`` of unanswered bytes.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

# boto3 opens ten per client, and a function has 1,024 descriptors in all.
MOST_CONNECTIONS = 256
# Two of the largest uploads there are: a package of 50 MB in JSON.
MOST_BYTES = 144 << 20
# All functions together, so that many of them cannot do what one cannot.
MOST_BYTES_OF_ALL = 1 << 30


class Allowance:
    """Bytes that may be held at once; ``within`` a larger one."""

    __slots__ = ("held", "most", "within")

    def __init__(self, most: int, within: Allowance | None = None) -> None:
        self.most = most
        self.within = within
        self.held = 0

    def take(self, size: int) -> bool:
        """Whether ``size`` more may be held; they are, then."""
        if self.held + size > self.most or (self.within is not None and not self.within.take(size)):
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        self.held -= size
        if self.within is not None:
            self.within.give_back(size)


class Door:
    """One instance's way in. ``reopen`` is called when there is room again after ``entered`` said that there is none."""

    __slots__ = ("_allowance", "_reopen", "open")

    def __init__(self, reopen: Callable[[], None]) -> None:
        self._reopen = reopen
        self._allowance: Allowance | None = None
        self.open = 0

    def allowance(self, all_functions: Allowance) -> Allowance:
        """This instance's, within that of all functions."""
        if self._allowance is None:
            self._allowance = Allowance(MOST_BYTES, all_functions)
        return self._allowance

    @staticmethod
    def answer(endpoint: int) -> socket.socket | None:
        """Who stands before a listening socket, given by its descriptor; None for nobody. Raises OSError when this process may have no more descriptors."""
        # A socket around it for the moment: most functions never come here, so none is kept.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, endpoint)
        try:
            listener.setblocking(False)
            return listener.accept()[0]
        except OSError as e:
            if e.errno in (errno.EMFILE, errno.ENFILE):
                raise
            return None
        finally:
            listener.detach()

    def entered(self) -> bool:
        """One more connection; whether another may come."""
        self.open += 1
        return self.open < MOST_CONNECTIONS

    def left(self) -> None:
        """One connection less."""
        self.open -= 1
        if self.open == MOST_CONNECTIONS - 1:
            self._reopen()

    def shut(self) -> None:
        """Nobody comes in any more. Door and instance know each other, and the collector of cycles comes by rarely. Idempotent."""
        self._reopen = _stay_shut


def _stay_shut() -> None:
    """There is nothing behind this door."""
