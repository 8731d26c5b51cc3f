"""Lambda's side of authorization: which action on which resource an operation is, what its condition keys say, and how a denial reads.
Pure.

Source: docs.aws.amazon.com/service-authorization/latest/reference/list_awslambda.html and
docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from engine.arn import function_arn, parse_function_name
from engine.auth.policy import Decision, Identity, Policy, Reason, Request, Source, evaluate
from engine.errors import AccessDenied, AwsError

INVOKE = "lambda:InvokeFunction"
INVOKE_URL = "lambda:InvokeFunctionUrl"
# Operations whose action has another name.
_ACTIONS = {
    "Invoke": "InvokeFunction",
    "InvokeAsync": "InvokeFunction",
    "InvokeWithResponseStream": "InvokeFunction",
    "GetLayerVersionByArn": "GetLayerVersion",
}
# Operations on the account as a whole, whatever names their request holds.
_ACCOUNT_WIDE = frozenset(
    {
        "CreateCodeSigningConfig", "CreateEventSourceMapping", "GetEventSourceMapping", "GetAccountSettings", "ListCodeSigningConfigs", "ListEventSourceMappings",
        "ListFunctions", "ListLayers", "ListLayerVersions", "CreateCapacityProvider", "ListCapacityProviders",
    }
)  # fmt: skip
# Operations on a function with no regard to a version or alias.
_UNQUALIFIED = frozenset({"CreateAlias", "UpdateAlias", "GetAlias", "DeleteAlias", "ListAliases", "ListVersionsByFunction"})
# (member of the request, condition key)
_KEYS = (
    ("Principal", "lambda:principal"),
    ("FunctionUrlAuthType", "lambda:functionurlauthtype"),
    ("AuthType", "lambda:functionurlauthtype"),
    ("CodeSigningConfigArn", "lambda:codesigningconfigarn"),
    ("EventSourceToken", "lambda:eventsourcetoken"),
)
_ARTICLES = {
    Source.IDENTITY: "an identity-based policy",
    Source.RESOURCE: "a resource-based policy",
    Source.BOUNDARY: "a permissions boundary",
    Source.SESSION: "a session policy",
}


def action_of(operation: str) -> str:
    """The IAM action of an operation of Lambda."""
    return f"lambda:{_ACTIONS.get(operation, operation)}"


def resource_of(operation: str, params: Mapping[str, Any], account: str, region: str) -> str:
    """The ARN that an operation is about, ``*`` where it is about none. ``account`` is the caller's.

    Raises AwsError for a function name that is not one.
    """
    if operation in _ACCOUNT_WIDE:
        return "*"
    if params.get("UUID") is not None:
        # A function that an update names is what the mapping shall call, not what is changed.
        return f"arn:aws:lambda:{region}:{account}:event-source-mapping:{params['UUID']}"
    name = params.get("FunctionName")
    if name is not None:
        ref = parse_function_name(name, account=account, region=region, qualifier=params.get("Qualifier"))
        qualifier = None if operation in _UNQUALIFIED else ref.qualifier
        return function_arn(ref.region, ref.account, ref.name, qualifier)
    for member in ("Resource", "ResourceArn", "CodeSigningConfigArn", "Arn"):
        if params.get(member) is not None:
            return str(params[member])
    if params.get("LayerName") is not None:
        layer = str(params["LayerName"])
        arn = layer if layer.startswith("arn:") else f"arn:aws:lambda:{region}:{account}:layer:{layer}"
        version = params.get("VersionNumber")
        return arn if version is None else f"{arn}:{version}"
    if params.get("CapacityProviderName") is not None:
        return f"arn:aws:lambda:{region}:{account}:capacity-provider:{params['CapacityProviderName']}"
    return "*"


def owner_of(resource: str, caller: str) -> str:
    """The account a resource belongs to; the caller's where the ARN names none."""
    parts = resource.split(":", 5)
    return parts[4] if len(parts) == 6 and parts[4] else caller


def context_of(
    identity: Identity, *, now_epoch_s: float, region: str, peer: str = "", user_agent: str = ""
) -> dict[str, str | list[str]]:
    """The global condition keys of a request."""
    context: dict[str, str | list[str]] = dict(identity.context)
    context["aws:currenttime"] = datetime.fromtimestamp(now_epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    context["aws:epochtime"] = str(int(now_epoch_s))
    context["aws:requestedregion"] = region
    context["aws:securetransport"] = "false"
    context["aws:viaawsservice"] = "false"
    if peer:
        context["aws:sourceip"] = peer
    if user_agent:
        context["aws:useragent"] = user_agent
    return context


def lambda_keys(params: Mapping[str, Any], account: str, region: str) -> dict[str, str | list[str]]:
    """The condition keys that Lambda's operations add, from the members of a request."""
    keys: dict[str, str | list[str]] = {key: str(params[member]) for member, key in _KEYS if params.get(member) is not None}
    tags = params.get("Tags")
    if isinstance(tags, Mapping) and tags:
        keys["aws:tagkeys"] = [str(k) for k in tags]
        keys |= {f"aws:requesttag/{k}".lower(): str(v) for k, v in tags.items()}
    elif params.get("TagKeys"):
        keys["aws:tagkeys"] = [str(k) for k in params["TagKeys"]]
    if params.get("Layers"):
        keys["lambda:layer"] = [str(layer) for layer in params["Layers"]]
    vpc = params.get("VpcConfig") or {}
    for member, key in (("SubnetIds", "lambda:subnetids"), ("SecurityGroupIds", "lambda:securitygroupids")):
        if vpc.get(member):
            keys[key] = [str(v) for v in vpc[member]]
    sourced = any(params.get(member) is not None for member in ("EventSourceArn", "SelfManagedEventSource", "UUID"))
    if sourced and params.get("FunctionName") is not None:
        try:
            ref = parse_function_name(params["FunctionName"], account=account, region=region)
        except AwsError:
            return keys
        keys["lambda:functionarn"] = function_arn(ref.region, ref.account, ref.name, ref.qualifier)
    return keys


def check(request: Request, identity: Identity, resource_policy: Policy | None = None) -> None:
    """Raises AccessDenied, with AWS's text, unless ``identity`` may do what it asks for."""
    decision = evaluate(request, identity, resource_policy)
    if not decision.allowed:
        raise AccessDenied(denial(decision, identity.arn, request.action, request.resource or "*"))


def denial(decision: Decision, arn: str, action: str, resource: str) -> str:
    """The sentence of a denied request."""
    source = decision.source or Source.IDENTITY
    why = (
        f"with an explicit deny in {_ARTICLES[source]}"
        if decision.reason is Reason.EXPLICIT
        else f"because no {source} allows the {action} action"
    )
    return f"User: {arn} is not authorized to perform: {action} on resource: {resource} {why}"
