"""Events in, results out, as AWS's Python runtime does it.

Results: the C encoder first; only when it meets a Decimal does the slow encoder run, which prints it digit for digit.
"""

from __future__ import annotations

import decimal
import json
import sys
from typing import Any, Optional

from runtime_bootstrap.python.errors import Fault

_ASCII = sys.version_info < (3, 12)
_decode = json.JSONDecoder().decode


class _Number(float):
    """A Decimal on its way through the encoder: a float whose text is the Decimal's own."""

    text: str

    def __new__(cls, value: decimal.Decimal) -> "_Number":
        self = super().__new__(cls, value if value.is_finite() else 0.0)
        self.text = "NaN" if value.is_nan() else str(value)
        return self


def _refuse(value: Any) -> Any:
    raise TypeError("Object of type %s is not JSON serializable" % type(value).__name__)


_fast = json.JSONEncoder(ensure_ascii=_ASCII, default=_refuse).encode


class _Exact(json.JSONEncoder):
    """The pure-Python encoder, with Decimals as numbers."""

    def default(self, o: Any) -> Any:
        if isinstance(o, decimal.Decimal):
            return _Number(o)
        return _refuse(o)

    def iterencode(self, o: Any, _one_shot: bool = False) -> Any:
        text = json.encoder.encode_basestring_ascii if self.ensure_ascii else json.encoder.encode_basestring
        make = json.encoder._make_iterencode  # type: ignore[attr-defined]
        walk = make(
            {}, self.default, text, self.indent, _float_text, self.key_separator, self.item_separator, self.sort_keys, self.skipkeys, False
        )
        return walk(o, 0)


def _float_text(value: float) -> str:
    if isinstance(value, _Number):
        return value.text
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return float.__repr__(value)


def event_from(payload: bytes) -> Any:
    """The handler's first argument. Raises Fault (Runtime.UnmarshalError)."""
    try:
        return _decode(payload.decode("utf-8"))
    except ValueError as e:
        raise Fault("Runtime.UnmarshalError", "Unable to unmarshal input: %s" % e) from None


def payload_from(result: Any) -> "tuple[bytes, Optional[str]]":
    """(payload, content type) of a handler's result; content type None is JSON. Raises Fault (Runtime.MarshalError)."""
    if isinstance(result, bytes):
        return result, "application/unknown"
    try:
        return _fast(result).encode("utf-8"), None
    except TypeError as e:
        if "Decimal" not in str(e):
            raise _unable(e) from None
    except (ValueError, RecursionError) as e:
        raise _unable(e) from None
    try:
        return _Exact(ensure_ascii=_ASCII).encode(result).encode("utf-8"), None
    except (TypeError, ValueError, RecursionError) as e:
        raise _unable(e) from None


def _unable(error: Exception) -> Fault:
    return Fault("Runtime.MarshalError", "Unable to marshal response: %s" % error)
