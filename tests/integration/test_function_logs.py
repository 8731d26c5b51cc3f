"""Functions' logs in CloudWatch Logs, as whoever debugs a function looks for them."""

from __future__ import annotations

import base64
import gzip
import json
import time
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

from engine.aws import embedded
from tests.framework.engine import Engine
from tests.framework.wait import until

pytestmark = pytest.mark.skipif(embedded.available() is not None, reason="the extra 'embedded' is not installed")
SOURCE = """
import json
def f(event, context):
    for n in range(event.get("lines", 1)):
        print(event.get("say", "line"), n)
    return context.log_group_name, context.log_stream_name
"""


def run(engine: Engine, name: str, **event: Any) -> tuple[str, str]:
    """Invoke; the group and stream that the function was told."""
    group, stream = json.load(engine.client().invoke(FunctionName=name, Payload=json.dumps(event))["Payload"])
    return group, stream


def messages(engine: Engine, group: str, **options: Any) -> list[str]:
    pages = engine.client("logs").get_paginator("filter_log_events").paginate(logGroupName=group, **options)
    return [event["message"] for page in pages for event in page["events"]]


def reports(engine: Engine, group: str, count: int) -> None:
    """Wait until invocations are in the log with their ends."""

    logs = engine.client("logs")

    def there() -> bool:
        try:
            return len(messages(engine, group, filterPattern='"REPORT RequestId:"')) >= count
        except logs.exceptions.ResourceNotFoundException:
            return False

    until(there, f"{count} reports in {group}")


def test_what_a_function_writes_is_in_its_group_and_stream(shared: Engine) -> None:
    logs, name = shared.client("logs"), f"logs-{uuid.uuid4().hex[:8]}"
    shared.deploy(name, {"m.py": SOURCE})
    assert logs.describe_log_groups(logGroupNamePrefix=f"/aws/lambda/{name}")["logGroups"] == [], "made by the first invocation, as on AWS"
    group, stream = run(shared, name, lines=3, say="hello")
    assert group == f"/aws/lambda/{name}"
    reports(shared, group, 1)

    (described,) = logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]
    assert described["arn"] == f"arn:aws:logs:us-east-1:000000000000:log-group:{group}:*"
    (about,) = logs.describe_log_streams(logGroupName=group, orderBy="LastEventTime", descending=True)["logStreams"]
    assert about["logStreamName"] == stream
    assert about["firstEventTimestamp"] <= about["lastEventTimestamp"] <= time.time() * 1000

    events = logs.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True)["events"]
    words = [event["message"].split()[0] for event in events]
    assert [w for w in words if w != "INIT_START"] == ["START", "hello", "hello", "hello", "END", "REPORT"]
    assert all(event["message"].endswith("\n") for event in events)
    assert messages(shared, group, filterPattern="hello -1") == ["hello 0\n", "hello 2\n"]
    assert messages(shared, group, filterPattern="[word = hello, number > 0]") == ["hello 1\n", "hello 2\n"]
    assert messages(shared, group, filterPattern="%^hello [01]%") == ["hello 0\n", "hello 1\n"]
    arn = described["arn"].removesuffix(":*")
    assert len(logs.filter_log_events(logGroupIdentifier=arn, logStreamNamePrefix=stream[:12], filterPattern="hello")["events"]) == 3


def test_pages_go_both_ways_and_end(shared: Engine) -> None:
    logs = shared.client("logs")
    shared.deploy("logs-b", {"m.py": SOURCE})
    group, stream = run(shared, "logs-b", lines=25)
    reports(shared, group, 1)
    every = [e["message"] for e in logs.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True)["events"]]
    where = {"logGroupName": group, "logStreamName": stream, "limit": 10}

    forward, token = [], None
    while True:
        page = logs.get_log_events(**where, startFromHead=True, **({"nextToken": token} if token else {}))
        forward += [e["message"] for e in page["events"]]
        if page["nextForwardToken"] == token:
            break
        token = page["nextForwardToken"]
    assert forward == every

    page = logs.get_log_events(**where)
    assert [e["message"] for e in page["events"]] == every[-10:]
    earlier = logs.get_log_events(**where, nextToken=page["nextBackwardToken"])
    assert [e["message"] for e in earlier["events"]] == every[-20:-10]

    # What comes meanwhile is on the pages that follow, once.
    first = logs.filter_log_events(logGroupName=group, limit=7, interleaved=True)
    run(shared, "logs-b", lines=1, say="later")
    reports(shared, group, 2)
    seen, token = [e["eventId"] for e in first["events"]], first["nextToken"]
    while token:
        page = logs.filter_log_events(logGroupName=group, limit=7, nextToken=token, interleaved=True)
        seen += [e["eventId"] for e in page["events"]]
        token = page.get("nextToken")
    assert len(seen) == len(set(seen)) == len(messages(shared, group))
    assert seen == sorted(seen)

    for wrong in ({"nextToken": "f/elsewhere"}, {"limit": 10001}, {"filterPattern": "[a, , b]"}):
        with pytest.raises(ClientError) as caught:
            logs.filter_log_events(logGroupName=group, **wrong)
        assert caught.value.response["Error"]["Code"] == "InvalidParameterException"
    with pytest.raises(ClientError, match=r"The specified log stream does not exist\."):
        logs.get_log_events(logGroupName=group, logStreamName="none")
    with pytest.raises(ClientError, match=r"The specified log group does not exist\."):
        logs.filter_log_events(logGroupName="/aws/lambda/logs-none")


def test_functions_share_a_log_group_of_another_name(shared: Engine) -> None:
    shared.deploy("share-a", {"m.py": SOURCE}, LoggingConfig={"LogGroup": "shared/group"})
    shared.deploy("share-b", {"m.py": SOURCE}, LoggingConfig={"LogGroup": "shared/group"})
    streams = [run(shared, name, say=name)[1] for name in ("share-a", "share-b")]
    assert [s.split("/")[-1].split("[")[0] for s in streams] == ["share-a", "share-b"]
    reports(shared, "shared/group", 2)
    assert [m for m in messages(shared, "shared/group") if m.startswith("share-")] == ["share-a 0\n", "share-b 0\n"]
    found = shared.client("logs").describe_log_groups(logGroupNamePattern="/share-")["logGroups"]
    assert found == [], "nothing was written to the groups of their names"


def test_a_group_and_a_stream_are_deleted_and_begin_anew(shared: Engine) -> None:
    logs = shared.client("logs")
    shared.deploy("logs-begin-anew", {"m.py": SOURCE})
    group, stream = run(shared, "logs-begin-anew", say="first")
    reports(shared, group, 1)
    logs.put_retention_policy(logGroupName=group, retentionInDays=7)
    assert logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"][0]["retentionInDays"] == 7
    with pytest.raises(ClientError, match="already exists"):
        logs.create_log_group(logGroupName=group)
    logs.delete_log_stream(logGroupName=group, logStreamName=stream)
    assert messages(shared, group) == []
    logs.delete_log_group(logGroupName=group)
    assert logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"] == []
    run(shared, "logs-begin-anew", say="second")
    reports(shared, group, 1)
    assert [m for m in messages(shared, group) if m.startswith(("first", "second"))] == ["second 0\n"]


def test_a_subscription_gets_what_functions_write(shared: Engine) -> None:
    logs, client = shared.client("logs"), shared.client()
    shared.deploy("logs-e", {"m.py": SOURCE})
    arn = shared.deploy("logs-e-reader", {"m.py": "def f(event, context):\n    print('GOT', event['awslogs']['data'])\n"})["FunctionArn"]
    client.add_permission(FunctionName="logs-e-reader", StatementId="logs", Action="lambda:InvokeFunction", Principal="logs.amazonaws.com")
    group, _ = run(shared, "logs-e", say="needle too early")
    reports(shared, group, 1)
    logs.put_subscription_filter(logGroupName=group, filterName="all", filterPattern="needle", destinationArn=arn)
    _, stream = run(shared, "logs-e", lines=2, say="needle")

    def got() -> list[str]:
        try:
            return messages(shared, "/aws/lambda/logs-e-reader", filterPattern="GOT")
        except logs.exceptions.ResourceNotFoundException:
            return []

    data = until(got, "the subscriber is invoked")[0].split()[-1]
    document = json.loads(gzip.decompress(base64.b64decode(data)))
    assert (document["logGroup"], document["logStream"], document["subscriptionFilters"]) == (group, stream, ["all"])
    assert document["logEvents"][0]["message"] == "needle 0\n"


def test_events_that_are_too_old_or_too_new_are_named_as_aws_does(shared: Engine) -> None:
    logs, name = shared.client("logs"), f"/rejected/{uuid.uuid4().hex}"
    logs.create_log_group(logGroupName=name)
    logs.create_log_stream(logGroupName=name, logStreamName="s")
    hour, now = 3_600_000, int(time.time() * 1000)
    events = [{"timestamp": now + hours * hour, "message": "m"} for hours in (-15 * 24, -14 * 24 - 1, -1, 0, 3, 4, 5)]
    answer = logs.put_log_events(logGroupName=name, logStreamName="s", logEvents=events)
    assert answer["rejectedLogEventsInfo"] == {"tooOldLogEventEndIndex": 2, "tooNewLogEventStartIndex": 4}
    logs.delete_log_group(logGroupName=name)
