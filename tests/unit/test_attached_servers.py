"""What is looked after of attached servers between two documents of a VPC."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest

from engine.sandbox.vpcs import Vpc, _Server


def test_servers_that_a_half_applied_document_took_away_do_not_end_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks after them is the process that all sandboxes have their networks from."""
    vpc = Vpc.__new__(Vpc)
    vpc._document = {"servers": {}}
    vpc._servers = {"server-1": _Server({"netns": "db", "interface": ""}, "of-nobody", 7, moved=False)}
    vpc._absent = {"server-2"}
    monkeypatch.setattr(vpc, "space", SimpleNamespace(inside=contextlib.nullcontext), raising=False)
    monkeypatch.setattr(vpc, "_filter", lambda: None)
    assert vpc.tend() == ["attached server server-1 has gone: network namespace db is not there any more"]
    assert vpc.tend() == []
