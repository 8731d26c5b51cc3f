"""The canonical request of Signature Version 4, from raw bytes.

docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv4-create-signed-request.html. Two forms of path and query are offered: as
sent, and decoded and encoded anew. SDKs agree on paths and queries that are already canonical and differ on odd ones; both forms
mean the same request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from urllib.parse import quote_from_bytes, unquote_to_bytes

from engine.errors import InvalidSignature

Headers = Iterable[tuple[bytes, bytes]] | Mapping[str, str]

MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and "
    "signing method. Consult the service documentation for details."
)
UNSIGNED_PAYLOAD = b"UNSIGNED-PAYLOAD"
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest().encode()
_CANONICAL_QUERY = re.compile(r"(?:[A-Za-z0-9._~=&-]|%[0-9A-F]{2})*")
_ODD_PATH = re.compile(r"//|/\.")


class SignedHeaders:
    """A SignedHeaders list: the names in its order, as a set, and the block they make as a template."""

    __slots__ = ("known", "names", "raw", "template")

    def __init__(self, raw: bytes) -> None:
        """Raises InvalidSignature when the host is not among them."""
        listed = raw.split(b";")
        self.raw = raw
        self.known = frozenset(listed)
        if b"host" not in self.known and b":authority" not in self.known:
            raise InvalidSignature("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
        self.names = tuple(b"host" if name == b":authority" else name for name in listed)
        self.template = b"".join(b"%b:%%b\n" % name.replace(b"%", b"%%") for name in listed)

    def block(self, fields: dict[bytes, bytes]) -> bytes:
        """The canonical header block. Raises InvalidSignature for a signed header that was not sent and for an ``x-amz-*``
        header that was sent but not signed.
        """
        for name in fields.keys() - self.known:
            if name.startswith(b"x-amz-"):
                raise InvalidSignature(f"'{shown(name)}' must be a 'SignedHeader' in the AWS Authorization.")
        try:
            values = tuple([fields[name] for name in self.names])
        except KeyError:
            raise InvalidSignature(MISMATCH) from None
        block = self.template % values
        # Four searches cost a fraction of splitting every value; SDKs send tidy values.
        if b"  " in block or b": " in block or b" \n" in block or b"\t" in block:
            return self.template % tuple([b" ".join(value.split()) for value in values])
        return block


def index(headers: Headers) -> dict[bytes, bytes]:
    """Lower-case name to value; repeated headers joined by commas as canonicalisation wants them."""
    if isinstance(headers, Mapping):
        return {n.lower().encode("latin-1", "replace"): v.encode("latin-1", "replace") for n, v in headers.items()}
    pairs = headers if isinstance(headers, list) else list(headers)
    fields = {name.lower(): value for name, value in pairs}
    if len(fields) == len(pairs):
        return fields
    joined: dict[bytes, bytes] = {}
    for raw_name, value in pairs:
        name = raw_name.lower()
        joined[name] = joined[name] + b"," + value.strip() if name in joined else value.strip()
    return joined


def payload_hash(stated: bytes | None, body: bytes) -> bytes:
    """The last line of the canonical request; ``stated`` is the ``x-amz-content-sha256`` header.

    Raises InvalidSignature when the stated hash is not the body's; of a body in chunks nothing is checked here.
    """
    if stated is not None:
        if stated == UNSIGNED_PAYLOAD:
            return stated
        if stated.startswith(b"STREAMING-"):
            return stated
    actual = hashlib.sha256(body).hexdigest().encode() if body else _EMPTY_SHA256
    if stated is not None and not hmac.compare_digest(stated, actual):
        raise InvalidSignature("The provided 'x-amz-content-sha256' header does not match what was computed.")
    return actual


@lru_cache(maxsize=1024)
def path_as_sent(raw_path: str, single: bool) -> bytes:
    """The canonical path. ``single`` (S3) takes it as it is on the wire; every other service encodes that once more, without dot
    and empty segments.
    """
    raw = raw_path.encode("latin-1", "replace")
    if single:
        return raw or b"/"
    if _ODD_PATH.search(raw_path):
        raw = _without_dot_segments(raw)
    return quote_from_bytes(raw, safe="/~").encode() or b"/"


def path_reencoded(raw_path: str, single: bool) -> bytes:
    """The other canonical path: for S3 decoded and encoded anew, else encoded once more with every segment kept."""
    raw = raw_path.encode("latin-1", "replace")
    return quote_from_bytes(unquote_to_bytes(raw) if single else raw, safe="/~").encode() or b"/"


@lru_cache(maxsize=1024)
def query_as_sent(raw_query: str) -> bytes:
    """The pairs as they are on the wire, sorted; a name without ``=`` gets one."""
    if not raw_query:
        return b""
    pairs = sorted(part.partition("=")[::2] for part in raw_query.split("&"))
    return "&".join(f"{name}={value}" for name, value in pairs).encode("latin-1", "replace")


def query_reencoded(raw_query: str) -> bytes:
    """The pairs decoded and encoded anew, sorted, empty ones dropped."""
    if _CANONICAL_QUERY.fullmatch(raw_query) and "&&" not in raw_query:
        return query_as_sent(raw_query)
    split = [part.partition("=")[::2] for part in raw_query.split("&") if part]
    return "&".join(f"{name}={value}" for name, value in sorted((_reencode(n), _reencode(v)) for n, v in split)).encode()


def shown(value: bytes) -> str:
    """Bytes of a stranger, cut and made printable."""
    return value[:200].decode("ascii", "replace")


def _without_dot_segments(path: bytes) -> bytes:
    """RFC 3986 section 5.2.4, and empty segments removed, as the signing specification asks for."""
    kept: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment not in (b"", b"."):
            kept.append(segment)
    joined = b"/" + b"/".join(kept)
    return joined + b"/" if kept and path.endswith(b"/") else joined


def _reencode(text: str) -> str:
    """Decoded and encoded anew; a plus sign is a space, as HTML forms write it."""
    return quote_from_bytes(unquote_to_bytes(text.replace("+", " ").encode("latin-1", "replace")), safe="~")
