"""Queues of the embedded SQS, made fit for many senders and receivers at once. Runs in the embedded AWS's process.

Before moto gives a message it asks how long its queue keeps messages, by having all attributes of the queue computed, the counts among them:
each message costs a look at all others, and a queue of some hundreds gives thirty a second. The answer here is the same, from one attribute.
And moto deletes a message by replacing the list of messages with a copy: what another thread adds or deletes meanwhile is undone. Here one waits
for the other.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

_lock = threading.RLock()


def install() -> None:
    """Work so from now on; once per process."""
    from moto.core.utils import unix_time  # noqa: PLC0415 - moto is an extra
    from moto.sqs.models import Queue, SQSBackend  # noqa: PLC0415

    def is_kept(self: Any, queue_name: str, message: Any) -> bool:
        kept_s = int(self.get_queue(queue_name).message_retention_period)
        return bool(kept_s + message.sent_timestamp / 1000 > unix_time())

    SQSBackend.is_message_valid_based_on_retention_period = is_kept
    Queue.add_message = _one_at_a_time(Queue.add_message)
    Queue.delete_message = _one_at_a_time(Queue.delete_message)


def _one_at_a_time(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **named: Any) -> Any:
        with _lock:
            return method(*args, **named)

    return call
