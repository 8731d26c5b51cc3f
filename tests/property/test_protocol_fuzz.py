"""Whatever a stranger sends, the protocol answers with an AwsError or with params; it never falls over."""

from __future__ import annotations

import json
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import AwsError
from engine.protocol import faults
from engine.protocol.model import load
from engine.protocol.parse import parse_request
from engine.protocol.router import Router
from engine.protocol.validate import validate

MODEL = load()
ROUTER = Router(MODEL)
NAMES = MODEL.operation_names()
METHODS = st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD", "PATCH", ""])
BYTES = st.binary(max_size=60).map(lambda raw: raw.decode("latin-1"))
SEGMENTS = sorted({segment for name in NAMES for segment in MODEL.route(name)[1].split("/")})
PATHS = BYTES | st.lists(st.sampled_from(SEGMENTS) | BYTES, max_size=7).map(lambda parts: "/" + "/".join(parts))
QUERY = BYTES | st.lists(st.tuples(st.sampled_from(["List", "find", "MaxItems", "tagKeys", "StartedAfter"]), BYTES)).map(
    lambda pairs: "&".join(f"{k}={v}" for k, v in pairs)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=15,
)


@settings(max_examples=500, deadline=None)
@given(method=METHODS, path=PATHS, query=QUERY)
def test_any_path_is_routed_or_unknown(method: str, path: str, query: str) -> None:
    with suppress(AwsError):
        match = ROUTER.match(method, path, query)
        assert match.operation in NAMES
        assert all(match.uri.values())


@settings(max_examples=500, deadline=None)
@given(name=st.sampled_from(NAMES), body=st.binary(max_size=80), query=QUERY, uri=st.dictionaries(BYTES, BYTES, max_size=3))
def test_any_bytes_parse_or_are_refused(name: str, body: bytes, query: str, uri: dict[str, str]) -> None:
    check(name, uri, query, {}, body)


@settings(max_examples=1000, deadline=None)
@given(data=st.data(), name=st.sampled_from([n for n in NAMES if MODEL.operation(n).input is not None]))
def test_any_json_in_known_members_parses_or_is_refused(data: st.DataObject, name: str) -> None:
    shape = MODEL.operation(name).input
    members = [member.wire_name for member in shape.members.values()] or ["x"]
    document = data.draw(st.dictionaries(st.sampled_from(members), JSON, max_size=5))
    fields = {member.lower(): data.draw(BYTES) for member in members[:3]}
    check(name, {member: data.draw(BYTES) for member in members[:3]}, "", fields, json.dumps(document).encode())


def check(name: str, uri: dict[str, str], query: str, headers: dict[str, str], body: bytes) -> None:
    operation = MODEL.operation(name)
    try:
        validate(operation, parse_request(operation, uri, query, headers, body))
    except AwsError as e:
        response = faults.render(e)
        assert 400 <= response.status < 500
        assert isinstance(json.loads(response.body), dict)
