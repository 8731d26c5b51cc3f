"""Writes wire.json: frames laid out byte by byte from docs/protocol.md, without the engine's own encoders.

Run it only when the protocol gains a message; a vector that is there never changes within one protocol version.
In the file a value is JSON, except that bytes are {"hex": ...}. ``frame`` includes the length prefix.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

RID = "8f507cfc-4697-455f-9f0e-2d1a1b0c7a55"
ARN = "arn:aws:lambda:us-east-1:000000000000:function:greet:live"
TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1"

NIL, TRUE, FALSE = b"\xc0", b"\xc3", b"\xc2"


def s8(text: str) -> bytes:
    raw = text.encode()
    return b"\xd9" + struct.pack(">B", len(raw)) + raw


def s16(text: str) -> bytes:
    raw = text.encode()
    return b"\xda" + struct.pack(">H", len(raw)) + raw


def b32(data: bytes) -> bytes:
    return b"\xc6" + struct.pack(">I", len(data)) + data


def fixstr(text: str) -> bytes:
    raw = text.encode()
    assert len(raw) < 32
    return bytes((0xA0 | len(raw),)) + raw


def fixmap(pairs: dict[str, str]) -> bytes:
    return bytes((0x80 | len(pairs),)) + b"".join(fixstr(k) + fixstr(v) for k, v in pairs.items())


def u32(value: int) -> bytes:
    return b"\xce" + struct.pack(">I", value)


def u64(value: int) -> bytes:
    return b"\xcf" + struct.pack(">Q", value)


def array(n: int, *parts: bytes) -> bytes:
    return bytes((0x90 | n,)) + b"".join(parts)


def one(kind: int) -> bytes:
    return bytes((kind,))


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(one) for one in value]
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def vectors() -> list[tuple[str, str, bool, list[Any], bytes]]:
    """(name, message, canonical, elements after the type, body)."""
    event = b'{"who":"\xc3\xa9"}'
    error = b'{"errorMessage":"no","errorType":"E"}'
    return [
        ("hello", "HELLO", True, [1, {"runtime": "python3.12", "version": "3.12.1"}],
         array(3, one(1), one(1), fixmap({"runtime": "python3.12", "version": "3.12.1"}))),
        ("init, least", "INIT", True, [{"handler": "app.handler"}], array(2, one(2), fixmap({"handler": "app.handler"}))),
        ("next", "NEXT", True, [], array(1, one(3))),
        ("invoke, least", "INVOKE", True, [RID, 1700000003000, ARN, None, None, None, None, b"{}"],
         array(9, one(4), s8(RID), u64(1700000003000), s16(ARN), NIL, NIL, NIL, NIL, b32(b"{}"))),
        ("invoke, everything", "INVOKE", True, [RID, 1700000003000, ARN, TRACE, '{"custom":{}}', "{}", "blue", event],
         array(9, one(4), s8(RID), u64(1700000003000), s16(ARN), s8(TRACE), s16('{"custom":{}}'), s16("{}"), s16("blue"), b32(event))),
        ("invoke, shortest encodings", "INVOKE", False, [RID, 7, "f", None, None, None, None, b""],
         array(9, one(4), s8(RID), one(7), fixstr("f"), NIL, NIL, NIL, NIL, b"\xc4\x00")),
        ("response", "RESPONSE", True, [RID, True, None, b'"ok"'], array(5, one(5), s8(RID), TRUE, NIL, b32(b'"ok"'))),
        ("response, content type, next apart", "RESPONSE", True, [RID, False, "text/plain", b"ok"],
         array(5, one(5), s8(RID), FALSE, s8("text/plain"), b32(b"ok"))),
        ("response, payload as bin 8", "RESPONSE", False, [RID, True, None, b"ok"],
         array(5, one(5), s8(RID), TRUE, NIL, b"\xc4\x02ok")),
        ("response, array 16 and str 16", "RESPONSE", False, [RID, True, None, b""],
         b"\xdc\x00\x05" + one(5) + s16(RID) + TRUE + NIL + b32(b"")),
        ("error", "ERROR", True, [RID, True, "Runtime.ImportModuleError", error],
         array(5, one(6), s8(RID), TRUE, s8("Runtime.ImportModuleError"), b32(error))),
        ("init error", "INIT_ERROR", True, ["Runtime.HandlerNotFound", error], array(3, one(7), s8("Runtime.HandlerNotFound"), b32(error))),
        ("log line", "LOG", True, [RID, 1700000000123456, 0, b"hello"],
         array(5, one(8), s8(RID), u64(1700000000123456), one(0), b32(b"hello"))),
        ("log line outside an invocation, not UTF-8", "LOG", True, [None, 1700000000123456, 5, b"\xff\n\xfe"],
         array(5, one(8), NIL, u64(1700000000123456), one(5), b32(b"\xff\n\xfe"))),
        ("shutdown", "SHUTDOWN", True, ["spindown", 1700000002000], array(3, one(9), fixstr("spindown"), u64(1700000002000))),
        ("restore next", "RESTORE_NEXT", True, [], array(1, one(10))),
        ("restore", "RESTORE", True, [{"log_stream": "s"}], array(2, one(11), fixmap({"log_stream": "s"}))),
        ("restore error", "RESTORE_ERROR", True, ["Runtime.AfterRestoreError", error],
         array(3, one(12), s8("Runtime.AfterRestoreError"), b32(error))),
        ("stream start", "STREAM_START", True, [RID, "text/html", None], array(4, one(13), s8(RID), s8("text/html"), NIL)),
        ("stream chunk", "STREAM_CHUNK", True, [RID, b"\x00\x01"], array(3, one(14), s8(RID), b32(b"\x00\x01"))),
        ("stream end", "STREAM_END", True, [RID, True, None, None], array(5, one(15), s8(RID), TRUE, NIL, NIL)),
        ("stream end, failed", "STREAM_END", True, [RID, True, "Boom", error], array(5, one(15), s8(RID), TRUE, s8("Boom"), b32(error))),
        ("too large", "TOO_LARGE", True, [RID, 6291557, True], array(4, one(16), s8(RID), u32(6291557), TRUE)),
        ("imports", "IMPORTS", True, [b'{"refused":"no"}'], array(2, one(17), b32(b'{"refused":"no"}'))),
        ("client hello", "CLIENT_HELLO", True, [1, {"role": "client"}], array(3, b"\x20", one(1), fixmap({"role": "client"}))),
        ("server hello", "SERVER_HELLO", True, [1, {"engine": "0.1.0"}], array(3, b"\x21", one(1), fixmap({"engine": "0.1.0"}))),
        ("server hello, challenge", "SERVER_HELLO", True, [1, {"nonce": "00112233445566778899aabbcc"}],
         array(3, b"\x21", one(1), fixmap({"nonce": "00112233445566778899aabbcc"}))),
        ("call, least", "CALL", True, [1, "greet", None, 0, None, None, None, b"{}"],
         array(9, b"\x22", u32(1), s16("greet"), NIL, one(0), NIL, NIL, NIL, b32(b"{}"))),
        ("call, everything", "CALL", True, [4294967295, ARN, "live", 3, RID, '{"custom":{}}', TRACE, event],
         array(9, b"\x22", u32(4294967295), s16(ARN), s8("live"), one(3), s8(RID), s16('{"custom":{}}'), s8(TRACE), b32(event))),
        ("call, shortest encodings", "CALL", False, [1, "greet", None, 0, None, None, None, b"{}"],
         array(9, b"\x22", one(1), fixstr("greet"), NIL, one(0), NIL, NIL, NIL, b"\xc4\x02{}")),
        ("call for a tenant", "TENANT_CALL", True, [2, "greet", None, 0, RID, None, TRACE, "blue", b"{}"],
         array(10, b"\x24", u32(2), s16("greet"), NIL, one(0), s8(RID), NIL, s8(TRACE), s16("blue"), b32(b"{}"))),
        ("result", "RESULT", True, [1, 200, None, "$LATEST", None, RID, None, b'"ok"'],
         array(9, b"\x23", u32(1), b"\xcd\x00\xc8", NIL, s8("$LATEST"), NIL, s8(RID), NIL, b32(b'"ok"'))),
        ("result, function error with tail", "RESULT", True, [2, 200, None, "7", "Unhandled", RID, b"START\xff", error],
         array(9, b"\x23", u32(2), b"\xcd\x00\xc8", NIL, s8("7"), s8("Unhandled"), s8(RID), b32(b"START\xff"), b32(error))),
        ("result, refused", "RESULT", True, [3, 429, "TooManyRequestsException", None, None, RID, None, b"{}"],
         array(9, b"\x23", u32(3), b"\xcd\x01\xad", s8("TooManyRequestsException"), NIL, NIL, s8(RID), NIL, b32(b"{}"))),
        ("catalogue begin", "CATALOGUE", True, [1, "begin", None], array(4, b"\x30", one(1), fixstr("begin"), NIL)),
        ("catalogue delete", "CATALOGUE", True, [2, "delete", {"account": "000000000000", "name": "greet"}],
         array(4, b"\x30", one(2), fixstr("delete"), fixmap({"account": "000000000000", "name": "greet"}))),
        ("ack", "ACK", True, [1, None], array(3, b"\x31", one(1), NIL)),
        ("ack, error", "ACK", True, [2, "no such op"], array(3, b"\x31", one(2), fixstr("no such op"))),
        ("query", "QUERY", True, [3, "stats"], array(3, b"\x32", one(3), fixstr("stats"))),
        ("answer", "ANSWER", True, [3, b"\x80"], array(3, b"\x33", one(3), b32(b"\x80"))),
        ("events", "EVENTS", False, [4, [[RID, "000000000000", "greet", None, None, b"{}", "blue"]]],
         array(3, b"\x34", one(4), array(1, array(7, s8(RID), fixstr("000000000000"), fixstr("greet"), NIL, NIL, b"\xc4\x02{}", fixstr("blue"))))),
        ("accepted", "ACCEPTED", True, [4, None], array(3, b"\x35", one(4), NIL)),
        ("accepted, error", "ACCEPTED", True, [5, "disk full"], array(3, b"\x35", one(5), fixstr("disk full"))),
    ]


def invalid() -> list[tuple[str, bytes]]:
    """(why, body) of bodies every reader refuses."""
    return [
        ("nothing but nil", NIL),
        ("a map", b"\x80"),
        ("an empty array", b"\x90"),
        ("a type that is not an integer", array(1, fixstr("x"))),
        ("a boolean for a type", array(1, TRUE)),
        ("an unknown type", array(1, one(0x7F))),
        ("type zero", array(1, one(0))),
        ("not msgpack: the byte c1", b"\x91\xc1"),
        ("cut short", array(5, one(5), s8(RID), TRUE)),
        ("bytes after the array", array(1, one(3)) + b"\x00"),
        ("an array that claims four thousand million elements", b"\xdd\xff\xff\xff\xff\x03"),
        ("a string that is not UTF-8", array(9, b"\x22", u32(1), b"\xda\x00\x01\xff", NIL, one(0), NIL, NIL, NIL, b32(b""))),
        ("an element too few", array(4, one(5), s8(RID), TRUE, NIL)),
        ("an element too many", array(2, one(3), NIL)),
        ("payload as str", array(5, one(5), s8(RID), TRUE, NIL, fixstr("ok"))),
        ("payload nil", array(5, one(5), s8(RID), TRUE, NIL, NIL)),
        ("request id nil", array(5, one(5), NIL, TRUE, NIL, b32(b""))),
        ("then_next is 1", array(5, one(5), s8(RID), one(1), NIL, b32(b""))),
        ("payload length beyond the frame", array(5, one(5), s8(RID), TRUE, NIL, b"\xc6\x00\x00\x00\x09ok")),
        ("payload length short of the frame", array(5, one(5), s8(RID), TRUE, NIL, b"\xc6\x00\x00\x00\x01ok")),
        ("call id over 32 bits", array(9, b"\x22", u64(1 << 32), s16("f"), NIL, one(0), NIL, NIL, NIL, b32(b""))),
        ("call id negative", array(9, b"\x22", b"\xff", s16("f"), NIL, one(0), NIL, NIL, NIL, b32(b""))),
        ("call function nil", array(9, b"\x22", u32(1), NIL, NIL, one(0), NIL, NIL, NIL, b32(b""))),
        ("invoke deadline as float", array(9, one(4), s8(RID), b"\xcb" + b"\x00" * 8, s16("a"), NIL, NIL, NIL, NIL, b32(b""))),
        ("log timestamp negative", array(5, one(8), NIL, b"\xff", one(0), b32(b""))),
        ("hello without its map", array(3, one(1), one(1), NIL)),
    ]


def main() -> None:
    document = {
        "version": 1,
        "messages": [
            {
                "name": name,
                "message": message,
                "canonical": canonical,
                "type": kind_of(body),
                "elements": [plain(v) for v in elements],
                "frame": (struct.pack(">I", len(body)) + body).hex(),
            }
            for name, message, canonical, elements, body in vectors()
        ],
        "invalid": [{"why": why, "frame": (struct.pack(">I", len(body)) + body).hex()} for why, body in invalid()],
    }
    path = Path(__file__).with_name("wire.json")
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def kind_of(body: bytes) -> int:
    return body[3] if body[0] == 0xDC else body[1]


if __name__ == "__main__":
    main()
