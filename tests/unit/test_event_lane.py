"""Events on their way to the control plane: shared frames, answers after the commit, and what happens when the control plane ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from engine.arn import FunctionRef
from engine.errors import AwsError
from engine.supervisor import event_lane
from engine.supervisor.event_lane import EventLane
from engine.wire import messages as m
from engine.wire import shapes
from engine.wire.frames import FrameDecoder

REF = FunctionRef("000000000000", "us-east-1", "f", "live")


class Sender:
    """Who sent an event, and what it was told: an id and None, or an id and an error."""

    def __init__(self) -> None:
        self.told: list[tuple[str, AwsError | None]] = []

    def accepted(self, request_id: str, trace: str) -> None:
        assert trace == "Root=1"
        self.told.append((request_id, None))

    def refused(self, request_id: str, error: AwsError) -> None:
        self.told.append((request_id, error))


class Plane:
    """A control plane's end: the EVENTS it was sent, as (seq, rows)."""

    def __init__(self) -> None:
        self._decoder = FrameDecoder()
        self.got: list[tuple[int, list[Any]]] = []

    def send(self, data: bytes) -> None:
        for body in self._decoder.feed(data):
            _, seq, rows = shapes.read(body, m.EVENTS)
            self.got.append((seq, rows))

    @property
    def ids(self) -> list[str]:
        return [row[0] for _, rows in self.got for row in rows]


def play(scenario: Callable[[EventLane], Awaitable[None]], wait_s: float = 30.0) -> None:
    async def main() -> None:
        await scenario(EventLane(asyncio.get_running_loop(), wait_s))

    asyncio.run(main())


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def put(lane: EventLane, count: int, payload: bytes = b"{}") -> list[Sender]:
    senders = [Sender() for _ in range(count)]
    for sender in senders:
        lane.put(REF, payload, "Root=1", None, sender)
    return senders


def test_what_comes_together_shares_a_frame_and_is_answered_when_it_is_kept() -> None:
    async def scenario(lane: EventLane) -> None:
        plane = Plane()
        lane.opened(plane.send)
        senders = put(lane, 5)
        await turns()
        ((seq, rows),) = plane.got
        assert [row[1:] for row in rows] == [["000000000000", "f", "live", "Root=1", b"{}", None]] * 5
        assert all(sender.told == [] for sender in senders)
        lane.settled(seq, None)
        assert [sender.told for sender in senders] == [[(row[0], None)] for row in rows]
        lane.settled(seq, None)
        assert len(senders[0].told) == 1

    play(scenario)


def test_what_could_not_be_written_is_refused() -> None:
    async def scenario(lane: EventLane) -> None:
        plane = Plane()
        lane.opened(plane.send)
        (sender,) = put(lane, 1)
        await turns()
        lane.settled(plane.got[0][0], "OSError: No space left on device")
        ((request_id, error),) = sender.told
        assert request_id == plane.ids[0]
        assert error is not None
        assert (error.status, error.code) == (500, "ServiceException")
        assert "space" not in str(error), "how the disk is is no business of callers"

    play(scenario)


def test_events_gather_while_others_are_being_kept() -> None:
    async def scenario(lane: EventLane) -> None:
        plane = Plane()
        lane.opened(plane.send)
        for _ in range(6):
            put(lane, 2)
            await turns()
        assert [len(rows) for _, rows in plane.got] == [2] * event_lane.WINDOW
        lane.settled(1, None)
        assert len(plane.got[-1][1]) == 2 * (6 - event_lane.WINDOW)
        assert len(set(plane.ids)) == 12

    play(scenario)


def test_a_frame_has_its_limits() -> None:
    async def scenario(lane: EventLane) -> None:
        plane = Plane()
        put(lane, event_lane.MAX_EVENTS + 1)
        lane.opened(plane.send)
        assert [len(rows) for _, rows in plane.got] == [event_lane.MAX_EVENTS, 1]
        for seq in (1, 2):
            lane.settled(seq, None)
        put(lane, 9, b'"%b"' % (b"x" * (event_lane.MAX_BYTES // 8)))
        await turns()
        assert [len(rows) for _, rows in plane.got[2:]] == [8, 1]

    play(scenario)


def test_the_next_control_plane_gets_what_the_former_one_did_not_confirm() -> None:
    async def scenario(lane: EventLane) -> None:
        former, later = Plane(), Plane()
        lane.opened(former.send)
        senders = put(lane, 1)
        await turns()
        senders += put(lane, 1)
        await turns()
        senders += put(lane, 1)
        await turns()
        assert len(former.got) == event_lane.WINDOW
        lane.closed(former.send)
        senders += put(lane, 1)
        await turns()
        lane.opened(later.send)
        # Of a connection that was replaced, the end comes late.
        lane.closed(former.send)
        for seq, _ in list(later.got):
            lane.settled(seq, None)
        for seq, _ in later.got[event_lane.WINDOW :]:
            lane.settled(seq, None)
        assert later.ids[:2] == former.ids
        assert [sender.told for sender in senders] == [[(i, None)] for i in later.ids]
        for seq, _ in former.got:
            lane.settled(seq, None)
        assert all(len(sender.told) == 1 for sender in senders)

    play(scenario)


@pytest.mark.parametrize("connected", [True, False])
def test_nobody_waits_for_ever(connected: bool) -> None:
    async def scenario(lane: EventLane) -> None:
        plane = Plane()
        if connected:
            lane.opened(plane.send)
        first = put(lane, 1)
        await asyncio.sleep(0.02)
        second = put(lane, 1)
        async with asyncio.timeout(20):
            while not (first[0].told and second[0].told):
                await asyncio.sleep(0.005)
        for sender in (*first, *second):
            ((_, error),) = sender.told
            assert error is not None
            assert error.status == 500
            assert "did not answer within 0.05 s" in str(error)
        plane = Plane()
        lane.opened(plane.send)
        (third,) = put(lane, 1)
        await turns()
        lane.settled(plane.got[-1][0], None)
        assert third.told == [(plane.ids[-1], None)]

    play(scenario, wait_s=0.05)
