"""IAM in the embedded AWS: every request is decided by the engine's own policy evaluator. Runs in the embedded AWS's process.

Theory of operation. Requests come through the supervisor, which has verified their signatures and says so with a token that only the two
know; without it nothing is served. Before an operation runs, moto calls the hook it has for its own checks; ours takes its place, because
moto's knows neither resources nor conditions. The caller is the access key of the signature: the engine's configured keys are their
account's root, the engine itself may do anything, everybody else is looked up in the embedded IAM.

What is decided about has to be what is then done. So the service, the operation, its members and its region are taken from where moto takes
them, what moto would take from two places at once is refused, and paths of moto that do not ask are for configured keys alone.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from engine.auth.authorization import context_of, denial, owner_of
from engine.auth.identity import identity_of, root_of, service
from engine.auth.policy import Decision, Identity, Kind, MalformedPolicy, Policy, Reason, Request, Source, evaluate, parse
from engine.auth.sigv4 import claimed_access_key
from engine.aws import bucket_actions, condition_keys, holdings, moto_requests, refusals, targets
from engine.aws.clients import INSIDE_HEADER, SOURCE_HEADER
from engine.aws.demands import PREFIXES, Asked, Demand, demands, passed_roles
from engine.aws.identities import SOURCE_FUNCTION, record_of, role_of
from engine.aws.sessions import note, too_long

LAMBDA = service("lambda.amazonaws.com")
# Allowed whatever the policies say (docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html).
_ALWAYS = frozenset({"sts:GetCallerIdentity"})
# Their tokens are nobody's that could be asked: with any of them anybody would be any role, whomever that trusts.
_NEVER = frozenset({"sts:AssumeRoleWithWebIdentity", "sts:AssumeRoleWithSAML"})
# Services in whose answers the resource's own policy has to name the caller or its account (trust policies, policies of keys).
_MUST_NAME = frozenset({"kms"})
CALLER_HEADER = "X-Lambda-Engine-Caller"
PEER_HEADER = "X-Lambda-Engine-Peer"
ACCOUNT_HEADER = "X-Moto-Account-Id"
ENGINE, ROOT = "engine", "root"
_asked = threading.local()


def install() -> None:
    """Decide every request of this process from now on."""
    from moto.core.authorization import ActionAuthenticatorMixin  # noqa: PLC0415 - moto is an extra

    def decide(self: Any, _request_class: type, resource: str = "*") -> None:
        _check(self, resource)

    # The one place through which all of moto's services ask (moto.core.authorization).
    ActionAuthenticatorMixin._authenticate_and_authorize_action = decide  # noqa: SLF001
    moto_requests.install()
    _note_sources()


def _note_sources() -> None:
    """Have sessions know what was said when they were asked for: for a role's function (see ``engine.control.roles``), and their policies and tags.
    And tell the owner of a configured key, whom moto does not know, who that is.
    """
    from moto.sts.exceptions import STSValidationError  # noqa: PLC0415 - moto is an extra
    from moto.sts.models import STSBackend  # noqa: PLC0415

    assume, identify = STSBackend.assume_role, STSBackend.get_caller_identity

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        problem = too_long(str(kwargs.get("role_arn")), kwargs.get("duration"), chained=bool(getattr(_asked, "chained", False)))
        if problem is not None:
            raise STSValidationError(problem)
        session = assume(self, *args, **kwargs)
        setattr(session, SOURCE_FUNCTION, getattr(_asked, "source", None))
        note(session, getattr(_asked, "members", None) or {})
        return session

    def identified(self: Any, *args: Any) -> Any:
        account = getattr(_asked, "root", None)
        return identify(self, *args) if account is None else (account, root_of(account).arn, account)

    STSBackend.assume_role, STSBackend.get_caller_identity = noted, identified


def _check(response: Any, given: str) -> None:
    """Raises moto's kind of error unless the request that ``response`` answers is allowed."""
    headers: Mapping[str, str] = response.headers
    service_name, region = targets.scope(headers.get("Authorization", ""))
    refuse = functools.partial(refusals.refusal, service_name or "", headers)
    if service_name is None:
        raise refuse("The request is not signed.", "MissingAuthenticationToken")
    problem = moto_requests.problem(response, service_name, region)
    if problem is not None:
        raise refuse(problem, "InvalidAction")
    action = moto_requests.action_of(response)
    if not action:
        return
    account = str(response.current_account)
    full = f"{PREFIXES.get(service_name, service_name)}:{action}"
    _asked.root = headers.get(ACCOUNT_HEADER) or account if headers.get(CALLER_HEADER) == ROOT else None
    if full in _ALWAYS:
        return
    if full in _NEVER:
        raise refuse(f"Not authorized to perform {full}")
    moto_requests.keep_nothing()
    objects = response.service_name == "s3"
    engine_asks = headers.get(CALLER_HEADER) == ENGINE
    members = {} if objects else moto_requests.members(response)
    identity = LAMBDA if engine_asks else _caller(headers, account)
    if identity is None:
        raise refuse("The security token included in the request is invalid.", "InvalidClientTokenId")
    asked = Asked(
        service_name, action, members, account, region, urlsplit(str(response.uri)).path, str(response.method), identity.arn,
        functools.partial(holdings.find, account, region),
    )  # fmt: skip
    # Of nobody else is it believed. The operation follows in this thread.
    source = headers.get(SOURCE_HEADER) if engine_asks and full == "sts:AssumeRole" else None
    _asked.source, _asked.members = source if headers.get(INSIDE_HEADER) else None, members if full == "sts:AssumeRole" else None
    _asked.chained = identity.kind is Kind.SESSION
    if engine_asks and full != "sts:AssumeRole":
        return
    wanted, keys = _of_objects(response, given) if objects else (demands(asked), condition_keys.of_request(asked))
    passed = passed_roles(asked)
    context = context_of(
        identity, now_epoch_s=time.time(), region=region, peer=headers.get(PEER_HEADER, ""), user_agent=headers.get("User-Agent", "")
    )
    # What does not come by TLS comes over loopback; tools' own buckets have policies that refuse anything less.
    context |= {"aws:securetransport": "true", **keys}
    if engine_asks:
        # What Lambda says when it assumes a role.
        context |= {"aws:sourceaccount": account, **({"aws:sourcearn": source} if source else {})}
    if objects and moto_requests.deletes_many(response):
        # Each object is decided by itself, and what must not go is named in the answer.
        moto_requests.keep(response, given, _may_delete(identity, asked, context))
        return
    for one, of in wanted:
        _decide(refuse, identity, (one, of), asked, context)
    for role in passed:
        _decide(refuse, identity, ("iam:PassRole", role), asked, {**context, "iam:passedtoservice": f"{service_name}.amazonaws.com"})
    if service_name == "sqs" and wanted[0][1]:
        # Another account's queue, which its policy lets this caller use.
        response.current_account = targets.account_in(wanted[0][1]) or account


def _decide(refuse: Callable[..., Exception], identity: Identity, demand: Demand, asked: Asked, context: Mapping[str, Any]) -> None:
    """Raises moto's kind of error unless ``identity`` may have what it demands."""
    decision = _decision(identity, demand, asked, context)
    if not decision.allowed:
        raise refuse(denial(decision, identity.arn, demand[0], demand[1] or "*"))


def _decision(identity: Identity, demand: Demand, asked: Asked, context: Mapping[str, Any]) -> Decision:
    action, resource = demand
    trusted = asked.service == "sts" and asked.action == "AssumeRole"
    policy = _trust(resource) if trusted else None if action == "iam:PassRole" else _policy(asked, resource)
    request = Request(action, resource, _owner(asked, resource), context)
    decision = evaluate(request, identity, policy)
    must_name = policy is not None and (trusted or asked.service in _MUST_NAME)
    if decision.allowed and must_name and policy is not None and not policy.names(request, identity):
        return Decision(Reason.IMPLICIT, Source.RESOURCE)
    return decision


def _owner(asked: Asked, resource: str | None) -> str:
    """Whose resource it is: the ARNs of buckets do not say."""
    if asked.service == "s3" and resource is not None:
        bucket = holdings.bucket(resource.rpartition(":::")[2].partition("/")[0])
        return asked.account if bucket is None else str(bucket.account_id)
    return owner_of(resource or "", asked.account)


def _of_objects(response: Any, given: str) -> tuple[list[Demand], condition_keys.Keys]:
    """What a request to S3 demands, and its condition keys."""
    query = {name: values[0] for name, values in parse_qs(response.parsed_url.query, keep_blank_values=True).items()}
    headers = {name.lower(): str(value) for name, value in response.headers.items()}
    wanted: list[Demand] = [(f"s3:{action}", given) for action in moto_requests.object_actions(response)]
    if response.method == "POST" and "/" not in given and wanted[0][0] == "s3:PutObject":
        # A form, as browsers send them.
        wanted = [(wanted[0][0], f"{given}/{moto_requests.first(response.querystring.get('key')) or ''}")]
    if headers.get("x-amz-copy-source"):
        # Whoever copies reads.
        wanted.append(bucket_actions.copied(headers["x-amz-copy-source"]))
    return wanted, condition_keys.of_objects(query, headers)


def _may_delete(identity: Identity, asked: Asked, context: Mapping[str, Any]) -> Callable[[str, str], bool]:
    return lambda arn, action: _decision(identity, (action, arn), asked, context).allowed


def _caller(headers: Mapping[str, str], account: str) -> Identity | None:
    if headers.get(CALLER_HEADER) == ROOT:
        # All that is here is one account's: the owner of another has in it what resources' policies give.
        return root_of(headers.get(ACCOUNT_HEADER) or account)
    record = record_of(claimed_access_key(dict(headers)))
    return None if record is None else identity_of(record)


def _trust(role_arn: str | None) -> Policy:
    role = role_of(role_arn or "")
    return (None if role is None else _parsed(role.assume_role_policy_document)) or Policy()


def _policy(asked: Asked, resource: str | None) -> Policy | None:
    """The policy of the resource itself, where the embedded service keeps one."""
    document = holdings.policy_of(asked.service, resource or "", asked.account, asked.region)
    return None if not document else _parsed(document)


def _parsed(document: Any) -> Policy | None:
    try:
        return parse(document)
    except MalformedPolicy:
        return None
