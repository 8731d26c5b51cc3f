"""Why a payload is not JSON, in the words that Lambda uses.

They are those of Jackson's parser of bytes (2.18 to 2.20): what it met, what it expected, line and column; recorded replies of the service have them.
Only payloads that were refused come here, and no large ones: this walks in Python, one token at a time.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import NoReturn

MAX_WALKED = 4 * 1024

_BREAK = re.compile(rb"\r\n?|\n")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f\x80-\xff]*')
_DIGITS = re.compile(rb"[0-9]*")
_VALUES = "(JSON String, Number, Array, Object or token 'null', 'true' or 'false')"
_LITERALS = {ord("n"): "null", ord("t"): "true", ord("f"): "false", ord("N"): "NaN", ord("I"): "Infinity"}
_NUMBER_STARTS = b"-0123456789"
_SPACES = b" \t\r\n"
_PLUS = "JSON spec does not allow numbers to have plus signs: enable `JsonReadFeature.ALLOW_LEADING_PLUS_SIGN_FOR_NUMBERS` to allow"
_COMMENT = "maybe a (non-standard) comment? (not recognized as one since Feature 'ALLOW_COMMENTS' not enabled for parser)"
# Leading byte of a character: mask, what is left by it, the bits it brings, how many bytes follow.
_LEADS = ((0xE0, 0xC0, 0x1F, 1), (0xF0, 0xE0, 0x0F, 2), (0xF8, 0xF0, 0x07, 3))
_STARTS = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Nl", "Sc", "Pc"})
_PARTS = _STARTS | {"Nd", "Mn", "Mc", "Cf"}
_MAX_TOKEN = 256


class _Found(Exception):
    """The message."""


class _Unsure(Exception):
    """It ends where Jackson's words are not known."""


@dataclass(slots=True)
class _Open:
    """An array or object that is not closed yet."""

    kind: str
    start: int
    entries: int = 0


def explain(payload: bytes, otherwise: str) -> str:
    """The fault of ``payload``; ``otherwise`` where it is too large to be walked or has none that Jackson would see."""
    if len(payload) > MAX_WALKED or b"\0" in payload[:4]:
        return otherwise
    try:
        _Walk(payload).run()
    except _Found as e:
        return str(e)
    except _Unsure:
        pass
    return otherwise


class _Walk:
    """``_at`` is behind the byte looked at, as Jackson's pointer is."""

    def __init__(self, payload: bytes) -> None:
        self._data = payload
        self._at = 3 if payload.startswith(b"\xef\xbb\xbf") else 0
        self._open: list[_Open] = []

    def run(self) -> None:
        """Raises _Found or _Unsure; returns when Jackson would be content."""
        roots = 0
        while (c := self._next()) is not None:
            if c in b"]}":
                self._close(c)
                continue
            if self._open:
                c = self._entry(self._open[-1], c)
            else:
                roots += 1
            if roots > 1 and c == ord('"'):
                raise _Unsure
            self._value(c)
            if roots > 1:
                raise _Unsure
        if self._open:
            last = self._open[-1]
            self._ended(f": expected close marker for {last.kind} (start marker at {self._where(last.start)})")

    def _entry(self, parent: _Open, c: int) -> int:
        """The first byte of the entry's value."""
        if parent.entries:
            if c != ord(","):
                self._unexpected(c, f"was expecting comma to separate {parent.kind} entries")
            c = self._between()
        parent.entries += 1
        if parent.kind != "Object":
            return c
        if c != ord('"'):
            self._unexpected(ord(self._decoded(c)), "was expecting double-quote to start field name")
        self._name()
        colon = self._between()
        if colon != ord(":"):
            self._unexpected(colon, "was expecting a colon to separate field name and value")
        return self._between()

    def _value(self, c: int) -> None:
        if c == ord('"'):
            self._string()
        elif c in _NUMBER_STARTS:
            self._number(c)
        elif c in b"[{":
            self._open.append(_Open("Array" if c == ord("[") else "Object", self._at - 1))
        elif c in _LITERALS:
            self._literal(_LITERALS[c])
        elif c in b",}" or (c == ord("]") and self._kind() == "Array"):
            self._unexpected(c, "expected a value")
        elif c == ord("+"):
            if self._peek() is None:
                raise _Unsure
            self._at += 1
            self._report(f"Unexpected character ({_described(c)}) in numeric value: {_PLUS}", back=1)
        elif _is(chr(c), _STARTS):
            self._bad_token(chr(c))
        else:
            self._unexpected(c, f"expected a valid value {_VALUES}")

    def _close(self, c: int) -> None:
        kind, other = ("Array", "}") if c == ord("]") else ("Object", "]")
        if not self._open:
            self._report(f"Unexpected close marker '{chr(c)}': no open {kind} to close", back=1)
        last = self._open.pop()
        if last.kind != kind:
            start = self._where(last.start)
            self._report(f"Unexpected close marker '{chr(c)}': expected '{other}' (for {last.kind} starting at {start})", back=1)

    def _literal(self, word: str) -> None:
        for done in range(1, len(word)):
            if self._peek() != ord(word[done]):
                self._bad_token(word[:done])
            self._at += 1
        after = self._peek()
        if after is not None and after >= ord("0") and after not in b"]}" and _is(self._decoded(after), _PARTS):
            self._bad_token(word)
        if word[0] in "NI":
            self._report(f"Non-standard token '{word}': enable `JsonReadFeature.ALLOW_NON_NUMERIC_NUMBERS` to allow")

    def _bad_token(self, token: str) -> NoReturn:
        """All of it is shown, up to the first character that no identifier has."""
        line_break = 0
        while (byte := self._peek()) is not None:
            self._at += 1
            character = self._decoded(byte)
            if not _is(character, _PARTS):
                line_break = int(character in "\r\n")
                break
            token += character
            if len(token) >= _MAX_TOKEN:
                token += "..."
                break
        self._report(f"Unrecognized token '{token}': was expecting {_VALUES}", uncounted=line_break)

    def _number(self, c: int) -> None:
        if c == ord("-"):
            if self._peek() == ord("."):
                self._at += 1
                self._unexpected(ord("."), f"expected a valid value {_VALUES}")
            c = self._digit("expected digit (0-9) to follow minus sign, for valid numeric value")
        if c == ord("0") and (self._peek() or 0) in b"0123456789":
            self._report("Invalid numeric value: Leading zeroes not allowed")
        self._digits()
        if self._peek() == ord("."):
            self._at += 1
            self._digit("Decimal point not followed by a digit")
            self._digits()
        if (self._peek() or 0) in b"eE":
            self._at += 1
            if (self._peek() or 0) in b"+-":
                self._at += 1
            self._digit("Exponent indicator not followed by a digit")
            self._digits()
        after = self._peek()
        if not self._open and after is not None and after not in _SPACES:
            self._at += 1
            self._unexpected(after, "Expected space separating root-level values")

    def _digit(self, comment: str) -> int:
        c = self._peek()
        if c is not None:
            self._at += 1
        elif self._data[self._at - 1] == ord("."):
            c = ord(".")
        else:
            raise _Unsure
        if c not in b"0123456789":
            self._report(f"Unexpected character ({_described(c)}) in numeric value: {comment}", back=1)
        return c

    def _digits(self) -> None:
        self._at += len(_DIGITS.match(self._data, self._at)[0])  # type: ignore[index]

    def _name(self) -> None:
        if self._peek() is None:
            self._ended(": was expecting closing '\"' for name")
        self._characters("name", " in field name")

    def _string(self) -> None:
        self._characters("string value", " in VALUE_STRING")

    def _characters(self, context: str, end: str) -> None:
        """To behind the closing quotation mark."""
        while True:
            self._at += len(_PLAIN.match(self._data, self._at)[0])  # type: ignore[index]
            c = self._peek()
            if c is None:
                self._ended(end)
            self._at += 1
            if c == ord('"'):
                return
            if c == ord("\\"):
                self._escape()
            elif c < ord(" "):
                why = f"has to be escaped using backslash to be included in {context}"
                self._report(f"Illegal unquoted character ({_described(c)}): {why}", back=1)
            else:
                self._character(c, context, end)

    def _character(self, c: int, context: str, end: str) -> None:
        try:
            self._decoded(c, end)
        except _Found:
            if context == "name":
                # Names are only decoded as a whole, four bytes at a time.
                raise _Unsure from None
            raise

    def _escape(self) -> None:
        end, c = " in character escape sequence", self._peek()
        if c is None:
            self._ended(end)
        self._at += 1
        if c in b'bfnrt"/\\':
            return
        if c != ord("u"):
            self._report(f"Unrecognized character escape {_described(ord(self._decoded(c)))}", back=1)
        for _ in range(4):
            digit = self._peek()
            if digit is None:
                self._ended(end)
            self._at += 1
            if digit not in b"0123456789abcdefABCDEF":
                self._unexpected(digit, "expected a hex-digit for character escape sequence")

    def _decoded(self, first: int, end: str = "") -> str:
        """The character that ``first`` begins; the bytes after it are taken. ``end``: what is said where there are too few."""
        if first < 0x80:
            return chr(first)
        bits, more = next(((bits, more) for mask, lead, bits, more in _LEADS if first & mask == lead), (0, 0))
        if not more:
            self._report(f"Invalid UTF-8 start byte 0x{first:x}")
        code = first & bits
        for _ in range(more):
            byte = self._peek()
            if byte is None:
                if not end:
                    raise _Unsure
                self._ended(end)
            self._at += 1
            if byte & 0xC0 != 0x80:
                self._report(f"Invalid UTF-8 middle byte 0x{byte:x}", uncounted=int(byte in b"\r\n"))
            code = code << 6 | byte & 0x3F
        return chr(code & 0xFFFF)

    def _peek(self) -> int | None:
        return self._data[self._at] if self._at < len(self._data) else None

    def _next(self) -> int | None:
        """The next byte that is no white space, or None at the end."""
        while (c := self._peek()) is not None:
            self._at += 1
            if c in _SPACES:
                continue
            if c <= ord(" "):
                only = "only regular white space (\\r, \\n, \\t) is allowed between tokens"
                self._report(f"Illegal character ({_described(c)}): {only}")
            if c == ord("/"):
                self._unexpected(c, _COMMENT)
            return c
        return None

    def _between(self) -> int:
        c = self._next()
        if c is None:
            self._ended(f" within/between {self._kind()} entries")
        return c

    def _kind(self) -> str:
        return self._open[-1].kind if self._open else "root"

    def _unexpected(self, c: int, comment: str) -> NoReturn:
        self._report(f"Unexpected character ({_described(c)}): {comment}", back=1)

    def _ended(self, where: str) -> NoReturn:
        self._report(f"Unexpected end-of-input{where}")

    def _report(self, message: str, back: int = 0, uncounted: int = 0) -> NoReturn:
        raise _Found(f"{message}\n at {self._where(self._at - back, uncounted)}")

    def _where(self, at: int, uncounted: int = 0) -> str:
        """``uncounted``: how many bytes before ``at`` begin no line."""
        breaks = list(_BREAK.finditer(self._data, 0, at - uncounted))
        return _source(1 + len(breaks), at + 1 - (breaks[-1].end() if breaks else 0))


def _source(line: int, column: int) -> str:
    return f"[Source: REDACTED (`StreamReadFeature.INCLUDE_SOURCE_IN_LOCATION` disabled); line: {line}, column: {column}]"


def _described(code: int) -> str:
    if code < ord(" ") or 0x7F <= code < 0xA0:
        return f"(CTRL-CHAR, code {code})"
    return f"'{chr(code)}' (code {code} / 0x{code:x})" if code > 0xFF else f"'{chr(code)}' (code {code})"


def _is(character: str, categories: frozenset[str]) -> bool:
    """Whether it may be in Java's identifiers: at their start with ``_STARTS``, behind it with ``_PARTS``."""
    ignorable = categories is _PARTS and (character < "\t" or "\x0e" <= character < "\x1c" or "\x7f" <= character < "\xa0")
    return ignorable or unicodedata.category(character) in categories
