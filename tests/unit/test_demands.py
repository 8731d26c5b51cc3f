"""What requests to other services ask for, and what their condition keys say."""

from __future__ import annotations

from typing import Any

import pytest

from engine.aws import bucket_actions
from engine.aws.condition_keys import of_objects, of_request
from engine.aws.demands import Asked, demands, passed_roles
from engine.aws.entrance import settle

ACCOUNT, REGION = "111122223333", "us-east-1"
FOUND = {
    ("user", "boss"): f"arn:aws:iam::{ACCOUNT}:user/admins/boss", ("access-key", "AKIAX"): f"arn:aws:iam::{ACCOUNT}:user/x",
    ("secret", "s"): f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:s-abcdef", ("partition-key", "t"): "pk",
}  # fmt: skip


def asked(service: str, action: str, members: dict[str, Any], path: str = "/", method: str = "POST") -> Asked:
    return Asked(service, action, members, ACCOUNT, REGION, path, method, "arn:me", lambda kind, name: FOUND.get((kind, name)))


def own(service: str, name: str) -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{name}"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (asked("sqs", "SendMessageBatch", {"QueueUrl": f"http://x/{ACCOUNT}/q"}), [("sqs:SendMessage", own("sqs", "q"))]),
        (asked("sqs", "CreateQueue", {"QueueName": "q"}), [("sqs:CreateQueue", own("sqs", "q"))]),
        (asked("sqs", "ReceiveMessage", {}, f"/{ACCOUNT}/q"), [("sqs:ReceiveMessage", own("sqs", "q"))]),
        (asked("sqs", "ListQueues", {}), [("sqs:ListQueues", own("sqs", "*"))]),
        (asked("sns", "PublishBatch", {"TopicArn": own("sns", "t")}), [("sns:Publish", own("sns", "t"))]),
        (asked("sns", "Unsubscribe", {"SubscriptionArn": own("sns", "t:1-2")}), [("sns:Unsubscribe", own("sns", "t"))]),
        (asked("dynamodb", "Query", {"TableName": "t", "IndexName": "i"}),
         [("dynamodb:Query", own("dynamodb", "table/t")), ("dynamodb:Query", own("dynamodb", "table/t/index/i"))]),
        (asked("dynamodb", "TransactGetItems", {"TransactItems": [{"Get": {"TableName": "t"}}]}), [("dynamodb:GetItem", own("dynamodb", "table/t"))]),
        (asked("dynamodb", "BatchExecuteStatement", {"Statements": [{"Statement": "delete from \"t\" where a = 'x from y'"}]}),
         [("dynamodb:PartiQLDelete", own("dynamodb", "table/t"))]),
        (asked("dynamodb", "ExecuteStatement", {"Statement": "select * from/**/t"}), [("dynamodb:PartiQLSelect", own("dynamodb", "table/*"))]),
        (asked("dynamodb", "GetRecords", {"ShardIterator": own("dynamodb", "table/t/stream/1") + "|1|x"}),
         [("dynamodb:GetRecords", own("dynamodb", "table/t/stream/1"))]),
        (asked("kinesis", "GetRecords", {"ShardIterator": "czpzaGFyZDow"}), [("kinesis:GetRecords", own("kinesis", "stream/s"))]),
        (asked("kinesis", "GetRecords", {"ShardIterator": "%"}), [("kinesis:GetRecords", own("kinesis", "stream/*"))]),
        (asked("events", "PutEvents", {"Entries": [{"EventBusName": "b"}, {}]}),
         [("events:PutEvents", own("events", "event-bus/b")), ("events:PutEvents", own("events", "event-bus/default"))]),
        (asked("events", "PutTargets", {"Rule": "r", "EventBusName": "b"}), [("events:PutTargets", own("events", "rule/b/r"))]),
        (asked("logs", "PutLogEvents", {"logGroupName": "g", "logStreamName": "s"}), [("logs:PutLogEvents", own("logs", "log-group:g:log-stream:s"))]),
        (asked("logs", "FilterLogEvents", {"logGroupIdentifier": own("logs", "log-group:g:*")}),
         [("logs:FilterLogEvents", own("logs", "log-group:g:log-stream:"))]),
        (asked("ssm", "GetParameters", {"Names": ["/a:3", own("ssm", "parameter/b")]}),
         [("ssm:GetParameters", own("ssm", "parameter/a")), ("ssm:GetParameters", own("ssm", "parameter/b"))]),
        (asked("secretsmanager", "GetSecretValue", {"SecretId": "s"}), [("secretsmanager:GetSecretValue", FOUND["secret", "s"])]),
        (asked("monitoring", "PutMetricData", {}), [("cloudwatch:PutMetricData", None)]),
        (asked("apigateway", "GetApis", {}, "/v2/apis//x%2Dy/", "GET"), [("apigateway:GET", f"arn:aws:apigateway:{REGION}::/apis/x-y")]),
        (asked("scheduler", "DeleteSchedule", {"groupName": "g"}, "/schedules/s", "DELETE"), [("scheduler:DeleteSchedule", own("scheduler", "schedule/g/s"))]),
        (asked("states", "CreateStateMachine", {"name": "m"}), [("states:CreateStateMachine", own("states", "stateMachine:m"))]),
        (asked("sts", "AssumeRole", {"RoleArn": "arn:r", "Tags": [{"Key": "a"}], "SourceIdentity": "x"}),
         [("sts:AssumeRole", "arn:r"), ("sts:TagSession", "arn:r"), ("sts:SetSourceIdentity", "arn:r")]),
        (asked("iam", "PutRolePolicy", {"RoleName": "r", "PolicyName": "p"}), [("iam:PutRolePolicy", f"arn:aws:iam::{ACCOUNT}:role/r")]),
        (asked("iam", "AttachUserPolicy", {"UserName": "boss", "PolicyArn": "arn:p"}), [("iam:AttachUserPolicy", FOUND["user", "boss"])]),
        (asked("iam", "CreateUser", {"UserName": "u", "Path": "/a/"}), [("iam:CreateUser", f"arn:aws:iam::{ACCOUNT}:user/a/u")]),
        (asked("iam", "CreateAccessKey", {}), [("iam:CreateAccessKey", "arn:me")]),
        (asked("iam", "UpdateAccessKey", {"AccessKeyId": "AKIAX"}), [("iam:UpdateAccessKey", FOUND["access-key", "AKIAX"])]),
        (asked("iam", "AddRoleToInstanceProfile", {"InstanceProfileName": "i", "RoleName": "r"}),
         [("iam:AddRoleToInstanceProfile", f"arn:aws:iam::{ACCOUNT}:instance-profile/i"), ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/r")]),
        (asked("iam", "ListRoles", {}), [("iam:ListRoles", f"arn:aws:iam::{ACCOUNT}:role/")]),
    ],
)  # fmt: skip
def test_what_is_demanded(request_: Asked, expected: list[tuple[str, str | None]]) -> None:
    assert demands(request_) == expected


def test_passed_roles_are_found_wherever_they_stand() -> None:
    role, other = f"arn:aws:iam::{ACCOUNT}:role/r", f"arn:aws:iam::{ACCOUNT}:role/p/o"
    assert passed_roles(asked("events", "PutTargets", {"Targets": [{"Arn": "arn:x", "RoleArn": role}, {"EcsParameters": {"TaskRoleArn": other}}]})) == [other, role]
    assert passed_roles(asked("apigateway", "PutIntegration", {"credentials": role})) == [role]
    assert passed_roles(asked("states", "DescribeStateMachine", {"roleArn": role})) == []
    assert passed_roles(asked("sqs", "SendMessage", {"roleArn": role})) == []
    assert passed_roles(asked("states", "CreateStateMachine", {"roleArn": "role"})) == []


@pytest.mark.parametrize(
    ("method", "key", "query", "headers", "expected"),
    [
        ("GET", False, {}, {}, ["ListBucket"]),
        ("HEAD", False, {}, {}, ["ListBucket"]),
        ("PUT", False, {"policy", "tagging"}, {}, ["PutBucketPolicy", "PutBucketTagging"]),
        ("PUT", False, {"encryption"}, {}, ["PutEncryptionConfiguration"]),
        ("PUT", False, {}, {"x-amz-acl": "public-read"}, ["CreateBucket", "PutBucketAcl"]),
        ("PUT", True, {}, {"x-amz-acl": "public-read", "x-amz-tagging": "a=b"}, ["PutObject", "PutObjectAcl", "PutObjectTagging"]),
        ("PUT", True, {"uploadId", "partNumber", "tagging"}, {}, ["PutObjectTagging", "PutObject"]),
        ("GET", True, {"acl", "versionId"}, {}, ["GetObjectVersionAcl"]),
        ("GET", True, {"versionId"}, {}, ["GetObjectVersion"]),
        ("DELETE", True, {"versionId"}, {"x-amz-bypass-governance-retention": "true"}, ["DeleteObjectVersion", "BypassGovernanceRetention"]),
        ("DELETE", True, {"tagging"}, {}, ["DeleteObjectTagging"]),
        ("POST", True, {"uploadId", "select"}, {}, ["GetObject", "PutObject"]),
    ],
)  # fmt: skip
def test_actions_of_buckets_and_objects(method: str, key: bool, query: set[str], headers: dict[str, str], expected: list[str]) -> None:
    assert bucket_actions.actions(method, query, headers, key=key) == expected


def test_condition_keys_of_requests() -> None:
    keys = of_request(asked("iam", "CreateRole", {"RoleName": "r", "PermissionsBoundary": "arn:b", "Tags": [{"Key": "Team", "Value": "red"}]}))
    assert keys == {"iam:permissionsboundary": "arn:b", "aws:requesttag/team": "red", "aws:tagkeys": ["Team"]}
    assert of_request(asked("sqs", "TagQueue", {"Tags": {"a": "b"}})) == {"aws:requesttag/a": "b", "aws:tagkeys": ["a"]}
    assert of_request(asked("sqs", "UntagQueue", {"TagKeys": ["a"]})) == {"aws:tagkeys": ["a"]}
    objects = of_objects({"prefix": "a/", "max-keys": "1"}, {"x-amz-server-side-encryption": "AES256", "x-amz-tagging": "Team=red"})
    assert objects["s3:prefix"] == "a/"
    assert objects["s3:x-amz-server-side-encryption"] == "AES256"
    assert (objects["s3:requestobjecttag/team"], objects["s3:authtype"]) == ("red", "REST-HEADER")


@pytest.mark.parametrize(
    ("action", "members", "leading"),
    [
        ("GetItem", {"TableName": "t", "Key": {"pk": {"S": "a"}, "sk": {"S": "z"}}}, ["a"]),
        ("PutItem", {"TableName": "t", "Item": {"other": {"S": "a"}}}, ["\ue002"]),
        ("Query", {"TableName": "t", "KeyConditionExpression": "pk = :p AND sk > :s", "ExpressionAttributeValues": {":p": {"N": "7"}, ":s": {"S": "x"}}}, ["7"]),
        ("Query", {"TableName": "t", "KeyConditions": {"pk": {"AttributeValueList": [{"S": "a"}]}}}, ["a"]),
        ("Query", {"TableName": "t"}, ["\ue002"]),
        ("BatchWriteItem", {"RequestItems": {"t": [{"PutRequest": {"Item": {"pk": {"S": "a"}}}}, {"DeleteRequest": {"Key": {"pk": {"S": "b"}}}}]}}, ["a", "b"]),
        ("TransactWriteItems", {"TransactItems": [{"Put": {"TableName": "t", "Item": {"pk": {"S": "a"}}}}]}, ["a"]),
        ("ExecuteStatement", {"Statement": "x"}, ["\ue002"]),
        ("Scan", {"TableName": "t"}, None),
    ],
)  # fmt: skip
def test_leading_keys(action: str, members: dict[str, Any], leading: list[str] | None) -> None:
    assert of_request(asked("dynamodb", action, members)).get("dynamodb:leadingkeys") == leading


@pytest.mark.parametrize(
    ("region", "service", "words"),
    [
        ("us-gov-west-1", "sqs", None), ("ap-southeast-3", "s3", None), ("s3", "sqs", "valid region"), ("AKIAIOSFODNN7EXAMPLE", "iam", "valid region"),
        ("us-east-1.x", "sqs", "valid region"), ("us-east-1", "lambda", "lambda"), ("us-east-1", "execute-api", "execute-api"), ("us-east-1", "SQS", "valid service"),
    ],
)  # fmt: skip
def test_scopes_that_the_embedded_aws_would_take_for_others_are_refused(region: str, service: str, words: str | None) -> None:
    value = f"AWS4-HMAC-SHA256 Credential=AKIA/20260101/{region}/{service}/aws4_request, SignedHeaders=host, Signature={'0' * 64}"
    said = settle({"PATH_INFO": "/", "HTTP_AUTHORIZATION": value})
    assert (said is None) == (words is None)
    assert words is None or words in str(said)
