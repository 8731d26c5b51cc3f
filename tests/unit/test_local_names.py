"""Whether names below localhost lead back here, with resolvers of every kind."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from engine.control.local_names import LocalNames


def nobody(name: str) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize(
    ("addresses", "here"), [(["127.0.0.1"], True), (["::1", "127.0.0.1"], True), (["::1%lo"], True), (["198.51.100.7"], False), ([], False)]
)
def test_a_name_leads_here_when_every_address_of_it_is_this_machine_s(addresses: list[str], *, here: bool) -> None:
    asked: list[str] = []
    names = LocalNames(lambda name: asked.append(name) or addresses)

    async def ask() -> list[bool]:
        return [await names.lead_here(), *await asyncio.gather(names.lead_here(), names.lead_here())]

    assert asyncio.run(ask()) == [here] * 3
    assert len(asked) == 1
    assert asked[0].endswith(".localhost")


def test_a_name_nobody_knows_leads_nowhere() -> None:
    assert asyncio.run(LocalNames(nobody).lead_here()) is False


def test_a_resolver_that_waits_is_not_waited_for() -> None:
    over = threading.Event()

    def slow(name: str) -> list[str]:
        over.wait(60)
        return ["127.0.0.1"]

    try:
        # It returns though the resolver does not: neither the answer nor the end of the loop waits for it.
        assert asyncio.run(LocalNames(slow, patience_s=0.01).lead_here()) is False
    finally:
        over.set()
