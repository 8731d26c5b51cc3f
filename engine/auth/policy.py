"""Whether a request is allowed: AWS's policy evaluation, on values. Pure.

Theory of operation. A request is denied when any policy denies it explicitly. Otherwise it needs an allow: in the caller's own account
from an identity policy or from the resource's policy, across accounts from both, for an AWS service from the resource's policy alone.
What identity policies allow is cut down to what the permissions boundary and the session policies allow as well. A resource policy
that names the caller itself (a user, or a role's session) is an allow that neither of these cuts; one that names a role is cut by
both, and one that names the account only leaves the decision to that account's identity policies.
Source: docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html, access_policies_boundaries.html,
reference_policies_elements_principal.html.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

from engine.auth.conditions import Condition, MalformedPolicy, parse_conditions
from engine.auth.patterns import Context, expand, folded, matches

__all__ = ["Decision", "Identity", "Kind", "MalformedPolicy", "Policy", "Reason", "Request", "Source", "evaluate", "parse"]


_VARIABLE = re.compile(r"\$\{\s*([^},]+)")
# What the condition keys say that are the same for every request of one caller to one resource.
_STEADY = ("aws:principal", "aws:username", "aws:userid", "aws:requestedregion", "aws:viaawsservice", "aws:securetransport")


class Kind(StrEnum):
    """What sort of caller it is."""

    ROOT = "root"
    USER = "user"
    SESSION = "session"
    SERVICE = "service"
    ANONYMOUS = "anonymous"


class _Named(IntEnum):
    """How closely a resource policy names a caller."""

    NOT = 0
    ACCOUNT = 1
    ROLE = 2
    ITSELF = 3


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. Exactly one of each pair (``actions``, ``not_actions``) and so on is not None; both are for principals of identity
    policies and resources of trust policies, which have none.
    """

    allow: bool
    actions: tuple[str, ...] | None
    not_actions: tuple[str, ...] | None
    resources: tuple[str, ...] | None
    not_resources: tuple[str, ...] | None
    principals: Mapping[str, tuple[str, ...]] | None
    not_principals: Mapping[str, tuple[str, ...]] | None
    conditions: tuple[Condition, ...]
    variables: bool

    def steady(self) -> bool:
        """Whether it says the same of every request of one caller for one action on one resource."""
        keys = [c.key for c in self.conditions]
        if self.variables:
            texts = [v for c in self.conditions for v in c.values] + [*(self.resources or ()), *(self.not_resources or ())]
            keys += [key.strip().lower() for text in texts for key in _VARIABLE.findall(text)]
        return all(key.startswith(_STEADY) or key in ("*", "?", "$") for key in keys)

    def concerns(self, request: Request) -> bool:
        """Whether action, resource and conditions match; principals are not looked at."""
        if self.allow and self.variables and self._unknown(request.context):
            return False
        return self._action(request.action) and self._resource(request) and all(c.holds(request.context) for c in self.conditions)

    def _unknown(self, context: Context) -> bool:
        """Whether what it excludes depends on variables without a value: AWS takes such a statement for invalid, and it must not allow all the more."""
        excluded = [*(self.not_resources or ()), *(v for c in self.conditions if c.negated for v in c.values)]
        return any(expand(text, context) is None for text in excluded)

    def _action(self, action: str) -> bool:
        if self.actions is not None:
            return any(matches(a, action, ignore_case=True) for a in self.actions)
        return not any(matches(a, action, ignore_case=True) for a in self.not_actions or ())

    def _resource(self, request: Request) -> bool:
        if self.resources is not None:
            return self._names(self.resources, request)
        return self.not_resources is None or not self._names(self.not_resources, request)

    def _names(self, resources: tuple[str, ...], request: Request) -> bool:
        if request.resource is None:
            # Unknown: an allow for some resource is taken for one for this, a deny only when it is for all.
            return self.allow or "*" in resources
        resource = folded(request.resource)
        for pattern in resources:
            expanded = expand(pattern, request.context) if self.variables else pattern
            if expanded is not None and matches(expanded, resource):
                return True
        return False

    def names(self, identity: Identity) -> _Named:
        """How this statement of a resource policy names a caller."""
        if self.principals is not None:
            return _closest(self.principals, identity)
        if self.not_principals is None:
            return _Named.NOT
        # Whoever is spared must be spared with its account and, for a session, its role.
        spared = all(_listed(self.not_principals, arn) for arn in identity.chain())
        return _Named.NOT if spared else _Named.ITSELF


def _closest(principals: Mapping[str, tuple[str, ...]], identity: Identity) -> _Named:
    aws = principals.get("AWS", ())
    if "*" in principals.get("*", ()) or "*" in aws:
        return _Named.ROLE if identity.kind is Kind.SESSION else _Named.ITSELF
    if identity.kind is Kind.SERVICE:
        return _Named.ITSELF if identity.arn in principals.get("Service", ()) else _Named.NOT
    if identity.kind is Kind.ANONYMOUS:
        return _Named.NOT
    if identity.arn in aws and identity.kind is not Kind.ROOT:
        return _Named.ITSELF
    if identity.role_arn is not None and identity.role_arn in aws:
        return _Named.ROLE
    if identity.account in aws or identity.account_arn in aws:
        return _Named.ACCOUNT
    return _Named.NOT


def _listed(principals: Mapping[str, tuple[str, ...]], arn: str) -> bool:
    if any("*" in values for key, values in principals.items() if key in ("*", "AWS")):
        return True
    account = arn.split(":")[4] if arn.endswith(":root") else None
    return arn in principals.get("AWS", ()) or arn in principals.get("Service", ()) or account in principals.get("AWS", ())


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed document."""

    statements: tuple[Statement, ...] = ()

    @property
    def steady(self) -> bool:
        """Whether what it says of a caller, an action and a resource may be remembered."""
        return all(s.steady() for s in self.statements)

    def denies(self, request: Request, identity: Identity | None = None) -> bool:
        """Whether a statement denies explicitly; with ``identity`` those of a resource policy that name it."""
        return any(
            not s.allow and s.concerns(request) and (identity is None or s.names(identity) is not _Named.NOT)
            for s in self.statements
        )

    def allows(self, request: Request) -> bool:
        """Whether a statement allows; principals are not looked at."""
        return any(s.allow and s.concerns(request) for s in self.statements)

    def names(self, request: Request, identity: Identity) -> bool:
        """Whether an allow of this resource policy names ``identity`` in any way."""
        return self.closest_allow(request, identity) is not _Named.NOT

    def closest_allow(self, request: Request, identity: Identity) -> _Named:
        """The closest way in which an allow of a resource policy names ``identity``."""
        return max(
            (s.names(identity) for s in self.statements if s.allow and s.concerns(request)), default=_Named.NOT
        )


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """A caller with everything that says what it may do. ``policies`` are its own, attached and inline, and its groups'.

    ``arn``: a user's, a session's (``arn:aws:sts::1:assumed-role/r/s``), the account root's, or a service's name.
    ``session`` None means that the session was not given policies; ``boundary`` None that there is no boundary.
    """

    kind: Kind
    arn: str
    account: str
    policies: tuple[Policy, ...] = ()
    boundary: Policy | None = None
    session: tuple[Policy, ...] | None = None
    role_arn: str | None = None
    user_id: str = ""
    context: Mapping[str, str] = field(default_factory=dict)

    @property
    def steady(self) -> bool:
        """Whether all its policies are."""
        limits = () if self.boundary is None else (self.boundary,)
        return all(p.steady for p in (*self.policies, *limits, *(self.session or ())))

    @property
    def account_arn(self) -> str:
        return f"arn:aws:iam::{self.account}:root"

    def chain(self) -> Iterable[str]:
        """The ARNs by which a policy may name it: the account's, the role's, its own."""
        if self.kind in (Kind.SERVICE, Kind.ANONYMOUS):
            return (self.arn,)
        return tuple(dict.fromkeys(a for a in (self.account_arn, self.role_arn, self.arn) if a is not None))


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for. ``resource`` None: not known; ``account`` owns it. ``context`` keys are in lower case."""

    action: str
    resource: str | None
    account: str
    context: Context


class Source(StrEnum):
    """The sort of policy that decided, in the words of AWS's messages."""

    IDENTITY = "identity-based policy"
    RESOURCE = "resource-based policy"
    BOUNDARY = "permissions boundary"
    SESSION = "session policy"


class Reason(StrEnum):
    """Why."""

    ALLOWED = "allowed"
    EXPLICIT = "explicit deny"
    IMPLICIT = "no allow"


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome. ``source`` is the policy that denied, or the one whose allow is missing; None when allowed."""

    reason: Reason
    source: Source | None = None

    @property
    def allowed(self) -> bool:
        return self.reason is Reason.ALLOWED


ALLOWED = Decision(Reason.ALLOWED)


def evaluate(request: Request, identity: Identity, resource_policy: Policy | None = None) -> Decision:
    """Whether ``identity`` may do what it asks for."""
    for source, policies in (
        (Source.IDENTITY, identity.policies),
        (Source.BOUNDARY, () if identity.boundary is None else (identity.boundary,)),
        (Source.SESSION, identity.session or ()),
    ):
        if any(p.denies(request) for p in policies):
            return Decision(Reason.EXPLICIT, source)
    if resource_policy is not None and resource_policy.denies(request, identity):
        return Decision(Reason.EXPLICIT, Source.RESOURCE)
    named = _Named.NOT if resource_policy is None else resource_policy.closest_allow(request, identity)
    outside = identity.kind in (Kind.SERVICE, Kind.ANONYMOUS)
    if outside or identity.account != request.account:
        if named is _Named.NOT:
            return Decision(Reason.IMPLICIT, Source.RESOURCE)
        return ALLOWED if outside else _own(request, identity, granted=False)
    if named is _Named.ITSELF:
        return ALLOWED
    return _own(request, identity, granted=named is _Named.ROLE)


def _own(request: Request, identity: Identity, *, granted: bool) -> Decision:
    """What the identity's side says; ``granted`` when the resource's policy stands in for an identity policy."""
    if not granted and identity.kind is not Kind.ROOT and not any(p.allows(request) for p in identity.policies):
        return Decision(Reason.IMPLICIT, Source.IDENTITY)
    if identity.boundary is not None and not identity.boundary.allows(request):
        return Decision(Reason.IMPLICIT, Source.BOUNDARY)
    if identity.session is not None and not any(p.allows(request) for p in identity.session):
        return Decision(Reason.IMPLICIT, Source.SESSION)
    return ALLOWED


def parse(document: str | bytes | Mapping[str, Any]) -> Policy:
    """A policy document of any kind. Raises MalformedPolicy naming what is wrong."""
    if not isinstance(document, Mapping):
        try:
            document = json.loads(document)
        except (ValueError, RecursionError) as e:
            raise MalformedPolicy(f"not JSON: {e}") from None
    if not isinstance(document, Mapping):
        raise MalformedPolicy("a policy is an object")
    statements = document.get("Statement", [])
    if isinstance(statements, Mapping):
        statements = [statements]
    if not isinstance(statements, list):
        raise MalformedPolicy("Statement must be an object or a list")
    variables = document.get("Version") == "2012-10-17"
    return Policy(tuple(_statement(s, variables) for s in statements))


def _statement(raw: Any, variables: bool) -> Statement:
    if not isinstance(raw, Mapping):
        raise MalformedPolicy("a statement must be an object")
    effect = raw.get("Effect")
    if effect not in ("Allow", "Deny"):
        raise MalformedPolicy(f"Effect must be Allow or Deny, not {effect!r}")
    actions, not_actions = _texts(raw, "Action"), _texts(raw, "NotAction")
    if (actions is None) == (not_actions is None):
        raise MalformedPolicy("a statement needs either Action or NotAction")
    resources, not_resources = _texts(raw, "Resource"), _texts(raw, "NotResource")
    if resources is not None and not_resources is not None:
        raise MalformedPolicy("a statement cannot have both Resource and NotResource")
    principals, not_principals = _principals(raw, "Principal"), _principals(raw, "NotPrincipal")
    if principals is not None and not_principals is not None:
        raise MalformedPolicy("a statement cannot have both Principal and NotPrincipal")
    conditions = parse_conditions(raw.get("Condition") or {}, variables=variables)
    return Statement(
        effect == "Allow", actions, not_actions, resources, not_resources, principals, not_principals, conditions, variables
    )


def _texts(raw: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    value = raw.get(name)
    if value is None:
        return None
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in listed):
        raise MalformedPolicy(f"{name} must be a string or a list of strings")
    return tuple(listed)


def _principals(raw: Mapping[str, Any], name: str) -> Mapping[str, tuple[str, ...]] | None:
    value = raw.get(name)
    if value is None:
        return None
    if value == "*":
        return {"*": ("*",)}
    if not isinstance(value, Mapping):
        raise MalformedPolicy(f'{name} must be "*" or an object')
    return {str(kind): _texts(value, kind) or () for kind in value}
