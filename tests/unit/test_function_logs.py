"""Functions' log files read as log events, and pages of them."""

from __future__ import annotations

import functools
import itertools
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.aws import log_files, log_pages
from engine.aws.log_files import PREFIX, Event, LogDirectory, event_id
from engine.aws.log_groups import Follower, FunctionLogs
from engine.aws.log_pages import Chunk
from engine.supervisor.logs import LogStore

ACCOUNT = "000000000000"
GROUP = f"{PREFIX}f"


@pytest.fixture
def store(tmp_path: Path) -> LogStore:
    return LogStore(tmp_path, 2000)


@pytest.fixture
def directory(tmp_path: Path) -> LogDirectory:
    return LogDirectory(tmp_path)


def write(store: LogStore, *numbers: int, stream: str = "s", text: str = "n", group: str = "") -> None:
    log = store.of(ACCOUNT, "f", group)
    for number in numbers:
        log.write(number, stream, f"{text} {number}")
    assert store.flush() is None


def group_of(name: str = GROUP) -> SimpleNamespace:
    return SimpleNamespace(
        region="r", account_id=ACCOUNT, name=name, arn="arn", streams={}, retention_in_days=None, subscription_filters={"any": 1}
    )


def logs_of(directory: LogDirectory) -> FunctionLogs:
    return FunctionLogs(directory, "r", lambda _backend, _name: None)


def numbers(events: list[Event]) -> list[int]:
    return [event.at_ms for event in events]


def everything(logs: FunctionLogs, **options) -> list[int]:
    return numbers(logs.page(group_of(), 0, log_pages.FOREVER_MS, lambda _event: True, **options)[0])


def test_what_is_added_is_read_once_and_all_of_it(store: LogStore, directory: LogDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "BLOCK", 100)
    logs = logs_of(directory)
    for count in range(1, 40):
        write(store, count)
        assert everything(logs) == list(range(1, count + 1))
    files = logs.files(group_of())
    with files.opened() as ((log, _),):
        assert len(log.blocks(0, 100)) > 3
        assert len(log.blocks(20, 21)) < 3


def test_a_line_longer_than_a_block_is_read(store: LogStore, directory: LogDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "BLOCK", 100)
    write(store, 1, text="x" * 500)
    write(store, 2)
    assert everything(logs_of(directory)) == [1, 2]


def test_the_older_file_is_read_too_and_nothing_twice_over_rotations(store: LogStore, directory: LogDirectory) -> None:
    logs = logs_of(directory)
    for first in range(1, 601, 10):
        write(store, *range(first, first + 10))
        found = everything(logs)
        assert found == list(range(found[0], first + 10))
    assert found[0] > 1, "what was rotated away twice is gone"


def test_a_file_in_place_of_another_with_the_same_number_is_read_anew(tmp_path: Path, directory: LogDirectory) -> None:
    path = tmp_path / ACCOUNT / "f.log"
    path.parent.mkdir()
    path.write_text("5\ts\tone\n")
    logs = logs_of(directory)
    assert everything(logs) == [5]
    path.write_text("6\ts\tother and longer\n")
    assert everything(logs) == [6]


def test_lines_of_another_form_are_left_out(tmp_path: Path, directory: LogDirectory) -> None:
    path = tmp_path / ACCOUNT / "f.log"
    path.parent.mkdir()
    path.write_bytes(b"no tabs\n7\ts\ta\xff\rb\tc\nnot\ta\tnumber\n8\ts\t\n9\ts\tunfinished")
    (event, empty), _ = logs_of(directory).page(group_of(), 0, 100, lambda _event: True)
    assert (event.stream, event.message) == ("s", "a�\nb\tc\n")
    assert empty.message == "\n"


def test_groups_of_other_names_are_found_by_the_name_beside_them(store: LogStore, directory: LogDirectory) -> None:
    name = "a/group/" + "of-a-long-name" * 30
    write(store, 1, group=name)
    write(store, 2, group=GROUP)
    assert set(directory.groups(ACCOUNT)) == {name, GROUP}
    assert directory.groups("111111111111") == {}
    directory.groups(ACCOUNT)[name].remove()
    assert set(directory.groups(ACCOUNT)) == {GROUP}
    write(store, 3, group=name)
    assert directory.groups(ACCOUNT)[name].figures()[1] == 3


def test_deleted_files_are_begun_anew(store: LogStore, directory: LogDirectory) -> None:
    logs = logs_of(directory)
    write(store, *range(1, 100))
    logs.forget(group_of())
    assert logs.files(group_of()) is None
    write(store, *range(100, 400))
    assert everything(logs)[-1] == 399


def test_a_deleted_stream_is_hidden_until_more_comes(store: LogStore, directory: LogDirectory) -> None:
    logs, group = logs_of(directory), group_of()
    write(store, 1, 2)
    write(store, 3, stream="t")
    assert not logs.hide(group, "none")
    assert logs.hide(group, "s")
    assert set(logs.streams(group)) == {"t"}
    assert numbers(logs.page(group, 0, 9, lambda _event: True)[0]) == [3]
    write(store, 4)
    assert set(logs.streams(group)) == {"s", "t"}
    assert numbers(logs.page(group, 0, 9, lambda _event: True)[0]) == [3, 4]


def test_what_is_older_than_its_retention_is_not_shown(store: LogStore, directory: LogDirectory) -> None:
    logs, group = logs_of(directory), group_of()
    write(store, 1, 1 << 52)
    group.retention_in_days = 3
    assert numbers(logs.page(group, 0, log_pages.FOREVER_MS, lambda _event: True)[0]) == [1 << 52]


def test_a_follower_sends_what_is_new_by_stream_and_in_parts(store: LogStore, directory: LogDirectory) -> None:
    sent: list[tuple[str, int]] = []
    logs, group = logs_of(directory), group_of()
    follower = Follower(logs, lambda _group, stream, events: sent.append((stream, len(events))))
    write(store, 1)
    ends = logs.files(group).ends()
    follower.look(group, ends)
    assert sent == []
    write(store, 2, 3)
    write(store, 4, stream="t")
    follower.look(group, ends)
    follower.look(group, ends)
    assert sent == [("s", 2), ("t", 1)]
    store.max_bytes = 1 << 30
    big = LogStore(store.root, 1 << 30)
    for _ in range(3):
        write(big, 5, text="x" * 100_000)
    follower.look(group, ends)
    assert sent[2:] == [("s", 1)] * 3


@pytest.mark.parametrize("limit", [1, 3, 7, 50])
@pytest.mark.parametrize("newest", [False, True])
def test_pages_give_every_event_once_in_order(limit: int, newest: bool) -> None:
    events = [Event(event_id(n // 3, 1, n), n // 3, "s", "x") for n in range(40)]
    # Three places whose times overlap.
    parts = [events[0:20:2], events[1:30:2], [*events[20::2], *events[31::2]]]
    chunks = [Chunk(min(e.at_ms for e in p), max(e.at_ms for e in p), functools.partial(list, p)) for p in parts]
    got: list[Event] = []
    edge = log_pages.LAST if newest else log_pages.FIRST
    for _ in itertools.count():
        option = {"before" if newest else "after": edge}
        page, more = log_pages.page(chunks, lambda _event: True, limit=limit, newest=newest, **option)
        got = page + got if newest else got + page
        if not more:
            break
        edge = page[0 if newest else -1].event_id
    assert got == sorted(events)


def test_a_page_has_a_megabyte_but_at_least_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [Event(event_id(n, 1, n), n, "s", "x" * 600_000) for n in range(3)]
    page, more = log_pages.page([Chunk(0, 2, lambda: events)], lambda _event: True)
    assert (len(page), more) == (1, True)


def test_tokens_are_places_or_nothing() -> None:
    assert log_pages.place(log_pages.token("b", log_pages.LAST)) == ("b", log_pages.LAST)
    for wrong in ("", "f/", "x/" + log_pages.LAST, log_pages.LAST, "f/" + "9" * 57):
        assert log_pages.place(wrong) is None


def test_ids_sort_like_times() -> None:
    assert len(event_id(1, os.stat("/").st_ino, 5)) == log_files.ID_DIGITS
    assert event_id(9, 5, 5) < event_id(10, 1, 1) < event_id(10, 1, 10)


def test_a_function_that_is_gone_is_forgotten_and_still_written(store: LogStore) -> None:
    log, grouped = store.of(ACCOUNT, "gone"), store.of(ACCOUNT, "gone", "/mine")
    log.write(1, "s", "its last words")
    store.forget(ACCOUNT, "gone", "/aws/lambda/gone")
    store.forget(ACCOUNT, "gone", "/mine")
    store.forget(ACCOUNT, "gone", "/mine")
    assert store.flush() is None
    assert log.path.read_text() == "1\ts\tits last words\n"
    assert store.of(ACCOUNT, "gone") is not log
    assert store.of(ACCOUNT, "gone", "/mine") is not grouped
