"""What goes along with an order to the broker, and when it goes alone."""

from __future__ import annotations

import asyncio
import json

import pytest

from engine.sandbox import packets
from engine.sandbox.errands import Errands


@pytest.fixture
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


def test_what_can_wait_goes_along_with_the_next_order_in_its_place(loop):
    sent: list[bytes] = []
    errands = Errands(loop, sent.append)
    assert errands.taken_by(b'["make",1]') == b'["make",1]'
    errands.leave(b'["initialised",1]')
    errands.leave(b'["kill",2]')
    packet = errands.taken_by(b'["make",3]')
    assert json.loads(packet) == ["several", ["initialised", 1], ["kill", 2], ["make", 3]]
    loop.run_until_complete(asyncio.sleep(0))
    assert sent == [], "nothing is left to go alone"


def test_without_one_it_goes_by_itself(loop):
    sent: list[bytes] = []
    errands = Errands(loop, sent.append)
    errands.leave(b'["kill",1]')
    errands.leave(b'["kill",2]')
    assert sent == []
    loop.run_until_complete(asyncio.sleep(0))
    errands.leave(b'["kill",3]')
    loop.run_until_complete(asyncio.sleep(0))
    assert sent == [b'["several",["kill",1],["kill",2]]', b'["kill",3]']


def test_a_packet_is_never_longer_than_what_the_broker_reads(loop):
    """Thousands of sandboxes may be ended in one turn."""
    sent: list[bytes] = []
    errands = Errands(loop, sent.append)
    orders = [["kill", 1_000_000 + n] for n in range(10_000)]
    for order in orders:
        errands.leave(packets.encode(order))
    last = packets.encode(["specialise", 1, {"code_dir": "x" * (packets.MAX_PACKET - 100)}])
    sent.append(errands.taken_by(last))
    assert sent[-1] == last, "there was no room for anything beside it"
    assert all(len(packet) <= packets.MAX_PACKET for packet in sent)
    several = [json.loads(packet) for packet in sent[:-1]]
    assert [one for kind, *some in several for one in some] == orders
    assert {kind for kind, *_ in several} == {"several"}
    assert len(several) == 1 + sum(len(packets.encode(order)) + 1 for order in orders) // packets.MAX_PACKET
    errands.leave(b'["kill",1]')
    errands.forget()
    errands.go()
    assert len(sent) == len(several) + 1
