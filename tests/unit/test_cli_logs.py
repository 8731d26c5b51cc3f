"""``logs`` reads what the engine wrote: the tail across rotation, and what comes while it follows."""

from __future__ import annotations

import contextlib
import json

import pytest

from engine.cli.logs import Follower, last_lines, parse, show


def line(number: int) -> str:
    return f"{1_700_000_000_000 + number}\tstream\tevent {number}\n"


def numbers(lines) -> list[int]:
    return [int(message.split()[1]) for _, _, message in lines]


@pytest.fixture
def following():
    """Makes followers and closes them."""
    with contextlib.ExitStack() as stack:
        yield lambda *a: stack.enter_context(contextlib.closing(Follower(*a)))


def test_newlines_inside_an_event_come_back():
    assert parse("1700000000000\ts\tTraceback\r  File x\r\n") == (1_700_000_000_000, "s", "Traceback\n  File x")


def test_tabs_inside_a_message_stay():
    assert parse("5\ts\ta\tb\n") == (5, "s", "a\tb")


def test_line_of_another_form_is_shown_whole():
    assert parse("no tabs at all\n") == (0, "-", "no tabs at all")


def test_tail_reaches_into_the_rotated_file(tmp_path):
    path = tmp_path / "f.log"
    path.with_suffix(".log.1").write_text("".join(line(n) for n in range(5)))
    path.write_text("".join(line(n) for n in range(5, 8)))
    assert numbers(last_lines(path, 5)) == [3, 4, 5, 6, 7]
    assert last_lines(path, 0) == []


def test_follower_waits_for_the_file_and_for_whole_lines(tmp_path, following):
    path = tmp_path / "f.log"
    follower = following(path)
    assert list(follower.read()) == []
    path.write_text(line(0) + "17000")
    assert numbers(follower.read()) == [0]
    with path.open("a") as file:
        file.write("00000001\tstream\tevent 1\n")
    assert numbers(follower.read()) == [1]
    assert list(follower.read()) == []


def test_follower_loses_nothing_over_a_rotation(tmp_path, following):
    path = tmp_path / "f.log"
    path.write_text(line(0))
    follower = following(path)
    assert numbers(follower.read()) == [0]
    with path.open("a") as file:
        file.write(line(1))
    path.rename(path.with_suffix(".log.1"))
    path.write_text(line(2))
    assert numbers(follower.read()) == [1, 2]


def test_follower_survives_a_rotation_without_a_new_file_yet(tmp_path, following):
    path = tmp_path / "f.log"
    path.write_text(line(0))
    follower = following(path, path.stat().st_size)
    path.rename(path.with_suffix(".log.1"))
    assert list(follower.read()) == []
    path.write_text(line(1))
    assert numbers(follower.read()) == [1]


def test_shown_with_time_or_as_json(capsys):
    show((1_700_000_000_123, "s", "hello"), as_json=False)
    show((1_700_000_000_123, "s", "hello"), as_json=True)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "2023-11-14T22:13:20.123Z hello"
    assert json.loads(second) == {"timestamp": 1_700_000_000_123, "logStream": "s", "message": "hello"}
