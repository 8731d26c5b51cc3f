"""Every message of the protocol: what it means, its byte form, and how to read it.

A message is one msgpack array whose first element is its type. The hot ones (INVOKE, RESPONSE, ERROR, CALL, RESULT) have
fixed-width heads and the payload *last* as ``bin32``, so both ends read integers at fixed offsets and slice the payload out
without decoding it. Encoders here write that canonical form; decoders take the fast path when they see it and fall back
to a general msgpack reader for any other valid encoding, so a worker in another language may use any library.

Nothing in this module interprets a payload.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from engine.errors import WireError
from engine.wire.frames import frame

VERSION: Final = 1

# supervisor <-> worker
HELLO: Final = 0x01
INIT: Final = 0x02
NEXT: Final = 0x03
INVOKE: Final = 0x04
RESPONSE: Final = 0x05
ERROR: Final = 0x06
INIT_ERROR: Final = 0x07
LOG: Final = 0x08
SHUTDOWN: Final = 0x09
RESTORE_NEXT: Final = 0x0A
RESTORE: Final = 0x0B
RESTORE_ERROR: Final = 0x0C
STREAM_START: Final = 0x0D
STREAM_CHUNK: Final = 0x0E
STREAM_END: Final = 0x0F
TOO_LARGE: Final = 0x10
IMPORTS: Final = 0x11
# client <-> supervisor
CLIENT_HELLO: Final = 0x20
SERVER_HELLO: Final = 0x21
CALL: Final = 0x22
RESULT: Final = 0x23
TENANT_CALL: Final = 0x24
# control plane <-> supervisor
CATALOGUE: Final = 0x30
ACK: Final = 0x31
QUERY: Final = 0x32
# Of a QUERY: the rest is an access key id.
IDENTITY_QUERY: Final = "identity "
ANSWER: Final = 0x33
EVENTS: Final = 0x34
ACCEPTED: Final = 0x35

NAMES: Final[dict[int, str]] = {
    v: k
    for k, v in list(globals().items())
    if isinstance(v, int) and k.isupper() and k != "VERSION"
}

# CALL flags
FLAG_TAIL: Final = 0x01
FLAG_DRY_RUN: Final = 0x02
FLAG_EVENT: Final = 0x04


class Invoke(NamedTuple):
    """One event for the worker. ``deadline_ms`` is epoch milliseconds; absent strings are None."""

    request_id: str
    deadline_ms: int
    function_arn: str
    trace_id: str | None
    client_context: str | None
    identity: str | None
    tenant_id: str | None
    payload: bytes


class Reply(NamedTuple):
    """A worker's RESPONSE or ERROR. ``detail`` is the content type of a response, the error type of an error.

    ``then_next``: the message also means NEXT, the worker is ready for another event.
    """

    kind: int
    request_id: str
    then_next: bool
    detail: str | None
    payload: bytes


class Call(NamedTuple):
    """A client's request to invoke. ``call_id`` is the client's own number, echoed in the RESULT. With a ``tenant_id`` it is a TENANT_CALL."""

    call_id: int
    function: str
    qualifier: str | None
    flags: int
    request_id: str | None
    client_context: str | None
    trace_id: str | None
    payload: bytes
    tenant_id: str | None = None


class Result(NamedTuple):
    """The answer to a CALL: what the Invoke API would have answered.

    ``status`` is the HTTP status; ``error_type`` the AWS exception name when ``status`` >= 400 (then ``payload`` is its JSON
    body); ``function_error`` is ``Unhandled`` when the function failed; ``log_tail`` the last 4 KB of its log, raw bytes.
    """

    call_id: int
    status: int
    error_type: str | None
    executed_version: str | None
    function_error: str | None
    request_id: str
    log_tail: bytes | None
    payload: bytes


_unpack = msgspec.msgpack.Decoder().decode
_pack = msgspec.msgpack.Encoder().encode


def pack(*parts: Any) -> bytes:
    """A framed message of any msgpack values; for everything that is not hot."""
    return frame(_pack(parts))


def unpack(body: bytes) -> list[Any]:
    """The array of one frame; its first element is a known message type. Raises WireError otherwise."""
    try:
        parts = _unpack(body)
    except (msgspec.DecodeError, ValueError, RecursionError, UnicodeDecodeError) as e:
        raise WireError(f"not msgpack: {e}") from e
    if not isinstance(parts, list) or not parts or type(parts[0]) is not int or parts[0] not in NAMES:
        raise WireError("a message is an array that begins with a known type")
    return parts


def kind(body: bytes) -> int:
    """The type of a frame without reading the rest. Raises WireError when it is not a message."""
    if len(body) >= 2 and 0x91 <= body[0] <= 0x9F and body[1] in NAMES:
        return body[1]
    return int(unpack(body)[0])


def str8(text: str | None) -> bytes:
    """msgpack ``str 8`` (at most 255 bytes of UTF-8), or nil. Raises WireError when longer."""
    if text is None:
        return b"\xc0"
    raw = text.encode()
    if len(raw) > 255:
        raise WireError(f"string of {len(raw)} bytes in a field of at most 255")
    return b"\xd9" + bytes((len(raw),)) + raw


def str16(text: str | None) -> bytes:
    """msgpack ``str 16`` (at most 65,535 bytes of UTF-8), or nil. Raises WireError when longer."""
    if text is None:
        return b"\xc0"
    raw = text.encode()
    if len(raw) > 0xFFFF:
        raise WireError(f"string of {len(raw)} bytes in a field of at most 65535")
    return b"\xda" + len(raw).to_bytes(2, "big") + raw


def bin32(data: bytes | None) -> bytes:
    """msgpack ``bin 32``, or nil."""
    if data is None:
        return b"\xc0"
    return b"\xc6" + len(data).to_bytes(4, "big") + data


RESPONSE_HEAD: Final = b"\x95\x05\xd9\x24"
# What follows the request id of a RESPONSE that implies NEXT and names no content type.
PLAIN_RESPONSE: Final = b"\xc3\xc0\xc6"
_ERROR_HEAD = b"\x95\x06\xd9\x24"
_CALL_HEAD = b"\x99\x22\xce"
_TENANT_CALL_HEAD = b"\x9a\x24\xce"
_RESULT_HEAD = b"\x99\x23\xce"
_NO_CONTEXT = b"\xc0\xc0\xc0"


def invoke_tail(
    function_arn: str,
    trace_id: str | None = None,
    client_context: str | None = None,
    identity: str | None = None,
    tenant_id: str | None = None,
) -> bytes:
    """The middle of an INVOKE between deadline and payload; the same for many calls, so callers may keep it."""
    if client_context is None and identity is None and tenant_id is None:
        return str16(function_arn) + str8(trace_id) + _NO_CONTEXT
    return str16(function_arn) + str8(trace_id) + str16(client_context) + str16(identity) + str16(tenant_id)


def encode_invoke(request_id: str, deadline_ms: int, middle: bytes, payload: bytes) -> bytes:
    """A framed INVOKE; ``middle`` from ``invoke_tail``. ``request_id`` must have 36 ASCII characters."""
    size = len(payload)
    return b"%b\x99\x04\xd9\x24%b\xcf%b%b\xc6%b%b" % (
        (54 + len(middle) + size).to_bytes(4, "big"),
        request_id.encode(),
        deadline_ms.to_bytes(8, "big"),
        middle,
        size.to_bytes(4, "big"),
        payload,
    )


def decode_invoke(body: bytes) -> Invoke:
    """Read an INVOKE. Raises WireError."""
    parts = unpack(body)
    if parts[0] != INVOKE or len(parts) != 9:
        raise WireError(f"INVOKE has 9 elements, got {len(parts)} of type {NAMES[parts[0]]}")
    message = Invoke(*parts[1:])
    if (
        type(message.request_id) is not str
        or type(message.deadline_ms) is not int
        or type(message.function_arn) is not str
        or type(message.payload) is not bytes
        or any(x is not None and type(x) is not str for x in message[3:7])
    ):
        raise WireError("INVOKE: wrong element types")
    return message


def encode_reply(kind: int, request_id: str, payload: bytes, detail: str | None = None, *, then_next: bool = True) -> bytes:
    """A framed RESPONSE or ERROR."""
    head = RESPONSE_HEAD if kind == RESPONSE else _ERROR_HEAD
    return frame(
        b"".join((head, request_id.encode(), b"\xc3" if then_next else b"\xc2", str8(detail), bin32(payload)))
    )


def decode_reply(body: bytes) -> Reply:
    """Read a RESPONSE or ERROR. Raises WireError."""
    # Canonical: 95 05|06 d9 24 <36> c3 c0 c6 <u32> payload, or d9 <n> detail in place of c0.
    try:
        if body[0] == 0x95 and body[2] == 0xD9 and body[3] == 36 and body[1] in (RESPONSE, ERROR):
            request_id = body[4:40].decode("ascii")
            flag = body[40]
            at = 42
            detail = None
            if body[41] == 0xD9:
                at = 43 + body[42]
                detail = body[43:at].decode()
            if (
                (body[41] == 0xC0 or body[41] == 0xD9)
                and flag in (0xC3, 0xC2)
                and body[at] == 0xC6
                and int.from_bytes(body[at + 1 : at + 5], "big") == len(body) - at - 5
            ):
                return Reply(body[1], request_id, flag == 0xC3, detail, body[at + 5 :])
    except (IndexError, UnicodeDecodeError):
        pass
    parts = unpack(body)
    if parts[0] not in (RESPONSE, ERROR) or len(parts) != 5:
        raise WireError("a reply has 5 elements")
    reply = Reply(*parts)
    if (
        type(reply.request_id) is not str
        or type(reply.then_next) is not bool
        or type(reply.payload) is not bytes
        or (reply.detail is not None and type(reply.detail) is not str)
    ):
        raise WireError(f"{NAMES[reply.kind]}: wrong element types")
    return reply


def encode_call_head(call: Call) -> bytes:
    """A framed CALL or TENANT_CALL up to and excluding its payload; a sender of big payloads writes the two without joining them."""
    middle = b"".join(
        (
            str16(call.function),
            str8(call.qualifier),
            bytes((call.flags & 0x7F,)),
            str8(call.request_id),
            str16(call.client_context),
            str8(call.trace_id),
            b"" if call.tenant_id is None else str16(call.tenant_id),
        )
    )
    size = len(call.payload)
    return b"".join(
        (
            (12 + len(middle) + size).to_bytes(4, "big"),
            _CALL_HEAD if call.tenant_id is None else _TENANT_CALL_HEAD,
            call.call_id.to_bytes(4, "big"),
            middle,
            b"\xc6",
            size.to_bytes(4, "big"),
        )
    )


def encode_call(call: Call) -> bytes:
    """A framed CALL or TENANT_CALL."""
    return encode_call_head(call) + call.payload


def decode_call(body: bytes) -> Call:
    """Read a CALL or a TENANT_CALL. Raises WireError."""
    # Canonical and without options: 99 22 ce <u32> da <u16> name c0 flags c0 c0 c0 c6 <u32> payload.
    if len(body) > 10 and body[0] == 0x99 and body[1] == CALL and body[2] == 0xCE and body[7] == 0xDA:
        at = 10 + (body[8] << 8 | body[9])
        if (
            len(body) >= at + 10
            and body[at] == 0xC0
            and body[at + 1] < 0x80
            and body[at + 2 : at + 6] == b"\xc0\xc0\xc0\xc6"
            and int.from_bytes(body[at + 6 : at + 10], "big") == len(body) - at - 10
        ):
            try:
                name = body[10:at].decode()
            except UnicodeDecodeError as e:
                raise WireError("CALL: function name is not UTF-8") from e
            return Call(
                int.from_bytes(body[3:7], "big"), name, None, body[at + 1], None, None, None, body[at + 10 :]
            )
    parts = unpack(body)
    if parts[0] == TENANT_CALL and len(parts) == 10 and type(parts[8]) is str:
        parts = [*parts[:8], parts[9], parts[8]]
    elif parts[0] != CALL or len(parts) != 9:
        raise WireError("CALL has 9 elements, TENANT_CALL 10")
    call = Call(*parts[1:])
    if (
        type(call.call_id) is not int
        or not 0 <= call.call_id <= 0xFFFFFFFF
        or type(call.function) is not str
        or type(call.flags) is not int
        or type(call.payload) is not bytes
        or any(x is not None and type(x) is not str for x in (call.qualifier, *call[4:7]))
    ):
        raise WireError("CALL: wrong element types")
    return call


def encode_result(result: Result) -> bytes:
    """A framed RESULT."""
    call_id, status, error_type, version, function_error, request_id, log_tail, payload = result
    if error_type is None and function_error is None and log_tail is None and version is not None:
        raw = version.encode()
        size = len(payload)
        return b"%b\x99\x23\xce%b\xcd%b\xc0\xd9%c%b\xc0\xd9%c%b\xc0\xc6%b%b" % (
            (22 + len(raw) + len(request_id) + size).to_bytes(4, "big"),
            call_id.to_bytes(4, "big"),
            status.to_bytes(2, "big"),
            len(raw),
            raw,
            len(request_id),
            request_id.encode(),
            size.to_bytes(4, "big"),
            payload,
        )
    return frame(
        b"".join(
            (
                _RESULT_HEAD,
                call_id.to_bytes(4, "big"),
                b"\xcd",
                status.to_bytes(2, "big"),
                str8(error_type),
                str8(version),
                str8(function_error),
                str8(request_id),
                bin32(log_tail),
                bin32(payload),
            )
        )
    )


def decode_result(body: bytes) -> Result:
    """Read a RESULT. Raises WireError."""
    parts = unpack(body)
    if parts[0] != RESULT or len(parts) != 9:
        raise WireError("RESULT has 9 elements")
    result = Result(*parts[1:])
    if (
        type(result.call_id) is not int
        or type(result.status) is not int
        or type(result.request_id) is not str
        or type(result.payload) is not bytes
        or any(x is not None and type(x) is not str for x in result[2:5])
        or (result.log_tail is not None and type(result.log_tail) is not bytes)
    ):
        raise WireError("RESULT: wrong element types")
    return result
