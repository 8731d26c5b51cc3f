"""auth=iam end to end: users, policies and sessions of the embedded IAM decide about the Lambda API, invocations and other services."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from botocore.auth import S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from engine.aws import embedded
from engine.sandbox.interpreters import discover
from tests.framework import stacks, wait
from tests.framework.cloud import ACCOUNT, ROOT, TRUST, Cloud, allow, document, refused
from tests.framework.engine import OWN_RUNTIME, engine, zip_of

pytestmark = pytest.mark.skipif(embedded.available() is not None, reason="the extra 'embedded' is not installed")

SNAPPING = next((r for r in ("python3.12", "python3.13", "python3.14") if r in discover()), None)
ARN = f"arn:aws:lambda:us-east-1:{ACCOUNT}:function"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with engine(auth="iam", access_keys={"AKIAROOT": "root-secret"}) as running:
        made = Cloud(running)
        made.role("plain")
        made.function("echo", "def f(event, context): return event\n", f"arn:aws:iam::{ACCOUNT}:role/plain")
        yield made


def denied(user: str, action: str, resource: str, source: str = "identity-based policy") -> tuple[str, str]:
    return (
        "AccessDeniedException",
        f"User: arn:aws:iam::{ACCOUNT}:user/{user} is not authorized to perform: {action} on resource: {resource} "
        f"because no {source} allows the {action} action",
    )


def test_invocations_are_decided_by_the_users_policies(cloud: Cloud) -> None:
    keys = cloud.user("caller", allow("lambda:InvokeFunction", f"{ARN}:echo"))
    client = cloud.engine.client(**keys)
    assert json.load(client.invoke(FunctionName="echo", Payload=b"7")["Payload"]) == 7
    assert json.load(client.invoke(FunctionName="echo", Payload=b"8")["Payload"]) == 8
    # A qualified function is another resource.
    text = denied("caller", "lambda:InvokeFunction", f"{ARN}:echo:$LATEST")
    assert refused(client.invoke, FunctionName="echo", Qualifier="$LATEST") == text
    # Who may not invoke does not learn what there is.
    assert refused(client.invoke, FunctionName="none") == denied("caller", "lambda:InvokeFunction", f"{ARN}:none")
    assert refused(client.invoke, FunctionName="echo", InvocationType="DryRun", Qualifier="9")[0] == "AccessDeniedException"


def test_a_changed_policy_holds_at_once(cloud: Cloud) -> None:
    keys = cloud.user("changing", allow("lambda:*"))
    client = cloud.engine.client(**keys)
    client.invoke(FunctionName="echo")
    client.get_function(FunctionName="echo")
    deny = {"Effect": "Deny", "Action": "lambda:*", "Resource": f"{ARN}:echo"}
    cloud.iam.put_user_policy(UserName="changing", PolicyName="q", PolicyDocument=document(deny))
    code, text = refused(client.invoke, FunctionName="echo")
    assert code == "AccessDeniedException"
    assert text.endswith(f"on resource: {ARN}:echo with an explicit deny in an identity-based policy")
    assert refused(client.get_function, FunctionName="echo")[0] == "AccessDeniedException"
    cloud.iam.delete_user_policy(UserName="changing", PolicyName="q")
    client.invoke(FunctionName="echo")
    cloud.iam.update_access_key(UserName="changing", AccessKeyId=keys["aws_access_key_id"], Status="Inactive")
    assert refused(client.invoke, FunctionName="echo") == (
        "UnrecognizedClientException", "The security token included in the request is invalid."
    )
    assert refused(client.list_functions)[0] == "UnrecognizedClientException"


def test_the_functions_own_policy_lets_a_user_in(cloud: Cloud) -> None:
    keys = cloud.user("guest")
    client = cloud.engine.client(**keys)
    assert refused(client.invoke, FunctionName="echo") == denied("guest", "lambda:InvokeFunction", f"{ARN}:echo")
    cloud.admin.add_permission(
        FunctionName="echo", StatementId="guest", Action="lambda:InvokeFunction", Principal=f"arn:aws:iam::{ACCOUNT}:user/guest"
    )
    client.invoke(FunctionName="echo")
    cloud.admin.remove_permission(FunctionName="echo", StatementId="guest")
    assert refused(client.invoke, FunctionName="echo")[0] == "AccessDeniedException"


def test_operations_are_decided_with_their_resource_and_conditions(cloud: Cloud) -> None:
    keys = cloud.user(
        "reader",
        allow(["lambda:GetFunction", "lambda:ListFunctions"], ["*"]),
        allow("lambda:TagResource", "*", Condition={"StringEquals": {"aws:RequestTag/team": "a"}}),
    )
    client = cloud.engine.client(**keys)
    client.get_function(FunctionName="echo")
    client.list_functions()
    assert refused(client.delete_function, FunctionName="echo") == denied("reader", "lambda:DeleteFunction", f"{ARN}:echo")
    assert refused(client.get_account_settings) == denied("reader", "lambda:GetAccountSettings", "*")
    client.tag_resource(Resource=f"{ARN}:echo", Tags={"team": "a"})
    assert refused(client.tag_resource, Resource=f"{ARN}:echo", Tags={"team": "b"}) == denied("reader", "lambda:TagResource", f"{ARN}:echo")
    assert refused(client.invoke, FunctionName="echo", InvocationType="Event")[0] == "AccessDeniedException"


def test_a_denial_of_a_function_meets_its_policy_as_a_whole_too(cloud: Cloud) -> None:
    cloud.admin.add_permission(FunctionName="echo", StatementId="whole", Action="lambda:GetFunction", Principal=ACCOUNT)
    deny = {"Effect": "Deny", "Action": "lambda:*", "Resource": f"{ARN}:echo"}
    client = cloud.engine.client(**cloud.user("outsider", allow("lambda:*"), deny))
    policy = document(allow("lambda:*", f"{ARN}:echo", Principal="*"))
    for call, more in (
        (client.get_resource_policy, {}),
        (client.put_resource_policy, {"Policy": policy}),
        (client.delete_resource_policy, {}),
    ):
        code, text = refused(call, ResourceArn=f"{ARN}:echo", **more)
        assert code == "AccessDeniedException"
        assert text.endswith(f"on resource: {ARN}:echo with an explicit deny in an identity-based policy")
    cloud.admin.remove_permission(FunctionName="echo", StatementId="whole")


def test_mappings_are_decided_by_their_function_and_their_tags(cloud: Cloud) -> None:
    cloud.function("mapped", "def f(e, c): pass\n", cloud.role("mapped", allow("sqs:*")))
    queue = "arn:aws:sqs:us-east-1:000000000000:decided"
    cloud.engine.client("sqs", **ROOT).create_queue(QueueName="decided")
    create = {"EventSourceArn": queue, "FunctionName": "mapped", "Enabled": False, "Tags": {"team": "a"}}
    ours = {"ArnEquals": {"lambda:FunctionArn": f"{ARN}:mapped"}}
    theirs = {"ArnEquals": {"lambda:FunctionArn": f"{ARN}:echo"}}
    other = cloud.engine.client(**cloud.user("unmapped", allow("lambda:*EventSourceMapping", Condition=theirs)))
    client = cloud.engine.client(**cloud.user("mapper", allow("lambda:*EventSourceMapping", Condition=ours)))
    assert refused(other.create_event_source_mapping, **create) == denied("unmapped", "lambda:CreateEventSourceMapping", "*")
    uuid = client.create_event_source_mapping(**create)["UUID"]
    arn = f"arn:aws:lambda:us-east-1:{ACCOUNT}:event-source-mapping:{uuid}"
    wait.until(lambda: client.get_event_source_mapping(UUID=uuid)["State"] == "Disabled", "the mapping made", 60)
    assert refused(other.update_event_source_mapping, UUID=uuid, BatchSize=2) == denied("unmapped", "lambda:UpdateEventSourceMapping", arn)
    assert refused(other.delete_event_source_mapping, UUID=uuid) == denied("unmapped", "lambda:DeleteEventSourceMapping", arn)
    client.update_event_source_mapping(UUID=uuid, BatchSize=2)
    wait.until(lambda: client.get_event_source_mapping(UUID=uuid)["State"] == "Disabled", "the mapping changed", 60)
    tagged = {"StringEquals": {"aws:ResourceTag/team": "a"}}
    team = cloud.engine.client(**cloud.user("team", allow("lambda:*", Condition=tagged)))
    assert team.list_tags(Resource=arn)["Tags"] == {"team": "a"}
    team.delete_event_source_mapping(UUID=uuid)


def test_functions_can_be_kept_to_a_vpc(cloud: Cloud) -> None:
    ec2 = cloud.engine.client("ec2", **ROOT)
    subnet = ec2.describe_subnets()["Subnets"][0]
    (group,) = ec2.describe_security_groups(
        Filters=[{"Name": "vpc-id", "Values": [subnet["VpcId"]]}, {"Name": "group-name", "Values": ["default"]}]
    )["SecurityGroups"]
    nowhere = {"Effect": "Deny", "Action": "lambda:CreateFunction", "Resource": "*", "Condition": {"Null": {"lambda:VpcIds": "true"}}}
    elsewhere = {**nowhere, "Condition": {"ForAnyValue:StringNotEquals": {"lambda:VpcIds": [subnet["VpcId"]]}}}
    stranger = {**nowhere, "Condition": {"ForAnyValue:StringEquals": {"lambda:VpcIds": [subnet["VpcId"]]}}}
    code = {"ZipFile": zip_of({"m.py": "def f(e, c): pass\n"})}
    made = {"FunctionName": "kept-in", "Role": f"arn:aws:iam::{ACCOUNT}:role/plain", "Runtime": OWN_RUNTIME, "Handler": "m.f", "Code": code}
    vpc = {"SubnetIds": [subnet["SubnetId"]], "SecurityGroupIds": [group["GroupId"]]}
    kept = cloud.engine.client(**cloud.user("kept-in", allow(["lambda:*", "iam:PassRole"]), nowhere, elsewhere))
    refusal = refused(kept.create_function, **made)
    assert refusal[0] == "AccessDeniedException"
    assert refusal[1].endswith("with an explicit deny in an identity-based policy")
    out = cloud.engine.client(**cloud.user("kept-out", allow(["lambda:*", "iam:PassRole"]), stranger))
    assert refused(out.create_function, **made, VpcConfig=vpc)[0] == "AccessDeniedException"
    # Let through, and refused for another reason: whether VPCs can be had here is not the subject.
    refusal = refused(kept.create_function, **made, VpcConfig={**vpc, "Ipv6AllowedForDualStack": True})
    assert refusal[0] == "NotImplementedException"


def test_a_signature_for_another_service_invokes_nothing(cloud: Cloud) -> None:
    path = "/2015-03-31/functions/echo/invocations"
    request = AWSRequest("POST", cloud.engine.url + path, headers={"Host": urlsplit(cloud.engine.url).netloc}, data=b"")
    SigV4Auth(Credentials("AKIAROOT", "root-secret"), "sqs", "us-east-1").add_auth(request)
    with contextlib.closing(http.client.HTTPConnection(urlsplit(cloud.engine.url).netloc, timeout=60)) as connection:
        connection.request("POST", path, headers=dict(request.headers.items()))
        answer = connection.getresponse()
        said = json.loads(answer.read())
    assert (answer.status, answer.getheader("x-amzn-errortype")) == (403, "InvalidSignatureException")
    assert said == {"message": "Credential should be scoped to correct service: 'lambda'. "}


def test_giving_a_function_a_role_needs_the_right_to_pass_it(cloud: Cloud) -> None:
    role = f"arn:aws:iam::{ACCOUNT}:role/plain"
    keys = cloud.user("maker", allow("lambda:*"))
    client = cloud.engine.client(**keys)
    code = {"ZipFile": zip_of({"m.py": "def f(e, c): pass\n"})}
    made = {"FunctionName": "passed", "Role": role, "Runtime": OWN_RUNTIME, "Handler": "m.f", "Code": code}
    assert refused(client.create_function, **made) == denied("maker", "iam:PassRole", role)
    condition = {"StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}}
    cloud.iam.put_user_policy(UserName="maker", PolicyName="q", PolicyDocument=document(allow("iam:PassRole", role, Condition=condition)))
    client.create_function(**made)


def test_giving_a_function_a_layer_needs_the_right_to_get_it(cloud: Cloud) -> None:
    role = f"arn:aws:iam::{ACCOUNT}:role/plain"
    layer = cloud.admin.publish_layer_version(LayerName="kept", Content={"ZipFile": zip_of({"python/kept.py": "N = 1\n"})})["LayerVersionArn"]
    keys = cloud.user("layerer", allow(["lambda:CreateFunction", "lambda:UpdateFunctionConfiguration", "iam:PassRole"]))
    client = cloud.engine.client(**keys)
    code = {"ZipFile": zip_of({"m.py": "def f(e, c): pass\n"})}
    made = {"FunctionName": "layered", "Role": role, "Runtime": OWN_RUNTIME, "Handler": "m.f", "Code": code, "Layers": [layer]}
    no = denied("layerer", "lambda:GetLayerVersion", layer)
    assert refused(client.create_function, **made) == no
    client.create_function(**{**made, "Layers": []})
    assert refused(client.update_function_configuration, FunctionName="layered", Layers=[layer]) == no
    cloud.iam.put_user_policy(UserName="layerer", PolicyName="q", PolicyDocument=document(allow("lambda:GetLayerVersion", layer)))
    assert client.update_function_configuration(FunctionName="layered", Layers=[layer])["Layers"][0]["Arn"] == layer


def test_other_services_are_enforced_too(cloud: Cloud) -> None:
    s3 = cloud.engine.client("s3", **ROOT)
    s3.create_bucket(Bucket="shelf")
    s3.put_object(Bucket="shelf", Key="a/1", Body=b"x")
    keys = cloud.user("bookworm", allow("s3:GetObject", "arn:aws:s3:::shelf/a/*"), allow("sqs:SendMessage", f"arn:aws:sqs:*:{ACCOUNT}:in"))
    own = cloud.engine.client("s3", **keys)
    assert own.get_object(Bucket="shelf", Key="a/1")["Body"].read() == b"x"
    code, text = refused(own.put_object, Bucket="shelf", Key="a/1", Body=b"y")
    assert code == "AccessDenied"
    assert "user/bookworm is not authorized to perform: s3:PutObject on resource: arn:aws:s3:::shelf/a/1" in text
    queues = cloud.engine.client("sqs", **ROOT)
    inbound, other = (queues.create_queue(QueueName=n)["QueueUrl"] for n in ("in", "out"))
    sqs = cloud.engine.client("sqs", **keys)
    sqs.send_message(QueueUrl=inbound, MessageBody="m")
    code, text = refused(sqs.send_message, QueueUrl=other, MessageBody="m")
    assert code == "AccessDenied"
    assert f"on resource: arn:aws:sqs:us-east-1:{ACCOUNT}:out because no identity-based policy allows" in text
    assert cloud.engine.client("sts", **keys).get_caller_identity()["Arn"].endswith(":user/bookworm")
    assert refused(cloud.engine.client("iam", **keys).create_user, UserName="eve")[0] == "AccessDenied"


def test_sessions_of_roles(cloud: Cloud) -> None:
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:user/climber"}, "Action": "sts:AssumeRole"}],
    }
    keys = cloud.user("climber")
    role = cloud.role("summit", allow("lambda:InvokeFunction"), trust=trust)
    sts = cloud.engine.client("sts", **keys)
    stranger = cloud.engine.client("sts", **cloud.user("stranger", allow("sts:AssumeRole")))
    assert refused(stranger.assume_role, RoleArn=role, RoleSessionName="up")[0] == "AccessDenied"
    given = sts.assume_role(RoleArn=role, RoleSessionName="up")["Credentials"]
    session = {
        "aws_access_key_id": given["AccessKeyId"],
        "aws_secret_access_key": given["SecretAccessKey"],
        "aws_session_token": given["SessionToken"],
    }
    client = cloud.engine.client(**session)
    client.invoke(FunctionName="echo")
    code, text = refused(client.get_function, FunctionName="echo")
    assert (code, text.split(" is not")[0]) == ("AccessDeniedException", f"User: arn:aws:sts::{ACCOUNT}:assumed-role/summit/up")
    # The session's own policy cuts down what its role may.
    narrow = sts.assume_role(RoleArn=role, RoleSessionName="narrow", Policy=document(allow("lambda:GetFunction")))["Credentials"]
    session |= {"aws_access_key_id": narrow["AccessKeyId"], "aws_secret_access_key": narrow["SecretAccessKey"], "aws_session_token": narrow["SessionToken"]}
    assert refused(cloud.engine.client(**session).invoke, FunctionName="echo")[1].endswith(
        "because no session policy allows the lambda:InvokeFunction action"
    )
    # The right key with another session's token.
    assert refused(cloud.engine.client(**(session | {"aws_session_token": "other"})).invoke, FunctionName="echo")[0] == "UnrecognizedClientException"


TRY = """
import boto3, os
from botocore.exceptions import ClientError

def attempt(call, **arguments):
    try:
        call(**arguments)
    except ClientError as e:
        return [e.response["Error"]["Code"], e.response["Error"]["Message"]]
    return "done"

def f(event, context):
    s3, sqs = boto3.client("s3"), boto3.client("sqs")
    return {
        "who": boto3.client("sts").get_caller_identity()["Arn"],
        "read": attempt(s3.get_object, Bucket="role-data", Key="k"),
        "write": attempt(s3.put_object, Bucket="role-data", Key="k", Body=b"y"),
        "send": attempt(sqs.send_message, QueueUrl=event["in"], MessageBody="m"),
        "other": attempt(sqs.send_message, QueueUrl=event["out"], MessageBody="m"),
        "invoke": attempt(boto3.client("lambda").invoke, FunctionName="echo"),
        "key": os.environ["AWS_ACCESS_KEY_ID"],
    }
"""


def test_a_function_may_do_what_its_role_allows_and_no_more(cloud: Cloud) -> None:
    s3, sqs = cloud.engine.client("s3", **ROOT), cloud.engine.client("sqs", **ROOT)
    s3.create_bucket(Bucket="role-data")
    s3.put_object(Bucket="role-data", Key="k", Body=b"x")
    queues = {n: sqs.create_queue(QueueName=f"role-{n}")["QueueUrl"] for n in ("in", "out")}
    role = cloud.role(
        "worker", allow("s3:GetObject", "arn:aws:s3:::role-data/*"), allow("sqs:SendMessage", f"arn:aws:sqs:us-east-1:{ACCOUNT}:role-in")
    )
    cloud.function("worker", TRY, role, Timeout=60)
    answer = json.load(cloud.admin.invoke(FunctionName="worker", Payload=json.dumps(queues))["Payload"])
    session = f"arn:aws:sts::{ACCOUNT}:assumed-role/worker/worker"

    def no(code: str, action: str, resource: str) -> list[str]:
        why = f"because no identity-based policy allows the {action} action"
        return [code, f"User: {session} is not authorized to perform: {action} on resource: {resource} {why}"]

    assert answer.pop("key").startswith("ASIA")
    assert answer == {
        "who": session,
        "read": "done",
        "write": no("AccessDenied", "s3:PutObject", "arn:aws:s3:::role-data/k"),
        "send": "done",
        "other": no("AccessDenied", "sqs:SendMessage", f"arn:aws:sqs:us-east-1:{ACCOUNT}:role-out"),
        "invoke": no("AccessDeniedException", "lambda:InvokeFunction", f"{ARN}:echo"),
    }
    # What the role is given later holds for instances that run already.
    cloud.iam.put_role_policy(RoleName="worker", PolicyName="q", PolicyDocument=document(allow("s3:PutObject")))
    assert json.load(cloud.admin.invoke(FunctionName="worker", Payload=json.dumps(queues))["Payload"])["write"] == "done"


def test_a_policy_can_tell_which_function_uses_a_role(cloud: Cloud) -> None:
    cloud.engine.client("s3", **ROOT).create_bucket(Bucket="source-data")
    only = {"Condition": {"ArnEquals": {"lambda:SourceFunctionArn": f"{ARN}:source-one"}}}
    role = cloud.role("sources", allow("s3:PutObject", "arn:aws:s3:::source-data/*", **only), allow("lambda:InvokeFunction", f"{ARN}:echo", **only))
    code = TRY.partition("def f(")[0] + (
        "def f(event, context):\n"
        "    put = attempt(boto3.client('s3').put_object, Bucket='source-data', Key='k', Body=b'y')\n"
        "    return [put, attempt(boto3.client('lambda').invoke, FunctionName='echo')]\n"
    )
    seen = {}
    for name in ("source-one", "source-two"):
        cloud.function(name, code, role, Timeout=60)
        seen[name] = [a if a == "done" else a[0] for a in json.load(cloud.admin.invoke(FunctionName=name)["Payload"])]
    assert seen == {"source-one": ["done", "done"], "source-two": ["AccessDenied", "AccessDeniedException"]}
    # Nobody else is whom the session is named after, or says that it is.
    sts = cloud.engine.client("sts", **cloud.user("pretender", allow("sts:AssumeRole")))
    open_role = cloud.role("sources-open", allow("lambda:InvokeFunction", **only), trust={
        "Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "sts:AssumeRole"}],
    })  # fmt: skip
    sts.meta.events.register("before-call.sts.AssumeRole", lambda params, **_: params["headers"].update({"X-Source-Function-Arn": f"{ARN}:source-one"}))
    keys = sts.assume_role(RoleArn=open_role, RoleSessionName="source-one")["Credentials"]
    pretender = cloud.engine.client(
        aws_access_key_id=keys["AccessKeyId"], aws_secret_access_key=keys["SecretAccessKey"], aws_session_token=keys["SessionToken"]
    )
    with pytest.raises(ClientError, match="AccessDenied"):
        pretender.invoke(FunctionName="echo")


def test_roles_are_checked_when_a_function_gets_them(cloud: Cloud) -> None:
    cannot = ("InvalidParameterValueException", "The role defined for the function cannot be assumed by Lambda.")
    other = dict(TRUST, Statement=[{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}])
    roles = (f"arn:aws:iam::{ACCOUNT}:role/none", cloud.role("for-ec2", trust=other))
    for role in roles:
        code = {"ZipFile": zip_of({"m.py": "def f(e, c): pass\n"})}
        made = {"FunctionName": "roleless", "Role": role, "Runtime": OWN_RUNTIME, "Handler": "m.f", "Code": code}
        assert refused(cloud.admin.create_function, **made) == cannot
        assert refused(cloud.admin.update_function_configuration, FunctionName="echo", Role=role) == cannot
    foreign = "arn:aws:iam::111122223333:role/r"
    assert refused(cloud.admin.update_function_configuration, FunctionName="echo", Role=foreign) == (
        "AccessDeniedException", "Cross-account pass role is not allowed."
    )


def test_a_role_may_be_for_one_function_only(cloud: Cloud) -> None:
    conditions = {"StringEquals": {"aws:SourceAccount": ACCOUNT}, "ArnLike": {"aws:SourceArn": f"{ARN}:sourced"}}
    statement: Any = TRUST["Statement"][0]
    trust = dict(TRUST, Statement=[{**statement, "Condition": conditions}])
    role = cloud.role("for-sourced", trust=trust)
    code = "import boto3\ndef f(event, context): return boto3.client('sts').get_caller_identity()['Arn']\n"
    cloud.function("sourced", code, role, Timeout=60)
    assert json.load(cloud.admin.invoke(FunctionName="sourced")["Payload"]) == f"arn:aws:sts::{ACCOUNT}:assumed-role/for-sourced/sourced"
    assert refused(cloud.admin.update_function_configuration, FunctionName="echo", Role=role)[0] == "InvalidParameterValueException"


def test_a_role_that_can_no_longer_be_assumed_stops_new_instances(cloud: Cloud) -> None:
    # A name of one letter is shorter than a session's may be.
    role = cloud.role("gone")
    cloud.function("o", "def f(event, context): return 1\n", role)
    cloud.iam.delete_role(RoleName="gone")
    assert refused(cloud.admin.invoke, FunctionName="o") == (
        "AccessDeniedException", "The role defined for the function cannot be assumed by Lambda."
    )
    cloud.role("gone")
    assert json.load(cloud.admin.invoke(FunctionName="o")["Payload"]) == 1


def test_strangers_and_forgers_stay_out(cloud: Cloud) -> None:
    stranger = {"aws_access_key_id": "AKIASTRANGER", "aws_secret_access_key": "x"}
    for service, call, arguments, code in (
        ("lambda", "invoke", {"FunctionName": "echo"}, "UnrecognizedClientException"),
        ("lambda", "list_functions", {}, "UnrecognizedClientException"),
        ("s3", "list_buckets", {}, "InvalidAccessKeyId"),
        ("sts", "get_caller_identity", {}, "InvalidClientTokenId"),
        ("dynamodb", "list_tables", {}, "UnrecognizedClientException"),
    ):
        assert refused(getattr(cloud.engine.client(service, **stranger), call), **arguments)[0] == code
    keys = cloud.user("forged", allow("lambda:*"))
    assert refused(cloud.engine.client(**(keys | {"aws_secret_access_key": "wrong"})).invoke, FunctionName="echo")[0] == "InvalidSignatureException"


SENDS = {"Content-Type": "application/x-www-form-urlencoded"}


def signed(cloud: Cloud, keys: dict[str, str], service: str, path: str, body: bytes | None = None, how: str = "header") -> tuple[int, bytes]:
    """Status and body of a request with a signature spelled in one way or another."""
    host = urlsplit(cloud.engine.url).netloc
    request = AWSRequest("GET" if body is None else "POST", cloud.engine.url + path, headers={"Host": host, **(SENDS if body else {})}, data=body)
    signer = S3SigV4QueryAuth if how == "query" else SigV4Auth
    signer(Credentials(keys["aws_access_key_id"], keys["aws_secret_access_key"]), service, "us-east-1").add_auth(request)
    headers = dict(request.headers.items())
    if how == "backwards":
        algorithm, _, parts = headers["Authorization"].partition(" ")
        headers["Authorization"] = f"{algorithm} {', '.join(reversed(parts.split(', ')))}"
    elif how == "spaced":
        headers["Authorization"] = headers["Authorization"].replace("Credential=", "Credential= ")
    with contextlib.closing(http.client.HTTPConnection(host, timeout=60)) as connection:
        connection.request(request.method, request.url.removeprefix(cloud.engine.url), body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_however_a_signature_is_spelled_the_same_policies_decide(cloud: Cloud) -> None:
    s3, sqs = (cloud.engine.client(service, **ROOT) for service in ("s3", "sqs"))
    for bucket in ("kept", "shown"):
        s3.create_bucket(Bucket=bucket)
        s3.put_object(Bucket=bucket, Key="k", Body=bucket.encode())
    for queue in ("open", "shut"):
        sqs.create_queue(QueueName=queue)
    keys = cloud.user(
        "spelling", allow("sqs:SendMessage", f"arn:aws:sqs:us-east-1:{ACCOUNT}:open"), allow(["s3:GetObject", "s3:PutObject"], "arn:aws:s3:::shown/*")
    )
    for how in ("header", "query", "backwards", "spaced"):
        assert signed(cloud, keys, "s3", "/shown/k", how=how) == (200, b"shown"), how
        status, said = signed(cloud, keys, "s3", "/kept/k", how=how)
        assert (status, b"s3:GetObject on resource: arn:aws:s3:::kept/k" in said) == (403, True), how
    for service, path in (("S3", "/kept/k"), ("S3", "/shown/k")):
        assert signed(cloud, keys, service, path)[0] == 403, "no other letters"
    send = b"Action=SendMessage&MessageBody=x&Version=2012-11-05"
    for path, query, expected in ((f"/{ACCOUNT}/open", b"", 200), (f"/{ACCOUNT}/shut", b"", 403), ("/", b"&QueueUrl=shut", 403), ("/", b"&QueueName=open&QueueUrl=shut", 403)):
        assert signed(cloud, keys, "sqs", path, send + query)[0] == expected, (path, query)
    copies = cloud.engine.client("s3", **keys)
    copies.copy_object(Bucket="shown", Key="again", CopySource={"Bucket": "shown", "Key": "k"})
    for source in ("kept/k", "/kept/k?versionId=null", "shown:/kept/k", "http://shown/kept/k", "kept%2Fk"):
        code, why = refused(copies.copy_object, Bucket="shown", Key="stolen", CopySource=source)
        assert (code, "perform: s3:GetObject" in why) == ("AccessDenied", True), (source, why)


def test_a_token_of_nobody_makes_nobody_a_role(cloud: Cloud) -> None:
    role = cloud.role("trusting-lambda-only", allow("*"))
    keys = cloud.user("token", allow("sts:*"))
    sts = cloud.engine.client("sts", **keys)
    assert refused(sts.assume_role, RoleArn=role, RoleSessionName="xx")[0] == "AccessDenied"
    form = f"Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn={role}&RoleSessionName=xx&WebIdentityToken=anything"
    status, said = signed(cloud, keys, "sts", "/", form.encode())
    assert (status, b"Not authorized to perform sts:AssumeRoleWithWebIdentity" in said) == (403, True), said


def test_what_is_beside_the_services_is_the_operators(cloud: Cloud) -> None:
    """The state of all accounts, its end, and what IAM knows of a key, its secret included."""
    keys = cloud.user("curious", allow("*"))
    for path in ("/moto-api/data.json", f"/_lambda-engine/identity/{keys['aws_access_key_id']}", "/latest/meta-data/iam/security-credentials/"):
        status, said = signed(cloud, keys, "s3", path)
        assert (status, b"configured keys only" in said) == (403, True), (path, said)
    assert signed(cloud, keys, "s3", "/moto-api/reset", b"x=1")[0] == 403
    assert signed(cloud, ROOT, "s3", "/moto-api/data.json")[0] == 200


def test_the_embedded_servers_port_serves_only_the_engine(cloud: Cloud) -> None:
    (child,) = [p for p in psutil.Process(cloud.engine.process.pid).children() if "engine.aws.embedded_server" in p.cmdline()]
    port = child.cmdline()[-2]
    with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\nhost: x\r\nx-lambda-engine-token: guess\r\n\r\n")
        assert b" 403 " in connection.recv(64)


def call_url(cloud: Cloud, url: str, keys: dict[str, str] | None) -> int:
    request = AWSRequest("GET", url, headers={"Host": urlsplit(url).netloc})
    if keys is not None:
        SigV4Auth(Credentials(keys["aws_access_key_id"], keys["aws_secret_access_key"]), "lambda", "us-east-1").add_auth(request)
    with contextlib.closing(http.client.HTTPConnection(urlsplit(cloud.engine.url).netloc, timeout=60)) as connection:
        connection.request("GET", urlsplit(url).path, headers=dict(request.headers.items()))
        return connection.getresponse().status


def test_function_urls_ask_for_both_rights(cloud: Cloud) -> None:
    url = cloud.admin.create_function_url_config(FunctionName="echo", AuthType="AWS_IAM")["FunctionUrl"]
    keys = cloud.user("browser", allow("lambda:InvokeFunctionUrl", Condition={"StringEquals": {"lambda:FunctionUrlAuthType": "AWS_IAM"}}))
    assert call_url(cloud, url, None) == 403
    assert call_url(cloud, url, keys) == 403
    through = allow("lambda:InvokeFunction", Condition={"Bool": {"lambda:InvokedViaFunctionUrl": "true"}})
    cloud.iam.put_user_policy(UserName="browser", PolicyName="q", PolicyDocument=document(through))
    assert call_url(cloud, url, keys) == 200
    assert refused(cloud.engine.client(**keys).invoke, FunctionName="echo")[0] == "AccessDeniedException"
    cloud.admin.update_function_url_config(FunctionName="echo", AuthType="NONE")
    assert call_url(cloud, url, None) == 403
    statements: list[tuple[str, dict[str, Any]]] = [
        ("lambda:InvokeFunctionUrl", {"FunctionUrlAuthType": "NONE"}),
        ("lambda:InvokeFunction", {"InvokedViaFunctionUrl": True}),
    ]
    for number, (action, more) in enumerate(statements):
        cloud.admin.add_permission(FunctionName="echo", StatementId=f"url{number}", Action=action, Principal="*", **more)
    assert call_url(cloud, url, None) == 200


@pytest.mark.slow
def test_stacks_through_cloudformation_need_its_rights_and_get_roles_that_lambda_can_assume(cloud: Cloud) -> None:
    function = {
        "Runtime": OWN_RUNTIME, "Handler": "index.handler", "Role": {"Fn::GetAtt": ["R", "Arn"]},
        "Code": {"ZipFile": "def handler(event, context):\n    return event\n"},
    }  # fmt: skip
    managed = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
    template = {
        "Resources": {
            "R": {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": TRUST, "ManagedPolicyArns": [managed]}},
            "F": {"Type": "AWS::Lambda::Function", "Properties": function},
        },
        "Outputs": {"F": {"Value": {"Ref": "F"}}},
    }
    stranger = cloud.engine.client("cloudformation", **cloud.user("stackless"))
    assert refused(stranger.create_stack, StackName="iam-stack", TemplateBody=json.dumps(template))[0] == "AccessDenied"
    formation = cloud.engine.client("cloudformation", **ROOT)
    formation.create_stack(StackName="iam-stack", TemplateBody=json.dumps(template))
    stacks.finished(formation, "iam-stack", "create")
    (output,) = formation.describe_stacks(StackName="iam-stack")["Stacks"][0]["Outputs"]
    assert json.load(cloud.admin.invoke(FunctionName=output["OutputValue"], Payload=b"5")["Payload"]) == 5
    formation.delete_stack(StackName="iam-stack")
    stacks.finished(formation, "iam-stack", "delete")
    with pytest.raises(cloud.admin.exceptions.ResourceNotFoundException):
        cloud.admin.get_function(FunctionName=output["OutputValue"])


@pytest.mark.slow
def test_roles_may_be_assumed_without_authentication() -> None:
    with engine(role_credentials="assume") as running:
        client = running.client()
        code = {"ZipFile": zip_of({"m.py": "import boto3\ndef f(event, context): return boto3.client('sts').get_caller_identity()['Arn']\n"})}
        made = {"FunctionName": "who", "Runtime": OWN_RUNTIME, "Handler": "m.f", "Timeout": 60, "Code": code}
        assert refused(client.create_function, Role=f"arn:aws:iam::{ACCOUNT}:role/r", **made)[0] == "InvalidParameterValueException"
        role = running.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]["Arn"]
        client.create_function(Role=role, **made)
        client.get_waiter("function_active_v2").wait(FunctionName="who")
        assert json.load(client.invoke(FunctionName="who")["Payload"]) == f"arn:aws:sts::{ACCOUNT}:assumed-role/r/who"


SNAPPED = """
import boto3, uuid
from botocore.exceptions import ClientError
S3, STS, INIT = boto3.client("s3"), boto3.client("sts"), uuid.uuid4().hex

def f(event, context):
    try:
        S3.list_objects_v2(Bucket="snapped-other")
        refused = ""
    except ClientError as e:
        refused = e.response["Error"]["Code"]
    later = boto3.Session().get_credentials()
    return {"init": INIT, "who": STS.get_caller_identity()["Arn"], "read": S3.get_object(Bucket="snapped", Key="k")["Body"].read().decode(),
            "refused": refused, "method": later.method, "key": later.access_key, "left": later._seconds_remaining()}
"""


@pytest.mark.skipif(SNAPPING is None, reason="SnapStart needs an interpreter of Python 3.12 or later")
def test_what_is_restored_has_its_roles_credentials(cloud: Cloud) -> None:
    s3 = cloud.engine.client("s3", **ROOT)
    for bucket in ("snapped", "snapped-other"):
        s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket="snapped", Key="k", Body=b"x")
    role = cloud.role("snapped", allow("s3:GetObject", "arn:aws:s3:::snapped/*"))
    snap = {"ApplyOn": "PublishedVersions"}
    cloud.function("snapped", SNAPPED, role, Timeout=60, MemorySize=256, Runtime=SNAPPING, SnapStart=snap)
    cloud.admin.publish_version(FunctionName="snapped")
    soon = {"Delay": 0.1, "MaxAttempts": 600}
    cloud.admin.get_waiter("published_version_active").wait(FunctionName="snapped", Qualifier="1", WaiterConfig=soon)
    answers = [json.load(cloud.admin.invoke(FunctionName="snapped", Qualifier="1")["Payload"]) for _ in range(2)]
    for answer in answers:
        assert (answer["read"], answer["refused"], answer["method"]) == ("x", "AccessDenied", "container-role")
        assert answer["who"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/snapped/snapped"
        assert answer["key"].startswith("ASIA")
        assert 1000 < answer["left"] <= 3600


def test_a_queue_is_polled_with_the_rights_of_the_functions_role(cloud: Cloud) -> None:
    sqs = cloud.engine.client("sqs", **ROOT)
    url = sqs.create_queue(QueueName="polled")["QueueUrl"]
    queue = f"arn:aws:sqs:us-east-1:{ACCOUNT}:polled"
    cloud.function("closed", "def f(event, context): return 1\n", cloud.role("reads-nothing"))
    create = cloud.admin.create_event_source_mapping
    assert refused(create, EventSourceArn=queue, FunctionName="closed") == (
        "InvalidParameterValueException",
        "The function execution role does not have permissions to call ReceiveMessage on SQS",
    )
    reads = allow(["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"], queue)
    cloud.function("open", "def f(event, context): return 1\n", cloud.role("reads-it", reads))
    sqs.send_message(QueueUrl=url, MessageBody="x")
    uuid = create(EventSourceArn=queue, FunctionName="open")["UUID"]
    counted = f'lambda_engine_event_source_events_total{{kind="DeletedEventCount",mapping="{uuid}"}} 1.0'
    wait.until(lambda: counted in cloud.engine.get("/metrics")[1].decode(), "the message is processed", 60)


def test_no_state_machine_acts_with_rights_that_its_role_does_not_have(cloud: Cloud) -> None:
    machines = cloud.engine.client("stepfunctions", **ROOT)
    definition = json.dumps({"StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}})
    arn = machines.create_state_machine(name="unrun", definition=definition, roleArn="arn:aws:iam::000000000000:role/any")["stateMachineArn"]
    code, message = refused(machines.start_execution, stateMachineArn=arn)
    assert code == "NotImplemented"
    assert "no state machine is run" in message
    machines.delete_state_machine(stateMachineArn=arn)
