"""IAM in the embedded AWS: every request is decided by the engine's own policy evaluator. Runs in the embedded AWS's process.

Theory of operation. Requests come through the supervisor, which has verified their signatures and says so with a token that only the two
know; without it nothing is served. Before an operation runs, moto calls the hook it has for its own checks; ours takes its place, because
moto's knows neither resources nor conditions. The caller is the access key of the signature: the engine's configured keys are their
account's root, the engine itself may do anything, everybody else is looked up in the embedded IAM.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlparse, urlsplit
from xml.sax.saxutils import escape

from engine.auth.authorization import context_of, denial, owner_of
from engine.auth.identity import identity_of, root_of, service
from engine.auth.policy import Decision, Identity, MalformedPolicy, Policy, Reason, Request, Source, evaluate, parse
from engine.auth.sigv4 import claimed_access_key
from engine.aws import targets
from engine.aws.clients import INSIDE_HEADER, SOURCE_HEADER
from engine.aws.identities import PARTITION, SOURCE_FUNCTION, record_of, role_of

LAMBDA = service("lambda.amazonaws.com")
# Allowed whatever the policies say (docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html).
_ALWAYS = frozenset({"sts:GetCallerIdentity"})
# Their tokens are nobody's that could be asked: with any of them anybody would be any role, whomever that trusts.
_NEVER = frozenset({"sts:AssumeRoleWithWebIdentity", "sts:AssumeRoleWithSAML"})
# Batches have no action of their own: they need what one message needs.
_ACTIONS = {f"sqs:{one}Batch": f"sqs:{one}" for one in ("SendMessage", "DeleteMessage", "ChangeMessageVisibility")}
CALLER_HEADER = "X-Lambda-Engine-Caller"
ENGINE, ROOT = "engine", "root"
_asked = threading.local()


def install() -> None:
    """Decide every request of this process from now on."""
    from moto.core.authorization import ActionAuthenticatorMixin  # noqa: PLC0415 - moto is an extra

    def decide(self: Any, _request_class: type, resource: str = "*") -> None:
        _check(self, resource)

    # The one place through which all of moto's services ask (moto.core.authorization).
    ActionAuthenticatorMixin._authenticate_and_authorize_action = decide  # noqa: SLF001
    _note_sources()


def _note_sources() -> None:
    """Have sessions that the engine asks for know the function whose environments get them (see ``engine.control.roles``)."""
    from moto.sts.models import STSBackend  # noqa: PLC0415 - moto is an extra

    assume = STSBackend.assume_role

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        session = assume(self, *args, **kwargs)
        setattr(session, SOURCE_FUNCTION, getattr(_asked, "source", None))
        return session

    STSBackend.assume_role = noted


def _check(response: Any, given: str) -> None:
    """Raises moto's kind of error unless the request that ``response`` answers is allowed."""
    headers: Mapping[str, str] = response.headers
    service_name, region = targets.scope(headers.get("Authorization", ""))
    action = _first(response._get_action())  # noqa: SLF001 - moto has no other name for it
    if service_name is None:
        raise _refusal("", headers, "The request is not signed.", "MissingAuthenticationToken")
    if not action:
        return
    account = str(response.current_account)
    full = f"{service_name}:{action}"
    full = _ACTIONS.get(full, full)
    if full in _ALWAYS:
        return
    if full in _NEVER:
        raise _refusal(service_name, headers, f"Not authorized to perform {full}")
    path = urlsplit(str(response.uri)).path
    resource = given if service_name == "s3" else targets.resource(service_name, _members(response), account, region, path)
    engine_asks = headers.get(CALLER_HEADER) == ENGINE
    # Of nobody else is it believed. The operation follows in this thread.
    source = headers.get(SOURCE_HEADER) if engine_asks and full == "sts:AssumeRole" else None
    _asked.source = source if headers.get(INSIDE_HEADER) else None
    trust = _trust(resource) if full == "sts:AssumeRole" else None
    if engine_asks and trust is None:
        return
    identity = LAMBDA if engine_asks else _caller(headers, account)
    if identity is None:
        raise _refusal(service_name, headers, "The security token included in the request is invalid.", "InvalidClientTokenId")
    context = context_of(identity, now_epoch_s=time.time(), region=region, user_agent=headers.get("User-Agent", ""))
    # What does not come by TLS comes over loopback; tools' own buckets have policies that refuse anything less.
    context["aws:securetransport"] = "true"
    if engine_asks:
        # What Lambda says when it assumes a role.
        context |= {"aws:sourceaccount": account, **({"aws:sourcearn": source} if source else {})}
    asked = [(full, resource)]
    source = headers.get("X-Amz-Copy-Source") if service_name == "s3" else None
    if source:
        # Whoever copies reads. The source is taken apart as moto does it.
        asked.append(("s3:GetObject", "arn:aws:s3:::" + unquote(urlparse(source).path).lstrip("/")))
    for one, of in asked:
        policy = trust if trust is not None else _policy(service_name, of, account, region)
        request = Request(one, of, owner_of(of or "", identity.account or account), context)
        decision = evaluate(request, identity, policy)
        if trust is not None and decision.allowed and not trust.names(request, identity):
            decision = Decision(Reason.IMPLICIT, Source.RESOURCE)
        if not decision.allowed:
            raise _refusal(service_name, headers, denial(decision, identity.arn, one, of or "*"))


def _caller(headers: Mapping[str, str], account: str) -> Identity | None:
    if headers.get(CALLER_HEADER) == ROOT:
        return root_of(account)
    record = record_of(claimed_access_key(dict(headers)))
    return None if record is None else identity_of(record)


def _members(response: Any) -> dict[str, Any]:
    """The request's members, of whichever protocol."""
    body = response.body
    if isinstance(body, (str, bytes)) and body[:1] in ("{", b"{"):
        with contextlib.suppress(ValueError):
            decoded = json.loads(body)
            if isinstance(decoded, dict):
                return decoded
    return {name: _first(values) for name, values in response.data.items()}


def _first(values: Any) -> Any:
    return values[0] if isinstance(values, list) and values else values


def _trust(role_arn: str | None) -> Policy | None:
    role = role_of(role_arn or "")
    return Policy() if role is None else _parsed(role.assume_role_policy_document)


def _policy(service_name: str, resource: str | None, account: str, region: str) -> Policy | None:
    """The policy of the resource itself, where the embedded service keeps one."""
    finders: dict[str, Callable[[], Any]] = {
        "s3": lambda: _bucket_policy((resource or "").rpartition(":::")[2].partition("/")[0]),
        "sqs": lambda: _queue_policy((resource or "").rpartition(":")[2], account, region),
        "sns": lambda: _topic_policy(resource or "", account, region),
    }
    document = finders[service_name]() if service_name in finders else None
    return None if not document else _parsed(document)


def _bucket_policy(name: str) -> Any:
    from moto.s3.models import s3_backends  # noqa: PLC0415 - moto is an extra

    for backends in list(s3_backends.values()):
        bucket = backends[PARTITION].buckets.get(name)
        if bucket is not None:
            return bucket.policy
    return None


def _queue_policy(name: str, account: str, region: str) -> Any:
    from moto.sqs.models import sqs_backends  # noqa: PLC0415 - moto is an extra

    queue = sqs_backends[account][region].queues.get(name)
    return None if queue is None else queue.policy


def _topic_policy(arn: str, account: str, region: str) -> Any:
    from moto.sns.models import sns_backends  # noqa: PLC0415 - moto is an extra

    topic = sns_backends[account][region].topics.get(arn)
    return None if topic is None else topic.policy


def _parsed(document: Any) -> Policy | None:
    try:
        return parse(document)
    except MalformedPolicy:
        return None


def _refusal(service_name: str, headers: Mapping[str, str], message: str, code: str | None = None) -> Any:
    """The refusal in the service's protocol, as what moto's dispatcher turns into an answer."""
    from werkzeug.exceptions import HTTPException  # noqa: PLC0415 - moto is an extra

    if service_name == "s3":
        from moto.s3.exceptions import S3ClientError  # noqa: PLC0415

        return S3ClientError(code or "AccessDenied", message)
    refused = HTTPException()
    if "X-Amz-Target" in headers or service_name in targets.REST_JSON:
        refused.code = 403 if service_name in targets.REST_JSON else 400
        named = code or ("AccessDenied" if service_name == "sqs" else "AccessDeniedException")
        refused.description = json.dumps({"__type": named, "message": message})
        return refused
    refused.code = 403
    named = code or ("AuthorizationError" if service_name == "sns" else "AccessDenied")
    refused.description = (
        f"<ErrorResponse><Error><Type>Sender</Type><Code>{named}</Code><Message>{escape(message)}</Message></Error></ErrorResponse>"
    )
    return refused
