"""Functions that report over the host's loopback (engine setting ``network="host"``) to a test, which outlives everything that is killed."""

from __future__ import annotations

import socket
import threading

# Reports its request id; then sleeps, if the event says so. The event has the collector's ``port``.
CODE = """
import socket, time
connection = None
def f(event, context):
    global connection
    for _ in range(3):
        try:
            if connection is None:
                connection = socket.create_connection(("127.0.0.1", event["port"]), 10)
            connection.sendall(context.aws_request_id.encode())
            assert connection.recv(2) == b"ok"
            time.sleep(event.get("sleep", 0))
            return
        except OSError:
            connection = None
    raise RuntimeError("nobody to report to")
"""


class Collector:
    """Counts the ids that functions report. An id is acknowledged when it is counted."""

    def __init__(self) -> None:
        self.runs: dict[str, int] = {}
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer:
            try:
                while len(text := peer.recv(36, socket.MSG_WAITALL)) == 36:
                    with self._lock:
                        self.runs[text.decode()] = self.runs.get(text.decode(), 0) + 1
                    peer.sendall(b"ok")
            except OSError:
                return

    def close(self) -> None:
        self._listener.close()
