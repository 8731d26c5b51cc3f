"""VPCs as functions use them: names resolved and judged, what is known kept, the broker told, changes followed.

Theory of operation. VPCs come from the settings or from EC2. Whatever a function or an attached server refers to is kept in the store as a
document, so that a start needs nobody's answer, and is sent to the supervisor (in the snapshot at each connect, and when it changes).
``refresh`` asks EC2 again and again for the VPCs in use and sends what differs: a change of a group's rules holds for running instances
within ``vpc_refresh_s``. Functions' addresses are given out here (``vpc_ports``), so that EC2 can tell of them. What EC2 does not know any more, as the embedded one after a restart, stays as it was. A VPC that nobody
uses is forgotten.
Source: docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html and recorded refusals.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import secrets
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from engine.clock import Clock
from engine.config import Settings
from engine.control import vpc_documents, vpc_ports
from engine.control.catalogue import Catalogue
from engine.control.link import ControlLink, Hello
from engine.control.sources import Sources
from engine.errors import AwsError, InvalidParameterValue, NotImplementedHere, ServiceError
from engine.store.vpcs import SqlVpcStore

# A VPC that was just named is not forgotten before the function that named it is stored.
_GRACE_S = 120.0
# Longer than an invocation may take: so long an address that nobody wants any more stays whose it was.
_HELD_S = 930.0
EMPTY: Mapping[str, Any] = {"SubnetIds": [], "SecurityGroupIds": [], "VpcId": "", "Ipv6AllowedForDualStack": False}
# So often it is looked for what EC2 has been told and nobody obeys.
_TELL_S = 60.0
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class AttachmentRefused(Exception):
    """A server cannot be attached or detached; the text says why."""


class Vpcs:
    """For one event loop."""

    def __init__(
        self,
        settings: Settings,
        store: SqlVpcStore,
        link: ControlLink,
        sources: Sources,
        catalogue: Catalogue,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._store = store
        self._link = link
        self._sources = sources
        self._catalogue = catalogue
        self._clock = clock
        self._documents = store.everything()
        self._named_s: dict[str, float] = {}
        # When a port, by VPC and key, was last wanted.
        self._wanted_s: dict[tuple[str, str], float] = {}
        # What has been said of VPCs, and when it was last looked for.
        self._told: set[tuple[str, str]] = set()
        self._told_s: dict[str, float] = {}
        self._telling = threading.Lock()
        self._used_ports: tuple[int, dict[str, dict[str, str]]] = (-1, {})
        self._lock = asyncio.Lock()
        self._own = {name: vpc_documents.from_settings(vpc) for name, vpc in settings.vpcs.items()}
        for name, document in self._documents.items():
            if name in self._own:
                # One that was kept before there were ports has none until they are given out: an empty list would say that its subnets are full.
                own = {member: value for member, value in self._own[name].items() if member != "ports"}
                self._documents[name] = own | {member: document[member] for member in ("servers", "ports") if member in document}

    def entries(self) -> list[dict[str, Any]]:
        """What the supervisor has to know, for a snapshot."""
        return [{"vpc": name, "document": document} for name, document in self._documents.items()]

    def interfaces(self) -> list[dict[str, Any]]:
        """The ports of EC2's VPCs that versions use now, as what EC2 shows them from."""
        used = self._used()
        return [
            {"account": document["account"], "subnet": key.partition("/")[0], "groups": key.partition("/")[2].split(","), **port}
            for vpc, document in self._documents.items()
            if document["source"] == "ec2"
            for key, port in document.get("ports", {}).items()
            if key in used.get(vpc, ())
        ]

    def _used(self) -> dict[str, dict[str, str]]:
        """By VPC, the keys of ports that versions use, each with the name of a function."""
        if self._used_ports[0] != self._catalogue.changes:
            used: dict[str, dict[str, str]] = {}
            for entry in self._catalogue.entries():
                for network in {version["network"] for version in entry["versions"].values()} - {""}:
                    ports = used.setdefault(network.partition("/")[0], {})
                    for key in vpc_ports.keys(network):
                        ports.setdefault(key, entry["name"])
            self._used_ports = self._catalogue.changes, used
        return self._used_ports[1]

    # Functions.

    async def placed(
        self, members: dict[str, Any], account: str, function: str, hello: Hello, former: Mapping[str, Any] = EMPTY
    ) -> dict[str, Any]:
        """The members of a request about a function with their VpcConfig resolved, if there is one: what that leaves out stays as in the ``former``
        one. Raises as ``resolve``.
        """
        if members.get("VpcConfig") is None:
            return members
        given = {name: value for name, value in members["VpcConfig"].items() if value is not None}
        kept = {name: former.get(name) for name in ("SubnetIds", "SecurityGroupIds")} if given else {}
        return {**members, "VpcConfig": await self.resolve({**kept, **given}, account, function, hello)}

    async def resolve(self, wanted: Mapping[str, Any], account: str, function: str, hello: Hello) -> dict[str, Any]:
        """A request's VpcConfig as it is kept and shown, its VPC ready. Raises InvalidParameterValue with AWS's words, NotImplementedHere
        where VPCs cannot be had, ServiceError when EC2 or the supervisor cannot be reached.
        """
        subnets, groups = _once(wanted.get("SubnetIds")), _once(wanted.get("SecurityGroupIds"))
        if bool(subnets) != bool(groups):
            raise InvalidParameterValue("SubnetIds and SecurityIds must coexist or be both empty list.")
        if wanted.get("Ipv6AllowedForDualStack"):
            raise NotImplementedHere("Lambda Engine's VPCs speak IPv4 only: leave Ipv6AllowedForDualStack out.")
        if not subnets:
            return dict(EMPTY)
        if hello.no_vpc:
            raise NotImplementedHere(f"Lambda Engine does not support VpcConfig here: {hello.no_vpc}. Nothing was changed.")
        vpc, document = await self._find(subnets, groups, account, hello)
        found = {"SubnetIds": subnets, "SecurityGroupIds": groups, "VpcId": vpc, "Ipv6AllowedForDualStack": False}
        async with self._lock:
            self._named_s[vpc] = self._clock.monotonic()
            await self._keep(vpc, document, dict.fromkeys(vpc_ports.keys(vpc_documents.network(found)), function))
        return found

    def full(self, config: Mapping[str, Any]) -> bool:
        """Whether a version has no address, since all of its subnets are full. It gets one when there is one again."""
        placed = config.get("VpcConfig") or {}
        ports = self._documents.get(placed.get("VpcId") or "", {}).get("ports")
        return ports is not None and not any(key in ports for key in vpc_ports.keys(vpc_documents.network(placed)))

    async def vpc_of(self, wanted: Mapping[str, Any], account: str) -> str | None:
        """The VPC of a request's VpcConfig, for whoever decides whether the request may be made; None where that cannot be said."""
        subnets, groups = _once(wanted.get("SubnetIds")), _once(wanted.get("SecurityGroupIds"))
        try:
            if any(name in document["subnets"] for document in self._own.values() for name in subnets):
                return self._find_own(subnets, groups)
            hello = await self._link.ready()
            return (await asyncio.to_thread(self._find_in_ec2, subnets, groups, account, hello))[0]
        except AwsError:
            return None

    async def _find(self, subnets: list[str], groups: list[str], account: str, hello: Hello) -> tuple[str, dict[str, Any]]:
        """The VPC in which all of these are, and what it is."""
        if any(name in document["subnets"] for document in self._own.values() for name in subnets):
            vpc = self._find_own(subnets, groups)
            return vpc, self._own[vpc]
        return await asyncio.to_thread(self._find_in_ec2, subnets, groups, account, hello)

    def _find_own(self, subnets: list[str], groups: list[str]) -> str:
        homes = {name: vpc for vpc, d in self._own.items() for name in (*d["subnets"], *d["groups"])}
        for name in subnets:
            if name not in homes:
                raise _refused("DescribeSubnets", "InvalidSubnetID.NotFound", f"The subnet ID '{name}' does not exist")
        for name in groups:
            if name not in homes:
                raise _refused("DescribeSecurityGroups", "InvalidGroup.NotFound", f"The security group '{name}' does not exist")
        return _one_vpc([homes[s] for s in subnets], [homes[g] for g in groups])

    def _find_in_ec2(self, subnets: list[str], groups: list[str], account: str, hello: Hello) -> tuple[str, dict[str, Any]]:
        from engine.aws import ec2  # noqa: PLC0415 - imports boto3

        aws = self._sources.aws(account, hello)
        found_subnets = _asking("DescribeSubnets", lambda: ec2.subnets(aws, subnets))
        found_groups = _asking("DescribeSecurityGroups", lambda: ec2.groups(aws, groups))
        vpc = _one_vpc([s["VpcId"] for s in found_subnets], [g.get("VpcId", "") for g in found_groups])
        self._tell(vpc, lambda: ec2.unheeded(aws, vpc))
        return vpc, vpc_documents.from_ec2(account, *_asking("DescribeVpcs", lambda: ec2.vpc(aws, vpc)))

    async def _keep(self, vpc: str, document: Mapping[str, Any], ports: Mapping[str, str] | None = None) -> str:
        """Store a document, keeping who is attached and which addresses are whose, and tell the supervisor if it differs; what could not be attached.

        ``ports``: keys that are wanted besides those in use, with the function that wants them.
        """
        former = self._documents.get(vpc)
        after = {**document, "servers": document["servers"] or (former or {}).get("servers", {}), "ports": (former or {}).get("ports", {})}
        after["ports"] = self._ports(vpc, after, ports or {})
        if after == former:
            return ""
        return await self._replace(vpc, after)

    def _ports(self, vpc: str, document: Mapping[str, Any], further: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """The ports that a VPC has from now on."""
        now_s = self._clock.monotonic()
        wanted = {**further, **self._used().get(vpc, {})}
        self._wanted_s |= {(vpc, key): now_s for key in wanted}
        fresh_s = now_s - _HELD_S if self._catalogue.loaded else -math.inf
        held = [key for key in document["ports"] if self._wanted_s.get((vpc, key), -math.inf) >= fresh_s]
        return vpc_ports.allotted(document, wanted, held, lambda: str(uuid.uuid4()))

    async def _replace(self, vpc: str, document: dict[str, Any] | None) -> str:
        await self._store.save(vpc, document)
        if document is None:
            self._documents.pop(vpc, None)
        else:
            self._documents[vpc] = document
        return await self._link.vpc(vpc, document)

    # Attached servers.

    def attachments(self) -> list[dict[str, Any]]:
        """Every attached server, with its id and its VPC."""
        return [
            {"id": name, "vpc": vpc, **server}
            for vpc, document in self._documents.items()
            for name, server in document["servers"].items()
        ]

    async def attach(self, server: Mapping[str, Any], account: str) -> str:
        """Attach a server to its subnet; the attachment's id. Raises AttachmentRefused, AwsError."""
        hello = await self._link.ready()
        if hello.no_vpc:
            raise AttachmentRefused(hello.no_vpc)
        subnet, groups = str(server["subnet"]), [str(g) for g in server["groups"]]
        vpc = next((v for v, d in {**self._own, **self._documents}.items() if subnet in d["subnets"]), None)
        if vpc is None or set(groups) - {**self._own, **self._documents}[vpc]["groups"].keys():
            vpc = await self._look_up(subnet, groups, account, hello)
        async with self._lock:
            document = self._documents.get(vpc) or self._own[vpc]
            problem = vpc_documents.bad_address(document, subnet, str(server["ip"])) or vpc_documents.bad_name(document, str(server["name"]))
            if problem:
                raise AttachmentRefused(problem)
            name = f"server-{secrets.token_hex(8)}"
            after = {**document, "servers": {**document["servers"], name: dict(server)}}
            answer = await self._replace(vpc, after)
            if problem := _line_about(name, answer):
                await self._replace(vpc, document)
                raise AttachmentRefused(problem)
        return name

    async def _look_up(self, subnet: str, groups: list[str], account: str, hello: Hello) -> str:
        """The VPC of a subnet that is not known yet, or whose groups are not."""

        def ask() -> tuple[str, dict[str, Any]]:
            from engine.aws import ec2  # noqa: PLC0415 - imports boto3

            aws = self._sources.aws(account, hello)
            found = _asking("DescribeSubnets", lambda: ec2.subnets(aws, [subnet]))
            if groups:
                inside = _asking("DescribeSecurityGroups", lambda: ec2.groups(aws, groups))
                _one_vpc([found[0]["VpcId"]], [g.get("VpcId", "") for g in inside])
            vpc = str(found[0]["VpcId"])
            return vpc, vpc_documents.from_ec2(account, *_asking("DescribeVpcs", lambda: ec2.vpc(aws, vpc)))

        vpc, document = await asyncio.to_thread(ask)
        async with self._lock:
            self._named_s[vpc] = self._clock.monotonic()
            await self._keep(vpc, document)
        return vpc

    async def detach(self, name: str) -> None:
        """Undo an attachment. Raises AttachmentRefused when there is none of this id."""
        async with self._lock:
            for vpc, document in self._documents.items():
                if name in document["servers"]:
                    servers = {k: v for k, v in document["servers"].items() if k != name}
                    await self._replace(vpc, {**document, "servers": servers})
                    return
        raise AttachmentRefused(f"there is no attachment {name}: 'lambda-engine vpc list' shows them")

    # Changes.

    async def run(self) -> None:
        """Follow EC2 and forget what nobody uses, until cancelled."""
        while True:
            await asyncio.sleep(self._settings.vpc_refresh_s)
            try:
                await self.refresh()
            except ServiceError as e:
                _log.warning("VPCs were not refreshed: %s", e)
            except Exception:  # noqa: BLE001 - an answer that nothing can be made of must not keep every later change from all VPCs
                _log.exception("VPCs were not refreshed")

    async def refresh(self) -> None:
        """Once. Raises ServiceError when the supervisor or EC2 cannot be reached."""
        await self._settle()
        asked = {vpc: d for vpc, d in self._documents.items() if d["source"] == "ec2"}
        if not asked or not await self._ec2_is_up():
            return
        hello = await self._link.ready()
        for vpc, known in asked.items():
            document = await asyncio.to_thread(self._described, vpc, str(known["account"]), hello)
            async with self._lock:
                # What has been learned meanwhile is newer than this answer.
                if document is not None and self._documents.get(vpc) is known:
                    await self._keep(vpc, document)

    async def _ec2_is_up(self) -> bool:
        """The embedded EC2 is not started only to be asked: it would know nothing."""
        if self._settings.aws_endpoint != "embedded":
            return True
        return "embedded-aws" in (await self._link.query("stats")).get("processes", {})

    def _described(self, vpc: str, account: str, hello: Hello) -> dict[str, Any] | None:
        """What EC2 says of a VPC now; None when it does not know it any more."""
        from engine.aws import ec2  # noqa: PLC0415 - imports boto3

        try:
            aws = self._sources.aws(account, hello)
            found = _asking("DescribeVpcs", lambda: ec2.vpc(aws, vpc))
            if self._clock.monotonic() - self._told_s.get(vpc, -_TELL_S) >= _TELL_S:
                self._tell(vpc, lambda: ec2.unheeded(aws, vpc))
            return vpc_documents.from_ec2(account, *found)
        except InvalidParameterValue as e:
            _log.debug("%s stays as it was: %s", vpc, e)
            return None

    def _tell(self, vpc: str, ask: Callable[[], list[str]]) -> None:
        """Say once what a VPC's settings ask for in vain."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - a third of a second that few starts need

        self._told_s[vpc] = self._clock.monotonic()
        try:
            found = ask()
        except (BotoCoreError, ClientError) as e:
            _log.debug("nobody knows what is not obeyed of %s: %s", vpc, e)
            return
        # Several threads may have found it at once.
        with self._telling:
            news = [sentence for sentence in found if (vpc, sentence) not in self._told]
            self._told.update((vpc, sentence) for sentence in news)
        for sentence in news:
            _log.warning("%s: %s", vpc, sentence)

    async def _settle(self) -> None:
        """Forget what nobody uses, of the others the addresses that nobody has."""
        if not self._catalogue.loaded:
            return
        now_s = self._clock.monotonic()
        self._wanted_s = {key: then_s for key, then_s in self._wanted_s.items() if now_s - then_s < _HELD_S}
        async with self._lock:
            for vpc, document in list(self._documents.items()):
                fresh = now_s - self._named_s.get(vpc, -_GRACE_S) < _GRACE_S
                if vpc in self._used() or document["servers"] or fresh:
                    await self._keep(vpc, document)
                else:
                    await self._replace(vpc, None)
                    with self._telling:
                        self._told = {said for said in self._told if said[0] != vpc}
                    self._told_s.pop(vpc, None)


def _once(names: list[str] | None) -> list[str]:
    """Each name once, in order: EC2 does not find one that is asked for twice."""
    return list(dict.fromkeys(names or ()))


def _one_vpc(of_subnets: list[str], of_groups: list[str]) -> str:
    """The VPC of them all. Raises InvalidParameterValue."""
    if len(set(of_subnets)) != 1:
        raise InvalidParameterValue("Subnets are required to be in the same VPC.")
    if set(of_groups) - set(of_subnets):
        raise InvalidParameterValue("Security Groups are required to be in the same VPC.")
    return of_subnets[0]


def _refused(operation: str, code: object, message: object) -> InvalidParameterValue:
    return InvalidParameterValue(f"Error occurred while {operation}. EC2 Error Code: {code}. EC2 Error Message: {message}")


def _asking(operation: str, ask: Callable[[], _T]) -> _T:
    """EC2's answer. Raises InvalidParameterValue with what EC2 says, ServiceError when it cannot be asked."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - a third of a second that few starts need

    try:
        return ask()
    except ClientError as e:
        error = e.response.get("Error", {})
        raise _refused(operation, error.get("Code"), _as_aws_says(str(error.get("Code")), str(error.get("Message")))) from e
    except BotoCoreError as e:
        raise ServiceError(f"EC2 could not be asked ({operation}): {e}") from e


def _as_aws_says(code: str, message: str) -> str:
    """EC2's sentence about a missing group, which the embedded one prints as a set."""
    missing = re.search(r"sg-[0-9a-zA-Z]+", message)
    if code == "InvalidGroup.NotFound" and missing:
        return f"The security group '{missing[0]}' does not exist"
    return message


def _line_about(name: str, answer: str) -> str:
    """Why an attachment was not made, from the supervisor's answer; a line about none of them is about all."""
    for line in answer.splitlines():
        subject, separator, reason = line.partition(": ")
        if subject == name:
            return reason
        if not separator or not subject.startswith("server-"):
            return line
    return ""
