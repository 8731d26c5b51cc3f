"""The event-stream encoding, against the documented layout and botocore's own reader."""

from __future__ import annotations

from zlib import crc32

from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import eventstream

CHUNK = {":message-type": "event", ":event-type": "PayloadChunk", ":content-type": "application/octet-stream"}


def test_the_documented_sizes() -> None:
    head = eventstream.head(CHUNK)
    assert len(head) == 90
    before, after = eventstream.message(head, b"hi")
    whole = before + b"hi" + after
    assert len(whole) == int.from_bytes(whole[:4], "big") == 108
    assert int.from_bytes(whole[8:12], "big") == crc32(whole[:8])
    assert int.from_bytes(whole[-4:], "big") == crc32(whole[:-4])


@given(
    st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=50), max_size=5),
    st.lists(st.binary(max_size=200), min_size=1, max_size=4),
)
def test_botocore_reads_what_we_write(headers: dict[str, str], payloads: list[bytes]) -> None:
    head = eventstream.head(headers)
    reader = EventStreamBuffer()
    for payload in payloads:
        before, after = eventstream.message(head, payload)
        reader.add_data(before + payload + after)
    read = list(reader)
    assert [m.payload for m in read] == payloads
    decoded: list[object] = [m.headers for m in read]
    assert decoded == [headers] * len(payloads)
