"""A direct way to the messages of the embedded SQS, for the process that polls queues. Runs in the embedded AWS's process.

Receiving and deleting over HTTP costs some milliseconds of parsing, signing and routing each, half of them in the supervisor, which has functions to
run. Here the same is asked over a Unix socket that only this user can open: a frame is its length (4 bytes, big endian) and a msgpack
array, and each is answered by one frame. Nothing but this machine's own poller speaks it; whoever cannot goes by HTTP.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import threading
from typing import Any

import msgspec

RECEIVE, DELETE = 0, 1
NICE = 19
_HEAD = struct.Struct(">I")
MAX_FRAME = 16 * 1024 * 1024
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def read(stream: socket.socket) -> Any:
    """The next frame. Raises OSError at the end of the stream, ValueError for what is no frame."""
    (size,) = _HEAD.unpack(_exactly(stream, _HEAD.size))
    if size > MAX_FRAME:
        raise ValueError("a frame that is too long")
    return _decode(_exactly(stream, size))


def write(stream: socket.socket, value: Any) -> None:
    body = _encode(value)
    stream.sendall(_HEAD.pack(len(body)) + body)


def _exactly(stream: socket.socket, size: int) -> bytes:
    data = stream.recv(size)
    while len(data) < size:
        more = stream.recv(size - len(data))
        if not more:
            raise ConnectionResetError("the other side closed it")
        data += more
    return data


def serve(path: str) -> None:
    """Listen in a thread of its own until the process ends. Raises OSError where that cannot be."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    listener.listen(256)
    threading.Thread(target=_accept, args=(listener,), name="queue-lane", daemon=True).start()


def _accept(listener: socket.socket) -> None:
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=_answer, args=(stream,), daemon=True).start()


def _answer(stream: socket.socket) -> None:
    # On Linux niceness is a thread's own, and this one works for pollers, which are as far back: an invocation that wakes where it computes
    # waited three times as long when it was at the niceness of those that answer people.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
    with stream, contextlib.suppress(OSError, ValueError):
        while True:
            asked = read(stream)
            try:
                reply = [None, _done(*asked)]
            except Exception as e:  # noqa: BLE001 - whatever it is, the caller says it
                reply = [f"{type(e).__name__}: {getattr(e, 'message', None) or e}", None]
            write(stream, reply)


def _done(operation: int, account: str, region: str, name: str, *given: Any) -> Any:
    from moto.sqs.models import sqs_backends  # noqa: PLC0415 - moto is an extra, and takes a moment

    from engine.aws import queues  # noqa: PLC0415

    queues.install()
    queue = sqs_backends[account][region].get_queue(name)
    if operation == RECEIVE:
        count, wait_s = given
        return [described(one) for one in queues.receive(queue, count, wait_s, int(queue.visibility_timeout))]
    failed = []
    for n, handle in enumerate(given[0]):
        try:
            queues.delete(queue, handle)
        except Exception:  # noqa: BLE001 - moto's error for a handle that was never given
            failed.append(n)
    return failed


def described(message: Any) -> dict[str, Any]:
    """The message as boto3 gives it, with everything."""
    attributes = {
        "SenderId": message.sender_id,
        "SentTimestamp": str(message.sent_timestamp),
        "ApproximateReceiveCount": str(message.approximate_receive_count),
        "ApproximateFirstReceiveTimestamp": str(message.approximate_first_receive_timestamp),
    }
    rare = {
        "MessageDeduplicationId": message.deduplication_id,
        "MessageGroupId": message.group_id,
        "SequenceNumber": message.sequence_number,
        "DeadLetterQueueSourceArn": getattr(message, "came_from", None),
        "AWSTraceHeader": ((message.system_attributes or {}).get("AWSTraceHeader") or {}).get("StringValue"),
    }
    attributes |= {name: value for name, value in rare.items() if value is not None}
    told = {
        "MessageId": message.id,
        "ReceiptHandle": message.receipt_handle,
        "MD5OfBody": message.body_md5,
        "Body": message.body,
        "Attributes": attributes,
    }
    if message.message_attributes:
        told |= {"MessageAttributes": message.message_attributes, "MD5OfMessageAttributes": message.attribute_md5}
    return told
