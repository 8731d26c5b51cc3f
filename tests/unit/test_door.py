"""What functions may hold of the engine's memory, in numbers."""

from __future__ import annotations

import os
import resource
import socket

import pytest

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


def test_who_cannot_be_let_in_for_want_of_descriptors_is_not_taken_for_nobody() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    outside = socket.create_connection(listener.getsockname())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            Door.answer(listener.fileno())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    came = Door.answer(listener.fileno())
    assert came is not None
    for sock in (came, outside):
        sock.close()
    assert Door.answer(listener.fileno()) is None
    listener.close()
