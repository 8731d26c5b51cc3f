"""What a mapping of a broker must say besides: where it is, what of it is read, and who may. Pure.

Source: docs.aws.amazon.com/lambda/latest/dg/{kafka-esm-parameters,with-kafka-permissions,services-mq-params}.html and recorded replies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engine.errors import InvalidParameterValue, NotImplementedHere

ENDPOINTS = "KAFKA_BOOTSTRAP_SERVERS"
_CONFIGS = ("SelfManagedKafkaEventSourceConfig", "AmazonManagedKafkaEventSourceConfig")
# Kinds of access by what they are good for here. Pollers are in the host's network: that of a VPC is not entered.
_LOGINS = frozenset({"BASIC_AUTH", "SASL_SCRAM_256_AUTH", "SASL_SCRAM_512_AUTH"})
_PLACES = frozenset({"VPC_SUBNET", "VPC_SECURITY_GROUP"})
_SERVER = re.compile(r"[A-Za-z0-9._\[\]:-]+:\d{1,5}")
MAX_SERVERS = 10


def check_access(kind: str, merged: Mapping[str, Any]) -> None:
    """Raises InvalidParameterValue where access is missing, NotImplementedHere for kinds of it that nothing here would use."""
    given = merged.get("SourceAccessConfigurations") or []
    kinds = {str(one.get("Type")) for one in given}
    allowed = {"BASIC_AUTH", "VIRTUAL_HOST"} if kind == "mq" else _LOGINS | _PLACES
    strange = kinds - allowed
    if strange:
        raise NotImplementedHere(f"Lambda Engine does not support {min(strange)} in SourceAccessConfigurations. Nothing was changed.")
    if (kind == "mq" and "BASIC_AUTH" not in kinds) or (kind != "kafka" and not kinds):
        raise InvalidParameterValue("Required 'sourceAccessConfigurations' parameter is missing.")
    if len(kinds & _LOGINS) > 1 or any(not one.get("URI") for one in given):
        raise InvalidParameterValue("SourceAccessConfigurations are ambiguous: give one kind of authentication, with its URI.")


def fixed(kind: str, params: Mapping[str, Any], mapping: str) -> dict[str, Any]:
    """What a new mapping keeps of where its source is. Raises InvalidParameterValue, NotImplementedHere."""
    what = "Queues" if kind == "mq" else "Topics"
    if not params.get(what):
        raise InvalidParameterValue(f"{what} must have exactly one member for given event source mapping type.")
    kept: dict[str, Any] = {what: params[what]}
    if kind == "mq":
        return kept
    config = "AmazonManagedKafkaEventSourceConfig"
    if kind != "kafka":
        config = "SelfManagedKafkaEventSourceConfig"
        kept["SelfManagedEventSource"] = {"Endpoints": {ENDPOINTS: list(_servers(params["SelfManagedEventSource"]))}}
    given = params.get(config) or {}
    for name in given:
        if name != "ConsumerGroupId":
            raise NotImplementedHere(f"Lambda Engine does not support {name} in {config}. Nothing was changed: leave the member out.")
    return {**kept, config: {"ConsumerGroupId": given.get("ConsumerGroupId") or mapping}}


def _servers(source: Mapping[str, Any]) -> list[str]:
    endpoints = source.get("Endpoints") or {}
    servers = list(endpoints.get(ENDPOINTS) or [])
    if not servers or set(endpoints) != {ENDPOINTS} or len(servers) > MAX_SERVERS or not all(map(_SERVER.fullmatch, servers)):
        raise InvalidParameterValue(f"SelfManagedEventSource needs 1 to {MAX_SERVERS} host:port of {ENDPOINTS} in Endpoints.")
    return servers


def group_of(document: Mapping[str, Any]) -> str:
    """The consumer group of a mapping's document, or the virtual host of its queue."""
    for name in _CONFIGS:
        if name in document:
            return str(document[name]["ConsumerGroupId"])
    hosts = [one["URI"] for one in document.get("SourceAccessConfigurations") or [] if one["Type"] == "VIRTUAL_HOST"]
    return str(hosts[0]) if hosts else "/"


def servers_of(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The bootstrap servers that the mapping names, if it names any."""
    return tuple(document.get("SelfManagedEventSource", {}).get("Endpoints", {}).get(ENDPOINTS, ()))


def source_of(document: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two mappings of one function may not have in common: the same source, as far as documents or requests name it."""
    parts = [*(document.get("Topics") or []), *(document.get("Queues") or [])]
    return document.get("EventSourceArn") or None, servers_of(document), tuple(parts)
