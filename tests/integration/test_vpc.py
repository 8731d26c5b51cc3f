"""VpcConfig from the API to the packet: EC2 of the embedded AWS, servers attached by the command line, functions of different groups."""

from __future__ import annotations

import contextlib
import functools
import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError, WaiterError

from tests.framework.engine import Engine, engine
from tests.framework.host import require
from tests.framework.networks import Host, devices, settled
from tests.framework.packages import package_of
from tests.framework.postgres import postgres
from tests.framework.wait import until

pytestmark = pytest.mark.root
# The event is an address; the answer is what its web server says, or how it fails.
CODE = """
import socket
def f(event, context):
    try:
        with socket.create_connection((event["host"], event["port"]), event.get("timeout", 20)) as s:
            s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            return s.makefile().read().rpartition("\\n")[2]
    except OSError as e:
        return type(e).__name__
"""
OWN = {
    "vpc-own": {
        "cidr": "10.9.0.0/16",
        "subnets": {"subnet-own": "10.9.1.0/24", "subnet-own2": "10.9.2.0/24"},
        "security_groups": {"sg-own": {}, "sg-web": {"ingress": [{"protocol": "tcp", "ports": "80", "peers": ["sg-own"]}]}},
    },
    "vpc-else": {"cidr": "10.9.0.0/16", "subnets": {"subnet-else": "10.9.1.0/24"}, "security_groups": {"sg-else": {}}},
}


class Lab:
    """An engine, a VPC in its EC2, and a database server in it."""

    def __init__(self, running: Engine, database: Host) -> None:
        self.engine = running
        self.database = database
        self.ec2 = running.client("ec2")
        self.aws = running.client()
        self.vpc = self.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        self.subnet = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
        self.app, self.stranger, self.db = (self.group(name) for name in ("app", "stranger", "db"))
        self.let_in(self.app)

    def group(self, name: str, vpc: str | None = None) -> str:
        made = self.ec2.create_security_group(GroupName=f"{name}-{secrets.token_hex(4)}", Description=name, VpcId=vpc or self.vpc)
        return str(made["GroupId"])

    def let_in(self, group: str) -> None:
        rule = {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "UserIdGroupPairs": [{"GroupId": group}]}
        self.ec2.authorize_security_group_ingress(GroupId=self.db, IpPermissions=[rule])

    def shut_out(self, group: str) -> None:
        rule = {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "UserIdGroupPairs": [{"GroupId": group}]}
        self.ec2.revoke_security_group_ingress(GroupId=self.db, IpPermissions=[rule])

    def deploy(self, name: str, subnet: str, *groups: str) -> dict[str, Any]:
        with contextlib.suppress(self.aws.exceptions.ResourceNotFoundException):
            # Of a test that is run once more.
            self.aws.delete_function(FunctionName=name)
        config = {"SubnetIds": [subnet], "SecurityGroupIds": list(groups)}
        return self.engine.deploy(name, {"m.py": CODE}, VpcConfig=config, Timeout=30)

    @functools.cached_property
    def kept(self) -> tuple[str, str]:
        """Functions of either group, made before the embedded EC2 has forgotten the subnet."""
        self.deploy("kept-app", self.subnet, self.app)
        self.deploy("kept-stranger", self.subnet, self.stranger)
        return "kept-app", "kept-stranger"

    def get(self, name: str, host: str, port: int, timeout: float = 20.0) -> str:
        event = json.dumps({"host": host, "port": port, "timeout": timeout})
        return str(json.loads(self.aws.invoke(FunctionName=name, Payload=event)["Payload"].read()))

    def ask(self, name: str, **event: Any) -> dict[str, Any]:
        return dict(json.loads(self.aws.invoke(FunctionName=name, Payload=json.dumps(event))["Payload"].read()))

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "engine.cli.main", "vpc", *words, "--data-dir", str(self.engine.data_dir)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    def attach(self, *words: str) -> str:
        done = self.command("attach", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    require("no iproute2")
    require("no macvlan")
    require("no packet filter")
    with Host() as database, engine(vpcs=OWN, vpc_refresh_s=0.2, sandbox="full") as running:
        database.serve("database", 5432)
        made = Lab(running, database)
        made.attach(
            "--subnet", made.subnet, "--ip", "10.0.1.10", "--netns", database.name, "--security-group", made.db, "--name", "db.internal"
        )
        yield made


def refused(call: Any, *args: Any, **members: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(*args, **members)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def test_one_group_reaches_the_database_another_does_not(lab: Lab) -> None:
    answer = lab.deploy("app", lab.subnet, lab.app)
    assert answer["VpcConfig"] == {
        "SubnetIds": [lab.subnet],
        "SecurityGroupIds": [lab.app],
        "VpcId": lab.vpc,
        "Ipv6AllowedForDualStack": False,
    }
    assert lab.aws.get_function_configuration(FunctionName="app")["VpcConfig"] == answer["VpcConfig"]
    lab.deploy("stranger", lab.subnet, lab.stranger)
    assert lab.get("app", "db.internal", 5432) == "database for 10.0.1.254"
    assert lab.get("stranger", "db.internal", 5432, 0.5) == "TimeoutError"


def test_a_real_database_answers_one_function_and_is_not_there_for_another(lab: Lab) -> None:
    """PostgreSQL in a namespace of its own, asked by a driver from a package."""
    require("no PostgreSQL")
    with Host() as server, postgres(server):
        words = ("--ip", "10.0.1.30", "--netns", server.name, "--security-group", lab.db, "--name", "sql.internal")
        attached = lab.attach("--subnet", lab.subnet, *words)
        for name, group in (("sql-app", lab.app), ("sql-stranger", lab.stranger)):
            config = {"SubnetIds": [lab.subnet], "SecurityGroupIds": [group]}
            lab.engine.deploy(name, package_of("sql_query"), VpcConfig=config, Timeout=60, MemorySize=512)
        assert lab.ask("sql-app", host="sql.internal", timeout=30) == {"rows": [["sql-app", "10.0.1.254"]]}
        assert lab.ask("sql-stranger", host="sql.internal", timeout=1)["error"].startswith("Can't create a connection to host sql.internal")
        assert lab.ask("sql-app", host="sql.internal", timeout=30) == {"rows": [["sql-app", "10.0.1.254"]] * 2}
        assert lab.command("detach", attached).returncode == 0


def test_a_function_in_a_vpc_has_the_engine_as_its_aws(lab: Lab) -> None:
    code = "import boto3\ndef f(e, c): return boto3.client('ec2').describe_vpcs(VpcIds=[e])['Vpcs'][0]['CidrBlock']"
    config = {"SubnetIds": [lab.subnet], "SecurityGroupIds": [lab.app]}
    lab.engine.deploy("inner", {"m.py": code}, VpcConfig=config, Timeout=60)
    answer = lab.aws.invoke(FunctionName="inner", Payload=json.dumps(lab.vpc))
    assert json.loads(answer["Payload"].read()) == "10.0.0.0/16"


def test_a_changed_rule_holds_for_a_running_instance(lab: Lab) -> None:
    lab.deploy("late", lab.subnet, lab.group("late"))
    late = lab.aws.get_function_configuration(FunctionName="late")["VpcConfig"]["SecurityGroupIds"][0]
    assert lab.get("late", "10.0.1.10", 5432, 0.5) == "TimeoutError"
    lab.let_in(late)
    deadline_s = time.monotonic() + 30
    while lab.get("late", "10.0.1.10", 5432, 0.5) == "TimeoutError":
        assert time.monotonic() < deadline_s
    lab.shut_out(late)
    while lab.get("late", "10.0.1.10", 5432, 0.5) != "TimeoutError":
        assert time.monotonic() < deadline_s
    states = [i for i in lab.engine.state()["instances"] if i["function"] == "late"]
    assert len(states) == 1, "all of it on the first instance"


def test_vpcs_of_the_settings_and_two_of_them_apart(lab: Lab) -> None:
    with Host() as web, Host() as twin:
        web.serve("web", 80)
        twin.serve("twin", 80)
        one = lab.attach("--subnet", "subnet-own", "--ip", "10.9.1.10", "--netns", web.name, "--security-group", "sg-web")
        two = lab.attach("--subnet", "subnet-else", "--ip", "10.9.1.11", "--netns", twin.name)
        lab.deploy("own", "subnet-own2", "sg-own")
        lab.deploy("else", "subnet-else", "sg-else")
        assert lab.get("own", "10.9.1.10", 80) == "web for 10.9.2.254"
        assert lab.get("else", "10.9.1.11", 80) == "twin for 10.9.1.254"
        assert lab.get("own", "10.9.1.11", 80, 0.5) == "TimeoutError"
        assert lab.get("else", "10.9.1.10", 80, 0.5) == "TimeoutError"
        listed = json.loads(lab.command("list", "--json").stdout)
        assert {s["id"]: (s["vpc"], s["ip"]) for s in listed if s["id"] in (one, two)} == {
            one: ("vpc-own", "10.9.1.10"),
            two: ("vpc-else", "10.9.1.11"),
        }
        for name in (one, two):
            assert lab.command("detach", name).returncode == 0
        assert lab.get("own", "10.9.1.10", 80, 0.5) == "TimeoutError"
        assert "there is no attachment" in lab.command("detach", one).stderr


def test_leaving_a_vpc_and_coming_back(lab: Lab) -> None:
    lab.deploy("mover", lab.subnet, lab.app)
    # Terraform's replace_security_groups_on_destroy names the groups alone.
    regrouped = lab.aws.update_function_configuration(FunctionName="mover", VpcConfig={"SecurityGroupIds": [lab.app]})["VpcConfig"]
    assert (regrouped["SubnetIds"], regrouped["SecurityGroupIds"], regrouped["VpcId"]) == ([lab.subnet], [lab.app], lab.vpc)
    left = lab.aws.update_function_configuration(FunctionName="mover", VpcConfig={"SubnetIds": [], "SecurityGroupIds": []})
    assert left["VpcConfig"] == {"SubnetIds": [], "SecurityGroupIds": [], "VpcId": "", "Ipv6AllowedForDualStack": False}
    assert lab.get("mover", "10.0.1.10", 5432, 0.5) != "database for 10.0.1.254"
    config = {"SubnetIds": [lab.subnet], "SecurityGroupIds": [lab.app]}
    assert lab.aws.update_function_configuration(FunctionName="mover", VpcConfig=config)["VpcConfig"]["VpcId"] == lab.vpc
    assert lab.get("mover", "10.0.1.10", 5432) == "database for 10.0.1.254"


class Place:
    """A VPC of a test's own, with a server that sees who comes: the embedded EC2 may have forgotten the others' by then."""

    def __init__(self, lab: Lab, cidr: str) -> None:
        self.lab = lab
        self.vpc = lab.ec2.create_vpc(CidrBlock=f"{cidr}.0.0/16")["Vpc"]["VpcId"]
        self.subnet = self.add_subnet(f"{cidr}.1.0/24")
        self.app = lab.group("app", self.vpc)
        self.server = f"{cidr}.1.10"
        self.attached = lab.attach("--subnet", self.subnet, "--ip", self.server, "--netns", lab.database.name)

    def add_subnet(self, cidr: str) -> str:
        return str(self.lab.ec2.create_subnet(VpcId=self.vpc, CidrBlock=cidr)["Subnet"]["SubnetId"])

    def interfaces(self, **filters: str) -> list[dict[str, Any]]:
        wanted = {"vpc-id": self.vpc, "description": "AWS Lambda VPC ENI*"} | {k.replace("_", "-"): v for k, v in filters.items()}
        found = self.lab.ec2.describe_network_interfaces(Filters=[{"Name": k, "Values": [v]} for k, v in wanted.items()])
        return list(found["NetworkInterfaces"])


@pytest.fixture
def place(lab: Lab) -> Iterator[Callable[[str], Place]]:
    made: list[Place] = []

    def make(cidr: str) -> Place:
        made.append(Place(lab, cidr))
        return made[-1]

    yield make
    for one in made:
        lab.command("detach", one.attached)
        for function in lab.aws.list_functions()["Functions"]:
            if function.get("VpcConfig", {}).get("VpcId") == one.vpc:
                lab.aws.delete_function(FunctionName=function["FunctionName"])


def test_functions_have_interfaces_and_what_these_hang_on_is_not_deleted(lab: Lab, place: Callable[[str], Place]) -> None:
    here, ec2 = place("10.61"), lab.ec2
    assert here.interfaces() == []
    lab.deploy("eni-one", here.subnet, here.app)
    (eni,) = here.interfaces(group_id=here.app, interface_type="lambda", requester_managed="true", status="in-use")
    assert eni["Description"].startswith("AWS Lambda VPC ENI-eni-one-")
    assert (eni["InterfaceType"], eni["RequesterManaged"], eni["Status"]) == ("lambda", True, "in-use")
    assert (eni["VpcId"], eni["SubnetId"], [g["GroupId"] for g in eni["Groups"]]) == (here.vpc, here.subnet, [here.app])
    assert (eni["Attachment"]["InstanceOwnerId"], eni["Attachment"]["Status"]) == ("amazon-aws", "attached")
    assert lab.get("eni-one", here.server, 5432) == f"database for {eni['PrivateIpAddress']}"
    (subnet,) = ec2.describe_subnets(SubnetIds=[here.subnet])["Subnets"]
    assert subnet["AvailableIpAddressCount"] == 250

    further, other = here.add_subnet("10.61.2.0/24"), lab.group("other", here.vpc)
    config = {"SubnetIds": [further, here.subnet], "SecurityGroupIds": [other, here.app]}
    lab.engine.deploy("eni-two", {"m.py": CODE}, VpcConfig=config, Timeout=30)
    lab.deploy("eni-three", here.subnet, here.app)
    assert eni in here.interfaces()
    assert len(here.interfaces()) == 3, "one for a subnet and set of groups, whoever uses them"
    (first,), (second,) = here.interfaces(subnet_id=here.subnet, group_id=other), here.interfaces(subnet_id=further)
    assert len({e["NetworkInterfaceId"] for e in (eni, first, second)}) == 3
    assert {lab.get("eni-two", here.server, 5432) for _ in range(2)} <= {f"database for {e['PrivateIpAddress']}" for e in here.interfaces(group_id=other)}

    for call, members, refusal in (
        (ec2.delete_subnet, {"SubnetId": further}, ("DependencyViolation", f"The subnet '{further}' has dependencies and cannot be deleted.")),
        (ec2.delete_security_group, {"GroupId": other}, ("DependencyViolation", f"resource {other} has a dependent object")),
        (ec2.delete_network_interface, {"NetworkInterfaceId": second["NetworkInterfaceId"]},
         ("InvalidParameterValue", f"Network interface '{second['NetworkInterfaceId']}' is currently in use.")),
        (ec2.detach_network_interface, {"AttachmentId": second["Attachment"]["AttachmentId"]},
         ("OperationNotPermitted", "You are not allowed to manage 'ela-attach' attachments.")),
        (ec2.modify_network_interface_attribute, {"NetworkInterfaceId": second["NetworkInterfaceId"], "Groups": [here.app]},
         ("AuthFailure", "You do not have permission to access the specified resource.")),
    ):  # fmt: skip
        assert refused(call, **members) == refusal

    lab.aws.publish_version(FunctionName="eni-two")
    lab.aws.update_function_configuration(FunctionName="eni-two", VpcConfig={"SubnetIds": [], "SecurityGroupIds": []})
    assert here.interfaces(subnet_id=further), "version 1 uses it"
    lab.aws.delete_function(FunctionName="eni-two")
    assert here.interfaces() == [eni]
    ec2.delete_subnet(SubnetId=further)
    ec2.delete_security_group(GroupId=other)
    lab.aws.delete_function(FunctionName="eni-one")
    assert here.interfaces() == [eni], "another uses it"
    lab.aws.delete_function(FunctionName="eni-three")
    assert here.interfaces() == []
    ec2.delete_security_group(GroupId=here.app)


@pytest.mark.slow
def test_rules_about_prefix_lists_are_obeyed(lab: Lab, place: Callable[[str], Place]) -> None:
    here, ec2 = place("10.63"), lab.ec2
    everything = ec2.describe_security_groups(GroupIds=[here.app])["SecurityGroups"][0]["IpPermissionsEgress"]
    ec2.revoke_security_group_egress(GroupId=here.app, IpPermissions=everything)
    lab.deploy("listed", here.subnet, here.app)
    assert lab.get("listed", here.server, 5432, 0.5) == "TimeoutError"
    entries = [{"Cidr": f"{here.server}/32"}]
    made = ec2.create_managed_prefix_list(PrefixListName="servers", MaxEntries=5, AddressFamily="IPv4", Entries=entries)
    rule = {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "PrefixListIds": [{"PrefixListId": made["PrefixList"]["PrefixListId"]}]}
    ec2.authorize_security_group_egress(GroupId=here.app, IpPermissions=[rule])
    until(lambda: lab.get("listed", here.server, 5432, 0.5).startswith("database"), "the rule holds", 60)


def test_settings_of_a_vpc_that_have_no_effect_are_named(lab: Lab, place: Callable[[str], Place]) -> None:
    here, ec2 = place("10.64"), lab.ec2
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=here.vpc)
    table = ec2.create_route_table(VpcId=here.vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    acl = ec2.create_network_acl(VpcId=here.vpc)["NetworkAcl"]["NetworkAclId"]
    ec2.create_network_acl_entry(NetworkAclId=acl, RuleNumber=90, Protocol="6", RuleAction="deny", Egress=True, CidrBlock="0.0.0.0/0")
    lab.deploy("unheeded", here.subnet, here.app)

    def said() -> list[str]:
        return [line for line in lab.engine.log.read_text().splitlines() if here.vpc in line and "no effect" in line]

    wanted = f"routes of {table} to {gateway} have no effect", f"entries of network ACL {acl} have no effect"
    until(lambda: all(any(what in line for line in said()) for what in wanted), "both are named", 60)
    assert len(said()) == 2, "each once, and nothing of what a VPC has by itself"


@pytest.mark.slow
def test_addresses_of_a_small_subnet_come_back(lab: Lab, place: Callable[[str], Place]) -> None:
    """Eleven of sixteen are free, and a set of groups takes one."""
    here = place("10.62")

    def given(name: str) -> str | None:
        try:
            return lab.get(name, here.server, 5432)
        except ClientError:
            return None

    def standing(name: str) -> tuple[str | None, ...]:
        shown = lab.aws.get_function_configuration(FunctionName=name)
        return tuple(shown.get(member) for member in ("State", "StateReasonCode", "LastUpdateStatus", "LastUpdateStatusReasonCode"))

    tiny = here.add_subnet("10.62.9.0/28")
    groups = [lab.group(f"g{n}", here.vpc) for n in range(12)]
    for n, group in enumerate(groups[:11]):
        lab.deploy(f"tiny-{n}", tiny, group)
    # Active for want of nothing, until it is to be in the subnet that is full.
    lab.deploy("tiny-11", here.subnet, here.app)
    assert standing("tiny-11") == ("Active", None, "Successful", None)
    lab.aws.update_function_configuration(FunctionName="tiny-11", VpcConfig={"SubnetIds": [tiny], "SecurityGroupIds": [groups[11]]})
    with pytest.raises(WaiterError):
        lab.aws.get_waiter("function_updated_v2").wait(FunctionName="tiny-11")
    with pytest.raises(WaiterError):
        lab.deploy("tiny-12", tiny, here.app)
    for name in ("tiny-11", "tiny-12"):
        assert standing(name) == ("Failed", "SubnetOutOfIPAddresses", "Failed", "SubnetOutOfIPAddresses")
    lab.aws.delete_function(FunctionName="tiny-12")
    assert {e["PrivateIpAddress"] for e in here.interfaces()} == {f"10.62.9.{n}" for n in range(4, 15)}
    assert lab.get("tiny-10", here.server, 5432) == "database for 10.62.9.4"
    code, message = refused(lab.aws.invoke, FunctionName="tiny-11", Payload=json.dumps({"host": here.server, "port": 5432}))
    assert (code, message) == (
        "SubnetIPAddressLimitReachedException",
        "Lambda couldn't set up VPC access for the Lambda function because one or more configured subnets has no available IP addresses.",
    )
    lab.aws.delete_function(FunctionName="tiny-3")
    until(lambda: any(e["Groups"][0]["GroupId"] == groups[11] for e in here.interfaces()), "its address is another's", 60)
    until(lambda: given("tiny-11") == "database for 10.62.9.11", "it is let in", 60)
    assert standing("tiny-11") == ("Active", None, "Successful", None)
    for n in (0, 1, 2, *range(4, 12)):
        lab.aws.delete_function(FunctionName=f"tiny-{n}")
    assert here.interfaces() == []


def test_what_aws_refuses_in_its_words(lab: Lab) -> None:
    other = lab.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    elsewhere = lab.ec2.create_subnet(VpcId=other, CidrBlock="10.0.2.0/24")["Subnet"]["SubnetId"]
    foreign = lab.group("foreign", other)
    start = "Error occurred while "
    for subnets, groups, message in (
        (["subnet-0123"], [lab.app], f"{start}DescribeSubnets. EC2 Error Code: InvalidSubnetID.NotFound. EC2 Error Message: The subnet ID 'subnet-0123' does not exist"),
        ([lab.subnet], ["sg-0123"], f"{start}DescribeSecurityGroups. EC2 Error Code: InvalidGroup.NotFound. EC2 Error Message: The security group 'sg-0123' does not exist"),
        (["subnet-own", "subnet-none"], ["sg-own"], f"{start}DescribeSubnets. EC2 Error Code: InvalidSubnetID.NotFound. EC2 Error Message: The subnet ID 'subnet-none' does not exist"),
        (["subnet-own"], ["sg-none"], f"{start}DescribeSecurityGroups. EC2 Error Code: InvalidGroup.NotFound. EC2 Error Message: The security group 'sg-none' does not exist"),
        ([lab.subnet], [], "SubnetIds and SecurityIds must coexist or be both empty list."),
        ([], [lab.app], "SubnetIds and SecurityIds must coexist or be both empty list."),
        ([lab.subnet, elsewhere], [lab.app], "Subnets are required to be in the same VPC."),
        ([lab.subnet], [foreign], "Security Groups are required to be in the same VPC."),
        (["subnet-own", "subnet-else"], ["sg-own"], "Subnets are required to be in the same VPC."),
        (["subnet-own"], ["sg-else"], "Security Groups are required to be in the same VPC."),
    ):  # fmt: skip
        config = {"SubnetIds": subnets, "SecurityGroupIds": groups}
        code, text = refused(lab.engine.deploy, "no", {"m.py": CODE}, VpcConfig=config)
        assert (code, text) == ("InvalidParameterValueException", message)


def test_attachments_that_are_refused(lab: Lab) -> None:
    for words, reason in (
        (["--ip", "10.0.1.3"], "10.0.1.3 is reserved"),
        (["--ip", "10.0.1.255"], "10.0.1.255 is reserved"),
        (["--ip", "10.0.2.9"], "10.0.2.9 is not in"),
        (["--ip", "x"], "x is not an IPv4 address"),
        (["--ip", "10.0.1.10"], "10.0.1.10 is taken by another attached server"),
    ):
        done = lab.command("attach", "--subnet", lab.subnet, "--netns", lab.database.name, *words)
        assert done.returncode == 1
        assert reason in done.stderr
    done = lab.command("attach", "--subnet", lab.subnet, "--ip", "10.0.1.20", "--netns", "le-none")
    assert "there is no network namespace le-none" in done.stderr
    done = lab.command("attach", "--subnet", "subnet-0123", "--ip", "10.0.1.20", "--netns", lab.database.name)
    assert "The subnet ID 'subnet-0123' does not exist" in done.stderr
    done = lab.command("attach", "--subnet", lab.subnet, "--ip", "10.0.1.20")
    assert "one of the two" in done.stderr
    assert [s["ip"] for s in json.loads(lab.command("list", "--json").stdout)] == ["10.0.1.10"]


def test_nobody_attaches_through_the_port(lab: Lab) -> None:
    """A function reaches the port."""
    status, body = lab.engine.get("/_engine/vpc")
    assert status == 403
    assert "by its user" in body.decode()


def _network_process(running: Engine) -> int:
    broker = psutil.Process(running.state()["processes"]["broker"])
    return int(next(p.pid for p in broker.children() if p.name() == "lambda-network"))


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_nothing_is_left_and_all_is_there_again_after_a_restart(lab: Lab, number: signal.Signals) -> None:
    """The embedded EC2 has forgotten its VPCs by then."""
    own, other = lab.kept
    network = _network_process(lab.engine)
    assert f"le-nat-{network}" in devices()
    lab.engine.stop(number)
    settled(lambda: f"le-nat-{network}" not in devices(), "the host's end is gone")
    with lab.database.inside():
        settled(lambda: not [d for d in devices() if d.startswith("vpc")], "the server's end is gone")
    lab.engine.start()
    lab.aws, lab.ec2 = lab.engine.client(), lab.engine.client("ec2")
    assert lab.get(own, "db.internal", 5432) == "database for 10.0.1.254"
    assert lab.get(other, "10.0.1.10", 5432, 0.5) == "TimeoutError"


@pytest.mark.slow
@pytest.mark.parametrize(("level", "network"), [("process", "auto"), ("full", "host")])
def test_where_vpcs_cannot_be_had_they_are_refused(level: str, network: str) -> None:
    with engine(sandbox=level, network=network, vpcs=OWN) as running:
        config = {"SubnetIds": ["subnet-own"], "SecurityGroupIds": ["sg-own"]}
        code, message = refused(running.deploy, "no", {"m.py": CODE}, VpcConfig=config)
        assert code == "NotImplementedException"
        assert f"level {level}" in message or "network=host" in message
