"""What a service's code can know of the request it is just answering."""

from __future__ import annotations

import secrets
from typing import Any

from engine.auth.sigv4 import claimed_access_key


def _headers() -> Any:
    from flask import has_request_context, request  # noqa: PLC0415 - flask is an extra

    return request.headers if has_request_context() else {}


def trace() -> str | None:
    """The trace header, by which loops of functions are noticed."""
    value = _headers().get("X-Amzn-Trace-Id")
    return str(value) if value else None


def access_key() -> str:
    """Who asks, as far as the signature says."""
    return claimed_access_key({k.lower(): v for k, v in dict(_headers()).items()}) or "ANONYMOUS"


def identifier() -> str:
    """A request id as S3 makes them."""
    return secrets.token_hex(8).upper()
