"""What the elements of every message are: one table, a reader that enforces it, and its text for people.

The hot messages have decoders of their own in ``engine.wire.messages``; ``read`` serves all the others, and the tests hold the
two to the same table.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, NoneType
from typing import Any, Final, NamedTuple

from engine.errors import WireError
from engine.wire import messages as m

STR: Final = (str,)
INT: Final = (int,)
BIN: Final = (bytes,)
MAP: Final = (dict,)
BOOL: Final = (bool,)
LIST: Final = (list,)
MAYBE_STR: Final = (str, NoneType)
MAYBE_BIN: Final = (bytes, NoneType)
ANY: Final = ()
_WORDS: Final = {str: "str", int: "int", bytes: "bin", dict: "map", list: "array", bool: "bool", NoneType: "nil"}


class Field(NamedTuple):
    """One element after the type: its name, the Python types it may have (none listed: any value), its meaning, and the
    greatest value of an integer.
    """

    name: str
    types: tuple[type, ...]
    meaning: str
    most: int = 2**64 - 1


_REQUEST_ID: Final = Field("request_id", STR, "the invocation's id, 36 characters")
_THEN_NEXT: Final = Field("then_next", BOOL, "true: the message also means NEXT")
_VERSION: Final = Field("version", INT, "protocol version, 1")
_SEQ: Final = Field("seq", INT, "the control plane's number, echoed in the answer")

_EVENT: Final = Field("payload", BIN, "the event, raw bytes")
_CALL: Final = (
    Field("call_id", INT, "the client's number, 0 to 4294967295, free again once answered", 0xFFFFFFFF),
    Field("function", STR, "name, partial ARN or ARN"),
    Field("qualifier", MAYBE_STR, "version or alias"),
    Field("flags", INT, "bit 0: want the log tail; bit 1: dry run; bit 2: an attempt of an asynchronous invocation, free of request rates"),
    Field("request_id", MAYBE_STR, "use this id; nil lets the engine choose"),
    Field("client_context", MAYBE_STR, "JSON text (not base64)"),
    Field("trace_id", MAYBE_STR, "`X-Amzn-Trace-Id` value"),
)

SHAPES: Final[Mapping[int, tuple[Field, ...]]] = MappingProxyType(
    {
        m.HELLO: (_VERSION, Field("about", MAP, "`runtime`: the Lambda runtime id; `version`: the interpreter's")),
        m.INIT: (
            Field("spec", MAP, "handler, complete environment, directories, memory and log settings"),
        ),
        m.NEXT: (),
        m.INVOKE: (
            _REQUEST_ID,
            Field("deadline_ms", INT, "epoch milliseconds at which the invocation is killed"),
            Field("function_arn", STR, "the ARN as invoked, qualifier included"),
            Field("trace_id", MAYBE_STR, "`X-Amzn-Trace-Id` value"),
            Field("client_context", MAYBE_STR, "client context, JSON text"),
            Field("identity", MAYBE_STR, "Cognito identity, JSON text"),
            Field("tenant_id", MAYBE_STR, "tenant"),
            Field("payload", BIN, "the event, raw bytes"),
        ),
        m.RESPONSE: (
            _REQUEST_ID,
            _THEN_NEXT,
            Field("content_type", MAYBE_STR, "nil means application/json"),
            Field("payload", BIN, "the function's answer, raw bytes"),
        ),
        m.ERROR: (
            _REQUEST_ID,
            _THEN_NEXT,
            Field("error_type", MAYBE_STR, "for example `Runtime.HandlerNotFound` or the exception's class name"),
            Field("payload", BIN, "JSON document with errorMessage, errorType, requestId, stackTrace"),
        ),
        m.INIT_ERROR: (
            Field("error_type", STR, "as in ERROR"),
            Field("payload", BIN, "JSON document, as in ERROR"),
        ),
        m.LOG: (
            Field("request_id", MAYBE_STR, "the invocation it belongs to; nil outside one"),
            Field("timestamp_us", INT, "epoch microseconds"),
            Field("level", INT, "0 none, 1 trace, 2 debug, 3 info, 4 warn, 5 error, 6 fatal"),
            Field("data", BIN, "one log event; it may hold newlines"),
        ),
        m.SHUTDOWN: (
            Field("reason", STR, "`spindown`, `timeout` or `failure`"),
            Field("deadline_ms", INT, "epoch milliseconds after which the worker is killed"),
        ),
        m.RESTORE_NEXT: (),
        m.RESTORE: (Field("spec", MAP, "what differs in this copy: `env`, `log_stream`"),),
        m.RESTORE_ERROR: (
            Field("error_type", STR, "as in ERROR"),
            Field("payload", BIN, "JSON document, as in ERROR"),
        ),
        m.STREAM_START: (
            _REQUEST_ID,
            Field("content_type", MAYBE_STR, "nil means application/octet-stream"),
            Field("prelude", MAYBE_BIN, "JSON prelude with status and headers, for function URLs"),
        ),
        m.STREAM_CHUNK: (_REQUEST_ID, Field("data", BIN, "the next bytes of the response")),
        m.STREAM_END: (
            _REQUEST_ID,
            _THEN_NEXT,
            Field("error_type", MAYBE_STR, "nil when the stream is complete"),
            Field("payload", MAYBE_BIN, "the error document when it is not"),
        ),
        m.TOO_LARGE: (
            _REQUEST_ID,
            Field("size", INT, "bytes the response would have had"),
            _THEN_NEXT,
        ),
        m.IMPORTS: (Field("document", BIN, "JSON: `took_us`, `packages`, `modules`; or `refused`"),),
        m.CLIENT_HELLO: (_VERSION, Field("about", MAP, "`role`: client or control; with a challenge also `access_key`, `token`")),
        m.SERVER_HELLO: (_VERSION, Field("about", MAP, "`nonce` in a challenge; `error` in a refusal; else `engine`")),
        m.CALL: (*_CALL, _EVENT),
        m.TENANT_CALL: (*_CALL, Field("tenant_id", STR, "whom a function with TenancyConfig is invoked for"), _EVENT),
        m.RESULT: (
            Field("call_id", INT, "as in the CALL", 0xFFFFFFFF),
            Field("status", INT, "the HTTP status the Invoke API would have answered", 999),
            Field("error_type", MAYBE_STR, "AWS exception name when status ≥ 400"),
            Field("executed_version", MAYBE_STR, "the version that ran"),
            Field("function_error", MAYBE_STR, "`Unhandled` when the function failed"),
            Field("request_id", STR, "the invocation's id"),
            Field("log_tail", MAYBE_BIN, "last 4 KB of the log when asked for, raw bytes"),
            Field("payload", BIN, "the function's answer, or the error's JSON body"),
        ),
        m.CATALOGUE: (
            _SEQ,
            Field("op", STR, "begin, vpc, puts, put, delete or commit"),
            Field("value", ANY, "put: the function's entry; puts: a list of them; delete: account and name; vpc: its name and document, nil when it goes; else nil"),
        ),
        m.ACK: (_SEQ, Field("error", MAYBE_STR, "nil when applied; of a vpc one line per attachment that failed, with its id; of puts one per function that was refused")),
        m.QUERY: (_SEQ, Field("what", STR, "for example `stats`")),
        m.ANSWER: (_SEQ, Field("value", BIN, "msgpack of the answer")),
        m.EVENTS: (
            Field("seq", INT, "the supervisor's number, echoed in ACCEPTED"),
            Field("events", LIST, "arrays of request id, account, function, qualifier or nil, trace header or nil, payload (bin), tenant or nil"),
        ),
        m.ACCEPTED: (
            Field("seq", INT, "as in EVENTS"),
            Field("error", MAYBE_STR, "nil when all of the events are on the disk; else none may be"),
        ),
    }
)


def read(body: bytes, *kinds: int) -> list[Any]:
    """The elements of one frame, type first, each of the type its table says; integers are never negative.

    Raises WireError for anything else, and when ``kinds`` are given, for a message that is none of them.
    """
    parts = m.unpack(body)
    kind = parts[0]
    if kinds and kind not in kinds:
        raise WireError(f"expected {' or '.join(m.NAMES[k] for k in kinds)}, got {m.NAMES[kind]}")
    shape = SHAPES[kind]
    if len(parts) != len(shape) + 1:
        raise WireError(f"{m.NAMES[kind]} has {len(shape) + 1} elements, got {len(parts)}")
    for field, value in zip(shape, parts[1:], strict=True):
        found = type(value)
        if field.types and found not in field.types:
            raise WireError(f"{m.NAMES[kind]}: {field.name} must be {type_words(field)}, got {_WORDS.get(found, found.__name__)}")
        if found is int and field.types and not 0 <= value <= field.most:
            raise WireError(f"{m.NAMES[kind]}: {field.name} is {value}, outside 0 to {field.most}")
    return parts


def type_words(field: Field) -> str:
    """``str or nil`` and the like."""
    return " or ".join(_WORDS[t] for t in field.types) or "any"


def as_text(*kinds: int) -> str:
    """Layout of these messages in Markdown: a heading with the array, then one line per element."""
    out = []
    for kind in kinds:
        shape = SHAPES[kind]
        array = ", ".join((f"0x{kind:02x}", *(field.name for field in shape)))
        out.append(f"**{m.NAMES[kind]}** `[{array}]`\n")
        if shape:
            out.extend(("| element | type | meaning |", "|---|---|---|"))
            out.extend(f"| `{field.name}` | {type_words(field)} | {field.meaning} |" for field in shape)
            out.append("")
    return "\n".join(out)
