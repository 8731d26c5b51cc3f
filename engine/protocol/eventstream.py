"""The event-stream encoding: length-prefixed messages with headers and two checksums. Pure; only the writing side is needed here.

```
u32 total length · u32 headers length · u32 CRC-32 of those 8 bytes · headers · payload · u32 CRC-32 of everything before it
```
A header is its name (u8 length), its type (7: string) and its value (u16 length).
Source: docs.aws.amazon.com/lexv2/latest/dg/event-stream-encoding.html
"""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

_STRING = 7
_FIXED = 16


def head(headers: Mapping[str, str]) -> bytes:
    """Encoded headers, to be kept by whoever sends many messages with the same ones."""
    out = []
    for name, value in headers.items():
        raw_name, raw_value = name.encode(), value.encode()
        out += [bytes((len(raw_name),)), raw_name, bytes((_STRING,)), len(raw_value).to_bytes(2, "big"), raw_value]
    return b"".join(out)


def message(headers: bytes, payload: bytes) -> tuple[bytes, bytes]:
    """What goes before ``payload`` and what after it: big payloads need not be copied."""
    prelude = (_FIXED + len(headers) + len(payload)).to_bytes(4, "big") + len(headers).to_bytes(4, "big")
    before = b"".join((prelude, crc32(prelude).to_bytes(4, "big"), headers))
    return before, crc32(payload, crc32(before)).to_bytes(4, "big")
