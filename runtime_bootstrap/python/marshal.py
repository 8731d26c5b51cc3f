"""Events in, results out, byte for byte as AWS's Python runtime does it.

That runtime encodes with simplejson; this one with the C encoder of the standard library, which differs in four points that are made up
for here: Decimal prints as a number, bytes inside a result as text, anything with ``_asdict()`` as an object, and a key of bytes as
text. Encoders are made once: a function that patches ``json`` does not change its own answers, as on AWS.
"""

from __future__ import annotations

import decimal
import json
import json.encoder
import math
import os
import re
import sys
from typing import Any, Callable, Optional

from runtime_bootstrap.python.faults import Fault

# AWS's runtimes before 3.12 escape everything beyond ASCII.
_ASCII = sys.version_info < (3, 12)
_SCALARS = frozenset((str, int, float, bool, type(None)))
_decoder = json.JSONDecoder()
_scan = _decoder.scan_once  # type: ignore[attr-defined]


class _Encoder:
    """One ``encode``; replaced after it raised, since it keeps the containers it was in."""

    def __init__(self) -> None:
        # Marks a number that goes through the encoder as text; nobody can guess it.
        self._mark = os.urandom(16).hex()
        self._marked = False
        self._encode = self._make()

    def _make(self) -> "Callable[[Any], str]":
        text = json.encoder.encode_basestring_ascii if _ASCII else json.encoder.encode_basestring
        make: Any = getattr(json.encoder, "c_make_encoder", None)
        if make is None:
            return json.JSONEncoder(ensure_ascii=_ASCII, default=self._default).encode
        walk = make({}, self._default, text, None, ": ", ", ", False, False, True)
        return lambda value: "".join(walk(value, 0))

    def _default(self, value: Any) -> Any:
        if isinstance(value, decimal.Decimal):
            if value.is_nan():
                return math.nan
            self._marked = True
            return self._mark + str(value)
        if isinstance(value, bytes):
            return str(value, "utf-8")
        raise TypeError("Object of type %s is not JSON serializable" % type(value).__name__)

    def encode(self, value: Any) -> str:
        """Raises what the value makes the encoder raise: TypeError, ValueError, RecursionError, or anything from user code."""
        kind = type(value)
        if kind is dict and _SCALARS.issuperset(map(type, value.values())):
            # By far the usual result: all there can be to misread is a key, and that the C encoder refuses.
            try:
                return self._encode(value)
            except BaseException as e:
                self._encode = self._make()
                if not isinstance(e, TypeError):
                    raise
        if kind not in _SCALARS and _needs_copy(value):
            value = _plain(value, {})
        self._marked = False
        try:
            text = self._encode(value)
        except BaseException:
            self._encode = self._make()
            raise
        if self._marked:
            text = re.sub('"%s([^"]*)"' % self._mark, r"\1", text)
        return text


def _needs_copy(value: Any) -> bool:
    """Whether ``value`` holds what the C encoder would take for something else."""
    try:
        return _is_odd(value)
    except RecursionError:
        return False  # the encoder will say what is wrong


def _is_odd(value: Any) -> bool:
    kind = type(value)
    if kind is dict:
        if not _SCALARS.issuperset(map(type, value)) and any(isinstance(key, bytes) for key in value):
            return True
        values: Any = value.values()
    elif kind is list or kind is tuple:
        values = value
    elif hasattr(value, "_asdict"):
        return True
    elif isinstance(value, dict):
        if any(isinstance(key, bytes) for key in value):
            return True
        values = value.values()
    elif isinstance(value, (list, tuple)):
        values = value
    else:
        return False
    if not _SCALARS.issuperset(map(type, values)):
        for member in values:
            if type(member) not in _SCALARS and _is_odd(member):
                return True
    return False


def _plain(value: Any, inside: "dict[int, Any]") -> Any:
    """A copy in which the C encoder finds nothing to misread."""
    kind = type(value)
    if kind in _SCALARS or isinstance(value, (str, int, float)):
        return value
    as_dict = None if isinstance(value, bytes) else getattr(value, "_asdict", None)
    if not callable(as_dict) and not isinstance(value, (dict, list, tuple)):
        return value
    if id(value) in inside:
        raise ValueError("Circular reference detected")
    inside[id(value)] = value
    if callable(as_dict):
        members = as_dict()
        if not isinstance(members, dict):
            raise TypeError("_asdict() must return a dict, not %s" % type(members).__name__)
        copy: Any = {_key(k): _plain(v, inside) for k, v in members.items()}
    elif isinstance(value, dict):
        copy = {_key(k): _plain(v, inside) for k, v in value.items()}
    else:
        copy = [_plain(v, inside) for v in value]
    del inside[id(value)]
    return copy


def _key(key: Any) -> Any:
    return str(key, "utf-8") if isinstance(key, bytes) else key


_encoder = _Encoder()
to_json = _encoder.encode


def event_from(payload: "bytes | memoryview") -> Any:
    """The handler's first argument. Raises Fault (Runtime.UnmarshalError)."""
    try:
        text = str(payload, "utf-8")
        try:
            event, end = _scan(text, 0)
            if end == len(text):
                return event
        except (StopIteration, ValueError):
            pass
        # White space or a byte order mark around it, or an error to be told in full.
        return _decoder.decode(text.removeprefix("\ufeff"))
    except Exception as e:
        raise Fault("Runtime.UnmarshalError", "Unable to unmarshal input: %s" % e) from None


def payload_from(result: Any) -> "tuple[bytes | str, Optional[str]]":
    """Payload and content type of a handler's result; content type None is JSON, as text. Raises Fault (Runtime.MarshalError)."""
    if isinstance(result, bytes):
        return result, "application/unknown"
    try:
        return to_json(result), None
    except Exception as e:
        why = str(e)
        if why.startswith("keys must be"):
            # The encoder names the type with its module, AWS's without.
            head, _, kind = why.rpartition(" ")
            why = "%s %s" % (head, kind.rpartition(".")[2])
        raise Fault("Runtime.MarshalError", "Unable to marshal response: %s" % why) from None
