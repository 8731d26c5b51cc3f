"""A SAM application deployed through CloudFormation on the one endpoint: its API, queue, table, bucket, topic, rule and schedule all reach its function."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from engine.aws import embedded
from tests.framework import inside, stacks, wait
from tests.framework.engine import OWN_RUNTIME, Engine, engine

pytest.importorskip("samtranslator")
pytestmark = [
    pytest.mark.skipif(embedded.available() is not None, reason="the extra 'embedded' is not installed"),
    pytest.mark.slow,
]
CODE = """
import json, os, boto3
table = boto3.resource("dynamodb").Table(os.environ["TABLE"])
def handler(event, context):
    kind = "api" if "routeKey" in event or "httpMethod" in event else event.get("detail-type") or event.get("kind") or (
        event["Records"][0].get("eventSource") or event["Records"][0]["EventSource"])
    table.put_item(Item={"id": kind})
    return {"statusCode": 200, "body": kind}
"""


def template() -> str:
    events = {
        "Api": {"Type": "Api", "Properties": {"Path": "/orders/{id}", "Method": "get"}},
        "Queue": {"Type": "SQS", "Properties": {"Queue": {"Fn::GetAtt": ["Queue", "Arn"]}}},
        "Bucket": {"Type": "S3", "Properties": {"Bucket": {"Ref": "Bucket"}, "Events": "s3:ObjectCreated:*"}},
        "Topic": {"Type": "SNS", "Properties": {"Topic": {"Ref": "Topic"}}},
        "Rule": {"Type": "EventBridgeRule", "Properties": {"Pattern": {"source": ["shop"]}}},
        "Nightly": {"Type": "Schedule", "Properties": {"Schedule": "rate(1 day)", "Input": '{"kind": "schedule"}'}},
        "Scheduler": {
            "Type": "ScheduleV2",
            "Properties": {"ScheduleExpression": "cron(0 5 * * ? *)", "ScheduleExpressionTimezone": "Asia/Tokyo", "Input": '{"kind": "scheduler"}'},
        },
    }
    function = {
        "Runtime": OWN_RUNTIME, "Handler": "index.handler", "InlineCode": CODE, "Timeout": 30, "Events": events,
        "Environment": {"Variables": {"TABLE": {"Ref": "Table"}}},
    }  # fmt: skip
    return json.dumps(
        {
            "Transform": "AWS::Serverless-2016-10-31",
            "Resources": {
                "Function": {"Type": "AWS::Serverless::Function", "Properties": function},
                "Table": {"Type": "AWS::Serverless::SimpleTable"},
                "Queue": {"Type": "AWS::SQS::Queue", "Properties": {"VisibilityTimeout": 60}},
                "Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "sam-events-bucket"}},
                "Topic": {"Type": "AWS::SNS::Topic"},
            },
            "Outputs": {name: {"Value": {"Ref": name}} for name in ("Function", "Table", "Queue", "Bucket", "Topic", "ServerlessRestApi")},
        }
    )


@pytest.fixture(scope="module")
def running() -> Iterator[Engine]:
    with engine() as started:
        yield started


def test_every_event_of_a_sam_application_reaches_its_function(running: Engine) -> None:
    formation = running.client("cloudformation")
    formation.create_change_set(
        StackName="shop", ChangeSetName="first", ChangeSetType="CREATE", TemplateBody=template(), Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]
    )
    formation.execute_change_set(StackName="shop", ChangeSetName="first")
    stacks.finished(formation, "shop", "create")
    out = stacks.outputs(formation, "shop")
    table = running.client("dynamodb")

    def seen() -> set[str]:
        return {item["id"]["S"] for item in table.scan(TableName=out["Table"], ConsistentRead=True)["Items"]}

    def reached(kind: str) -> Any:
        return wait.until(lambda: kind in seen(), f"{kind} among {seen()}", 90)

    running.client("s3").put_object(Bucket=out["Bucket"], Key="k", Body=b"x")
    reached("aws:s3")
    running.client("sqs").send_message(QueueUrl=out["Queue"], MessageBody="m")
    reached("aws:sqs")
    running.client("sns").publish(TopicArn=out["Topic"], Message="m")
    reached("aws:sns")
    running.client("events").put_events(Entries=[{"Source": "shop", "DetailType": "order", "Detail": "{}"}])
    reached("order")
    assert inside.advance(running, 86400)["runs"] >= 2
    reached("schedule")
    reached("scheduler")
    with urllib.request.urlopen(f"{running.url}/restapis/{out['ServerlessRestApi']}/Prod/_user_request_/orders/1", timeout=60) as answer:
        assert answer.read() == b"api"
    reached("api")
    formation.delete_stack(StackName="shop")
    stacks.finished(formation, "shop", "delete")
    assert running.client().list_functions()["Functions"] == []
    assert inside.advance(running, 86400)["runs"] == 0
