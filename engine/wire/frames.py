"""Length-prefixed frames: ``u32 big-endian length`` then that many bytes (one msgpack array).

Sans-IO: bytes go in, whole frames come out. The decoder never allocates for a frame before its length has been
checked against the cap, so a peer cannot make it hold more than ``max_frame`` plus one read.
"""

from __future__ import annotations

from engine.errors import WireError

# Lambda's response limit is 6 MiB + 100 bytes (measured in its runtime agent); heads, log tail and error documents need room.
MAX_PAYLOAD = 6 * 1024 * 1024 + 100
MAX_FRAME = MAX_PAYLOAD + 256 * 1024
# The control plane pushes whole catalogue entries; it is trusted, the cap only bounds mistakes.
MAX_CONTROL_FRAME = 64 * 1024 * 1024
PREFIX = 4
# A frame that arrives in more pieces than this is gathered in one growing buffer (6 MB in reads of 64 KiB is about 100).
MAX_PIECES = 256


class FrameTooLarge(WireError):
    """A frame announced more bytes than the cap; ``kind`` is its message type when already seen, else None."""

    def __init__(self, size: int, limit: int, kind: int | None) -> None:
        super().__init__(f"frame of {size} bytes is over the limit of {limit}")
        self.size = size
        self.limit = limit
        self.kind = kind


def frame(body: bytes) -> bytes:
    """``body`` with its length in front."""
    return len(body).to_bytes(4, "big") + body


class FrameDecoder:
    """Reassembles frames from arbitrary pieces.

    ``feed`` returns the frames completed by this piece, in order, without their prefix. Raises FrameTooLarge as soon as a
    prefix announces more than ``max_frame`` bytes, and WireError for an empty frame; after an error the decoder is spent.
    """

    __slots__ = ("_have", "_need", "_pieces", "_spent", "max_frame")

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self.max_frame = max_frame
        self._pieces: list[bytes | bytearray] = []
        self._have = 0
        self._need = PREFIX
        self._spent = False

    @property
    def buffered(self) -> int:
        """Bytes held for an unfinished frame."""
        return self._have

    def feed(self, data: bytes) -> list[bytes]:
        if self._spent:
            raise WireError("the decoder has already reported an error")
        if self._have:
            self._hold(data)
            if self._have < self._need:
                return []
            data = b"".join(self._pieces)
            self._pieces.clear()
        out: list[bytes] = []
        at = 0
        have = len(data)
        need = PREFIX
        while have - at >= PREFIX:
            size = int.from_bytes(data[at : at + 4], "big")
            if not 0 < size <= self.max_frame:
                self._spent = True
                if size == 0:
                    raise WireError("empty frame")
                kind = data[at + 5] if have - at > PREFIX + 1 else None
                raise FrameTooLarge(size, self.max_frame, kind)
            need = PREFIX + size
            if have - at < need:
                break
            out.append(data[at + PREFIX : at + need])
            at += need
            need = PREFIX
        self._have = have - at
        self._need = need
        if self._have:
            self._pieces.append(data[at:] if at else data)
        return out

    def _hold(self, data: bytes) -> None:
        """Keep a further piece. Many small ones go into one buffer: an object per byte would cost forty times its size."""
        pieces = self._pieces
        self._have += len(data)
        if isinstance(pieces[0], bytearray):
            pieces[0] += data
        elif len(pieces) < MAX_PIECES:
            pieces.append(data)
        else:
            pieces[:] = [bytearray().join((*pieces, data))]
