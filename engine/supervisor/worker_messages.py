"""What a worker's messages mean. Their contents are hostile input: each function raises WireError for anything malformed or out of order."""

from __future__ import annotations

from engine.core import invocation as inv
from engine.core.instance import State
from engine.core.invocation import Outcome
from engine.errors import WireError
from engine.supervisor.instance import Instance
from engine.supervisor.request import Request
from engine.supervisor.streaming import Streams
from engine.wire import messages
from engine.wire.frames import MAX_PAYLOAD


def answering(instance: Instance, request_id: object) -> Request:
    """The invocation that a reply with this id is for."""
    request = instance.current
    if request is None or instance.needs_init or request.request_id != request_id:
        raise WireError("a reply to an invocation that is not running")
    return request


def outcome_of(instance: Streams, reply: messages.Reply) -> Outcome:
    """What a RESPONSE or ERROR says became of the invocation."""
    if instance.response is not None:
        raise WireError("a reply in the middle of a stream")
    if reply.kind == messages.ERROR:
        make = inv.handler_error if reply.then_next else inv.reported_error
        return make(reply.detail or "Runtime.Unknown", reply.payload)
    if len(reply.payload) > MAX_PAYLOAD:
        return inv.response_too_large(MAX_PAYLOAD)
    return inv.success(reply.payload)


def logged(parts: list[object]) -> tuple[str, int]:
    """Text and epoch milliseconds of a LOG."""
    if len(parts) != 5 or type(parts[2]) is not int or type(parts[4]) is not bytes:
        raise WireError("LOG has 5 elements")
    return parts[4].decode("utf-8", "replace"), parts[2] // 1000


def greet(instance: Instance, body: bytes) -> None:
    """Note that the worker said HELLO, in our version."""
    parts = messages.unpack(body)
    if len(parts) < 2 or parts[1] != messages.VERSION:
        raise WireError(f"the worker speaks protocol {parts[1:2]}, not {messages.VERSION}")
    instance.said_hello = True


def note_init_error(instance: Instance, parts: list[object]) -> None:
    """Keep the first INIT_ERROR; the worker ends after it."""
    in_init = instance.state is State.INITIALISING or (instance.state is State.BUSY and instance.needs_init)
    if not in_init or len(parts) != 3 or type(parts[1]) is not str or type(parts[2]) is not bytes:
        raise WireError("INIT_ERROR outside init or malformed")
    if instance.init_error is None:
        instance.init_error = (parts[1], parts[2])
