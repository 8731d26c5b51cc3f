"""Functions as clients of the engine: connections from inside a sandbox, counted at its ``Door``."""

from __future__ import annotations

from engine.supervisor import replies
from engine.supervisor.door import Allowance, Door
from engine.supervisor.front import Connection, FrontServices


class GuestConnection(Connection):
    """A connection from inside a sandbox."""

    def __init__(self, services: FrontServices, connections: set[Connection], door: Door, all_functions: Allowance) -> None:
        super().__init__(services, connections)
        self._door = door
        self._allowance = door.allowance(all_functions)
        self._owed = 0

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()
        self._door.left()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._upgraded is None:
            if self._closing:
                return
            if not self._allowance.take(len(data)):
                self._closing = True
                self.transport.write(replies.simple(429, b"text/plain", b"Too much of this function's requests is unfinished\n", keep_alive=False))
                self.transport.close()
                return
            self._owed += len(data)
        super().data_received(data)

    def done(self) -> None:
        self._settle()
        super().done()

    def deliver(self, reply: bytes) -> None:
        self._settle()
        super().deliver(reply)

    def _settle(self) -> None:
        if self._owed:
            self._allowance.give_back(self._owed)
            self._owed = 0
