"""Signature Version 4 for generated load: what an AWS client puts on each request, at a tenth of its cost.

docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable

from bench import http1


def _mac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


class Signer:
    """Signs POSTs of one body to one host with one key; the signing key is kept for the day."""

    def __init__(self, access_key: str, secret: str, region: str, host: str, body: bytes) -> None:
        self._access_key = access_key
        self._secret = secret
        self._region = region
        self._host = host
        self._digest = hashlib.sha256(body).hexdigest()
        self._day = ""
        self._key = b""

    def headers(self, path: str, now: float | None = None) -> dict[str, str]:
        """Headers for one request at ``now`` (epoch seconds)."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        day = stamp[:8]
        scope = f"{day}/{self._region}/lambda/aws4_request"
        if day != self._day:
            key = f"AWS4{self._secret}".encode()
            for part in (day, self._region, "lambda", "aws4_request"):
                key = _mac(key, part)
            self._day, self._key = day, key
        names = "host;x-amz-content-sha256;x-amz-date"
        canonical = (
            f"POST\n{path}\n\nhost:{self._host}\nx-amz-content-sha256:{self._digest}\nx-amz-date:{stamp}\n\n{names}\n{self._digest}"
        )
        to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = _mac(self._key, to_sign).hex()
        credential = f"Credential={self._access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        return {
            "X-Amz-Date": stamp,
            "X-Amz-Content-SHA256": self._digest,
            "Authorization": f"AWS4-HMAC-SHA256 {credential}",
        }


def signed_source(signer: Signer, host: str, path: str, body: bytes, *, every_request: bool) -> Callable[[int], tuple[bytes, None]]:
    """A load source. ``every_request`` signs each one as AWS clients do; else one signature serves all within its second, which
    costs the server the same and the generator nothing.
    """
    kept: tuple[int, bytes] = (0, b"")

    def source(_n: int) -> tuple[bytes, None]:
        nonlocal kept
        second = int(time.time())
        if every_request or kept[0] != second:
            kept = (second, http1.request(host, path, body, signer.headers(path, second)))
        return kept[1], None

    return source
