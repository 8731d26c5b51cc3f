"""auth=iam: a request to another service is decided by what the service will do, wherever the request says it and however."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from engine.aws import embedded
from tests.framework.cloud import ACCOUNT, ROOT, Cloud, allow, document, refused, send
from tests.framework.engine import OWN_RUNTIME, engine, zip_of
from tests.framework.wait import until

pytestmark = pytest.mark.skipif(embedded.available() is not None, reason="the extra 'embedded' is not installed")

NEIGHBOUR = {"aws_access_key_id": "222222222222", "aws_secret_access_key": "neighbour"}
FORM = "application/x-www-form-urlencoded"


def fresh(name: str) -> str:
    """A name nobody has, also when a test is run again."""
    return f"{name}-{uuid.uuid4().hex[:12]}"


def deny(action: Any, resource: Any, **more: Any) -> dict[str, Any]:
    return {"Effect": "Deny", "Action": action, "Resource": resource, **more}


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """One of each, ``open`` and ``shut``."""
    with engine(auth="iam", access_keys={"AKIAROOT": "root-secret", NEIGHBOUR["aws_access_key_id"]: "neighbour"}) as running:
        made = Cloud(running)
        s3, sqs, dynamodb, kinesis, secrets, ssm, logs = (
            running.client(name, **ROOT) for name in ("s3", "sqs", "dynamodb", "kinesis", "secretsmanager", "ssm", "logs")
        )
        for name in ("open", "shut"):
            s3.create_bucket(Bucket=name)
            s3.put_object(Bucket=name, Key="k", Body=name.encode())
            sqs.create_queue(QueueName=name)
            dynamodb.create_table(
                TableName=name, KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}], AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )  # fmt: skip
            kinesis.create_stream(StreamName=name, ShardCount=1)
            secrets.create_secret(Name=name, SecretString=name)
            ssm.put_parameter(Name=name, Value=name, Type="String")
            logs.create_log_group(logGroupName=name)
        yield made


def own(service: str, name: str) -> str:
    return f"arn:aws:{service}:us-east-1:{ACCOUNT}:{name}"


def in_json(cloud: Cloud, keys: dict[str, str], service: str, target: str, document: Any, path: str = "/", **more: Any) -> tuple[int, str]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return send(cloud, keys, service, path, body, x_amz_target=target, content_type="application/x-amz-json-1.1", **more)


@pytest.fixture(scope="module")
def keys(cloud: Cloud) -> dict[str, str]:
    """Of a user who may do everything with what is open."""
    return cloud.user(
        fresh("open"), allow("sqs:*", own("sqs", "open")), allow("dynamodb:*", own("dynamodb", "table/open")), allow("kinesis:*", own("kinesis", "stream/open")),
        allow("secretsmanager:*", own("secretsmanager", "secret:open-??????")), allow("ssm:*", own("ssm", "parameter/open")),
        allow("logs:*", own("logs", "log-group:open:*")),
    )  # fmt: skip


def test_a_name_counts_wherever_the_service_would_read_it(cloud: Cloud, keys: dict[str, str]) -> None:
    """Spaces before JSON, a query or JSON's own text beside it, a name and an ARN that differ."""
    for target, service, opened, shut, path in (
        ("DynamoDB_20120810.Scan", "dynamodb", {"TableName": "open"}, b'\n{"TableName": "shut"}', "/"),
        ("AmazonSQS.SendMessage", "sqs", {"QueueUrl": f"http://x/{ACCOUNT}/open", "MessageBody": "m"},
         json.dumps({"QueueUrl": f"http://x/{ACCOUNT}/shut", "MessageBody": "m"}, indent=1).encode().replace(b"{", b" {", 1), f"/{ACCOUNT}/open"),
        ("Kinesis_20131202.DescribeStream", "kinesis", {"StreamName": "open"}, {"StreamName": "shut", "StreamARN": own("kinesis", "stream/open")}, "/"),
    ):  # fmt: skip
        assert in_json(cloud, keys, service, target, opened, path)[0] == 200, target
        status, said = in_json(cloud, keys, service, target, shut, path)
        assert (status, "not authorized" in said, "shut" in said) == (400, True, True), (target, said)
    for asked, path in (({"StreamName": "open"}, "/?StreamName=shut"), ({"StreamName": "open", "x": "&StreamName=shut&"}, "/")):
        status, said = in_json(cloud, keys, "kinesis", "Kinesis_20131202.DescribeStream", asked, path)
        assert (status, json.loads(said)["StreamDescription"]["StreamName"]) == (200, "open")
    # An iterator is a stream's, whoever made it.
    forged = base64.b64encode(b"shut:shardId-000000000000:0").decode()
    assert "stream/shut" in in_json(cloud, keys, "kinesis", "Kinesis_20131202.GetRecords", {"ShardIterator": forged})[1]


def test_all_that_a_request_is_about_is_decided(cloud: Cloud, keys: dict[str, str]) -> None:
    item = {"k": {"S": "x"}}
    for target, service, asked in (
        ("DynamoDB_20120810.BatchGetItem", "dynamodb", {"RequestItems": {"open": {"Keys": [item]}, "shut": {"Keys": [item]}}}),
        ("DynamoDB_20120810.TransactWriteItems", "dynamodb", {"TransactItems": [{"Put": {"TableName": "shut", "Item": item}}]}),
        ("DynamoDB_20120810.ExecuteStatement", "dynamodb", {"Statement": "SELECT * FROM \"shut\" WHERE k = 'from open'"}),
        ("AmazonSSM.GetParameters", "ssm", {"Names": ["open", "shut"]}),
        ("secretsmanager.GetSecretValue", "secretsmanager", {"SecretId": "shut"}),
        ("Logs_20140328.CreateLogStream", "logs", {"logGroupName": "shut", "logStreamName": fresh("s")}),
    ):
        status, said = in_json(cloud, keys, service, target, asked)
        assert (status, "not authorized" in said, "shut" in said) == (400, True, True), (target, said)
        name = json.dumps(asked).replace("shut", "open")
        assert in_json(cloud, keys, service, target, name.encode())[0] == 200, target
    # Lists are of all there is.
    assert "not authorized to perform: dynamodb:ListTables" in in_json(cloud, keys, "dynamodb", "DynamoDB_20120810.ListTables", {})[1]


def test_a_user_of_one_service_reaches_no_other(cloud: Cloud) -> None:
    """Neither by a region that is none, nor by two actions in one request, nor by a service's name for another's path."""
    keys = cloud.user(fresh("sqs"), allow(["sqs:*", "s3:PutBucketTagging", "s3:PutObjectTagging", "es:*"]), deny("sqs:DeleteQueue", "*"))
    status, said = send(cloud, keys, "sqs", "/shut/k", method="GET", region="s3")
    assert (status, "valid region" in said) == (403, True)
    assert send(cloud, keys, "lambda", "/x", method="GET")[0] == 404
    status, said = send(cloud, keys, "sqs", "/", b"Action=DeleteQueue&Version=2012-11-05", content_type=FORM, x_amz_target="AmazonSQS.ListQueues")
    assert status in (400, 403), said
    for path, body in (("/shut?policy&tagging", document(allow("s3:*")).encode()), ("/shut/k?uploadId=1&partNumber=1&tagging", b"stolen")):
        status, said = send(cloud, keys, "s3", path, body, method="PUT")
        assert (status, "not authorized" in said) == (403, True), said
    # What nothing decides about is the operator's.
    status, said = send(cloud, keys, "es", "/2015-01-01/domain", method="GET")
    assert (status, "configured keys only" in said) == (403, True), said
    status, said = in_json(cloud, keys, "dynamodb", "DynamoDB_20111205.ListTables", {})
    assert (status, "configured keys only" in said) == (403, True), said
    # The region is the signature's, whatever the client calls itself.
    once = cloud.user(fresh("region"), allow("dynamodb:*", own("dynamodb", "table/open"), Condition={"StringEquals": {"aws:RequestedRegion": "us-east-1"}}))
    asked = {"TableName": "open"}
    assert in_json(cloud, once, "dynamodb", "DynamoDB_20120810.DescribeTable", asked, user_agent="x region/eu-west-1")[0] == 200
    assert "not authorized" in in_json(cloud, once, "dynamodb", "DynamoDB_20120810.DescribeTable", asked, region="eu-west-1")[1]


def test_services_have_the_names_that_policies_have_for_them(cloud: Cloud) -> None:
    paths = ["arn:aws:apigateway:us-east-1::/restapis", "arn:aws:apigateway:us-east-1::/restapis/*"]
    keys = cloud.user(fresh("names"), allow(["cloudwatch:ListMetrics", "tag:GetResources"]), allow("apigateway:GET", paths))
    assert cloud.engine.client("cloudwatch", **keys).list_metrics()["Metrics"] is not None
    cloud.engine.client("resourcegroupstaggingapi", **keys).get_resources()
    gateway = cloud.engine.client("apigateway", **keys)
    assert gateway.get_rest_apis()["items"] == []
    assert "perform: apigateway:POST on resource: arn:aws:apigateway:us-east-1::/restapis because" in refused(gateway.create_rest_api, name="x")[1]


def test_of_many_objects_those_are_deleted_that_may_be(cloud: Cloud) -> None:
    s3, name = cloud.engine.client("s3", **ROOT), fresh("many")
    s3.create_bucket(Bucket=name)
    for key in ("a", "kept/b"):
        s3.put_object(Bucket=name, Key=key, Body=b"")
    keys = cloud.user(fresh("many"), allow("s3:DeleteObject", f"arn:aws:s3:::{name}/*"), deny("s3:DeleteObject", f"arn:aws:s3:::{name}/kept/*"))
    body = b"<Delete><Object><Key>a</Key></Object><Object><Key>kept/b</Key></Object></Delete>"
    checksum = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    status, said = send(cloud, keys, "s3", f"/{name}?delete", body, content_md5=checksum)
    assert status == 200
    assert "<Deleted><Key>a</Key></Deleted>" in said
    assert "<Error><Key>kept/b</Key><Code>AccessDenied</Code>" in said
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=name)["Contents"]] == ["kept/b"]


def test_a_bucket_may_be_listed_below_a_prefix(cloud: Cloud) -> None:
    keys = cloud.user(fresh("prefix"), allow("s3:ListBucket", "arn:aws:s3:::open", Condition={"StringLike": {"s3:prefix": ["home/${aws:username}/*"]}}))
    s3 = cloud.engine.client("s3", **keys)
    name = cloud.engine.client("sts", **keys).get_caller_identity()["Arn"].rpartition("/")[2]
    s3.list_objects_v2(Bucket="open", Prefix=f"home/{name}/x")
    assert refused(s3.list_objects_v2, Bucket="open", Prefix="home/")[0] == "AccessDenied"
    assert refused(s3.list_objects_v2, Bucket="open")[0] == "AccessDenied"


def test_items_may_be_those_of_one_partition_key(cloud: Cloud) -> None:
    condition = {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": ["${aws:username}"]}}
    actions = [f"dynamodb:{a}" for a in ("GetItem", "PutItem", "Query", "BatchGetItem", "BatchWriteItem", "PartiQLSelect")]
    keys = cloud.user(name := fresh("tenant"), allow(actions, own("dynamodb", "table/open"), Condition=condition))
    table = cloud.engine.client("dynamodb", **keys)
    table.put_item(TableName="open", Item={"k": {"S": name}})
    query = {"TableName": "open", "KeyConditionExpression": "#p = :v", "ExpressionAttributeNames": {"#p": "k"}}
    assert table.query(**query, ExpressionAttributeValues={":v": {"S": name}})["Count"] == 1
    for call, arguments in (
        (table.query, {**query, "ExpressionAttributeValues": {":v": {"S": "other"}}}),
        (table.put_item, {"TableName": "open", "Item": {"k": {"S": "other"}}}),
        (table.batch_get_item, {"RequestItems": {"open": {"Keys": [{"k": {"S": name}}, {"k": {"S": "other"}}]}}}),
        (table.execute_statement, {"Statement": "SELECT * FROM open"}),
    ):
        assert refused(call, **arguments)[0] == "AccessDeniedException", arguments


def test_another_account_has_what_a_policy_gives_it(cloud: Cloud) -> None:
    s3, name = cloud.engine.client("s3", **ROOT), fresh("shared")
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="k", Body=b"v")
    neighbour = cloud.engine.client("s3", **NEIGHBOUR)
    code, why = refused(neighbour.get_object, Bucket=name, Key="k")
    assert (code, "because no resource-based policy allows the s3:GetObject action" in why) == ("AccessDenied", True)
    statement = {**allow("s3:GetObject", f"arn:aws:s3:::{name}/*"), "Principal": {"AWS": "222222222222"}}
    s3.put_bucket_policy(Bucket=name, Policy=document(statement))
    assert neighbour.get_object(Bucket=name, Key="k")["Body"].read() == b"v"
    assert refused(cloud.engine.client("iam", **NEIGHBOUR).create_user, UserName=fresh("intruder"))[0] == "AccessDenied"


def test_who_hands_a_role_to_a_service_needs_the_right_to_pass_it(cloud: Cloud) -> None:
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "states.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
    role = cloud.role(fresh("strong"), allow("*"), trust=trust)
    keys = cloud.user(name := fresh("passer"), allow("states:*"))
    machines = cloud.engine.client("stepfunctions", **keys)
    definition = json.dumps({"StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}})
    asked = {"name": fresh("m"), "roleArn": role, "definition": definition}
    text = f"User: arn:aws:iam::{ACCOUNT}:user/{name} is not authorized to perform: iam:PassRole on resource: {role} because no identity-based policy allows"
    assert text in refused(machines.create_state_machine, **asked)[1]
    passing = allow("iam:PassRole", role, Condition={"StringEquals": {"iam:PassedToService": "states.amazonaws.com"}})
    cloud.iam.put_user_policy(UserName=name, PolicyName="q", PolicyDocument=document(passing))
    machines.create_state_machine(**asked)


def test_users_and_roles_are_decided_about_with_their_paths(cloud: Cloud) -> None:
    boss, other = fresh("boss"), fresh("other")
    cloud.iam.create_user(UserName=boss, Path="/admins/")
    victim = cloud.user(other)
    own_keys = allow("iam:*AccessKey*", f"arn:aws:iam::{ACCOUNT}:user/${{aws:username}}")
    keys = cloud.user(name := fresh("helper"), own_keys, allow("iam:*", f"arn:aws:iam::{ACCOUNT}:role/*"), allow("iam:CreateUser", f"arn:aws:iam::{ACCOUNT}:user/team/*"))
    iam = cloud.engine.client("iam", **keys)
    assert iam.list_access_keys()["AccessKeyMetadata"][0]["UserName"] == name
    code, why = refused(iam.create_access_key, UserName=boss)
    assert (code, f"user/admins/{boss}" in why) == ("AccessDenied", True)
    # A key says whose it is, where the request does not.
    assert refused(iam.update_access_key, AccessKeyId=victim["aws_access_key_id"], Status="Inactive")[0] == "AccessDenied"
    iam.create_user(UserName=fresh("new"), Path="/team/")
    assert refused(iam.create_user, UserName=fresh("new"), Path="/admins/")[0] == "AccessDenied"
    # Who may make roles within a boundary only makes none without.
    limit = {"StringEquals": {"iam:PermissionsBoundary": "arn:aws:iam::aws:policy/ReadOnlyAccess"}}
    bounded = cloud.engine.client("iam", **cloud.user(fresh("bounded"), allow("iam:CreateRole", "*", Condition=limit)))
    role = {"RoleName": fresh("r"), "AssumeRolePolicyDocument": document({"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"})}
    assert refused(bounded.create_role, **role)[0] == "AccessDenied"
    bounded.create_role(**role, PermissionsBoundary="arn:aws:iam::aws:policy/ReadOnlyAccess")


def test_what_a_session_is_asked_for_with_holds_for_it(cloud: Cloud) -> None:
    """External ids, session policies by their ARNs, tags and source identities."""
    trusting = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}}
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {**trusting, "Action": "sts:AssumeRole", "Condition": {"StringEquals": {"sts:ExternalId": "customer"}}},
            {**trusting, "Action": "sts:TagSession", "Condition": {"ForAllValues:StringEquals": {"aws:TagKeys": ["team"]}}},
        ],
    }
    only_theirs = allow("s3:GetObject", "arn:aws:s3:::open/*", Condition={"StringEquals": {"aws:PrincipalTag/team": "red"}})
    role = cloud.role(fresh("guest"), only_theirs, allow("s3:ListAllMyBuckets"), trust=trust)
    keys = cloud.user(fresh("guest"), allow("sts:*"))
    sts = cloud.engine.client("sts", **keys)

    def session(**more: Any) -> dict[str, str]:
        given = sts.assume_role(RoleArn=role, RoleSessionName="visit", **more)["Credentials"]
        return {"aws_access_key_id": given["AccessKeyId"], "aws_secret_access_key": given["SecretAccessKey"], "aws_session_token": given["SessionToken"]}

    assert refused(sts.assume_role, RoleArn=role, RoleSessionName="visit")[0] == "AccessDenied"
    assert refused(sts.assume_role, RoleArn=role, RoleSessionName="visit", ExternalId="somebody")[0] == "AccessDenied"
    blue = {"Key": "job", "Value": "x"}
    assert refused(sts.assume_role, RoleArn=role, RoleSessionName="visit", ExternalId="customer", Tags=[blue])[0] == "AccessDenied"
    assert refused(sts.assume_role, RoleArn=role, RoleSessionName="visit", ExternalId="customer", SourceIdentity="ada")[0] == "AccessDenied"
    plain = cloud.engine.client("s3", **session(ExternalId="customer"))
    plain.list_buckets()
    assert refused(plain.get_object, Bucket="open", Key="k")[0] == "AccessDenied"
    red = cloud.engine.client("s3", **session(ExternalId="customer", Tags=[{"Key": "team", "Value": "red"}]))
    assert red.get_object(Bucket="open", Key="k")["Body"].read() == b"open"
    queues = "arn:aws:iam::aws:policy/AmazonSQSReadOnlyAccess"
    cut = cloud.engine.client("s3", **session(ExternalId="customer", PolicyArns=[{"arn": queues}]))
    assert "because no session policy allows the s3:ListAllMyBuckets action" in refused(cut.list_buckets)[1]
    whole = cloud.engine.client("sts", **ROOT).get_caller_identity()
    assert (whole["Account"], whole["UserId"], whole["Arn"]) == (ACCOUNT, ACCOUNT, f"arn:aws:iam::{ACCOUNT}:root")
    longer = {"RoleArn": role, "RoleSessionName": "visit", "ExternalId": "customer", "DurationSeconds": 7200}
    assert refused(sts.assume_role, **longer) == ("ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
    cloud.iam.update_role(RoleName=role.rpartition("/")[2], MaxSessionDuration=7200)
    sts.assume_role(**longer)
    # From a session it is an hour at most.
    next_role = cloud.role(fresh("next"), trust={"Version": "2012-10-17", "Statement": [{**trusting, "Action": "sts:AssumeRole"}]}, MaxSessionDuration=7200)
    cloud.iam.put_role_policy(RoleName=role.rpartition("/")[2], PolicyName="q", PolicyDocument=document(allow("sts:AssumeRole", next_role)))
    chain = cloud.engine.client("sts", **session(ExternalId="customer"))
    assert "1 hour session limit for roles assumed by role chaining" in refused(chain.assume_role, RoleArn=next_role, RoleSessionName="visit", DurationSeconds=7200)[1]
    chain.assume_role(RoleArn=next_role, RoleSessionName="visit")


def test_code_comes_from_where_its_caller_may_read(cloud: Cloud) -> None:
    s3, bucket = cloud.engine.client("s3", **ROOT), fresh("code")
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="f.zip", Body=zip_of({"m.py": "def f(event, context): return event\n"}))
    role = cloud.role(fresh("plain"))
    keys = cloud.user(name := fresh("deployer"), allow(["lambda:*", "iam:PassRole"]))
    client = cloud.engine.client(**keys)
    asked = {"Role": role, "Handler": "m.f", "Runtime": OWN_RUNTIME, "Code": {"S3Bucket": bucket, "S3Key": "f.zip"}}
    start = f"Your access has been denied by S3, please make sure your request credentials have permission to GetObject for {bucket}/f.zip. S3 Error Code: AccessDenied."
    code, why = refused(client.create_function, FunctionName=fresh("f"), **asked)
    assert (code, why.startswith(start)) == ("AccessDeniedException", True), why
    assert refused(client.publish_layer_version, LayerName=fresh("l"), Content=asked["Code"])[0] == "AccessDeniedException"
    cloud.iam.put_user_policy(UserName=name, PolicyName="q", PolicyDocument=document(allow("s3:GetObject", f"arn:aws:s3:::{bucket}/*")))
    client.create_function(FunctionName=(function := fresh("f")), **asked)
    client.get_waiter("function_active_v2").wait(FunctionName=function)
    cloud.iam.delete_user_policy(UserName=name, PolicyName="q")
    assert refused(client.update_function_code, FunctionName=function, S3Bucket=bucket, S3Key="f.zip")[0] == "AccessDeniedException"


def test_what_stands_counts_where_an_operation_does_not_repeat_it(cloud: Cloud) -> None:
    """The kind of a URL that is deleted, the principal of a statement that is removed; and tags need a right of their own."""
    role, function = cloud.role(fresh("plain")), fresh("f")
    package = {"Role": role, "Handler": "m.f", "Runtime": OWN_RUNTIME, "Code": {"ZipFile": zip_of({"m.py": "def f(event, context): return event\n"})}}
    cloud.admin.create_function(FunctionName=function, **package)
    cloud.admin.get_waiter("function_active_v2").wait(FunctionName=function)
    keys = cloud.user(
        fresh("narrow"), allow(["lambda:*FunctionUrlConfig"], Condition={"StringEquals": {"lambda:FunctionUrlAuthType": "AWS_IAM"}}),
        allow("lambda:*Permission", Condition={"StringLike": {"lambda:Principal": "s3.*"}}), allow(["lambda:CreateFunction", "iam:PassRole"]),
    )  # fmt: skip
    client = cloud.engine.client(**keys)
    assert refused(client.create_function_url_config, FunctionName=function, AuthType="NONE")[0] == "AccessDeniedException"
    client.create_function_url_config(FunctionName=function, AuthType="AWS_IAM")
    assert client.get_function_url_config(FunctionName=function)["AuthType"] == "AWS_IAM"
    client.delete_function_url_config(FunctionName=function)
    cloud.admin.create_function_url_config(FunctionName=function, AuthType="NONE")
    assert refused(client.delete_function_url_config, FunctionName=function)[0] == "AccessDeniedException"
    for sid, principal in (("s3", "s3.amazonaws.com"), ("sns", "sns.amazonaws.com"), ("friend", "111122223333")):
        cloud.admin.add_permission(FunctionName=function, StatementId=sid, Action="lambda:InvokeFunction", Principal=principal)
    client.remove_permission(FunctionName=function, StatementId="s3")
    for sid in ("sns", "friend", "none"):
        assert refused(client.remove_permission, FunctionName=function, StatementId=sid)[0] == "AccessDeniedException"
    assert "perform: lambda:TagResource on resource" in refused(client.create_function, FunctionName=fresh("f"), Tags={"a": "b"}, **package)[1]


def test_services_give_queues_and_topics_what_their_policies_let_them(cloud: Cloud) -> None:
    """A topic, a rule and a bucket, whose owner has no right to send to the queue."""
    sns, sqs, events, s3 = (cloud.engine.client(name, **ROOT) for name in ("sns", "sqs", "events", "s3"))
    name = fresh("inbox")
    topic, rule = sns.create_topic(Name=name)["TopicArn"], events.put_rule(Name=name, EventPattern=json.dumps({"source": [name]}))["RuleArn"]
    queue, letters = sqs.create_queue(QueueName=name)["QueueUrl"], sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
    arn, s3_arn = own("sqs", name), f"arn:aws:s3:::{name}"
    s3.create_bucket(Bucket=name)
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"})
    events.put_targets(Rule=name, Targets=[{"Id": "q", "Arn": arn, "DeadLetterConfig": {"Arn": own("sqs", f"{name}-dead")}}])
    notify = {"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]}

    def tell(what: str) -> None:
        sns.publish(TopicArn=topic, Message=f"{what} sns")
        events.put_events(Entries=[{"Source": name, "DetailType": "x", "Detail": json.dumps({"what": f"{what} events"})}])

    def received(url: str) -> str:
        found = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1, MaxNumberOfMessages=10, MessageAttributeNames=["All"]).get("Messages", [])
        for message in found:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return json.dumps(found)

    tell("first")
    assert refused(s3.put_bucket_notification_configuration, Bucket=name, NotificationConfiguration=notify) == (
        "InvalidArgument", "Unable to validate the following destination configurations",
    )  # fmt: skip
    until(lambda: "NO_PERMISSIONS" in received(letters), "the rule's event in its dead-letter queue", timeout_s=120)
    sources = {"sns.amazonaws.com": topic, "events.amazonaws.com": rule, "s3.amazonaws.com": s3_arn}
    statements = [
        {**allow("sqs:SendMessage", arn), "Principal": {"Service": who}, "Condition": {"ArnEquals": {"aws:SourceArn": source}}} for who, source in sources.items()
    ]
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": document(*statements)})
    tell("second")
    s3.put_bucket_notification_configuration(Bucket=name, NotificationConfiguration=notify)
    s3.put_object(Bucket=name, Key="k", Body=b"")
    got: list[str] = []

    def all_there() -> bool:
        got.append(received(queue))
        return all(what in "".join(got) for what in ("second sns", "second events", "ObjectCreated:Put"))

    until(all_there, "what the queue's policy lets in", timeout_s=120)
    assert "first" not in "".join(got)


def test_targets_are_those_that_the_functions_role_may_reach(cloud: Cloud) -> None:
    """Dead-letter queues and destinations, looked at when they are set; a queue's policy counts as much as the role's."""
    name = fresh("sender")
    role, sqs = cloud.role(name), cloud.engine.client("sqs", **ROOT)
    queue = sqs.create_queue(QueueName=name)["QueueUrl"]
    package = {"Handler": "m.f", "Runtime": OWN_RUNTIME, "Code": {"ZipFile": zip_of({"m.py": "def f(event, context): return event\n"})}}
    dead_letters = {"TargetArn": own("sqs", name)}
    text = ("InvalidParameterValueException", "The provided execution role does not have permissions to call SendMessage on SQS")
    assert refused(cloud.admin.create_function, FunctionName=name, Role=role, DeadLetterConfig=dead_letters, **package) == text
    cloud.admin.create_function(FunctionName=name, Role=role, **package)
    cloud.admin.get_waiter("function_active_v2").wait(FunctionName=name)
    assert refused(cloud.admin.update_function_configuration, FunctionName=name, DeadLetterConfig=dead_letters) == text
    destinations = {"OnSuccess": {"Destination": own("sqs", name)}}
    assert refused(cloud.admin.put_function_event_invoke_config, FunctionName=name, DestinationConfig=destinations) == (
        "InvalidParameterValueException", f"The function's execution role does not have permissions to call SendMessage on {own('sqs', name)}",
    )  # fmt: skip
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": document({**allow("sqs:SendMessage", own("sqs", name)), "Principal": {"AWS": role}})})
    cloud.admin.put_function_event_invoke_config(FunctionName=name, DestinationConfig=destinations)
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": ""})
    cloud.iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=document(allow("sqs:SendMessage", own("sqs", name))))
    cloud.admin.update_function_configuration(FunctionName=name, DeadLetterConfig=dead_letters)
    cloud.admin.get_waiter("function_updated_v2").wait(FunctionName=name)


def test_operations_that_moto_names_by_their_paths_are_known_by_their_own_names(cloud: Cloud) -> None:
    """Batch, Polly, X-Ray, and Timestream's queries, which its other half answers: all of it was no action of theirs."""
    calls = {
        "batch:DescribeComputeEnvironments": lambda client: client.describe_compute_environments(),
        "polly:DescribeVoices": lambda client: client.describe_voices(),
        "xray:PutTraceSegments": lambda client: client.put_trace_segments(TraceSegmentDocuments=["{}"]),
        "timestream:Query": lambda client: client.query(QueryString="SELECT 1"),
    }
    may, may_not = cloud.user(fresh("may"), allow("*", "*")), cloud.user(fresh("may-not"), allow("*", "*"), deny(list(calls), "*"))
    for action, call in calls.items():
        name = action.partition(":")[0].replace("timestream", "timestream-query")
        call(cloud.engine.client(name, **may))
        code, message = refused(lambda call=call, name=name: call(cloud.engine.client(name, **may_not)))
        assert (code.startswith("AccessDenied"), action in message) == (True, True), (action, code, message)
