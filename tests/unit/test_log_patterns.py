"""Filter patterns of log groups."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.log_patterns import InvalidLogPattern, parse


@pytest.mark.parametrize(
    ("pattern", "message", "wanted"),
    [
        ("", "anything", True), ("  ", "", True), ("ERROR", "an ERROR here", True), ("ERROR", "an error here", False),
        ("ERROR bad", "bad ERROR", True), ("ERROR bad", "ERROR", False), ('"two words"', "has two words", True), ('"two words"', "words two", False),
        ("?a ?b", "xbx", True), ("?a ?b", "xyz", False), ("ERROR -exit", "ERROR exit", False), ("ERROR -exit", "ERROR", True),
        ('-"no way"', "no way", False), ('-"no way"', "way no", True), ("ERROR ?b", "ERROR", True), (r'"say \"hi\""', 'they say "hi"', True),
    ],
)  # fmt: skip
def test_words(pattern, message, wanted):
    assert parse(pattern)(message) is wanted


EVENT = {"level": "error", "ms": 12.5, "user": {"name": "ada", "gone": None}, "tags": ["x", "y"], "ok": True}


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ('{ $.level = "error" }', True), ('{$.level="warn"}', False), ('{ $.level != "warn" }', True), ("{ $.level = err* }", True),
        ("{ $.ms > 12 }", True), ("{ $.ms <= 12 }", False), ("{ $.ms = 12.5 && $.user.name = ada }", True), ("{ $.ms = 1 || $.user.name = ada }", True),
        ("{ $.ms = 1 || $.user.name = bob }", False), ('{ ($.ms = 12.5) && ($.tags[1] = "y") }', True), ("{ $.user.gone IS NULL }", True),
        ("{ $.user.name IS NULL }", False), ("{ $.no NOT EXISTS }", True), ("{ $.user.gone NOT EXISTS }", False), ("{ $.ok IS TRUE }", True),
        ("{ $.ok IS FALSE }", False), ("{ $.ok = 1 }", False), ('{ $.level = "a || b" || $.ms = 12.5 }', True),
    ],
)  # fmt: skip
def test_members(pattern, wanted):
    test = parse(pattern)
    assert test(json.dumps(EVENT)) is wanted
    assert test("no JSON") is False
    assert test('"a text"') is False


APACHE = '127.0.0.1 - frank [10/Oct/2000:13:25:15 -0700] "GET /a/b.html HTTP/1.0" 404 1534'
PRINTED = "2026-01-02T03:04:05.678Z\t01234567-89ab-cdef-0123-456789abcdef\tINFO\tit went well\n"


@pytest.mark.parametrize(
    ("pattern", "message", "wanted"),
    [
        ("[a, b]", "one two", True), ("[a, b]", "one two three", True), ("[a, b]", "one", False), ("[a, b]", "", False),
        ("[a=one, b]", "one two", True), ("[a=one, b]", "two one", False), ("[a, b=two]", "one two three", False), ('[a, b="two three"]', "one two three", True),
        ("[ip, id, user, time, request = *.html*, status = 4*, bytes > 1000]", APACHE, True), ("[ip, id, user, time, request, status, bytes > 2000]", APACHE, False),
        ("[ip, id, user, time = 10/Oct*, request, status, bytes]", APACHE, True), ("[..., status = 404 || status = 410, bytes]", APACHE, True),
        ("[..., status = 401 || status = 410, bytes]", APACHE, False), ("[ip = %^127%, ...]", APACHE, True),
        ("[ip, ..., bytes = 1534]", APACHE, True), ("[a, ..., b, c]", "one two", False), ("[..., status != 404, bytes]", APACHE, False),
        ('[time=*Z, id="*-*", event]', PRINTED, True), ('[time=*Z, id="*-*", level=INFO, event=*well]', PRINTED, True), ('[time=*Z, id="*-*", event]', "END RequestId: x\n", False),
        ("[w = ERROR || w = WARN, rest]", "WARN of it", True), ("[w != ERROR && w != WARN, rest]", "WARN of it", False), ("[(w = a || w = b) && w != b, rest]", "a b", True),
        ("[n > 5]", "x", False), ("[n = 5]", "5.0", True), ('[a = "x,y", b]', "x,y z", True),
    ],
)  # fmt: skip
def test_columns(pattern, message, wanted):
    assert parse(pattern)(message) is wanted


@pytest.mark.parametrize(
    ("pattern", "message", "wanted"),
    [
        ("%[0-9]+ ms%", "took 12 ms", True), ("%[0-9]+ ms%", "took ms", False), ("%^took% ms", "took 12 ms", True), ("-%[0-9]%", "took 12 ms", False),
        ("?%^x% ?12", "took 12 ms", True), (r"%[[\]&&]x%", "[x", True), (r"%[[\]&&]x%", "]x", True), ("%[a||b]x%", "|x", True), ("%[^[]x%", "[x", False), ("%[(]x[)]%", "(x)", True), (r"%\\[[a]%", "\\[", True), (r"%\(x%", "(x", True), (r"%\d{2}%", "took 12 ms", True), ("{ $.level = %^err% }", '{"level": "error"}', True),
        ("{ $.level != %^err% }", '{"level": "error"}', False), ("{ ($.a = 1 || $.b = 2) && $.c = 3 }", '{"b": 2, "c": 3}', True),
        ("{ ($.a = 1 || $.b = 2) && $.c = 3 }", '{"a": 1, "b": 2}', False), ("{ $.a = 1 || $.b = 2 && $.c = 3 }", '{"a": 1}', True),
    ],
)  # fmt: skip
def test_regular_expressions_and_brackets(pattern, message, wanted):
    assert parse(pattern)(message) is wanted


@pytest.mark.parametrize("pattern", ["[a, b", "[]", "[a, , b]", "[..., a, ...]", "[a = 1 || b = 2]", "[a > x]", "[a b]", "[a = b%c%]", "[(a = 1]", "%(x)%", "%[%", "%a{99999999999}%", "%[a--]%", "%a**%", "{ ($.a = 1 }", "[" + "(" * 40 + "a=1" + ")" * 40 + "]", '"open', "{ level = 1 }", "{ $.a > x }", "{ $.a }", "{}"])
def test_what_is_not_understood(pattern):
    with pytest.raises(InvalidLogPattern):
        parse(pattern)


@settings(deadline=None)
@given(text=st.text(alphabet='[]{}()\\"%&|~-^=!<>$.,*?+ a0', max_size=20), around=st.sampled_from(["{}", "[{}]", "{{{}}}", "%{}%"]))
def test_any_text_is_a_pattern_or_is_refused(text, around):
    with contextlib.suppress(InvalidLogPattern):
        assert parse(around.format(text))('{"a": "x [y] 5"}') in (True, False)
