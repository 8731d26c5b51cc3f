"""What is refused when, to the byte: every reason for a 429 with a clock that the test turns, and what a full host does."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from engine.core.instance import State
from engine.errors import AwsError
from engine.supervisor import replies
from engine.supervisor.room import Room
from tests.unit.test_invoker import Answer, Rig
from tests.unit.test_provisioned import play

__all__ = ["play"]


def refusal(answer: Answer) -> tuple[str, str]:
    """Reason and message of a 429, after a look at everything around them."""
    error = answer.error
    assert isinstance(error, AwsError)
    head, _, body = replies.error(error, keep_alive=True).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"\r\nx-amzn-ErrorType: TooManyRequestsException\r\n" in head
    assert b"\r\nRetry-After: 1\r\n" in head
    document = json.loads(body)
    assert document.keys() == {"Reason", "Type", "message"}
    assert document["Type"] == "User"
    return document["Reason"], document["message"]


def counted(rig: Rig, name: str = "f") -> dict[str, int]:
    return dict(next(f for _, f in rig.catalogue.functions() if f.name == name).stats.throttles)


def hold(rig: Rig) -> list[Any]:
    held: list[Any] = []
    rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
    return held


async def let_go(held: list[Any], rig: Rig, answers: list[Answer]) -> None:
    await rig.until(lambda: len(held) == len(answers))
    for worker, event in held:
        worker.respond(event, b"1")
    for answer in answers:
        await rig.finish(answer)


@pytest.mark.parametrize(
    ("reserved", "limits", "reason"),
    [
        (None, {"account_limit": 2}, "ConcurrentInvocationLimitExceeded"),
        (2, {}, "ReservedFunctionConcurrentInvocationLimitExceeded"),
        (None, {"scaling": (2, 10.0)}, "FunctionInvocationRateLimitExceeded"),
    ],
)
def test_two_run_and_a_third_is_refused_for_its_reason(play: Callable[..., None], reserved: int | None, limits: dict[str, Any], reason: str) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put(reserved=reserved)
        held = hold(rig)
        answers = [rig.invoke() for _ in range(2)]
        assert refusal(rig.invoke()) == (reason, "Rate Exceeded.")
        assert counted(rig) == {reason: 1}
        quota = rig.catalogue.functions()[0][1].quota
        assert quota.in_flight == 2, "what is refused holds nothing"
        await let_go(held, rig, answers)
        assert quota.in_flight == 0

    play(scenario, **limits)


def test_nothing_runs_at_a_reservation_of_none(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put(reserved=0)
        assert refusal(rig.invoke())[0] == "ReservedFunctionConcurrentInvocationLimitExceeded"
        assert not rig.invoker.instances
        rig.put("other")
        await rig.finish(rig.invoke("other"))

    play(scenario)


def test_the_scaling_rate_is_each_functions_own_refills_and_leaves_warm_ones_alone(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        rig.put("other")
        held = hold(rig)
        answers = [rig.invoke() for _ in range(2)]
        assert refusal(rig.invoke())[0] == "FunctionInvocationRateLimitExceeded"
        answers.append(rig.invoke("other"))
        rig.clock.advance(5.0)
        answers.append(rig.invoke())
        assert refusal(rig.invoke())[0] == "FunctionInvocationRateLimitExceeded"
        await let_go(held, rig, answers)
        rig.sandbox.on_invoke = lambda w, e: w.respond(e, b"1")
        for _ in range(3):
            await rig.finish(rig.invoke())
        assert counted(rig) == {"FunctionInvocationRateLimitExceeded": 2}
        assert counted(rig, "other") == {}

    play(scenario, scaling=(2, 10.0))


def test_request_rates_name_whose_they_are(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put("kept", reserved=1)
        rig.put()
        for _ in range(10):
            await rig.finish(rig.invoke("kept"))
        assert refusal(rig.invoke("kept"))[0] == "ReservedFunctionInvocationRateLimitExceeded"
        for _ in range(9):
            await rig.finish(rig.invoke())
        assert refusal(rig.invoke())[0] == "CallerRateLimitExceeded"
        rig.clock.advance(0.2)
        await rig.finish(rig.invoke())
        await rig.finish(rig.invoke("kept"))

    play(scenario, request_rates=(10, 1))


def test_a_full_host_lets_the_idle_of_others_go_then_waits_then_says_what_it_is_full_of(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.put()
        rig.put("other")
        await rig.finish(rig.invoke("other"))
        held = hold(rig)
        first, second = rig.invoke(), rig.invoke()
        # The second waits: there is room for one, and nobody is idle any more.
        await rig.until(lambda: len(held) == 1)
        assert [i.version.function.name for i in rig.invoker.instances if i.state is State.BUSY] == ["f"]
        rig.clock.advance(9.9)
        rig.invoker.tick()
        assert second.error is None
        rig.clock.advance(0.2)
        rig.invoker.tick()
        assert refusal(second) == ("HostCapacityExceeded", "Rate Exceeded. This host is full: 1 instances, which is all it may hold.")
        await let_go(held, rig, [first])

    play(scenario, max_instances=1)


def test_room_is_a_number_a_budget_and_what_the_machine_has_left() -> None:
    left = [1000]
    looks = []

    def look() -> int:
        looks.append(left[0])
        return left[0]

    number = Room(2)
    number.take(128)
    assert number.fits(128)
    number.take(128)
    assert not number.fits(128)
    number.give_back(128)
    assert number.fits(10_240)
    budget = Room(100, budget_mib=300)
    budget.take(200)
    assert (budget.fits(100), budget.fits(101)) == (True, False)
    assert budget.why_full() == "instances with 200 MiB of memory in all, of 300 MiB it may give"
    machine = Room(100, reserve_mib=500, available=look)
    machine.look()
    assert machine.fits(128)
    left[0] = 499
    for _ in range(15):
        machine.take(128)
    assert machine.fits(128), "asked once in sixteen starts, and once a second"
    machine.take(128)
    assert not machine.fits(128)
    assert machine.why_full() == "less than 500 MiB of memory left"
    left[0] = 501
    machine.give_back(128)
    assert machine.fits(128)
    assert len(looks) == 3
    unknown = Room(1, reserve_mib=500, available=lambda: None)
    unknown.look()
    assert unknown.fits(128), "where nobody knows, nobody is kept out"


def test_where_the_broker_turned_one_away_there_is_room_for_as_many_as_before_and_one_more_every_second() -> None:
    room = Room(100, own_shortage=str)
    for _ in range(5):
        room.take(128)
    for _ in range(2):
        room.turned_away("500 of 512")
        room.give_back(128)
        assert not room.fits(128)
    assert room.why_full() == "500 of 512"
    room.try_more()
    assert room.fits(128)
    room.take(128)
    assert not room.fits(128)
    for _ in range(4):
        room.give_back(128)
    assert room.fits(128)
    room.try_more()
    for _ in range(50):
        room.take(128)
    assert room.fits(128), "what was then is long over"


def test_a_process_short_of_descriptors_has_no_room() -> None:
    short = ["", "500 of 512"]
    room = Room(100, own_shortage=lambda: short[0])
    assert room.fits(128)
    short.reverse()
    assert not room.fits(128)
    assert room.why_full() == "500 of 512"
