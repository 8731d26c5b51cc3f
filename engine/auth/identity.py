"""Callers as the IAM in use knows them: a record of plain values, and the credential and identity that it means. Pure.

A record travels between processes as JSON: ``access_key``, ``secret``, ``token`` (or null), ``expires`` (epoch seconds, or null), ``kind``
(``user`` or ``session``), ``arn``, ``account``, ``user_id``, ``role_arn`` (sessions), ``policies`` (documents), ``boundary`` (a document
or null), ``session`` (documents or null), ``tags``, ``source_identity`` and ``source_function`` (an ARN: the function in whose environments a
session is used).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.auth.policy import Identity, Kind, MalformedPolicy, Policy, parse
from engine.auth.principals import Credential

_DENY_ALL = parse({"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": "*", "Resource": "*"}})


def root_of(account: str) -> Identity:
    """An account's administrator: what a configured key is, and everybody where policies are not enforced."""
    arn = f"arn:aws:iam::{account}:root"
    return Identity(Kind.ROOT, arn, account, user_id=account, context=_context(Kind.ROOT, arn, account, account))


def service(name: str) -> Identity:
    """An AWS service by its principal, such as ``s3.amazonaws.com``."""
    return Identity(Kind.SERVICE, name, "", context={"aws:principalservicename": name, "aws:principalisawsservice": "true"})


def identity_of(record: Mapping[str, Any]) -> Identity:
    """The caller a record describes. A policy that cannot be read denies everything: it may have been meant to."""
    kind = Kind(record["kind"])
    arn, account, user_id = str(record["arn"]), str(record["account"]), str(record["user_id"])
    boundary, given = record.get("boundary"), record.get("session")
    context = _context(kind, arn, account, user_id)
    context.update({f"aws:principaltag/{k}".lower(): str(v) for k, v in (record.get("tags") or {}).items()})
    role_arn = record.get("role_arn")
    if role_arn is not None:
        context["aws:principalarn"] = role_arn
    if record.get("source_function"):
        context["lambda:sourcefunctionarn"] = str(record["source_function"])
    if record.get("source_identity"):
        context["aws:sourceidentity"] = str(record["source_identity"])
    return Identity(
        kind,
        arn,
        account,
        tuple(_read(document) for document in record["policies"]),
        None if boundary is None else _read(boundary),
        None if given is None else tuple(_read(document) for document in given),
        role_arn,
        user_id,
        context,
    )


def credential_of(record: Mapping[str, Any], *, enforce: bool) -> Credential:
    """The credential a record describes; where policies are enforced, its principal with the identity."""
    return Credential(
        str(record["access_key"]),
        str(record["secret"]),
        str(record["account"]),
        record.get("token"),
        record.get("expires"),
        identity=identity_of(record) if enforce else None,
    )


def _read(document: Any) -> Policy:
    try:
        return parse(document)
    except MalformedPolicy:
        return _DENY_ALL


def _context(kind: Kind, arn: str, account: str, user_id: str) -> dict[str, str]:
    """What the global condition keys say of a caller."""
    context = {
        "aws:principalarn": arn,
        "aws:principalaccount": account,
        "aws:principaltype": {Kind.ROOT: "Account", Kind.USER: "User", Kind.SESSION: "AssumedRole"}[kind],
        "aws:userid": user_id,
        "aws:principalisawsservice": "false",
    }
    if kind is Kind.USER:
        context["aws:username"] = arn.rpartition("/")[2]
    return context
