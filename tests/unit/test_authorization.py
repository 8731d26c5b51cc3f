"""What a request is about, in IAM's words: actions, resources, condition keys, denials; and which decisions may be remembered."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from engine.arn import FunctionRef
from engine.auth.authorization import action_of, context_of, denial, lambda_keys, owner_of, resource_of
from engine.auth.context import RequestContext
from engine.auth.identity import credential_of, identity_of, root_of, service
from engine.auth.policy import Decision, Identity, Kind, Reason, Request, Source, evaluate, parse
from engine.auth.principals import Principal
from engine.aws import targets
from engine.clock import ManualClock
from engine.control.access import Access, service_may_invoke
from engine.control.kinds import POLICY
from engine.control.layer_permissions import LayerPolicies
from engine.errors import AccessDenied
from engine.protocol.model import load
from engine.store.api import Function, LayerVersion
from engine.store.database import Database
from engine.store.functions import SqlFunctionStore
from engine.store.layers import SqlLayerStore
from tests.framework.constraints import baseline
from tests.structure.pages import served

ACCOUNT, REGION = "111122223333", "eu-west-1"
FUNCTION = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:f"


@pytest.mark.parametrize(
    ("operation", "action"),
    [
        ("Invoke", "lambda:InvokeFunction"),
        ("InvokeWithResponseStream", "lambda:InvokeFunction"),
        ("InvokeAsync", "lambda:InvokeFunction"),
        ("GetLayerVersionByArn", "lambda:GetLayerVersion"),
        ("CreateAlias", "lambda:CreateAlias"),
    ],
)
def test_actions(operation, action):
    assert action_of(operation) == action


@pytest.mark.parametrize(
    ("operation", "params", "resource"),
    [
        ("GetFunction", {"FunctionName": "f"}, FUNCTION),
        ("GetFunction", {"FunctionName": "f", "Qualifier": "live"}, f"{FUNCTION}:live"),
        ("GetFunction", {"FunctionName": "f:live"}, f"{FUNCTION}:live"),
        ("GetFunction", {"FunctionName": f"arn:aws:lambda:{REGION}:444455556666:function:g"}, f"arn:aws:lambda:{REGION}:444455556666:function:g"),
        ("GetAlias", {"FunctionName": "f", "Name": "live"}, FUNCTION),
        ("ListFunctions", {}, "*"),
        ("GetAccountSettings", {}, "*"),
        ("CreateEventSourceMapping", {"FunctionName": "f"}, "*"),
        ("DeleteEventSourceMapping", {"UUID": "u"}, f"arn:aws:lambda:{REGION}:{ACCOUNT}:event-source-mapping:u"),
        ("UpdateEventSourceMapping", {"UUID": "u", "FunctionName": "f"}, f"arn:aws:lambda:{REGION}:{ACCOUNT}:event-source-mapping:u"),
        ("GetResourcePolicy", {"ResourceArn": FUNCTION}, FUNCTION),
        ("PutResourcePolicy", {"ResourceArn": f"{FUNCTION}:live"}, f"{FUNCTION}:live"),
        ("GetLayerVersion", {"LayerName": "l", "VersionNumber": 2}, f"arn:aws:lambda:{REGION}:{ACCOUNT}:layer:l:2"),
        ("PublishLayerVersion", {"LayerName": "l"}, f"arn:aws:lambda:{REGION}:{ACCOUNT}:layer:l"),
        ("GetLayerVersionByArn", {"Arn": "arn:x"}, "arn:x"),
        ("ListTags", {"Resource": FUNCTION}, FUNCTION),
        ("GetCodeSigningConfig", {"CodeSigningConfigArn": "arn:c"}, "arn:c"),
        ("GetCapacityProvider", {"CapacityProviderName": "c"}, f"arn:aws:lambda:{REGION}:{ACCOUNT}:capacity-provider:c"),
    ],
)
def test_resources(operation, params, resource):
    assert resource_of(operation, params, ACCOUNT, REGION) == resource


def test_an_operation_on_one_thing_is_never_about_everything():
    """A denial of a resource must meet every operation on it."""
    model = load()
    wide = {
        "CreateCodeSigningConfig", "CreateEventSourceMapping", "GetEventSourceMapping", "GetAccountSettings", "ListCodeSigningConfigs",
        "ListEventSourceMappings", "ListFunctions", "ListLayers", "ListLayerVersions",
    }  # fmt: skip
    found = {name for name in served() if resource_of(name, baseline(model.operation(name)), ACCOUNT, REGION) == "*"}
    assert found == wide


def test_owners():
    assert owner_of(FUNCTION, "x") == ACCOUNT
    assert owner_of("*", "x") == "x"
    assert owner_of("arn:aws:s3:::bucket", "x") == "x"


def test_keys_of_lambda():
    params = {
        "Principal": "s3.amazonaws.com", "AuthType": "NONE", "Tags": {"Team": "a"}, "Layers": ["l1", "l2"],
        "VpcConfig": {"SubnetIds": ["s"], "SecurityGroupIds": []}, "EventSourceArn": "arn:q", "FunctionName": "f:live",
    }  # fmt: skip
    assert lambda_keys(params, ACCOUNT, REGION) == {
        "lambda:principal": "s3.amazonaws.com",
        "lambda:functionurlauthtype": "NONE",
        "aws:tagkeys": ["Team"],
        "aws:requesttag/team": "a",
        "lambda:layer": ["l1", "l2"],
        "lambda:subnetids": ["s"],
        "lambda:functionarn": f"{FUNCTION}:live",
    }
    kafka = {"SelfManagedEventSource": {"Endpoints": {}}, "FunctionName": "f"}
    assert lambda_keys(kafka, ACCOUNT, REGION) == {"lambda:functionarn": FUNCTION}
    assert lambda_keys({"UUID": "u", "FunctionName": "f"}, ACCOUNT, REGION) == {"lambda:functionarn": FUNCTION}
    assert lambda_keys({"TagKeys": ["a"], "EventSourceArn": "arn:q", "FunctionName": "a b"}, ACCOUNT, REGION) == {"aws:tagkeys": ["a"]}


@pytest.mark.parametrize(
    ("decision", "why"),
    [
        (Decision(Reason.IMPLICIT, Source.IDENTITY), "because no identity-based policy allows the a:B action"),
        (Decision(Reason.IMPLICIT, Source.RESOURCE), "because no resource-based policy allows the a:B action"),
        (Decision(Reason.IMPLICIT, Source.BOUNDARY), "because no permissions boundary allows the a:B action"),
        (Decision(Reason.IMPLICIT, Source.SESSION), "because no session policy allows the a:B action"),
        (Decision(Reason.EXPLICIT, Source.IDENTITY), "with an explicit deny in an identity-based policy"),
        (Decision(Reason.EXPLICIT, Source.RESOURCE), "with an explicit deny in a resource-based policy"),
        (Decision(Reason.EXPLICIT, Source.BOUNDARY), "with an explicit deny in a permissions boundary"),
        (Decision(Reason.EXPLICIT, Source.SESSION), "with an explicit deny in a session policy"),
    ],
)
def test_denials_read_as_awss(decision, why):
    assert denial(decision, "arn:me", "a:B", "arn:it") == f"User: arn:me is not authorized to perform: a:B on resource: arn:it {why}"


RECORD = {
    "access_key": "ASIA1", "secret": "s", "token": "t", "expires": 9.0, "kind": "session", "arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/r/s",
    "account": ACCOUNT, "user_id": "AROA1:s", "role_arn": f"arn:aws:iam::{ACCOUNT}:role/r", "policies": ['{"Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}'],
    "boundary": None, "session": None, "tags": {"Team": "a"},
}  # fmt: skip


def test_records_become_identities():
    identity = identity_of(RECORD)
    assert identity.kind is Kind.SESSION
    assert identity.context["aws:principalarn"] == f"arn:aws:iam::{ACCOUNT}:role/r"
    assert identity.context["aws:principaltag/team"] == "a"
    credential = credential_of(RECORD, enforce=True)
    assert (credential.session_token, credential.expires_epoch_s, credential.principal.identity.arn) == ("t", 9.0, identity.arn)
    assert "s" not in repr(credential).split("secret=")[1].strip("*)")
    assert credential_of(RECORD, enforce=False).principal.identity is None


@pytest.mark.parametrize("member", ["policies", "boundary", "session"])
def test_a_policy_that_cannot_be_read_denies(member):
    unreadable = "{" if member == "boundary" else ["{"]
    identity = identity_of({**RECORD, member: unreadable})
    assert evaluate(Request("lambda:X", FUNCTION, ACCOUNT, {}), identity).reason is Reason.EXPLICIT


def test_context_of_a_request():
    context = context_of(root_of(ACCOUNT), now_epoch_s=0.0, region=REGION, peer="127.0.0.1", user_agent="x")
    assert context["aws:currenttime"] == "1970-01-01T00:00:00Z"
    assert (context["aws:sourceip"], context["aws:principaltype"], context["aws:requestedregion"]) == ("127.0.0.1", "Account", REGION)
    assert service("s3.amazonaws.com").context["aws:principalisawsservice"] == "true"


@pytest.mark.parametrize(
    ("more", "steady"),
    [
        ({}, True),
        ({"Condition": {"StringEquals": {"aws:username": "ada"}}}, True),
        ({"Condition": {"ArnLike": {"aws:PrincipalArn": "arn:*"}}}, True),
        ({"Condition": {"DateLessThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}}, False),
        ({"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}, False),
        ({"Resource": "arn:aws:s3:::b/${aws:username}"}, True),
        ({"Resource": "arn:aws:s3:::b/${aws:SourceIp}"}, False),
        ({"Condition": {"StringLike": {"aws:username": "${aws:UserAgent}"}}}, False),
    ],
)
def test_only_what_does_not_change_with_the_request_is_remembered(more, steady):
    statement = {"Effect": "Allow", "Action": "*", "Resource": "*", **more}
    assert parse({"Version": "2012-10-17", "Statement": statement}).steady is steady


def test_scopes():
    assert targets.scope("AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu-west-1/sqs/aws4_request, SignedHeaders=host") == ("sqs", "eu-west-1")
    assert targets.scope("Basic x") == (None, "")


def test_a_service_may_invoke_what_lets_it_for_its_source():
    statement = {
        "Sid": "s", "Effect": "Allow", "Principal": {"Service": "s3.amazonaws.com"}, "Action": "lambda:InvokeFunction", "Resource": f"{FUNCTION}:live",
        "Condition": {"StringEquals": {"AWS:SourceAccount": ACCOUNT}, "ArnLike": {"AWS:SourceArn": "arn:aws:s3:::b"}},
    }  # fmt: skip
    function = Function(ACCOUNT, "f", 0, 1, {}, {}).attach(POLICY, "live", {"Version": "2012-10-17", "Statement": [statement]})
    live = FunctionRef(ACCOUNT, REGION, "f", "live")
    assert service_may_invoke(function, live, "s3.amazonaws.com", "arn:aws:s3:::b", ACCOUNT)
    assert not service_may_invoke(function, live, "s3.amazonaws.com", "arn:aws:s3:::other", ACCOUNT)
    assert not service_may_invoke(function, live, "s3.amazonaws.com", "arn:aws:s3:::b", "444455556666")
    assert not service_may_invoke(function, live, "sns.amazonaws.com", "arn:aws:s3:::b", ACCOUNT)
    assert not service_may_invoke(function, FunctionRef(ACCOUNT, REGION, "f"), "s3.amazonaws.com", "arn:aws:s3:::b", ACCOUNT)


def test_another_accounts_layer_is_for_those_whom_its_policy_names(tmp_path: Path) -> None:
    anything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    owner, guest = "444455556666", Identity(Kind.USER, f"arn:aws:iam::{ACCOUNT}:user/u", ACCOUNT, (parse(anything),))
    statement = {"Sid": "s", "Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "lambda:GetLayerVersion"}

    def arn(name: str, version: int = 1) -> str:
        return f"arn:aws:lambda:{REGION}:{owner}:layer:{name}:{version}"

    def may(access: Access, operation: str, params: dict[str, Any]) -> bool:
        principal = Principal("AKIA", ACCOUNT, verified=True, identity=guest)
        context = RequestContext(operation, "r", ACCOUNT, REGION, principal, "GET", "/", "", {}, b"", "")
        try:
            asyncio.run(access.authorize(context, params))
        except AccessDenied as e:
            return "because no resource-based policy allows the lambda:GetLayerVersion action" not in e.message
        return True

    with contextlib.closing(Database(tmp_path / "engine.db")) as database:
        layers = SqlLayerStore(database)
        for name, policy in (("open", ({**statement, "Resource": arn("open")},)), ("shut", ())):
            asyncio.run(layers.publish(LayerVersion(owner, name, 0, "", None, None, None, "0" * 64, 1, 0, "r", policy)))
        access = Access(SqlFunctionStore(database), ManualClock(), LayerPolicies(layers))
        assert may(access, "GetLayerVersion", {"LayerName": arn("open")[:-2], "VersionNumber": 1})
        assert may(access, "GetLayerVersionByArn", {"Arn": arn("open")})
        assert not may(access, "GetLayerVersionByArn", {"Arn": arn("shut")})
        assert not may(access, "GetLayerVersionByArn", {"Arn": arn("open", 2)})
        assert not may(access, "GetLayerVersion", {"LayerName": arn("open")[:-2], "VersionNumber": 2})
        assert may(access, "CreateFunction", {"FunctionName": "f", "Layers": [arn("open")]})
        assert not may(access, "UpdateFunctionConfiguration", {"FunctionName": "f", "Layers": [arn("open"), arn("shut")]})
