"""What each real function is asked and what a right answer is."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

BUCKET = "real-functions"
TABLE = "real-functions"

Check = Callable[[Any], None]


@dataclass(frozen=True)
class Real:
    """``cases``: events with what checks their answers. ``settings`` are the function's. ``aws``: it calls other services."""

    name: str
    cases: tuple[tuple[Any, Check], ...]
    settings: dict[str, Any] = field(default_factory=dict)
    aws: bool = False


def equal(expected: Any) -> Check:
    def check(answer: Any) -> None:
        assert answer == expected

    return check


def _thumbnail(width: int, height: int, corner: list[int]) -> Check:
    def check(answer: Any) -> None:
        png = base64.b64decode(answer["png"])
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", png[16:24]) == (width, height)
        assert answer["size"] == [width, height]
        assert answer["centre"] == [255, 255, 255]
        assert answer["corner"] == corner

    return check


def _compression(text: str, times: int) -> Check:
    data = (text * times).encode()

    def check(answer: Any) -> None:
        assert answer["sha256"] == hashlib.sha256(data).hexdigest()
        assert answer["left"] == []
        assert sorted(answer["sizes"]) == ["bz2", "gzip", "lzma", "zlib"]
        assert all(0 < size < len(data) / 20 for size in answer["sizes"].values())

    return check


def _markdown(answer: Any) -> None:
    assert answer["headings"] == ["One", "Two"]
    assert '<h1 id="one">One</h1>' in answer["html"]
    assert "<strong>bold</strong> &amp; <code>x &lt; y</code>" in answer["html"]
    assert "<td>1</td>\n<td>2</td>" in answer["html"]


def _counted(answer: Any) -> None:
    assert type(answer["hits"]) is int
    assert answer["hits"] >= 1


def _signed(bits: int) -> Check:
    def check(answer: Any) -> None:
        assert (answer["valid"], answer["forged"]) == (True, False)
        assert int(answer["modulus"]).bit_length() in (2 * bits - 1, 2 * bits)

    return check


_BODY = {"n": [1, 2.5, None], "text": "é€😀"}
_RECORDS = [
    {"region": "north", "name": "a", "amount": "1.10", "at": "2026-01-02T10:00:00+00:00"},
    {"region": "south", "name": "b", "amount": "5", "at": "2026-01-02T10:00:00+00:00"},
    {"region": "north", "name": "c", "amount": "2.20", "at": "2026-01-03T00:00:00+00:00"},
]

REAL = (
    Real(
        "thumbnail",
        (
            ({"width": 640, "height": 480, "colour": "#ff0000", "most": 64}, _thumbnail(64, 48, [255, 0, 0])),
            ({"width": 100, "height": 300, "colour": "blue", "most": 30}, _thumbnail(10, 30, [0, 0, 255])),
        ),
    ),
    Real(
        "invoice",
        (
            (
                {
                    "customer": "Tom & <Jerry>",
                    "items": [{"name": "tea", "price": 2.5, "count": 3}, {"name": "cup", "price": 4, "count": 1}],
                },
                equal("<h1>Tom &amp; &lt;Jerry&gt;</h1><p>tea: 7.50</p><p>cup: 4.00</p><b>11.50</b>"),
            ),
            ({"customer": "", "items": []}, equal("<h1></h1><p>nothing</p><b>0.00</b>")),
        ),
    ),
    Real(
        "linear_algebra",
        (
            (
                {"matrix": [[2, 1], [1, 3]], "right": [3, 5]},
                equal({"solution": [0.8, 1.4], "determinant": 5.0, "eigenvalues": [1.381966011, 3.618033989]}),
            ),
            ({"matrix": [[4]], "right": [2]}, equal({"solution": [0.5], "determinant": 4.0, "eigenvalues": [4.0]})),
        ),
        {"MemorySize": 512},
    ),
    Real("markdown_page", (({"text": "# One\n\n**bold** & `x < y`\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n# Two\n"}, _markdown),)),
    Real("compression", (({"text": "to be or not to be, ", "times": 2000}, _compression("to be or not to be, ", 2000)),)),
    Real(
        "s3_copy",
        (({"bucket": BUCKET, "prefix": "a/ü-", "body": _BODY}, equal({"body": _BODY, "own": True, "found": True})),),
        {"MemorySize": 256, "Timeout": 60},
        aws=True,
    ),
    Real(
        "counter",
        (({"name": "x"}, _counted),),
        {"MemorySize": 256, "Timeout": 60, "Environment": {"Variables": {"TABLE": TABLE}}},
        aws=True,
    ),
    Real("signing", (({"bits": 256, "text": "hello"}, _signed(256)), ({"bits": 128, "text": ""}, _signed(128)))),
    Real(
        "json_transform",
        (
            (
                {"records": _RECORDS},
                equal(
                    {
                        "north": {"count": 2, "total": 3.3, "days": ["2026-01-02", "2026-01-03"], "best": "c"},
                        "south": {"count": 1, "total": 5, "days": ["2026-01-02"], "best": "b"},
                    }
                ),
            ),
            ({"records": []}, equal({})),
        ),
    ),
    Real(
        "yaml_config",
        (
            (
                {"text": "a: {b: 1, c: [x]}\n---\na: {b: 2}\nd: true\n"},
                equal({"value": {"a": {"b": 2, "c": ["x"]}, "d": True}, "yaml": "a:\n  b: 2\n  c:\n  - x\nd: true\n", "c": True}),
            ),
        ),
    ),
    Real(
        "orders",
        (
            (
                {"customer": "c", "lines": [{"article": "a", "count": 3, "price": "1.25"}]},
                equal({"total": 3.75, "order": {"customer": "c", "lines": [{"article": "a", "count": 3, "price": "1.25"}]}}),
            ),
            (
                {"customer": 1, "lines": [{"article": "", "count": 0, "price": "x"}], "more": 1},
                equal(
                    {
                        "errors": [
                            ["customer", "string_type"],
                            ["lines.0.article", "string_too_short"],
                            ["lines.0.count", "greater_than"],
                            ["lines.0.price", "decimal_parsing"],
                            ["more", "extra_forbidden"],
                        ]
                    }
                ),
            ),
        ),
        {"MemorySize": 256},
    ),
    Real(
        "ledger",
        (({"amounts": [5, -2, 4]}, equal({"rows": [[5, 5], [-2, 3], [4, 7]], "refused": "CHECK constraint failed: amount != 0"})),),
    ),
)
