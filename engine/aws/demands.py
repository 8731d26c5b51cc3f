"""What a request to another AWS service asks for: the actions of IAM, each with the ARN of what it is done to. Pure.

Theory of operation. Whatever a request can be about has to be found where the embedded AWS finds it, or it decides about one thing and acts on
another. So all names are taken, not the first one: a stream by its name and by its ARN are two demands, and each table, item, bus and secret
of a request for several is one of its own. Where a service is known here and the request names nothing, the resource is all of the service's, as
AWS has it for lists: a policy for one table is none for the list of tables. Of services not known here the resource is None.
Source: the actions and resource types of docs.aws.amazon.com/service-authorization/latest/reference.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from engine.aws import targets
from engine.aws.iam_demands import iam

__all__ = ["Asked", "Demand", "demands", "passed_roles"]

# (action, ARN or None where it cannot be known).
Demand = tuple[str, str | None]
# Where IAM's name of a service is not the one of its signatures.
PREFIXES: Mapping[str, str] = {"monitoring": "cloudwatch", "tagging": "tag", "email": "ses", "iotdata": "iot"}
# Batches have no action of their own: they need what one message needs.
_BATCHES = {f"sqs:{one}Batch": f"sqs:{one}" for one in ("SendMessage", "DeleteMessage", "ChangeMessageVisibility")} | {"sns:PublishBatch": "sns:Publish"}
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/\S+")
_READS = ("Get", "List", "Describe", "Search", "Test", "Validate", "Simulate")
# Their requests carry what clients keep there, or roles that are acted on.
_PASS_NOTHING = frozenset({"dynamodb", "iam", "kinesis", "s3", "secretsmanager", "sns", "sqs", "ssm", "sts"})
_PARTIQL = re.compile(r"""\b(from|into|update)\s*(?:"([^"]+)"|([\w.-]+))(?:\s*\.\s*"([^"]+)")?""", re.IGNORECASE)
_TEXT = re.compile(r"'(?:[^']|'')*'")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. ``members``: as the service will read them; ``find``: the ARN of what a name of (kind, name) belongs to, if it is there."""

    service: str
    action: str
    members: Mapping[str, Any]
    account: str
    region: str
    path: str = ""
    method: str = "POST"
    caller: str = ""
    find: Callable[[str, str], str | None] = lambda _kind, _name: None

    @property
    def does(self) -> str:
        """The action in IAM's words."""
        full = f"{PREFIXES.get(self.service, self.service)}:{self.action}"
        return _BATCHES.get(full, full)

    def text(self, member: str) -> str:
        """A member that is text, else nothing."""
        value = self.members.get(member)
        return value if isinstance(value, str) else ""

    def texts(self, *members: str) -> list[str]:
        """All texts in members that are texts or lists of them."""
        values = (self.members.get(m) for m in members)
        return [v for value in values for v in (value if isinstance(value, list) else [value]) if isinstance(v, str) and v]

    def listed(self, member: str) -> list[Mapping[str, Any]]:
        """The objects in a list."""
        value = self.members.get(member)
        return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []

    def arn(self, name: str) -> str:
        """The ARN of a resource of the service; an ARN stays one."""
        return name if name.startswith("arn:") else f"arn:aws:{self.service}:{self.region}:{self.account}:{name}"


def demands(asked: Asked) -> list[Demand]:
    """All that has to be allowed, at least one."""
    if asked.service == "iam":
        return iam(asked)
    known = _KNOWN.get(asked.service)
    if known is None:
        return [(asked.does, targets.resource(asked.service, asked.members, asked.account, asked.region, asked.path))]
    return list(known(asked)) or [(asked.does, asked.arn("*"))]


def passed_roles(asked: Asked) -> list[str]:
    """Roles that the request hands to the service."""
    if asked.service in _PASS_NOTHING or asked.action.startswith(_READS):
        return []
    return sorted(set(_roles(asked.members, "")))


def _roles(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _roles(inner, str(key).lower())
    elif isinstance(value, list):
        for inner in value:
            yield from _roles(inner, name)
    elif isinstance(value, str) and (name.endswith(("rolearn", "credentials")) or name == "role") and _ROLE.fullmatch(value):
        yield value


def _dynamodb(asked: Asked) -> Iterator[Demand]:
    items = asked.members.get("RequestItems")
    for table in items if isinstance(items, Mapping) else ():
        yield asked.does, _table(asked, str(table))
    for one in asked.listed("TransactItems"):
        for kind, what in one.items():
            action = {"Get": "GetItem", "Put": "PutItem", "Update": "UpdateItem", "Delete": "DeleteItem"}.get(kind, "ConditionCheckItem")
            name = what.get("TableName") if isinstance(what, Mapping) else None
            yield f"dynamodb:{action}", _table(asked, str(name))
    statements = asked.texts("Statement") + [str(s.get("Statement")) for m in ("Statements", "TransactStatements") for s in asked.listed(m)]
    for statement in statements:
        yield from _statement(asked, statement)
    for name in asked.texts("TableName", "SourceTableName", "TargetTableName", "GlobalTableName"):
        yield asked.does, _table(asked, name)
        if index := asked.text("IndexName"):
            yield asked.does, f"{_table(asked, name)}/index/{index}"
    for arn in asked.texts("StreamArn", "ResourceArn", "BackupArn", "TableArn", "SourceTableArn", "ExportArn", "ImportArn"):
        yield asked.does, asked.arn(arn)
    # An iterator begins with the stream that it is of.
    for iterator in asked.texts("ShardIterator"):
        yield asked.does, asked.arn(iterator.partition("|")[0])
    if asked.action == "ListTables":
        yield asked.does, asked.arn("table/*")


def _table(asked: Asked, name: str) -> str:
    return name if name.startswith("arn:") else asked.arn(f"table/{name}")


def _statement(asked: Asked, statement: str) -> Iterator[Demand]:
    """What a statement in PartiQL asks for: every table in it; one in which none is found, all tables."""
    plain = _TEXT.sub("''", statement)
    verb = plain.split(None, 1)[0].capitalize() if plain.strip() else ""
    action = f"dynamodb:PartiQL{verb if verb in ('Select', 'Insert', 'Update', 'Delete') else 'Select'}"
    found = [(quoted or bare, index) for _, quoted, bare, index in _PARTIQL.findall(plain)]
    for name, index in found:
        yield action, _table(asked, name) + (f"/index/{index}" if index else "")
    if not found:
        yield action, asked.arn("table/*")


def _kinesis(asked: Asked) -> Iterator[Demand]:
    for name in asked.texts("StreamName"):
        yield asked.does, asked.arn(f"stream/{name}")
    for arn in asked.texts("StreamARN", "ConsumerARN", "ResourceARN", "ResourceArn"):
        yield asked.does, asked.arn(arn)
    for iterator in asked.texts("ShardIterator"):
        try:
            name = base64.b64decode(iterator).decode().partition(":")[0] or "*"
        except (binascii.Error, ValueError):
            name = "*"
        yield asked.does, asked.arn(f"stream/{name}")


def _sqs(asked: Asked) -> Iterator[Demand]:
    found = targets.resource("sqs", asked.members, asked.account, asked.region, asked.path)
    if found is not None:
        yield asked.does, found
    for arn in asked.texts("SourceArn", "DestinationArn"):
        yield asked.does, asked.arn(arn)


def _sns(asked: Asked) -> Iterator[Demand]:
    for arn in asked.texts("TopicArn", "TargetArn", "ResourceArn", "PlatformApplicationArn", "EndpointArn"):
        yield asked.does, asked.arn(arn)
    # A subscription is its topic's.
    for arn in asked.texts("SubscriptionArn"):
        yield asked.does, asked.arn(arn).rpartition(":")[0]
    for name in asked.texts("Name"):
        yield asked.does, asked.arn(f"app/{asked.text('Platform')}/{name}" if asked.text("Platform") else name)


def _ssm(asked: Asked) -> Iterator[Demand]:
    kind = "document" if "Document" in asked.action else "parameter"
    for name in asked.texts("Name", "Names", "Path"):
        # A version or label may follow the name.
        plain = name if name.startswith("arn:") else asked.arn(f"{kind}/{name.partition(':')[0].lstrip('/')}")
        yield asked.does, plain
    if "Parameter" in asked.action or asked.text("ResourceType") == "Parameter":
        for name in asked.texts("ResourceId"):
            yield asked.does, asked.arn(f"parameter/{name.lstrip('/')}")


def _secretsmanager(asked: Asked) -> Iterator[Demand]:
    for name in asked.texts("SecretId"):
        yield asked.does, asked.find("secret", name) or asked.arn(name if name.startswith("arn:") else f"secret:{name}")
    for name in asked.texts("Name"):
        yield asked.does, asked.arn(f"secret:{name}")
    if asked.action == "BatchGetSecretValue":
        yield asked.does, "*"
        for name in asked.texts("SecretIdList") or ["*"]:
            arn = asked.find("secret", name) or asked.arn(name if name.startswith("arn:") else f"secret:{name}")
            yield "secretsmanager:GetSecretValue", arn


def _events(asked: Asked) -> Iterator[Demand]:
    bus = asked.text("EventBusName")
    entries = asked.listed("Entries")
    if asked.action in ("PutEvents", "PutPermission", "RemovePermission"):
        for name in dict.fromkeys(str(e.get("EventBusName") or "default") for e in entries) or [bus or "default"]:
            yield asked.does, asked.arn(name if name.startswith("arn:") else f"event-bus/{name}")
        return
    name = asked.text("Rule") or asked.text("Name")
    for kind, words in (("event-bus", "EventBus"), ("archive", "Archive"), ("replay", "Replay"), ("connection", "Connection"), ("api-destination", "ApiDestination")):
        if words in asked.action:
            own = asked.text(f"{words}Name") or name or ("default" if kind == "event-bus" else "*")
            yield asked.does, asked.arn(own if own.startswith("arn:") else f"{kind}/{own}")
            return
    if name:
        short = bus.rpartition("/")[2]
        yield asked.does, asked.arn(f"rule/{name}" if short in ("", "default") else f"rule/{short}/{name}")
    elif asked.action == "ListRules":
        yield asked.does, asked.arn("rule/*")
    for arn in asked.texts("ResourceARN"):
        yield asked.does, asked.arn(arn)


def _logs(asked: Asked) -> Iterator[Demand]:
    for name in asked.texts("logGroupName", "logGroupIdentifier", "logGroupNames", "logGroupIdentifiers"):
        group = name.removesuffix(":*") if name.startswith("arn:") else asked.arn(f"log-group:{name}")
        yield asked.does, f"{group}:log-stream:{asked.text('logStreamName')}"
    for arn in asked.texts("resourceArn"):
        yield asked.does, asked.arn(arn)
    for name in asked.texts("destinationName"):
        yield asked.does, asked.arn(f"destination:{name}")
    if asked.action == "DescribeLogGroups":
        yield asked.does, asked.arn("log-group::log-stream:")


def _states(asked: Asked) -> Iterator[Demand]:
    for arn in asked.texts("stateMachineArn", "executionArn", "activityArn", "resourceArn", "stateMachineVersionArn", "stateMachineAliasArn", "mapRunArn"):
        yield asked.does, asked.arn(arn)
    if asked.action in ("CreateStateMachine", "CreateActivity"):
        yield asked.does, asked.arn(f"{asked.action.removeprefix('Create')[0].lower()}{asked.action.removeprefix('Create')[1:]}:{asked.text('name')}")


def _sts(asked: Asked) -> Iterator[Demand]:
    if asked.action != "AssumeRole":
        yield asked.does, "*"
        return
    role = asked.text("RoleArn") or "*"
    yield asked.does, role
    if asked.listed("Tags"):
        yield "sts:TagSession", role
    if asked.text("SourceIdentity"):
        yield "sts:SetSourceIdentity", role


def _apigateway(asked: Asked) -> Iterator[Demand]:
    """Its actions are HTTP's methods and its resources paths."""
    path = "/" + "/".join(part for part in unquote(asked.path).split("/") if part)
    path = path.removeprefix("/v2") if path.startswith("/v2/") else path
    yield f"apigateway:{asked.method}", f"arn:aws:apigateway:{asked.region}::{path}"


def _scheduler(asked: Asked) -> Iterator[Demand]:
    parts = [unquote(p) for p in asked.path.split("/") if p]
    name = parts[1] if len(parts) > 1 else "*"
    if parts[:1] == ["schedule-groups"]:
        yield asked.does, asked.arn(f"schedule-group/{name}")
    elif parts[:1] == ["schedules"]:
        group = asked.text("GroupName") or asked.text("groupName") or asked.text("ScheduleGroup") or ("*" if name == "*" else "default")
        yield asked.does, asked.arn(f"schedule/{group}/{name}")


def _pipes(asked: Asked) -> Iterator[Demand]:
    parts = [unquote(p) for p in asked.path.split("/") if p]
    if parts[:2] == ["v1", "pipes"]:
        yield asked.does, asked.arn(f"pipe/{parts[2] if len(parts) > 2 else '*'}")


def _kms(asked: Asked) -> Iterator[Demand]:
    for name in asked.texts("KeyId", "TargetKeyId", "SourceKeyId", "DestinationKeyId"):
        yield asked.does, asked.find("key", name) or asked.arn(name if name.startswith(("alias/", "arn:")) else f"key/{name}")


_KNOWN: Mapping[str, Callable[[Asked], Iterator[Demand]]] = {
    "apigateway": _apigateway, "dynamodb": _dynamodb, "events": _events, "kinesis": _kinesis, "kms": _kms, "logs": _logs, "pipes": _pipes,
    "scheduler": _scheduler, "secretsmanager": _secretsmanager, "sns": _sns, "sqs": _sqs, "ssm": _ssm, "states": _states, "sts": _sts,
}  # fmt: skip
