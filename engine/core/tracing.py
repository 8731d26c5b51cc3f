"""Active tracing: which invocations are sampled, what their trace header says, and the segments that describe them. Pure.

Sources: docs.aws.amazon.com/lambda/latest/dg/services-xray.html (the first request of each second and five percent of the others are
sampled unless whoever called has decided; two segments per invocation) and docs.aws.amazon.com/xray/latest/devguide/
xray-api-segmentdocuments.html, xray-api-sendingdata.html (the datagram).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SHARE = 0.05
_DATAGRAM = b'{"format":"json","version":1}\n'


class Sampler:
    """Decides for whom nobody has: the first of each second, and a share of the others."""

    def __init__(self) -> None:
        self._second = -1

    def decide(self, epoch_s: int, draw: float) -> bool:
        """``draw``: uniform in [0, 1)."""
        if epoch_s != self._second:
            self._second = epoch_s
            return True
        return draw < SHARE


@dataclass(frozen=True, slots=True)
class Header:
    """A trace header: ``Root=1-…;Parent=…;Sampled=1;Lineage=…``. ``sampled`` is None where nobody has decided; ``more`` is handed on as it is."""

    root: str = ""
    parent: str = ""
    sampled: bool | None = None
    more: tuple[str, ...] = ()

    def text(self) -> str:
        """The header as it is sent on, by somebody who has decided."""
        return ";".join((f"Root={self.root}", f"Parent={self.parent}", f"Sampled={int(bool(self.sampled))}", *self.more))


def read(text: str) -> Header:
    """The parts of a header; what is not one, or says nothing of use, gives empty parts. ``Self`` is of no use further on."""
    found: dict[str, str] = {}
    more = []
    for part in text.split(";"):
        name, equals, value = part.strip().partition("=")
        if name in ("Root", "Parent", "Sampled"):
            found[name] = value
        elif equals and name != "Self":
            more.append(f"{name}={value}")
    sampled = {"1": True, "0": False}.get(found.get("Sampled", ""))
    return Header(found.get("Root", ""), found.get("Parent", ""), sampled, tuple(more))


@dataclass(frozen=True, slots=True)
class Told:
    """What there is to tell about a finished invocation. Times are epoch seconds; ``initialised_s`` is None for a warm one."""

    header: Header
    service_id: str
    caller_id: str
    request_id: str
    account: str
    name: str
    function_arn: str
    received_s: float
    started_s: float
    ended_s: float
    initialised_s: tuple[float, float] | None
    error_type: str | None


def segments(told: Told) -> list[dict[str, Any]]:
    """The service's segment, and the function's below it: the one that the function's own subsegments belong to."""
    shared = {"trace_id": told.header.root, "name": told.name}
    failed = {} if told.error_type is None else {"fault": True, "error": True}
    service = {
        **shared, **failed, "id": told.service_id, "start_time": told.received_s, "end_time": told.ended_s, "origin": "AWS::Lambda",
        "resource_arn": told.function_arn, "http": {"response": {"status": 200}},
        "aws": {"request_id": told.request_id, "resource_names": [told.name], "account_id": told.account, "function_arn": told.function_arn},
    }  # fmt: skip
    if told.caller_id:
        service["parent_id"] = told.caller_id
    below = []
    if told.initialised_s is not None:
        below.append({"name": "Initialization", "id": _id(told.service_id, 1), "start_time": told.initialised_s[0], "end_time": told.initialised_s[1]})
    cause = {} if told.error_type is None else {"cause": {"exceptions": [{"id": _id(told.service_id, 3), "type": told.error_type}]}}
    below.append(
        {"name": "Invocation", "id": _id(told.service_id, 2), "start_time": told.started_s, "end_time": told.ended_s, **failed, **cause}
    )
    function = {
        **shared, **failed, "id": told.header.parent, "parent_id": told.service_id, "start_time": told.started_s, "end_time": told.ended_s,
        "origin": "AWS::Lambda::Function", "resource_arn": told.function_arn,
        "aws": {"account_id": told.account, "function_arn": told.function_arn, "request_id": told.request_id}, "subsegments": below,
    }  # fmt: skip
    return [service, function]


def _id(of: str, number: int) -> str:
    """Another of a segment's ids: 16 hexadecimal digits."""
    return f"{int(of, 16) ^ number:016x}"


def datagram(segment: Mapping[str, Any]) -> bytes:
    """A segment as the daemon takes it."""
    return _DATAGRAM + json.dumps(segment, separators=(",", ":")).encode()
