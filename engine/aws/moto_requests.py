"""What moto takes a request for: its service, its operation, its members, its region. Runs in the embedded AWS's process.

Theory of operation. moto reads members from the query, from a form, from JSON and from headers, whichever it finds first; takes the region
from a host name or from the client's name of itself; and knows operations by several spellings. A decision that read them otherwise would be
about something else than what is done. So here they are taken as moto takes them, or taken away from where it would find another: requests in
JSON have nothing but their JSON, the region is the signature's, and operations are called as their service's model calls them.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

from engine.aws import bucket_actions

# Answers of moto that ask nobody, and that tell nothing and change nothing.
_HARMLESS = (".dispatch", "_dispatch", "_without_id", ".serve_pem", ".dns_event_response", ".serve_json_web_key", ".serve_openid_configuration")
_ASKED_LATER = frozenset({"api_version_elb_backend", "CloudFormationResponse.cfnresponse"})
# They dispatch without asking.
_UNASKED = frozenset({"moto.dynamodb_v20111205.responses"})
# What moto answers another service's operations with.
_BESIDE = {"timestream-write": "timestream-query"}
_OWNERS = frozenset({"root", "engine"})
_kept = threading.local()


def install() -> None:
    """Know all that a request to S3 names, and have nothing answered that does not ask."""
    from moto.core.utils import convert_to_flask_response  # noqa: PLC0415 - moto is an extra
    from moto.s3.responses import S3Response  # noqa: PLC0415

    named = S3Response._set_action  # noqa: SLF001 - where moto decides what a request to S3 is

    def set_action(self: Any, kind: str, method: str, query: Mapping[str, Any]) -> None:
        named(self, kind, method, query)
        headers = {name.lower(): str(value) for name, value in self.headers.items()}
        self.demanded_actions = bucket_actions.actions(method, set(query), headers, key=kind == "KEY")

    S3Response._set_action = set_action  # noqa: SLF001
    answered = convert_to_flask_response.__call__

    def answer(self: Any, args: Any = None, **kwargs: Any) -> Any:
        from flask import Response, request  # noqa: PLC0415

        name, owner = getattr(self.callback, "__qualname__", ""), getattr(self.callback, "__self__", None)
        asks = (name.endswith(_HARMLESS) and getattr(owner, "__module__", "") not in _UNASKED) or name in _ASKED_LATER
        if asks or request.headers.get("X-Lambda-Engine-Caller") in _OWNERS:
            return answered(self, args, **kwargs)
        text = f"With auth=iam {request.method} {request.path} is for the owner of one of the engine's configured keys only: nothing decides about it."
        return Response(json.dumps({"__type": "AccessDeniedException", "message": text}), 403, content_type="application/json")

    convert_to_flask_response.__call__ = answer


@functools.lru_cache(maxsize=256)
def _model(name: str) -> tuple[str, frozenset[str]]:
    """(name in signatures, operations) of a service."""
    from moto.core.utils import get_service_model  # noqa: PLC0415 - moto is an extra

    model = get_service_model(name)
    beside = get_service_model(_BESIDE[name]).operation_names if name in _BESIDE else ()
    return str(model.signing_name), frozenset((*model.operation_names, *beside))


def problem(response: Any, service: str, region: str) -> str | None:
    """Why a request cannot be decided about, or None; from then on moto reads its members and its region in one place."""
    signing, operations = _model(response.boto3_service_name)
    if service != signing:
        return f"Credential should be scoped to correct service: '{signing}'."
    if response.service_name == "s3":
        return None
    _settle_region(response, region)
    target = response.headers.get("X-Amz-Target")
    if target:
        given = first(response.querystring.get("Action"))
        if given is not None and given != target.rpartition(".")[2]:
            return "The request names two actions."
        response.querystring.clear()
    action = action_of(response)
    if action and action not in operations:
        return f"The action {action} is not valid for this web service."
    return None


def _settle_region(response: Any, region: str) -> None:
    from moto.utilities.utils import get_partition  # noqa: PLC0415 - moto is an extra

    if response.region != region:
        response.region = region
        response.partition = get_partition(region)


def action_of(response: Any) -> str | None:
    """The operation, as the service's model calls it: moto calls those of some services (Batch, Polly, X-Ray) by what is in their paths."""
    action: str | None = first(response._get_action())  # noqa: SLF001 - moto has no other name for it
    if not action or response.service_name == "s3" or action in _model(response.boto3_service_name)[1]:
        return action
    path = response.parsed_url.path
    return next((name for method, form, name in _paths(response.boto3_service_name) if method == response.method and form.fullmatch(path)), action)


@functools.lru_cache(maxsize=256)
def _paths(name: str) -> tuple[tuple[str, re.Pattern[str], str], ...]:
    """(method, path, operation) of a service that has a path for each operation."""
    from moto.core.utils import get_service_model  # noqa: PLC0415 - moto is an extra

    model = get_service_model(name)
    if not str(model.metadata.get("protocol", "")).startswith("rest"):
        return ()
    found = ((operation, model.operation_model(operation).http) for operation in model.operation_names)
    return tuple((http["method"], re.compile(_form(http["requestUri"].partition("?")[0])), operation) for operation, http in found)


def _form(template: str) -> str:
    parts = re.split(r"(\{[^}]+\})", template)
    return "".join(re.escape(part) if not part.startswith("{") else ".+" if part.endswith("+}") else "[^/]+" for part in parts)


def members(response: Any) -> dict[str, Any]:
    """The request's members, of whichever protocol, as moto's operations will find them."""
    path = dict(response.uri_match or {})
    if response.automated_parameter_parsing:
        return {**path, **dict(getattr(response, "params", None) or {})}
    document: Any = None
    if isinstance(response.body, (str, bytes)) and response.body:
        try:
            document = json.loads(response.body)
        except (ValueError, RecursionError):
            document = None
    found = {**path, **(document if isinstance(document, dict) else {})}
    return found | {name: first(values) for name, values in response.querystring.items()}


def first(values: Any) -> Any:
    """The value of a list with one."""
    return values[0] if isinstance(values, list) and values else values


def object_actions(response: Any) -> list[str]:
    """All actions, without ``s3:``, that a request to S3 names."""
    demanded: list[str] | None = getattr(response, "demanded_actions", None)
    return demanded or [str(action_of(response))]


def deletes_many(response: Any) -> bool:
    """Whether it deletes the objects that its body lists."""
    query = parse_qs(response.parsed_url.query, keep_blank_values=True)
    return response.method == "POST" and "delete" in query and getattr(response, "demanded_actions", None) is None


def keep(response: Any, bucket_arn: str, may: Callable[[str, str], bool]) -> None:
    """Have the objects of a request that deletes many kept which the caller may not delete: ``may`` says, of an ARN and an action."""
    import xmltodict  # type: ignore[import-untyped] # noqa: PLC0415 - moto's

    try:
        listed = xmltodict.parse(response.body, strip_whitespace=False)["Delete"].get("Object", [])
        wanted = [(str(o["Key"]), o.get("VersionId")) for o in (listed if isinstance(listed, list) else [listed])]
    except Exception:  # noqa: BLE001 - whatever is wrong with it, moto will say
        wanted = []
    actions = ((f"{bucket_arn}/{key}", "s3:DeleteObjectVersion" if version else "s3:DeleteObject") for key, version in wanted)
    _kept.arns = frozenset(arn for arn, action in actions if not may(arn, action))


def keep_nothing() -> None:
    """Another request follows in this thread."""
    _kept.arns = frozenset()


def is_kept(arn: str) -> bool:
    """Whether this object is to be kept."""
    return arn in getattr(_kept, "arns", ())
