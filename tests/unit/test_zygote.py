"""In which order a zygote signals sandboxes, where that is how they are frozen."""

from __future__ import annotations

import signal
import socket

import pytest

from engine.sandbox.zygote import Zygote

STOP, GO_ON = signal.SIGSTOP, signal.SIGCONT


def test_of_two_signals_the_second_waits_until_the_first_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as control:
        zygote = Zygote(control, {})
        given: list[tuple[int, int]] = []
        there = {1, 2}

        def give(holder_id: int, number: int, _then: str) -> bool:
            if holder_id in there:
                given.append((holder_id, number))
            return holder_id in there

        monkeypatch.setattr(zygote, "_signal_all", give)
        zygote._signal_in_turn(1, STOP)
        zygote._signal_in_turn(1, GO_ON)
        zygote._signal_in_turn(2, STOP)
        assert given == [(1, STOP), (2, STOP)]
        zygote._signalled(1)
        assert given[2:] == [(1, GO_ON)]
        for number in (STOP, GO_ON, STOP):
            zygote._signal_in_turn(1, number)
        zygote._signalled(1)
        assert given[3:] == [(1, STOP)], "what was overtaken need not be given"
        zygote._signalled(1)
        there.clear()
        zygote._signal_in_turn(1, GO_ON)
        zygote._signal_in_turn(1, STOP)
        there.add(1)
        zygote._signal_in_turn(1, GO_ON)
        assert given[4:] == [(1, GO_ON)], "nothing is waited for where nobody was"
