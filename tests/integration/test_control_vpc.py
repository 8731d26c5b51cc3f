"""What the control plane keeps of VPCs and tells the supervisor, with a scripted supervisor and VPCs from the settings."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from engine.config import load
from engine.control import vpc_documents
from engine.store.vpcs import SqlVpcStore
from tests.framework.control import ControlServer, refused

VPCS = {
    "vpc-own": {
        "cidr": "10.9.0.0/16",
        "subnets": {"subnet-b": "10.9.2.0/24", "subnet-a": "10.9.1.0/24"},
        "security_groups": {"sg-app": {}, "sg-db": {"ingress": [{"protocol": "tcp", "ports": "5432", "peers": ["sg-app", "10.9.2.0/24"]}]}},
    }
}
CONFIG = {"SubnetIds": ["subnet-b", "subnet-a"], "SecurityGroupIds": ["sg-db", "sg-app"]}


@pytest.fixture
def control(tmp_path: Any) -> Iterator[ControlServer]:
    with ControlServer(tmp_path, settings={"vpcs": VPCS}) as running:
        yield running


def run(control: ControlServer, work: Any) -> Any:
    return asyncio.run_coroutine_threadsafe(work, control._loop).result(20)


def ask(control: ControlServer, method: str, path: str = "", body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{control.url}/_engine/vpc{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as e:
        return e.code, json.loads(e.read())


def test_the_supervisor_has_the_vpc_before_the_function(control: ControlServer) -> None:
    control.create("f", VpcConfig=CONFIG)
    assert control.peer.log[-2:] == [("vpc", "vpc-own"), ("put", "f")]
    document = control.peer.vpcs["vpc-own"]
    assert document is not None
    assert document["subnets"] == VPCS["vpc-own"]["subnets"]
    assert document["groups"]["sg-db"] == {
        "in": [{"protocol": 6, "from": 5432, "to": 5432, "cidrs": ["10.9.2.0/24"], "groups": ["sg-app"]}],
        "out": [{"protocol": -1, "from": -1, "to": -1, "cidrs": ["0.0.0.0/0"], "groups": []}],
    }
    assert control.entry("f")["versions"]["$LATEST"]["network"] == "vpc-own/subnet-a,subnet-b/sg-app,sg-db", "in any order the same"
    control.create("g", VpcConfig=CONFIG)
    assert control.peer.log[-1] == ("put", "g")
    assert control.peer.log.count(("vpc", "vpc-own")) == 1, "it has it"
    twice = control.create("h", VpcConfig={name: values * 2 for name, values in CONFIG.items()})["VpcConfig"]
    assert {name: twice[name] for name in CONFIG} == CONFIG, "what is named twice is one"


def test_a_vpc_kept_before_addresses_were_given_out_is_not_full(tmp_path: Any) -> None:
    with ControlServer(tmp_path, settings={"vpcs": VPCS}) as before:
        before.create("f", VpcConfig=CONFIG)
        former = {name: value for name, value in before.vpcs.entries()[0]["document"].items() if name != "ports"}
        run(before, SqlVpcStore(before.database).save("vpc-own", former))
    with ControlServer(tmp_path, settings={"vpcs": VPCS}) as control:
        assert "ports" not in control.vpcs.entries()[0]["document"], "the broker gives addresses out by itself, as it did"
        run(control, control.vpcs.refresh())
        document = control.peer.vpcs["vpc-own"]
        assert document is not None
        assert {key: port["ip"] for key, port in document["ports"].items()} == {"subnet-a/sg-app,sg-db": "10.9.1.254", "subnet-b/sg-app,sg-db": "10.9.2.254"}


def test_a_function_without_an_address_is_failed_until_there_is_one(tmp_path: Any) -> None:
    """Eleven of sixteen are free, and a set of groups takes one."""
    groups: dict[str, Any] = {f"sg-{n}": {} for n in range(13)}
    vpcs = {"vpc-own": {"cidr": "10.9.0.0/16", "subnets": {"subnet-tiny": "10.9.1.0/28", "subnet-b": "10.9.2.0/24"}, "security_groups": groups}}
    words = "Lambda couldn't set up VPC access for the Lambda function because one or more configured subnets has no available IP addresses."
    with ControlServer(tmp_path, settings={"vpcs": vpcs}) as control:
        client = control.client()

        def standing(name: str) -> tuple[str | None, ...]:
            shown = client.get_function_configuration(FunctionName=name)
            return tuple(shown.get(f"{of}{what}") for of in ("State", "LastUpdateStatus") for what in ("", "Reason", "ReasonCode"))

        def placed(n: int, *subnets: str) -> dict[str, list[str]]:
            return {"SubnetIds": list(subnets), "SecurityGroupIds": [f"sg-{n}"]}

        for n in range(11):
            control.create(f"f{n}", VpcConfig=placed(n, "subnet-tiny"))
        fine, failed = ("Active", None, None, "Successful", None, None), ("Failed", words, "SubnetOutOfIPAddresses") * 2
        assert standing("f10") == fine
        assert control.create("f11", VpcConfig=placed(11, "subnet-tiny"))["State"] == "Pending"
        assert standing("f11") == failed
        client.update_function_configuration(FunctionName="f11", VpcConfig=placed(11, "subnet-tiny", "subnet-b"))
        assert standing("f11") == fine, "one subnet is enough"
        control.create("f12")
        client.update_function_configuration(FunctionName="f12", VpcConfig=placed(12, "subnet-tiny"))
        assert standing("f12") == failed
        for name in ("f11", "f3"):
            client.delete_function(FunctionName=name)
        run(control, control.vpcs.refresh())
        assert standing("f12") == fine


def test_a_vpc_that_nobody_uses_is_forgotten(control: ControlServer) -> None:
    control.create("f", VpcConfig=CONFIG)
    control.client().delete_function(FunctionName="f")
    run(control, control.vpcs.refresh())
    assert control.peer.vpcs["vpc-own"], "it was just named: the function may still be on its way"
    control.clock.advance(600)
    run(control, control.vpcs.refresh())
    assert control.peer.vpcs["vpc-own"] is None
    assert control.vpcs.entries() == []


def test_what_nothing_can_be_made_of_does_not_end_the_following(
    control: ControlServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = iter([KeyError("CidrBlock"), None])
    again = threading.Event()

    async def refresh() -> None:
        outcome = next(outcomes, None)
        if outcome is not None:
            raise outcome
        again.set()

    monkeypatch.setattr(control.vpcs, "refresh", refresh)
    monkeypatch.setattr(control.vpcs, "_settings", control.settings.model_copy(update={"vpc_refresh_s": 0.01}))
    following = asyncio.run_coroutine_threadsafe(control.vpcs.run(), control._loop)
    assert again.wait(20)
    following.cancel()
    assert "CidrBlock" in caplog.text


def test_an_attached_server_keeps_its_vpc(control: ControlServer) -> None:
    server = {"subnet": "subnet-a", "ip": "10.9.1.10", "netns": "db", "groups": ["sg-db"], "name": "db.internal"}
    status, answer = ask(control, "POST", body=server)
    assert status == 200
    assert "DB.internal is the name of another" in ask(control, "POST", body={**server, "ip": "10.9.1.11", "name": "DB.internal"})[1]["message"]
    control.clock.advance(600)
    run(control, control.vpcs.refresh())
    document = control.peer.vpcs["vpc-own"]
    assert document is not None
    assert document["servers"] == {answer["id"]: {**server, "interface": ""}}
    assert ask(control, "GET")[1]["attachments"] == [{"id": answer["id"], "vpc": "vpc-own", **document["servers"][answer["id"]]}]
    assert ask(control, "DELETE", f"/{answer['id']}")[0] == 200
    run(control, control.vpcs.refresh())
    assert control.peer.vpcs["vpc-own"] is None


def test_an_attachment_the_broker_refuses_is_taken_back(control: ControlServer) -> None:
    def refusal(op: str, value: Any) -> str | None:
        return "\n".join(f"{name}: there is no interface x (ip link)" for name in value["document"]["servers"]) if op == "vpc" else None

    control.peer.refusal = refusal
    status, answer = ask(control, "POST", body={"subnet": "subnet-a", "ip": "10.9.1.10", "interface": "x"})
    assert (status, answer["message"]) == (400, "there is no interface x (ip link)")
    assert ask(control, "GET")[1]["attachments"] == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([], "not an attachment"),
        ({"subnet": 5}, "subnet must be a str"),
        ({"subnet": "subnet-a", "ip": "10.9.1.10", "netns": "a", "groups": [1]}, "list of ids"),
        ({"subnet": "subnet-a", "ip": "10.9.1.10", "netns": "a", "other": 1}, "not members of an attachment: other"),
        ({"subnet": "subnet-a", "ip": "10.9.1.10"}, "one of the two"),
        ({"subnet": "subnet-a", "ip": "10.9.1.10", "netns": "a", "interface": "b"}, "one of the two"),
        ({"subnet": "subnet-a", "ip": "10.9.1.2", "netns": "a"}, "10.9.1.2 is reserved"),
        ({"subnet": "subnet-a", "ip": "10.9.2.9", "netns": "a"}, "is not in subnet-a"),
        ({"subnet": "subnet-a", "ip": "10.9.1.9", "netns": "a", "name": "a b"}, "'a b' is not a host name"),
        ({"subnet": "subnet-a", "ip": "10.9.1.9", "netns": "a", "name": f"{'a' * 64}.internal"}, "is not a host name"),
    ],
)
def test_attachments_that_are_none(control: ControlServer, body: Any, reason: str) -> None:
    status, answer = ask(control, "POST", body=body)
    assert status == 400
    assert reason in answer["message"]


def test_what_came_through_the_port_attaches_nothing(control: ControlServer) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert ask(control, method, body={} if method == "POST" else None, **{"X-Lambda-Engine-Peer": "127.0.0.1:5"})[0] == 403


def test_where_there_are_no_vpcs_the_reason_is_given(tmp_path: Any) -> None:
    with ControlServer(tmp_path, settings={"vpcs": VPCS}, no_vpc="VpcConfig cannot be obeyed at sandbox level user") as control:
        status, code, message = refused(control.create, "f", VpcConfig=CONFIG)
        assert (status, code) == (501, "NotImplementedException")
        assert "cannot be obeyed at sandbox level user" in message
        assert "cannot be obeyed" in ask(control, "POST", body={"subnet": "subnet-a", "ip": "10.9.1.10", "netns": "a"})[1]["message"]


@pytest.mark.parametrize(
    ("vpcs", "reason"),
    [
        ({"x": {"cidr": "10.0.0.0/16"}}, "a VPC is called vpc-"),
        ({"vpc-a": {"cidr": "10.0.0.0/8"}}, "between 16 and 65536"),
        ({"vpc-a": {"cidr": "10.0.0.0/16", "subnets": {"subnet-a": "10.1.0.0/24"}}}, "lies within"),
        ({"vpc-a": {"cidr": "10.0.0.0/16", "subnets": {"a": "10.0.0.0/24"}}}, "a subnet is called subnet-"),
        ({"vpc-a": {"cidr": "10.0.0.0/16", "security_groups": {"a": {}}}}, "a security group is called sg-"),
        ({"vpc-a": {"cidr": "10.0.0.0/16", "security_groups": {"sg-a": {"ingress": [{"peers": ["sg-b"]}]}}}}, "refers to sg-b"),
        ({"vpc-a": {"cidr": "10.0.0.0/16", "security_groups": {"sg-a": {"ingress": [{"ports": "1", "peers": ["sg-a"]}]}}}}, "cannot be had"),
        ({"vpc-a": {"cidr": "10.0.0.0/16", "security_groups": {"sg-a": {"egress": [{"peers": ["10.0.0.1/8"]}]}}}}, "host bits set"),
        (
            {f"vpc-{n}": {"cidr": "10.0.0.0/16", "subnets": {"subnet-a": "10.0.0.0/24"}} for n in "ab"},
            "subnet-a is in vpc-a and in vpc-b",
        ),
    ],
)
def test_settings_that_are_refused(vpcs: Any, reason: str) -> None:
    from engine.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match=reason):
        load(vpcs=vpcs)


def test_what_ec2_describes_becomes_rules() -> None:
    vpc = {
        "CidrBlock": "10.0.0.0/16",
        "CidrBlockAssociationSet": [
            {"CidrBlock": "10.0.0.0/16", "CidrBlockState": {"State": "associated"}},
            {"CidrBlock": "10.1.0.0/16", "CidrBlockState": {"State": "associated"}},
            {"CidrBlock": "10.2.0.0/16", "CidrBlockState": {"State": "disassociated"}},
        ],
    }
    permission: dict[str, Any] = {
        "IpProtocol": "tcp",
        "FromPort": 80,
        "ToPort": 90,
        "IpRanges": [{"CidrIp": "0.0.0.0/0"}],
        "Ipv6Ranges": [{"CidrIpv6": "::/0"}],
        "UserIdGroupPairs": [{"GroupId": "sg-b"}],
    }
    group: dict[str, Any] = {"GroupId": "sg-a", "IpPermissions": [permission], "IpPermissionsEgress": [{"IpProtocol": p} for p in ("-1", "50", "icmpv6", "none", "²")]}
    impossible = [("tcp", 70_000, 70_001), ("udp", -1, 80), ("tcp", -2, 80), ("icmp", 256, -1), ("icmp", 8, 256), ("300", -1, -1)]
    group["IpPermissions"] += [{**permission, "IpProtocol": name, "FromPort": low, "ToPort": high} for name, low, high in impossible]
    permission["IpRanges"] += [{"CidrIp": cidr} for cidr in ("10.0.0.1/16", "10.0.0.0/33", "x")]
    permission["PrefixListIds"] = [{"PrefixListId": "pl-1"}, {"PrefixListId": "pl-2"}]
    lists = {"pl-1": ["10.3.0.0/24", "2001:db8::/32"]}
    document = vpc_documents.from_ec2("1", vpc, [{"SubnetId": "subnet-a", "CidrBlock": "10.0.1.0/24"}], [group], lists)
    assert document["cidrs"] == ["10.0.0.0/16", "10.1.0.0/16"]
    assert document["groups"]["sg-a"] == {
        "in": [{"protocol": 6, "from": 80, "to": 90, "cidrs": ["0.0.0.0/0", "10.3.0.0/24"], "groups": ["sg-b"]}],
        "out": [
            {"protocol": -1, "from": -1, "to": -1, "cidrs": [], "groups": []},
            {"protocol": 50, "from": -1, "to": -1, "cidrs": [], "groups": []},
            {"protocol": 58, "from": -1, "to": -1, "cidrs": [], "groups": []},
        ],
    }
