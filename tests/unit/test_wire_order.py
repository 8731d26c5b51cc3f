"""The legal order of messages: the tables themselves, and what an end does with an illegal message."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.errors import WireError
from engine.wire import connection as c
from engine.wire import messages as m
from engine.wire import shapes
from engine.wire.connection import CLIENT_CONNECTION, CONTROL_LINK, ROLES, SUPERVISOR, WORKER, WORKER_CHANNEL, Order, Role


@pytest.mark.parametrize("role", ROLES, ids=lambda r: r.name)
def test_every_message_not_in_the_table_is_refused_and_changes_nothing(role: Role) -> None:
    kinds = sorted({*m.NAMES, *role.senders, 0, 0x7F, -1})
    for me in role.ends:
        for state, row in role.transitions.items():
            for kind in kinds:
                for verb, mine in (("sent", True), ("received", False)):
                    order = Order(role, me)
                    order.state = state
                    legal = kind in row and (role.senders[kind] == me) is mine
                    if legal:
                        getattr(order, verb)(kind)
                        assert order.state == row[kind]
                    else:
                        with pytest.raises(WireError, match=re.escape(role.name)):
                            getattr(order, verb)(kind)
                        assert order.state == state


@pytest.mark.parametrize("role", ROLES, ids=lambda r: r.name)
def test_tables_are_closed_reachable_and_explained(role: Role) -> None:
    reached = {role.start}
    while True:
        more = {to for state in reached for to in role.transitions[state].values()} | reached
        if more == reached:
            break
        reached = more
    assert reached == set(role.transitions) == set(role.note)
    assert set(role.senders.values()) == set(role.ends)
    assert {k for row in role.transitions.values() for k in row} == set(role.senders)


def test_every_message_belongs_to_a_role() -> None:
    covered = {0x30 if k >= c.CATALOGUE_BEGIN else k for role in ROLES for k in role.senders}
    assert covered == set(m.NAMES)


def test_a_worker_life_is_legal_from_both_ends() -> None:
    supervisor, worker = Order(WORKER_CHANNEL, SUPERVISOR), Order(WORKER_CHANNEL, WORKER)
    story = [m.HELLO, m.INIT, m.LOG, m.NEXT, m.INVOKE, m.LOG, m.RESPONSE, m.NEXT, m.INVOKE, m.TOO_LARGE, m.NEXT]
    story += [m.INVOKE, m.STREAM_START, m.STREAM_CHUNK, m.STREAM_END, m.NEXT, m.SHUTDOWN, m.LOG]
    for kind in story:
        from_worker = WORKER_CHANNEL.senders[kind] == WORKER
        (worker if from_worker else supervisor).sent(kind)
        (supervisor if from_worker else worker).received(kind)
        assert worker.state == supervisor.state
    assert supervisor.state == "closing"


def test_an_answer_that_crosses_shutdown_is_accepted() -> None:
    order = Order(WORKER_CHANNEL, SUPERVISOR)
    order.state = "busy"
    order.sent(m.SHUTDOWN)
    order.received(m.RESPONSE)
    order.received(m.NEXT)
    with pytest.raises(WireError, match="legal now: nothing"):
        order.sent(m.INVOKE)


def test_two_answers_to_one_invocation_are_refused() -> None:
    order = Order(WORKER_CHANNEL, SUPERVISOR)
    order.state = "busy"
    order.received(m.RESPONSE)
    with pytest.raises(WireError, match=r"state 'answered': may not receive ERROR; legal now: NEXT, LOG"):
        order.received(m.ERROR)


def test_a_snapshot_has_a_beginning_and_an_end() -> None:
    order = Order(CONTROL_LINK, SUPERVISOR)
    order.received(m.CLIENT_HELLO)
    order.sent(m.SERVER_HELLO)
    order.received(c.catalogue_event("put"))
    with pytest.raises(WireError, match="CATALOGUE commit"):
        order.received(c.catalogue_event("commit"))
    for op in ("begin", "put", "commit", "delete"):
        order.received(c.catalogue_event(op))
        order.sent(m.ACK)
    with pytest.raises(WireError, match="no op 'drop'"):
        c.catalogue_event("drop")
    with pytest.raises(WireError):
        c.catalogue_event([])  # type: ignore[arg-type]


def test_both_ways_to_open_a_client_connection() -> None:
    for story in ((m.CLIENT_HELLO, m.SERVER_HELLO), (m.SERVER_HELLO, m.CLIENT_HELLO, m.SERVER_HELLO)):
        order = Order(CLIENT_CONNECTION, SUPERVISOR)
        for kind in story:
            with pytest.raises(WireError):
                order.received(m.CALL)
            (order.sent if kind == m.SERVER_HELLO else order.received)(kind)
        order.received(m.CALL)
        order.sent(m.RESULT)
        assert order.state == "open"


def test_an_order_belongs_to_one_of_its_ends() -> None:
    with pytest.raises(ValueError, match="not an end of the worker channel"):
        Order(WORKER_CHANNEL, "client")


PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
GENERATED = re.compile(r"<!-- generated: (.+?) -->\n(.*?)<!-- end -->", re.DOTALL)


def expected(key: str) -> str:
    """What a generated block of the page must hold: an order table by role name, or layouts by message names."""
    for role in ROLES:
        if key == f"order of the {role.name}":
            return c.as_text(role)
    numbers = {name: kind for kind, name in m.NAMES.items()}
    return shapes.as_text(*(numbers[name] for name in key.removeprefix("layout of ").split(", ")))


def test_the_protocol_page_shows_the_tables_as_they_are() -> None:
    blocks = GENERATED.findall(PAGE.read_text(encoding="utf-8"))
    assert len([k for k, _ in blocks if k.startswith("order")]) == len(ROLES)
    shown = {name for key, _ in blocks if key.startswith("layout") for name in key.removeprefix("layout of ").split(", ")}
    assert shown == set(m.NAMES.values())
    for key, text in blocks:
        assert text.strip() == expected(key).strip(), f"docs/protocol.md, block {key!r}: put this text there\n{expected(key)}"


def test_the_worked_example_in_the_protocol_page_is_a_real_conversation() -> None:
    page = PAGE.read_text(encoding="utf-8")
    order = Order(WORKER_CHANNEL, WORKER)
    lines = re.findall(r"^([<>]) ([0-9a-f ]+)$", page, re.MULTILINE)
    assert len(lines) >= 6
    for mark, text in lines:
        raw = bytes.fromhex(text)
        assert int.from_bytes(raw[:4], "big") == len(raw) - 4
        parts = shapes.read(raw[4:])
        (order.received if mark == ">" else order.sent)(parts[0])
        if parts[0] in (m.RESPONSE, m.ERROR) and parts[2]:
            order.sent(m.NEXT)
    assert order.state == "closing"
