"""Marks in trace headers: counted, bounded, and harmless whatever arrives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.core.lineage import MAX_MARKS, mark, met

TRACE = b"Root=1-5759e988-bd862e3fe1be46a994272793;Parent=557abcec3ee5a047;Sampled=1"
A, B = mark("000000000000", "a"), mark("000000000000", "b")


def test_a_function_is_counted_each_time_it_is_met() -> None:
    trace, count = met(TRACE, A)
    assert (trace, count) == (TRACE + b";Lineage=1:" + A + b":1", 1)
    trace, count = met(trace, B)
    assert (trace, count) == (TRACE + b";Lineage=1:" + A + b":1|1:" + B + b":1", 1)
    for n in range(2, 20):
        trace, count = met(trace, A)
        assert count == n
    assert met(trace, B)[1] == 2


def test_marks_tell_functions_and_accounts_apart() -> None:
    assert len({A, B, mark("111111111111", "a")}) == 3


def test_a_long_chain_of_different_functions_keeps_the_header_short() -> None:
    trace = TRACE
    for n in range(100):
        trace, count = met(trace, mark("000000000000", str(n)))
        assert count == 1
        assert len(trace) <= 255
    assert trace.count(b"|") == MAX_MARKS - 1


@given(st.binary(max_size=255))
def test_any_header_is_counted_once_and_read_back(header: bytes) -> None:
    trace, count = met(header, A)
    assert count >= 1
    assert met(trace, A)[1] == count + 1


def test_nonsense_in_the_lineage_is_dropped() -> None:
    assert met(b"Lineage=;Root=1", A) == (b"Root=1;Lineage=1:" + A + b":1", 1)
    assert met(b"Lineage=1:" + A + b":x|2|1:" + A + b":99999", A)[1] == 1
