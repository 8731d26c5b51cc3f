"""What functions may hold of the engine's memory, in numbers."""

from __future__ import annotations

from engine.supervisor.door import MOST_BYTES, MOST_CONNECTIONS, Allowance, Door


def test_a_full_door_opens_again_when_somebody_has_left() -> None:
    opened: list[int] = []
    door = Door(lambda: opened.append(door.open))
    assert all(door.entered() for _ in range(MOST_CONNECTIONS - 1))
    assert not door.entered()
    assert opened == []
    for _ in range(3):
        door.left()
    assert opened == [MOST_CONNECTIONS - 1]


def test_a_door_that_was_shut_does_not_open_again() -> None:
    opened: list[int] = []
    door = Door(lambda: opened.append(door.open))
    assert [door.entered() for _ in range(MOST_CONNECTIONS)][-1] is False
    door.shut()
    door.left()
    assert opened == []


def test_one_function_cannot_take_what_belongs_to_all() -> None:
    everybody = Allowance(MOST_BYTES + 10)
    one, other = Door(lambda: None).allowance(everybody), Door(lambda: None).allowance(everybody)
    assert one.take(MOST_BYTES)
    assert not one.take(1)
    assert other.take(10)
    assert not other.take(1)
    assert (one.held, other.held, everybody.held) == (MOST_BYTES, 10, MOST_BYTES + 10)
    one.give_back(MOST_BYTES)
    assert other.take(11)
    assert everybody.held == 21
