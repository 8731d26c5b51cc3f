"""Loops of functions that call each other, seen in the trace header that AWS's SDKs pass on.

A header that arrives with an invocation gets the function's mark and how often it has been met on the way:
``Lineage=1:<mark>:<count>|1:<mark>:<count>``. Invocations without a header start a chain and pay nothing.
Source: docs.aws.amazon.com/lambda/latest/dg/invocation-recursion.html (a chain ends after about 16 invocations of one function; the
layout is AWS's as seen in the wild, its first number is not documented).
"""

from __future__ import annotations

import hashlib

# The invocation that starts a chain is not counted: with it these are the 16.
MAX_MET = 15
# A function that is not seen among the last so many others of a chain is not taken for part of a loop: the header has room for no more.
MAX_MARKS = 10
_MEMBER = b"Lineage="


def mark(account: str, name: str) -> bytes:
    """Eight hexadecimal digits for a function."""
    return hashlib.sha256(f"{account}:{name}".encode()).hexdigest()[:8].encode()


def met(trace: bytes, own: bytes) -> tuple[bytes, int]:
    """The trace header to hand on, and how often the function marked ``own`` was met in it, this time included."""
    parts = [part for part in trace.split(b";") if part]
    found = next((part for part in parts if part.startswith(_MEMBER)), None)
    marks: dict[bytes, int] = {}
    if found is not None:
        parts.remove(found)
        for entry in found[len(_MEMBER) :].split(b"|"):
            fields = entry.split(b":")
            if len(fields) == 3 and fields[2].isdigit() and len(fields[2]) <= 4:
                marks[fields[1][:8]] = int(fields[2])
    count = marks.pop(own, 0) + 1
    marks[own] = count
    kept = list(marks.items())[-MAX_MARKS:]
    lineage = _MEMBER + b"|".join(b"1:%b:%d" % entry for entry in kept)
    return b";".join((*parts, lineage)), count
