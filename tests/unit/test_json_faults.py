"""What is said about payloads that are no JSON. The expectations are what Jackson 2.19 says about the same bytes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.json_faults import MAX_WALKED, explain

VALUES = "(JSON String, Number, Array, Object or token 'null', 'true' or 'false')"
SOURCE = "[Source: REDACTED (`StreamReadFeature.INCLUDE_SOURCE_IN_LOCATION` disabled); line: {}, column: {}]"
NAME = "was expecting double-quote to start field name"
ENDED = "Unexpected end-of-input"
QUOTED = "has to be escaped using backslash to be included in"


@pytest.mark.parametrize(
    ("payload", "fault", "line", "column"),
    [
        (b"n\x87r\x9e\xe9\xb5\xd7I\xee\x9bmt", "Invalid UTF-8 start byte 0x87", 1, 3),
        (b"\x99\xeb,j\x07\xa1zYh", f"Unexpected character ((CTRL-CHAR, code 153)): expected a valid value {VALUES}", 1, 1),
        (b"test", f"Unrecognized token 'test': was expecting {VALUES}", 1, 5),
        (b"file://x", f"Unrecognized token 'file': was expecting {VALUES}", 1, 6),
        (b"[\n nll\n]", f"Unrecognized token 'nll': was expecting {VALUES}", 2, 6),
        (b"trueish", f"Unrecognized token 'trueish': was expecting {VALUES}", 1, 8),
        (b"x" * 300, f"Unrecognized token '{'x' * 256}...': was expecting {VALUES}", 1, 257),
        (b'{"a":1}x', f"Unrecognized token 'x': was expecting {VALUES}", 1, 9),
        (b"NaN", "Non-standard token 'NaN': enable `JsonReadFeature.ALLOW_NON_NUMERIC_NUMBERS` to allow", 1, 4),
        (b"<xml/>", f"Unexpected character ('<' (code 60)): expected a valid value {VALUES}", 1, 1),
        (b"{bad", f"Unexpected character ('b' (code 98)): {NAME}", 1, 2),
        (b"{'a':1}", f"Unexpected character (''' (code 39)): {NAME}", 1, 2),
        (b'{"a":1,}', f"Unexpected character ('}}' (code 125)): {NAME}", 1, 8),
        ("{\u20ac".encode(), f"Unexpected character ('\u20ac' (code 8364 / 0x20ac)): {NAME}", 1, 4),
        (b'{"a" 1}', "Unexpected character ('1' (code 49)): was expecting a colon to separate field name and value", 1, 6),
        (b'{"a":1\r\n"b":2}', "Unexpected character ('\"' (code 34)): was expecting comma to separate Object entries", 2, 1),
        (b"[1 2]", "Unexpected character ('2' (code 50)): was expecting comma to separate Array entries", 1, 4),
        (b"[1,]", "Unexpected character (']' (code 93)): expected a value", 1, 4),
        (b'{"a":}', "Unexpected character ('}' (code 125)): expected a value", 1, 6),
        (b"// x", "Unexpected character ('/' (code 47)): maybe a (non-standard) comment? (not recognized as one since Feature 'ALLOW_COMMENTS' not enabled for parser)", 1, 1),
        (b"{", f"{ENDED}: expected close marker for Object (start marker at {SOURCE.format(1, 1)})", 1, 2),
        (b'[\n{"a":[1', f"{ENDED}: expected close marker for Array (start marker at {SOURCE.format(2, 6)})", 2, 8),
        (b'{"a":', f"{ENDED} within/between Object entries", 1, 6),
        (b'"abc', f"{ENDED} in VALUE_STRING", 1, 5),
        (b'"\xe2\x82', f"{ENDED} in VALUE_STRING", 1, 4),
        (b'{"', f"{ENDED}: was expecting closing '\"' for name", 1, 3),
        (b'{"a', f"{ENDED} in field name", 1, 4),
        (b'"\\', f"{ENDED} in character escape sequence", 1, 3),
        (b'"\\u1', f"{ENDED} in character escape sequence", 1, 5),
        (b'"\\q"', "Unrecognized character escape 'q' (code 113)", 1, 3),
        (b'"\\u12g4"', "Unexpected character ('g' (code 103)): expected a hex-digit for character escape sequence", 1, 6),
        (b'"a\nb"', f"Illegal unquoted character ((CTRL-CHAR, code 10)): {QUOTED} string value", 1, 3),
        (b'{"a\tb":1}', f"Illegal unquoted character ((CTRL-CHAR, code 9)): {QUOTED} name", 1, 4),
        (b"\x01", "Illegal character ((CTRL-CHAR, code 1)): only regular white space (\\r, \\n, \\t) is allowed between tokens", 1, 2),
        (b'{"k":"\xc3"}', "Invalid UTF-8 middle byte 0x22", 1, 9),
        (b"]", "Unexpected close marker ']': no open Array to close", 1, 1),
        (b"[}", f"Unexpected close marker '}}': expected ']' (for Array starting at {SOURCE.format(1, 1)})", 1, 2),
        (b"01", "Invalid numeric value: Leading zeroes not allowed", 1, 2),
        (b"--1", "Unexpected character ('-' (code 45)) in numeric value: expected digit (0-9) to follow minus sign, for valid numeric value", 1, 2),
        (b"-.5", f"Unexpected character ('.' (code 46)): expected a valid value {VALUES}", 1, 2),
        (b"+1", "Unexpected character ('+' (code 43)) in numeric value: JSON spec does not allow numbers to have plus signs: enable `JsonReadFeature.ALLOW_LEADING_PLUS_SIGN_FOR_NUMBERS` to allow", 1, 2),
        (b"1.", "Unexpected character ('.' (code 46)) in numeric value: Decimal point not followed by a digit", 1, 2),
        (b"1.5e+x", "Unexpected character ('x' (code 120)) in numeric value: Exponent indicator not followed by a digit", 1, 6),
        (b"1x", "Unexpected character ('x' (code 120)): Expected space separating root-level values", 1, 2),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_place(payload: bytes, fault: str, line: int, column: int) -> None:
    assert explain(payload, "unknown") == f"{fault}\n at {SOURCE.format(line, column)}"


@pytest.mark.parametrize("payload", [b"", b" ", b"1 2", b'1 "', b"+", b"-", b"1e", b"\0\0", b'{"\xff":1}', b"{\xc3", b"[" * (MAX_WALKED + 1)])
def test_where_those_words_are_not_known_it_is_the_other_text(payload: bytes) -> None:
    assert explain(payload, "unknown") == "unknown"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20), st.booleans(), st.sampled_from([None, 1]))  # fmt: skip
def test_json_has_no_fault(document: object, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
    assert explain(text.encode("utf-8", "replace"), "none") == "none"


@given(st.binary(max_size=64) | st.text(alphabet='{}[],:"\\ \n-+.eE01tfnu', max_size=24).map(str.encode))
def test_any_bytes_are_walked_to_an_end(payload: bytes) -> None:
    assert explain(payload, "none")
