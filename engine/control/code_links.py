"""Addresses under which a package can be downloaded for a while, like the presigned URLs of GetFunction's ``Code.Location``.

A token is the package's digest, the second it ends, and a keyed digest of both: nothing to remember, so links survive a restart of
the control plane, and nobody without the key can make one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path

from engine.clock import Clock

VALID_S = 600
PATH = "/_engine/code/"
_DIGEST, _TIME, _PROOF = 32, 8, 16


class CodeLinks:
    """Makes and reads tokens. ``key``: at least 32 random bytes that outlive the process. ``code`` gives what to send of a package, None of one
    that is gone.
    """

    def __init__(self, key: bytes, code: Callable[[str], Path | bytes | None], clock: Clock) -> None:
        self._key = key
        self._code = code
        self._clock = clock

    def url(self, host: str, sha256: str) -> str:
        """Where the package can be had for ten minutes, for a client that reached the engine as ``host``."""
        ends = self._clock.epoch_ms() // 1000 + VALID_S
        claim = bytes.fromhex(sha256) + ends.to_bytes(_TIME, "big")
        token = base64.urlsafe_b64encode(claim + self._proof(claim)).decode("ascii").rstrip("=")
        return f"http://{host}{PATH}{token}"

    def source(self, token: str) -> Path | bytes | None:
        """The package behind a token; None when the token is wrong or over, or there is none to send. Blocks."""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        claim, proof = raw[: _DIGEST + _TIME], raw[_DIGEST + _TIME :]
        if len(claim) != _DIGEST + _TIME or not hmac.compare_digest(proof, self._proof(claim)):
            return None
        if int.from_bytes(claim[_DIGEST:], "big") * 1000 < self._clock.epoch_ms():
            return None
        return self._code(claim[:_DIGEST].hex())

    def _proof(self, claim: bytes) -> bytes:
        return hmac.new(self._key, claim, hashlib.sha256).digest()[:_PROOF]
