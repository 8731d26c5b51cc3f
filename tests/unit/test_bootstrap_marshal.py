"""What a handler's result becomes, and what its event was: against a model of the rules that was observed on AWS's own client."""

from __future__ import annotations

import collections
import decimal
import enum
import json
import math
import re
import sys
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime_bootstrap.python import marshal
from runtime_bootstrap.python.faults import Fault

D = decimal.Decimal


def shown(value: object) -> str:
    """The same in every process, so that runs can be compared and shared out."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


class Point(NamedTuple):
    x: Any
    y: Any


class Colour(enum.IntEnum):
    RED = 1


class Word(str, enum.Enum):  # noqa: UP042 - what Python 3.9 code has
    HI = "hi"


class Whole(int):
    def __repr__(self) -> str:
        return "mine"


class Fraction(float):
    def __repr__(self) -> str:
        return "mine"


class Row(dict):
    pass


class Pair(tuple):
    __slots__ = ()


class Record:
    def _asdict(self) -> dict[str, Any]:
        return {"z": [Point(1, b"2")]}


class ListRecord(list):
    def _asdict(self) -> dict[str, Any]:
        return {"n": len(self)}


class Broken:
    def _asdict(self) -> int:
        return 3


def encoded(result: Any) -> str:
    payload, content_type = marshal.payload_from(result)
    assert content_type is None
    assert isinstance(payload, str)
    return payload


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0, "0"),
        (10**30, "1" + "0" * 30),
        (1.0, "1.0"),
        (1e22, "1e+22"),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (-math.inf, "-Infinity"),
        ("", '""'),
        ('"\\/<\n\x00\x1f', '"\\"\\\\/<\\n\\u0000\\u001f"'),
        ([], "[]"),
        ((), "[]"),
        ({}, "{}"),
        ([1, "a", None], '[1, "a", null]'),
        ({"a": 1, "b": [2]}, '{"a": 1, "b": [2]}'),
        ((1, (2,)), "[1, [2]]"),
        ({1: 1, 1.5: 2, None: 3, False: 4}, '{"1": 1, "1.5": 2, "null": 3, "false": 4}'),
        ({math.nan: 1, math.inf: 2, -math.inf: 3}, '{"NaN": 1, "Infinity": 2, "-Infinity": 3}'),
        (Colour.RED, "1"),
        ({Colour.RED: Colour.RED}, '{"1": 1}'),
        (Word.HI, '"hi"'),
        ({Word.HI: Word.HI}, '{"hi": "hi"}'),
        (Whole(7), "7"),
        (Fraction(1.5), "1.5"),
        (Row(a=1), '{"a": 1}'),
        (collections.OrderedDict(b=1, a=2), '{"b": 1, "a": 2}'),
        (collections.Counter("aab"), '{"a": 2, "b": 1}'),
        (Pair((1, 2)), "[1, 2]"),
        (Point(1, [Point(2, None)]), '{"x": 1, "y": [{"x": 2, "y": null}]}'),
        ([{"deep": (Point(1, 2),)}], '[{"deep": [{"x": 1, "y": 2}]}]'),
        (Record(), '{"z": [{"x": 1, "y": "2"}]}'),
        ([Record()], '[{"z": [{"x": 1, "y": "2"}]}]'),
        (ListRecord([1, 2]), '{"n": 2}'),
        ({"a": b"x\xc3\xa9"}, '{"a": "x\\u00e9"}' if sys.version_info < (3, 12) else '{"a": "xé"}'),
        ({b"k": 1}, '{"k": 1}'),
        ([{b"k": b"v"}], '[{"k": "v"}]'),
        (D("1.10"), "1.10"),
        ([D("1E+2"), D("-0"), D("NaN"), D("sNaN"), D("-Infinity"), D("0.1")], "[1E+2, -0, NaN, NaN, -Infinity, 0.1]"),
        ({"price": D("12.340"), "text": "12.340"}, '{"price": 12.340, "text": "12.340"}'),
        (D("123456789012345678901234567890.123456789"), "123456789012345678901234567890.123456789"),
        (Point(D("1.0"), b"b"), '{"x": 1.0, "y": "b"}'),
    ],
    ids=shown,
)
def test_results(result: Any, text: str) -> None:
    assert encoded(result) == text


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ({1, 2}, "Object of type set is not JSON serializable"),
        ({"a": {"b": [object()]}}, "Object of type object is not JSON serializable"),
        (iter([]), "Object of type list_iterator is not JSON serializable"),
        (bytearray(b"x"), "Object of type bytearray is not JSON serializable"),
        (collections.deque(), "Object of type deque is not JSON serializable"),
        ({}.keys(), "Object of type dict_keys is not JSON serializable"),
        (3 + 4j, "Object of type complex is not JSON serializable"),
        (collections.UserDict(a=1), "Object of type UserDict is not JSON serializable"),
        ({(1, 2): 1}, "keys must be str, int, float, bool or None, not tuple"),
        ({D(1): 1}, "keys must be str, int, float, bool or None, not Decimal"),
        ({b"\xff": 1}, "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        ([b"\xff"], "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (Broken(), "_asdict() must return a dict, not int"),
    ],
    ids=shown,
)
def test_results_that_cannot_be_encoded(result: Any, why: str) -> None:
    with pytest.raises(Fault) as raised:
        marshal.payload_from(result)
    assert raised.value.error_type == "Runtime.MarshalError"
    assert raised.value.message == f"Unable to marshal response: {why}"
    assert encoded([1]) == "[1]", "the encoder is usable again"


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: Point(x, 1), lambda x: {b"k": x}, lambda x: Record() and [D(1), x]])
def test_circles_and_depth(wrap: Any) -> None:
    circle: list[Any] = []
    circle.append(wrap(circle))
    with pytest.raises(Fault, match="Circular reference detected"):
        marshal.payload_from(circle)
    deep: Any = []
    for _ in range(200_000):
        deep = [deep]
    with pytest.raises(Fault, match="maximum recursion depth exceeded"):
        marshal.payload_from(wrap(deep))
    while deep:  # taken apart by hand: freeing it whole would recurse too
        deep = deep.pop()
    assert encoded(circle[:0]) == "[]"


def test_a_container_may_occur_twice() -> None:
    shared = {"a": 1}
    assert encoded([shared, shared]) == '[{"a": 1}, {"a": 1}]'
    assert encoded([Point(shared, shared), shared]) == '[{"x": {"a": 1}, "y": {"a": 1}}, {"a": 1}]'


@pytest.mark.skipif(sys.version_info < (3, 11), reason="prints integers of any length")
def test_a_result_that_failed_may_be_mended_and_given_again() -> None:
    result: dict[Any, Any] = {"n": 10**5000}
    for _ in range(2):
        with pytest.raises(Fault, match="integer string conversion"):
            marshal.payload_from(result)
    result["n"] = 1
    assert marshal.payload_from(result) == ('{"n": 1}', None)
    result[b"k"] = 2
    assert marshal.payload_from(result) == ('{"n": 1, "k": 2}', None)


def test_what_is_escaped_depends_on_the_version() -> None:
    text = "\x7fé\u2028\U0001f600"
    escaped = '"\\u007f\\u00e9\\u2028\\ud83d\\ude00"'
    assert encoded(text) == (escaped if sys.version_info < (3, 12) else f'"{text}"')


def test_bytes_pass_as_they_are() -> None:
    assert marshal.payload_from(b"\x00\xff") == (b"\x00\xff", "application/unknown")


def test_patching_json_does_not_reach_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json.JSONEncoder, "default", lambda self, o: "patched")
    monkeypatch.setattr(json.JSONEncoder, "encode", lambda self, o: "patched")
    assert encoded({"a": 1}) == '{"a": 1}'
    with pytest.raises(Fault, match="set is not JSON"):
        marshal.payload_from({1})


def _ascii_rule(text: str) -> str:
    """simplejson's escapes: with ensure_ascii before 3.12, only the necessary ones from then on."""
    if sys.version_info < (3, 12):
        return json.dumps(text)
    return json.dumps(text, ensure_ascii=False)


def model(value: Any) -> str:
    """The rules, spelled out."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, bytes):
        return _ascii_rule(value.decode())
    if isinstance(value, str):
        return _ascii_rule(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        return float.__repr__(value).replace("inf", "Infinity")
    if isinstance(value, D):
        return "NaN" if value.is_nan() else str(value)
    if isinstance(value, Point):
        value = value._asdict()
    if isinstance(value, dict):
        members = []
        for key, member in value.items():
            name = key.decode() if isinstance(key, bytes) else key if isinstance(key, str) else model(key)
            members.append(f"{_ascii_rule(name)}: {model(member)}")
        return "{" + ", ".join(members) + "}"
    return "[" + ", ".join(map(model, value)) + "]"


def _distinct(members: dict[Any, Any]) -> bool:
    """No two keys with one text: what then happens is nobody's promise."""
    return len({k.decode() if isinstance(k, bytes) else k if isinstance(k, str) else model(k) for k in members}) == len(members)


texts = st.text(st.characters(codec="utf-8"), max_size=12)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), texts, texts.map(str.encode), st.decimals(), st.sampled_from(list(Colour))
)
keys = st.one_of(texts, texts.map(str.encode), st.integers(), st.floats(allow_nan=False), st.none(), st.booleans())
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=4).filter(_distinct),
        st.builds(Point, inner, inner),
    ),
    max_leaves=20,
)


@given(values)
def test_every_result_follows_the_rules(value: Any) -> None:
    assert encoded([value]) == model([value])


@given(st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), texts), lambda i: st.lists(i) | st.dictionaries(texts, i)))
def test_plain_values_come_back_as_they_went(value: Any) -> None:
    assert marshal.event_from(encoded(value).encode()) == value


@pytest.mark.parametrize("body", [b'{"a": [1, 2.5, "x"]}', b'\xef\xbb\xbf{"a": [1, 2.5, "x"]}', memoryview(b' {"a": [1, 2.5, "x"]}\n')])
def test_events(body: Any) -> None:
    assert marshal.event_from(body) == {"a": [1, 2.5, "x"]}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b"nul", "Expecting value: line 1 column 1 (char 0)"),
        (b"\xff", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"[" * 200_000, "maximum recursion depth exceeded while decoding a JSON array from a unicode string"),
        (b"1" * 5000, "Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits"),
    ],
    ids=["empty", "word", "not UTF-8", "deep", "long number"],
)
def test_events_that_cannot_be_decoded(body: bytes, why: str) -> None:
    with pytest.raises(Fault) as raised:
        marshal.event_from(body)
    assert raised.value.error_type == "Runtime.UnmarshalError"
    assert raised.value.message.startswith(f"Unable to unmarshal input: {why}")
