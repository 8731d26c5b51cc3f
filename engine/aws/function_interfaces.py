"""Network interfaces of functions in the embedded EC2, as AWS's shows them. Runs in the embedded AWS's process.

Theory of operation. The engine knows which functions are in which subnets and groups, and behind which addresses. Before EC2 tells of interfaces, or
takes away what they hang on, it asks the engine and makes its own records so: level-triggered, so that there is nothing to miss, and an interface is gone with
the answer to the request that took the last function away. While the engine does not answer, which is while its control plane starts, the records stay.
What tears networks down (Terraform, CDK) looks for these interfaces by their description and waits until they are gone.
Source: docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html; the sentence about other people's interfaces is formed after AuthFailure's.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from engine.aws.embedded import PUSH_VARIABLE
from engine.aws.engine_connection import EngineConnection

PATH = "/_engine/vpc/interfaces"
TIMEOUT_S = 10.0
# Who has attached it, and as what: nobody's instance.
_HOLDER = "amazon-aws"
_Record = Mapping[str, Any]
# Filters that EC2 has and moto does not know, and the attribute that each is about.
_FILTERS = {"interface-type": "interface_type", "status": "status", "requester-managed": "requester_managed", "owner-id": "owner_id"}


def install(environment: Mapping[str, str] = os.environ) -> None:
    """Work so from now on; as often as one likes. Nothing is done where the environment does not say where the engine is."""
    path = environment.get(PUSH_VARIABLE)
    if path:
        _Installation(path, environment["AWS_DEFAULT_REGION"]).put_in_place()


class _Installation:
    """``region``: the one that the engine's functions are in."""

    def __init__(self, path: str, region: str) -> None:
        self._path = path
        self._region = region
        self._lock = threading.Lock()

    def put_in_place(self) -> None:
        from moto.ec2.models import EC2Backend  # noqa: PLC0415 - moto is an extra
        from moto.ec2.models.elastic_network_interfaces import NetworkInterface  # noqa: PLC0415

        backend: Any = EC2Backend
        if hasattr(backend, "knows_functions"):
            return
        backend.knows_functions = True
        self._kind = _kind(NetworkInterface)
        NetworkInterface.get_filter_value = _filtered(NetworkInterface.get_filter_value)
        for name in ("get_all_network_interfaces", "get_network_interface"):
            setattr(backend, name, self._after_asking(getattr(backend, name)))
        for name, refuse in (
            ("delete_security_group", _refuse_group), ("delete_subnet", _refuse_subnet), ("delete_network_interface", _refuse_deletion),
            ("detach_network_interface", _refuse_detachment), ("modify_network_interface_attribute", _refuse_change),
        ):  # fmt: skip
            setattr(backend, name, self._after_asking(getattr(backend, name), refuse))

    def _after_asking(self, method: Callable[..., Any], refuse: Callable[..., None] | None = None) -> Callable[..., Any]:
        def asked(backend: Any, *args: Any, **named: Any) -> Any:
            self._settle(backend)
            if refuse is not None:
                refuse(backend, self._kind, *args, **named)
            return method(backend, *args, **named)

        return asked

    def _settle(self, backend: Any) -> None:
        """Have the records of one account as the engine says; once per request."""
        if backend.region_name != self._region or _done_in_this_request():
            return
        with self._lock:
            try:
                found = {record["id"]: record for record in self._ask() if record["account"] == backend.account_id}
            except (OSError, http.client.HTTPException, ValueError, KeyError):
                return
            former = {eni.record["id"]: eni for eni in backend.enis.values() if isinstance(eni, self._kind)}
            for name in former.keys() - found.keys():
                del backend.enis[former[name].id]
            for name in found.keys() - former.keys():
                self._add(backend, found[name])

    def _ask(self) -> list[_Record]:
        connection = EngineConnection(self._path, TIMEOUT_S)
        try:
            connection.request("GET", PATH)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise ValueError(f"status {answer.status}")
        return list(json.loads(body)["interfaces"])

    def _add(self, backend: Any, record: _Record) -> None:
        subnets = [zone[record["subnet"]] for zone in backend.subnets.values() if record["subnet"] in zone]
        # What EC2 has forgotten, or somebody took away while the engine did not answer, is not made anew.
        if subnets and all(backend.get_security_group_from_id(group) is not None for group in record["groups"]):
            eni = self._kind(backend, subnets[0], record)
            backend.enis[eni.id] = eni


def _kind(base: Any) -> Any:
    class FunctionInterface(base):  # type: ignore[misc]
        """One subnet and set of groups in which functions are."""

        def __init__(self, backend: Any, subnet: Any, record: _Record) -> None:
            name = f"AWS Lambda VPC ENI-{record['function']}-{record['id']}"
            super().__init__(backend, subnet, record["ip"], group_ids=list(record["groups"]), description=name)
            digits = record["id"].replace("-", "")
            self.record = record
            self.id = f"eni-{digits[:17]}"
            self.mac_address = "02:" + ":".join(digits[n : n + 2] for n in range(20, 30, 2))
            self.private_dns_name = f"ip-{record['ip'].replace('.', '-')}.ec2.internal"
            self.interface_type = "lambda"
            self.requester_managed = True
            self.status = "in-use"
            self.attachment_id = f"ela-attach-{digits[15:]}"
            self.attach_time = None

        @property
        def attachment(self) -> Any:
            return {
                "AttachmentId": self.attachment_id, "DeleteOnTermination": False, "DeviceIndex": 1, "InstanceOwnerId": _HOLDER, "Status": "attached",
            }  # fmt: skip

        def get_filter_value(self, filter_name: str, method_name: str | None = None) -> Any:
            if filter_name.startswith("attachment."):
                known = {"attachment-id": self.attachment_id, "instance-owner-id": _HOLDER, "status": "attached"}
                return known.get(filter_name.partition(".")[2], "")
            return super().get_filter_value(filter_name, method_name)

    return FunctionInterface


def _filtered(method: Callable[..., Any]) -> Callable[..., Any]:
    def value(self: Any, filter_name: str, method_name: str | None = None) -> Any:
        attribute = _FILTERS.get(filter_name)
        return method(self, filter_name, method_name) if attribute is None else getattr(self, attribute)

    return value


def _done_in_this_request() -> bool:
    from flask import g, has_app_context  # noqa: PLC0415 - an extra

    if not has_app_context():
        return False
    done = bool(getattr(g, "functions_asked_for", False))
    g.functions_asked_for = True
    return done


def _refuse_group(backend: Any, kind: Any, name: str | None = None, group_id: str | None = None) -> None:
    from moto.ec2.exceptions import DependencyViolationError  # noqa: PLC0415

    for eni in backend.enis.values():
        if isinstance(eni, kind) and any(group.id == group_id or (not group_id and group.name == name) for group in eni.group_set):
            raise DependencyViolationError(f"resource {group_id or name} has a dependent object")


def _refuse_subnet(backend: Any, kind: Any, subnet_id: str) -> None:
    from moto.ec2.exceptions import DependencyViolationError  # noqa: PLC0415

    if any(isinstance(eni, kind) and eni.subnet.id == subnet_id for eni in backend.enis.values()):
        raise DependencyViolationError(f"The subnet '{subnet_id}' has dependencies and cannot be deleted.")


def _refuse_deletion(backend: Any, kind: Any, eni_id: str) -> None:
    from moto.ec2.exceptions import EC2ClientError  # noqa: PLC0415

    if isinstance(backend.enis.get(eni_id), kind):
        raise EC2ClientError("InvalidParameterValue", f"Network interface '{eni_id}' is currently in use.")


def _refuse_detachment(backend: Any, kind: Any, attachment_id: str) -> None:
    from moto.ec2.exceptions import OperationNotPermitted  # noqa: PLC0415

    if any(isinstance(eni, kind) and eni.attachment_id == attachment_id for eni in backend.enis.values()):
        raise OperationNotPermitted("You are not allowed to manage 'ela-attach' attachments.")


def _refuse_change(backend: Any, kind: Any, eni_id: str, *_args: Any, **_named: Any) -> None:
    from moto.ec2.exceptions import EC2ClientError  # noqa: PLC0415

    if isinstance(backend.enis.get(eni_id), kind):
        raise EC2ClientError("AuthFailure", "You do not have permission to access the specified resource.")
