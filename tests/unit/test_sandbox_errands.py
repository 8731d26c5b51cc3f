"""What goes along with an order to the broker, and when it goes alone."""

from __future__ import annotations

import asyncio
import json

import pytest

from engine.sandbox.errands import _MOST, Errands


@pytest.fixture
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


def test_what_can_wait_goes_along_with_the_next_order_in_its_place(loop):
    sent: list[bytes] = []
    errands = Errands(loop, sent.append)
    assert errands.taken_by(b'["make",1]') == b'["make",1]'
    errands.leave(b'["initialised",1]', 3600)
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
    done = loop.create_future()
    errands = Errands(loop, done.set_result)
    errands.leave(b'["initialised",4]', 0.001)
    assert loop.run_until_complete(asyncio.wait_for(done, 60)) == b'["initialised",4]'


def test_a_packet_has_room_for_only_so_many(loop):
    sent: list[bytes] = []
    errands = Errands(loop, sent.append)
    for n in range(_MOST):
        errands.leave(b'["kill",%d]' % n, 3600)
    assert errands.taken_by(b'["make",1]') == b'["make",1]'
    assert len(json.loads(sent[0])) == 1 + _MOST
    errands.leave(b'["kill",1]', 3600)
    errands.forget()
    errands.go()
    assert len(sent) == 1
