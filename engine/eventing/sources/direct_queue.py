"""A queue of the embedded SQS by the direct way (``engine.aws.queue_lane``), with the face of a boto3 client.

Each thread has a connection of its own. While there is no way, because the embedded AWS is not up or is another's, boto3 does it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from engine.aws.queue_lane import DELETE, RECEIVE, read, write

_here = threading.local()
# Beyond what the other side waits for messages.
_PATIENCE_S = 30.0


class DirectQueues:
    """``behind``: the boto3 client of SQS that does what this cannot."""

    def __init__(self, path: str, region: str, behind: Any) -> None:
        self.meta = behind.meta
        self._path = path
        self._region = region
        self._behind = behind

    def receive_message(self, **asked: Any) -> dict[str, Any]:
        found = self._ask(RECEIVE, asked, asked["MaxNumberOfMessages"], asked["WaitTimeSeconds"])
        return {"Messages": found[0]} if found else dict(self._behind.receive_message(**asked))

    def delete_message_batch(self, **asked: Any) -> dict[str, Any]:
        entries: Sequence[Mapping[str, str]] = asked["Entries"]
        failed = self._ask(DELETE, asked, [one["ReceiptHandle"] for one in entries])
        if failed is None:
            return dict(self._behind.delete_message_batch(**asked))
        return {"Failed": [{"Id": entries[n]["Id"], "Message": "The receipt handle is not valid."} for n in failed[0]]}

    def _ask(self, operation: int, asked: Mapping[str, Any], *given: Any) -> tuple[Any] | None:
        """What was answered, in a tuple; None when there is no way. Raises RuntimeError when it was refused."""
        account, name = asked["QueueUrl"].split("/")[-2:]
        for stream in self._connections():
            try:
                write(stream, [operation, account, self._region, name, *given])
                problem, answer = read(stream)
            except (OSError, ValueError):
                # A message that was on its way comes again by its visibility timeout.
                self.close()
                continue
            if problem is not None:
                raise RuntimeError(problem)
            return (answer,)
        return None

    def _connections(self) -> Any:
        """This thread's connection, and once more a new one, since the kept one may be of a server that is gone."""
        kept = getattr(_here, "streams", None)
        if kept is None:
            kept = _here.streams = {}
        if self._path in kept:
            yield kept[self._path]
        if self._path not in kept:
            stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                stream.settimeout(_PATIENCE_S)
                stream.connect(self._path)
            except OSError:
                stream.close()
                return
            kept[self._path] = stream
            yield stream

    def close(self) -> None:
        """End this thread's connection, if it has one."""
        with contextlib.suppress(AttributeError, KeyError):
            _here.streams.pop(self._path).close()
