"""Whether names below localhost lead back here, with resolvers of every kind, and the addresses that follow from it."""

from __future__ import annotations

import socket
import threading

import pytest

from engine.local_names import LocalNames, address


def nobody(name: str) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize(
    ("addresses", "here"), [(["127.0.0.1"], True), (["::1", "127.0.0.1"], True), (["::1%lo"], True), (["198.51.100.7"], False), ([], False)]
)
def test_a_name_leads_here_when_every_address_of_it_is_this_machine_s(addresses: list[str], *, here: bool) -> None:
    asked: list[str] = []

    def resolve(name: str) -> list[str]:
        asked.append(name)
        return addresses

    names = LocalNames(resolve, patience_s=60)
    assert names.known is None
    assert [names.lead_here(), names.lead_here(), names.known] == [here] * 3
    assert len(asked) == 1
    assert asked[0].endswith(".localhost")


def test_a_name_nobody_knows_leads_nowhere() -> None:
    assert LocalNames(nobody, patience_s=60).lead_here() is False


def test_a_resolver_that_waits_is_not_waited_for() -> None:
    over = threading.Event()

    def slow(name: str) -> list[str]:
        over.wait(60)
        return ["127.0.0.1"]

    try:
        names = LocalNames(slow, patience_s=0.01)
        assert names.lead_here() is False, "it returns though the resolver does not"
    finally:
        over.set()
    assert names.lead_here() is False, "it stays as it was said"


@pytest.mark.parametrize(
    ("host", "named", "nameless"),
    [
        ("127.0.0.1:4566", "i.lambda-url.eu-west-1.localhost:4566", "127.0.0.1:4566/_url/i"),
        ("[::1]:4566", "i.lambda-url.eu-west-1.localhost:4566", "[::1]:4566/_url/i"),
        ("localhost:99", "i.lambda-url.eu-west-1.localhost:99", "localhost:99/_url/i"),
        ("", "i.lambda-url.eu-west-1.localhost", "localhost/_url/i"),
        ("lambda.example.com", "i.lambda-url.eu-west-1.lambda.example.com", "i.lambda-url.eu-west-1.lambda.example.com"),
        ("10.0.0.5:4566", "10.0.0.5:4566/_url/i", "10.0.0.5:4566/_url/i"),
    ],
)
def test_an_address_leads_back_to_where_it_was_asked_for(host: str, named: str, nameless: str) -> None:
    assert address(host, "i", "lambda-url", "eu-west-1", "/_url/", names=True) == named
    assert address(host, "i", "lambda-url", "eu-west-1", "/_url/", names=False) == nameless
