"""Whose the addresses of functions in a subnet are."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from engine.control import vpc_ports


def document(**ports: str) -> dict[str, Any]:
    return {
        "subnets": {"subnet-a": "10.0.1.0/24", "subnet-b": "10.0.2.0/28"},
        "servers": {"server-1": {"ip": "10.0.1.253"}},
        "ports": {key.replace("_", "/"): {"ip": ip, "id": "former", "function": "f"} for key, ip in ports.items()},
    }


def allotted(of: dict[str, Any], wanted: list[str], held: list[str] | None = None) -> dict[str, str]:
    numbers = itertools.count()
    found = vpc_ports.allotted(of, dict.fromkeys(wanted, "f"), held or [], lambda: f"id-{next(numbers)}")
    return {key: port["ip"] for key, port in found.items()}


def test_keys_are_one_per_subnet() -> None:
    assert vpc_ports.keys("vpc-1/subnet-a,subnet-b/sg-1,sg-2") == ["subnet-a/sg-1,sg-2", "subnet-b/sg-1,sg-2"]


def test_addresses_are_taken_from_the_end_around_servers() -> None:
    assert allotted(document(), ["subnet-a/sg-1", "subnet-a/sg-2", "subnet-b/sg-1"]) == {
        "subnet-a/sg-1": "10.0.1.254",
        "subnet-a/sg-2": "10.0.1.252",
        "subnet-b/sg-1": "10.0.2.14",
    }


def test_what_is_there_stays_while_it_is_wanted_or_held() -> None:
    before = document(**{"subnet-a_sg-1": "10.0.1.7", "subnet-a_sg-2": "10.0.1.254", "subnet-a_sg-3": "10.0.1.8"})
    assert allotted(before, ["subnet-a/sg-1", "subnet-a/sg-4"], ["subnet-a/sg-2"]) == {
        "subnet-a/sg-1": "10.0.1.7",
        "subnet-a/sg-2": "10.0.1.254",
        "subnet-a/sg-4": "10.0.1.252",
    }


@pytest.mark.parametrize(("held", "ip"), [([], "10.0.2.14"), (["subnet-b/sg-0"], "10.0.2.14"), (["subnet-b/sg-0", "subnet-b/sg-1"], "10.0.2.14")])
def test_a_full_subnet_takes_from_who_is_only_held(held: list[str], ip: str) -> None:
    eleven = {f"subnet-b_sg-{n}": f"10.0.2.{14 - n}" for n in range(11)}
    wanted = [key.replace("_", "/") for key in eleven if key.replace("_", "/") not in held][1 if not held else 0 :]
    found = allotted(document(**eleven), [*wanted, "subnet-b/sg-new"], held)
    assert found["subnet-b/sg-new"] == ip
    assert "subnet-b/sg-0" not in found
    assert len(found) == 11


def test_a_full_subnet_has_no_more_and_a_gone_one_none() -> None:
    eleven = {f"subnet-b_sg-{n}": f"10.0.2.{14 - n}" for n in range(11)}
    wanted = [key.replace("_", "/") for key in eleven]
    assert allotted(document(**eleven), [*wanted, "subnet-b/sg-new", "subnet-c/sg-1"]).keys() == set(wanted)


def test_an_address_that_is_no_more_of_the_subnet_is_replaced() -> None:
    assert allotted(document(**{"subnet-a_sg-1": "10.0.9.9", "subnet-c_sg-1": "10.0.3.4"}), ["subnet-a/sg-1"], ["subnet-c/sg-1"]) == {
        "subnet-a/sg-1": "10.0.1.254"
    }
