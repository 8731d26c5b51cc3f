"""Identifiers: request ids, revision ids and log-stream names, in AWS's shapes."""

from __future__ import annotations

import base64
import itertools
import random
import uuid

_rng = random.Random(random.SystemRandom().getrandbits(128))  # noqa: S311 - ids are names, not secrets; seeded by the OS
# A request id is a random half, renewed now and then, and a counter: unique in this process by construction, across processes
# by 62 random bits, and five times cheaper than drawing all of it each time.
_RENEW = 1 << 20
_count = itertools.count()
_prefix = ""


def request_id() -> str:
    """A new UUIDv4-shaped request id (36 characters)."""
    global _prefix  # noqa: PLW0603 - the random half
    n = next(_count)
    if not n % _RENEW:
        h = f"{_rng.getrandbits(80):020x}"
        _prefix = f"{h[:8]}-{h[8:12]}-4{h[12:15]}-{'89ab'[int(h[15], 16) & 3]}{h[16:19]}-"
    return f"{_prefix}{n & 0xFFFFFFFFFFFF:012x}"


def is_request_id(text: str) -> bool:
    """Whether ``text`` has the canonical 36-character UUID form that frames carry at fixed offsets."""
    if len(text) != 36 or text[8] != "-" or text[13] != "-" or text[18] != "-" or text[23] != "-":
        return False
    return all(c in "0123456789abcdef-" for c in text)


def revision_id() -> str:
    """A new RevisionId (UUIDv4). Unique, not secret: asking the operating system for each would cost a write more than its SQL does."""
    return str(uuid.UUID(int=_rng.getrandbits(128), version=4))


def hex32() -> str:
    """32 lower-case hex digits, as in a log-stream name."""
    return f"{_rng.getrandbits(128):032x}"


def extended_id() -> str:
    """A new extended request id of API Gateway's: 16 characters, the last of them ``=``."""
    return base64.b64encode(_rng.randbytes(11)).decode("ascii")
