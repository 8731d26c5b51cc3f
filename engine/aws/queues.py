"""Queues of the embedded SQS, made fit for many senders and receivers at once. Runs in the embedded AWS's process.

moto looks at all messages of a queue for each one that is sent, given, deleted or made visible, and two receivers at a time may get the same one. Here
each queue has its messages by receipt handle, in the order in which they can be given, and under one lock, so that what is asked for costs
what is answered. Groups of FIFO queues are given in order: a group waits while one of its messages is out, delayed or not yet visible again. Their
messages are numbered in the order they came, and a duplicate is known as one after the first was deleted, too.
"""

from __future__ import annotations

import copy
import functools
import heapq
import itertools
import json
import os
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from engine.aws.push import request

# Handles of deleted messages, which may be deleted again: so many are remembered.
MAX_GONE = 100_000
# Numbers of FIFO queues have twenty digits and grow.
FIRST_NUMBER, NUMBER_STEP = 18_849_496_460_467_696_128, 256
DEDUPLICATION_S = 300.0
_numbers = itertools.count()
# A thread that waits for messages looks at least this often.
LOOK_S = 1.0


class Shelf:
    """The messages of one queue. To moto a list; ``ready`` can be given now, ``later`` at its time (epoch, ms).

    Both may have a message more than once, or one that is gone: who takes it out looks whether it is true.
    """

    def __init__(self, messages: Any = ()) -> None:
        self.messages: dict[Any, None] = {}
        self.ready: deque[Any] = deque()
        self.later: list[tuple[float, int, Any]] = []
        self.handles: dict[str, Any] = {}
        self.gone: dict[str, None] = {}
        self._order = itertools.count()
        for message in messages:
            self.append(message)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self.messages))

    def __len__(self) -> int:
        return len(self.messages)

    def __contains__(self, message: Any) -> bool:
        return message in self.messages

    def append(self, message: Any) -> None:
        self.messages[message] = None
        # What came from another queue may still be out there.
        self.postpone(message, max(message.delayed_until, message.visible_at))

    def postpone(self, message: Any, until_ms: float) -> None:
        if until_ms > _now_ms():
            heapq.heappush(self.later, (until_ms, next(self._order), message))
        else:
            self.ready.append(message)

    def remove(self, message: Any) -> None:
        del self.messages[message]
        for handle in message.all_receipt_handles:
            self.handles.pop(handle, None)

    def forget(self, message: Any) -> None:
        """Remove what was deleted; deleting it again is no error."""
        self.gone.update(dict.fromkeys(h for h in message.all_receipt_handles if h))
        for old in list(itertools.islice(self.gone, max(0, len(self.gone) - MAX_GONE))):
            del self.gone[old]
        self.remove(message)

    def out(self) -> tuple[set[Any], set[Any]]:
        """(messages that are delayed, messages that are not visible)."""
        now_ms = _now_ms()
        # Others may be pushing: a list is copied in one go.
        waiting = {message for _, _, message in list(self.later) if message in self.messages}
        return {m for m in waiting if m.delayed_until > now_ms}, {m for m in waiting if m.visible_at > now_ms}

    def due_s(self) -> float:
        """How long until something that is out may be given again, at most ``LOOK_S``."""
        return LOOK_S if not self.later else max(0.0, min(LOOK_S, (self.later[0][0] - _now_ms()) / 1000))


def install() -> None:
    """Work so from now on. Idempotent."""
    from moto.sqs.models import Queue, SQSBackend  # noqa: PLC0415 - moto is an extra

    if Queue.delete_message is delete:
        return
    _keep_policies(Queue)
    Queue._messages = property(_shelf, _replace)  # noqa: SLF001 - moto's own code goes on using it
    Queue.delete_message = delete
    Queue.approximate_number_of_messages_delayed = property(lambda queue: len(_shelf(queue).out()[0]))
    Queue.approximate_number_of_messages_not_visible = property(lambda queue: len(_shelf(queue).out()[1]))
    Queue.approximate_number_of_messages = property(_visible)
    Queue.add_message = _add
    SQSBackend.send_message = _traced(SQSBackend.send_message)
    SQSBackend.receive_message = _receive_copies
    SQSBackend.change_message_visibility = _change_visibility


def _keep_policies(queues: Any) -> None:
    """A policy stays until another one comes; moto takes it away with any other attribute, and forgets who may use a queue for dead letters. Where dead
    letters go is told without spaces, as SQS does: Terraform compares the text with its own.
    """
    set_attributes = queues._set_attributes  # noqa: SLF001 - moto has no other place

    @functools.wraps(set_attributes)
    def keeping(queue: Any, attributes: dict[str, Any], now: float | None = None) -> None:
        before = getattr(queue, "policy", None)
        set_attributes(queue, attributes, now)
        if "Policy" not in attributes:
            queue.policy = before
        queue.redrive_allow_policy = queue.redrive_allow_policy or None

    told = queues.attributes.fget

    def compact(queue: Any) -> dict[str, Any]:
        attributes: dict[str, Any] = told(queue)
        if queue.redrive_policy:
            attributes["RedrivePolicy"] = json.dumps(queue.redrive_policy, separators=(",", ":"))
        return attributes

    queues._set_attributes = keeping  # noqa: SLF001
    queues.attributes = property(compact)
    queues.redrive_allow_policy = None
    queues.BASE_ATTRIBUTES = [*queues.BASE_ATTRIBUTES, "RedriveAllowPolicy"]


def _shelf(queue: Any) -> Shelf:
    found: Shelf | None = queue.__dict__.get("_shelf")
    if found is None:
        # A queue that was made before.
        found = queue.__dict__["_shelf"] = Shelf(queue.__dict__.pop("_messages", ()))
    return found


def _add(queue: Any, message: Any) -> None:
    """Put a message that was sent into its queue. What a FIFO queue was given in the last five minutes it does not take again, whether it still has it or not."""
    with queue._messages_lock:  # noqa: SLF001 - moto's own lock of its list
        if queue.fifo_queue:
            if _is_known(queue, message):
                return
            message.sequence_number = str(FIRST_NUMBER + NUMBER_STEP * next(_numbers))
        _put(queue, message)


def _traced(send: Callable[..., Any]) -> Callable[..., Any]:
    """A message sent with a trace header, as functions send them, carries it: by it loops are noticed."""

    @functools.wraps(send)
    def traced(*arguments: Any, **named: Any) -> Any:
        header = request.trace()
        if header and "AWSTraceHeader" not in (named.get("system_attributes") or {}):
            system = {"AWSTraceHeader": {"DataType": "String", "StringValue": header}}
            named["system_attributes"] = {**(named.get("system_attributes") or {}), **system}
        return send(*arguments, **named)

    return traced


def _put(queue: Any, message: Any) -> None:
    _shelf(queue).append(message)
    queue._messages_lock.notify_all()  # noqa: SLF001


def _is_known(queue: Any, message: Any) -> bool:
    """Whether it is a duplicate, which is answered as the first of them was."""
    known: dict[Any, Any] = queue.__dict__.setdefault("_known", {})
    now_s = time.monotonic()
    for key in list(itertools.takewhile(lambda key: known[key][0] <= now_s - DEDUPLICATION_S, known)):
        del known[key]
    if not message.deduplication_id:
        return False
    per_group = queue.deduplication_scope == "messageGroup"
    key = (message.group_id if per_group else None, message.deduplication_id)
    first = known.setdefault(key, (now_s, message))[1]
    if first is message:
        return False
    message.id, message.sequence_number = first.id, first.sequence_number
    return True


def _visible(queue: Any) -> int:
    shelf = _shelf(queue)
    delayed, unseen = shelf.out()
    return len(shelf) - len(delayed | unseen)


def _replace(queue: Any, messages: Any) -> None:
    queue.__dict__["_shelf"] = Shelf(messages)


def receive(queue: Any, count: int, wait_s: float, visibility_s: int) -> list[Any]:
    """Up to ``count`` messages, marked as received; none when there is none within ``wait_s``."""
    until_s = time.monotonic() + wait_s
    while True:
        with queue._messages_lock:  # noqa: SLF001 - moto's own lock of its list
            found, dead = _take(queue, count, visibility_s)
            left_s = until_s - time.monotonic()
            if not found and not dead and left_s > 0:
                queue._messages_lock.wait(min(left_s, _shelf(queue).due_s() or LOOK_S / 100))  # noqa: SLF001
                continue
        # Out of the lock: the other queue has its own.
        for message in dead:
            message.came_from = queue.queue_arn
            with queue.dead_letter_queue._messages_lock:  # noqa: SLF001
                _put(queue.dead_letter_queue, message)
        if found or left_s <= 0:
            return found


def _take(queue: Any, count: int, visibility_s: int) -> tuple[list[Any], list[Any]]:
    """(messages to give, messages for the dead-letter queue), both taken."""
    shelf, now_ms = _shelf(queue), _now_ms()
    most = queue.redrive_policy.get("maxReceiveCount") if queue.dead_letter_queue is not None and queue.redrive_policy else None
    kept_ms = int(queue.message_retention_period) * 1000
    found: list[Any] = []
    dead: list[Any] = []
    for message in _in_order(shelf, now_ms) if queue.fifo_queue else _ready(shelf, now_ms):
        if most is not None and message.approximate_receive_count >= int(most):
            shelf.remove(message)
            queue.pending_messages.discard(message)
            dead.append(message)
        elif message.sent_timestamp + kept_ms <= now_ms:
            shelf.remove(message)
        else:
            queue.pending_messages.add(message)
            _mark(message, visibility_s, now_ms)
            shelf.handles[message.receipt_handle] = message
            found.append(message)
            if len(found) == count:
                break
    for message in found:
        shelf.postpone(message, message.visible_at)
    return found, dead


def _ready(shelf: Shelf, now_ms: float) -> Iterator[Any]:
    while shelf.later and shelf.later[0][0] <= now_ms:
        shelf.ready.append(heapq.heappop(shelf.later)[2])
    seen = set()
    while shelf.ready:
        message = shelf.ready.popleft()
        # What is not visible stands in ``later`` too.
        if message in shelf and message not in seen and message.visible_at <= now_ms and message.delayed_until <= now_ms:
            seen.add(message)
            yield message


def _in_order(shelf: Shelf, now_ms: float) -> Iterator[Any]:
    # Only the order of all of them says what may be given.
    shelf.ready.clear()
    while shelf.later and shelf.later[0][0] <= now_ms:
        heapq.heappop(shelf.later)
    blocked: set[str | None] = set()
    for message in shelf:
        if message.visible_at > now_ms or message.delayed_until > now_ms:
            blocked.add(message.group_id)
        elif message.group_id not in blocked:
            yield message


def _mark(message: Any, visibility_s: int, now_ms: float) -> None:
    if not message.approximate_first_receive_timestamp:
        message.approximate_first_receive_timestamp = int(now_ms)
    message.approximate_receive_count += 1
    if visibility_s:
        message.visible_at = now_ms + int(visibility_s) * 1000
    if message.receipt_handle:
        message._old_receipt_handles.append(message.receipt_handle)  # noqa: SLF001 - moto's own list
    message.receipt_handle = b64encode(os.urandom(96)).decode("ascii")


def delete(queue: Any, receipt_handle: str) -> None:
    """Raises moto's ReceiptHandleIsInvalid for a handle that was never given."""
    shelf = _shelf(queue)
    with queue._messages_lock:  # noqa: SLF001
        if receipt_handle in shelf.gone:
            return
        message = _of_handle(shelf, receipt_handle)
        queue.pending_messages.discard(message)
        shelf.forget(message)
        if queue.fifo_queue:
            # The next of its group may be given.
            queue._messages_lock.notify_all()  # noqa: SLF001


def _of_handle(shelf: Shelf, receipt_handle: str) -> Any:
    message = shelf.handles.get(receipt_handle)
    if message is None:
        from moto.sqs.exceptions import ReceiptHandleIsInvalid  # noqa: PLC0415

        raise ReceiptHandleIsInvalid
    return message


def _receive_copies(
    backend: Any, queue_name: str, count: int, wait_seconds_timeout: int, visibility_timeout: int, message_attribute_names: Any = None
) -> list[Any]:
    from moto.sqs.models import _filter_message_attributes  # noqa: PLC0415

    found = receive(backend.get_queue(queue_name), int(count), int(wait_seconds_timeout or 0), int(visibility_timeout or 0))
    copies = [copy.copy(message) for message in found]
    for message in copies:
        _filter_message_attributes(message, message_attribute_names or [])
    return copies


def _change_visibility(backend: Any, queue_name: str, receipt_handle: str, visibility_timeout: int) -> None:
    from moto.sqs.exceptions import InvalidParameterValue  # noqa: PLC0415

    queue = backend.get_queue(queue_name)
    shelf = _shelf(queue)
    with queue._messages_lock:  # noqa: SLF001
        message = _of_handle(shelf, receipt_handle)
        until_ms = _now_ms() + int(visibility_timeout) * 1000
        if until_ms - message.sent_timestamp > 43_200_000:
            raise InvalidParameterValue(
                f"Value {visibility_timeout} for parameter VisibilityTimeout is invalid. Reason: Total "
                "VisibilityTimeout for the message is beyond the limit [43200 seconds]"
            )
        message.visible_at = until_ms
        if not int(visibility_timeout):
            queue.pending_messages.discard(message)
        shelf.postpone(message, until_ms)
        queue._messages_lock.notify_all()  # noqa: SLF001


def _now_ms() -> float:
    return time.time() * 1000
