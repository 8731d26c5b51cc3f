"""Authorization of the control plane's operations: who the caller is, and whether its policies let it.

What the embedded IAM knows of a key is asked of the supervisor once and kept until the supervisor says, with a request, that IAM may have
changed since. Source: docs.aws.amazon.com/lambda/latest/dg/lambda-api-permissions-ref.html.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from engine.arn import FunctionRef
from engine.auth.authorization import INVOKE, action_of, check, context_of, lambda_keys, owner_of, resource_of
from engine.auth.context import RequestContext
from engine.auth.identity import credential_of, root_of, service
from engine.auth.policy import Identity, Policy, Request, evaluate, parse
from engine.auth.principals import KeyRing
from engine.clock import Clock
from engine.control.event_sources import function_of
from engine.control.kinds import POLICY, URL, resource_policies
from engine.control.link import ControlLink
from engine.store.api import Function, FunctionStore, MappingStore, SigningStore
from engine.wire.messages import IDENTITY_QUERY

REVISION_HEADER = "x-lambda-engine-identities"
PASS_ROLE = "iam:PassRole"  # noqa: S105 - an action's name
ATTACH_LAYER = "lambda:GetLayerVersion"
TAG = "lambda:TagResource"
# Operations that are about what a URL is already, where they do not say what it is to be.
_OF_URLS = frozenset({"GetFunctionUrlConfig", "UpdateFunctionUrlConfig", "DeleteFunctionUrlConfig"})


class ResourcePolicies(Protocol):
    """Finds the policy of a resource that is not a function. May block."""

    def __call__(self, arn: str, /) -> Mapping[str, Any] | None: ...


class Networks(Protocol):
    """Says in which VPC the subnets of a VpcConfig are; None when it is not known."""

    async def vpc_of(self, wanted: Mapping[str, Any], account: str, /) -> str | None: ...


class Identities:
    """Learns access keys through the supervisor. For the control plane's loop."""

    def __init__(self, keys: KeyRing, link: ControlLink, *, enforce: bool) -> None:
        self._keys = keys
        self._enforce = enforce
        self._link = link
        self._learnt: set[str] = set()
        self._revision: str | None = None

    async def learn(self, access_key: str | None, headers: Mapping[str, str]) -> bool:
        """Forget what is out of date, then ask for a key if one is given; whether it is in the ring now."""
        revision = headers.get(REVISION_HEADER)
        if revision != self._revision:
            self._revision = revision
            for known in self._learnt:
                self._keys.remove(known)
            self._learnt.clear()
        if access_key is None or not access_key.isalnum():
            return False
        record = await self._link.query(f"{IDENTITY_QUERY}{access_key}")
        if record is None or revision != self._revision:
            return False
        self._keys.put(credential_of(record, enforce=self._enforce))
        self._learnt.add(access_key)
        return True


class Access:
    """Decides about operations, with ``settings.auth`` = iam. What it is not given it knows nothing of."""

    def __init__(
        self,
        store: FunctionStore,
        clock: Clock,
        resource_policy: ResourcePolicies = lambda _arn: None,
        *,
        mappings: MappingStore | None = None,
        signing: SigningStore | None = None,
        networks: Networks | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._resource_policy = resource_policy
        self._mappings = mappings
        self._signing = signing
        self._networks = networks

    async def authorize(self, context: RequestContext, params: dict[str, Any]) -> None:
        """Raises AccessDenied, with AWS's text, unless the caller may do this."""
        principal = context.principal
        identity = principal.identity or root_of(principal.account)
        resource = resource_of(context.operation, params, principal.account, context.region)
        owner = owner_of(resource, principal.account)
        keys = self._context(identity, context) | {"aws:resourceaccount": owner}
        keys |= await asyncio.to_thread(self._kept, resource, params.get("UUID"), owner)
        keys |= lambda_keys(params, principal.account, context.region)
        if (vpc := await self._vpc(params, principal.account)) is not None:
            keys["lambda:vpcids"] = [vpc]
        function, policy = await asyncio.to_thread(self._found, resource, owner, context.region)
        if function is not None:
            keys |= {f"aws:resourcetag/{k}".lower(): v for k, v in function.tags.items()}
            keys = _standing(function, context.operation, params, resource) | keys
        check(Request(action_of(context.operation), resource, owner, keys), identity, policy)
        if context.operation == "CreateFunction" and params.get("Tags"):
            check(Request(TAG, resource, owner, keys), identity, policy)
        role = params.get("Role")
        if role and context.operation in ("CreateFunction", "UpdateFunctionConfiguration"):
            passing = {
                **self._context(identity, context), "iam:passedtoservice": "lambda.amazonaws.com", "iam:associatedresourcearn": resource,
            }  # fmt: skip
            check(Request(PASS_ROLE, role, principal.account, passing), identity)
        if context.operation in ("CreateFunction", "UpdateFunctionConfiguration"):
            for layer in params.get("Layers") or []:
                _, shared = await asyncio.to_thread(self._found, layer, "", context.region)
                request = Request(ATTACH_LAYER, layer, owner_of(layer, principal.account), self._context(identity, context))
                check(request, identity, shared)

    async def _vpc(self, params: Mapping[str, Any], account: str) -> str | None:
        """The VPC that a request's VpcConfig means."""
        wanted = params.get("VpcConfig") or {}
        return None if self._networks is None or not wanted.get("SubnetIds") else await self._networks.vpc_of(wanted, account)

    def _kept(self, resource: str, mapping: str | None, owner: str) -> dict[str, str | list[str]]:
        """What condition keys say of a mapping or a code signing configuration that is there. Blocks."""
        keys: dict[str, str | list[str]] = {}
        tags: Mapping[str, str] = {}
        mapping = mapping or (resource.rpartition(":")[2] if ":event-source-mapping:" in resource else None)
        if mapping is not None and self._mappings is not None:
            found = self._mappings.get(mapping)
            if found is not None and found.account == owner:
                keys["lambda:functionarn"] = function_of(found)
                tags = found.tags
        elif ":code-signing-config:" in resource and self._signing is not None:
            config = self._signing.get(owner, resource.rpartition(":")[2])
            tags = {} if config is None else config.tags
        return keys | {f"aws:resourcetag/{k}".lower(): v for k, v in tags.items()}

    def _context(self, identity: Identity, context: RequestContext) -> dict[str, str | list[str]]:
        return context_of(
            identity,
            now_epoch_s=self._clock.epoch_ms() / 1000,
            region=context.region,
            peer=context.peer,
            user_agent=context.headers.get("user-agent", ""),
        )

    def _function(self, resource: str, owner: str, region: str) -> Function | None:
        marker = f":lambda:{region}:{owner}:function:"
        if marker not in resource:
            return None
        return self._store.get(owner, resource.partition(marker)[2].partition(":")[0])

    def _found(self, resource: str, owner: str, region: str) -> tuple[Function | None, Policy | None]:
        """The function that a resource is, and the resource's policy. Blocks."""
        function = self._function(resource, owner, region)
        return function, self._policy(function, resource)

    def _policy(self, function: Function | None, resource: str) -> Policy | None:
        if function is None:
            document = self._resource_policy(resource)
            return None if document is None else parse(document)
        qualifier = resource.partition(":function:")[2].partition(":")[2]
        text = resource_policies(function).get(qualifier)
        return None if text is None else parse(text)


def _standing(function: Function, operation: str, params: Mapping[str, Any], resource: str) -> dict[str, str | list[str]]:
    """What condition keys say of the URL or the statement that an operation is about, and does not repeat."""
    qualifier = params.get("Qualifier") or resource.partition(":function:")[2].partition(":")[2]
    if operation in _OF_URLS:
        url = function.document(URL, qualifier)
        return {} if url is None else {"lambda:functionurlauthtype": str(url["AuthType"])}
    if operation != "RemovePermission":
        return {}
    policy = function.document(POLICY, qualifier) or {}
    statement: Mapping[str, Any] = next((s for s in policy.get("Statement", []) if s.get("Sid") == params.get("StatementId")), {})
    keys: dict[str, str | list[str]] = {}
    principal = statement.get("Principal")
    if isinstance(principal, Mapping) and principal:
        keys["lambda:principal"] = _asked_for(str(next(iter(principal.values()))))
    elif principal:
        keys["lambda:principal"] = str(principal)
    auth_type = statement.get("Condition", {}).get("StringEquals", {}).get("lambda:FunctionUrlAuthType")
    return keys if auth_type is None else {**keys, "lambda:functionurlauthtype": str(auth_type)}


def _asked_for(principal: str) -> str:
    """A principal as AddPermission was asked for it: an account by its number."""
    return principal.split(":")[4] if principal.startswith("arn:") and principal.endswith(":root") else principal


def service_may_invoke(function: Function, ref: FunctionRef, principal: str, source_arn: str, source_account: str) -> bool:
    """Whether the resource policy of what ``ref`` names lets an AWS service (``s3.amazonaws.com``) invoke it for this source."""
    text = resource_policies(function).get(ref.qualifier or "")
    if text is None:
        return False
    identity = service(principal)
    context = {**identity.context, "aws:sourcearn": source_arn, "aws:sourceaccount": source_account}
    return evaluate(Request(INVOKE, ref.arn(), function.account, context), identity, parse(text)).allowed
