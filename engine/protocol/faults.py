"""Errors as AWS clients expect them on the wire.

Clients take the code from ``x-amzn-ErrorType`` and the text from ``message`` or ``Message``; which of the two is fixed per
exception by the model, and the Go and Java SDKs bind the exact name.
"""

from __future__ import annotations

import msgspec

from engine.errors import AwsError, NotImplementedHere
from engine.protocol.serialize import JSON, Response


def render(error: AwsError) -> Response:
    """The answer that carries ``error``: status, ``x-amzn-ErrorType``, the error's own headers and the JSON body."""
    headers = [("Content-Type", JSON), ("x-amzn-ErrorType", error.code), *error.headers.items()]
    return Response(error.status, headers, msgspec.json.encode(error.body()))


def not_implemented(operation: str, why: str | None = None) -> NotImplementedHere:
    """The 501 of an operation that AWS has and this engine does not."""
    return NotImplementedHere(f"Lambda Engine does not implement the operation {operation}{f': {why}' if why else ''}.")
