"""State machines of the embedded Step Functions run: tasks of functions and queues, what fails, and a rule that starts one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from engine.aws import embedded
from tests.framework import wait
from tests.framework.engine import ROLE, Engine

pytestmark = pytest.mark.skipif(embedded.available() is not None, reason="the extra 'embedded' is not installed")

PASSES = '{"StartAt": "A", "States": {"A": {"Type": "Pass", "End": true}}}'
CODE = {"m.py": "def f(e, c):\n    if e.get('bad'): raise ValueError('no')\n    return {'seen': e}\n"}


def ended(machines: Any, arn: str, given: Any) -> dict[str, Any]:
    """What DescribeExecution says of an execution that has ended."""
    execution = machines.start_execution(stateMachineArn=arn, input=json.dumps(given))["executionArn"]

    def described() -> dict[str, Any] | None:
        found = dict(machines.describe_execution(executionArn=execution))
        return None if found["status"] == "RUNNING" else found

    return dict(wait.until(described, "the execution ends", 90))


def test_tasks_are_functions_and_services_of_the_engine(shared: Engine) -> None:
    function = shared.deploy("of-a-machine", CODE)["FunctionArn"]
    sqs, machines, events = shared.client("sqs"), shared.client("stepfunctions"), shared.client("events")
    url = sqs.create_queue(QueueName="of-a-machine")["QueueUrl"]
    states = {
        "Run": {
            "Type": "Task", "Resource": function, "Next": "Tell",
            "Catch": [{"ErrorEquals": ["ValueError"], "ResultPath": "$.error", "Next": "Refuse"}],
        },
        "Tell": {"Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage", "Parameters": {"QueueUrl": url, "MessageBody.$": "$.seen"}, "ResultPath": None, "End": True},
        "Refuse": {"Type": "Fail", "Error": "Refused", "Cause": "it is bad"},
    }  # fmt: skip
    definition = json.dumps({"StartAt": "Run", "States": states})
    arn = machines.create_state_machine(name="of-the-engine", definition=definition, roleArn=ROLE)["stateMachineArn"]
    done = ended(machines, arn, {"n": 1})
    assert (done["status"], json.loads(done["output"])) == ("SUCCEEDED", {"seen": {"n": 1}})
    failed = ended(machines, arn, {"bad": 1})
    assert (failed["status"], failed["error"], failed["cause"]) == ("FAILED", "Refused", "it is bad")
    events.put_rule(Name="of-a-machine", EventPattern='{"source": ["of-a-machine"]}')
    events.put_targets(Rule="of-a-machine", Targets=[{"Id": "1", "Arn": arn, "RoleArn": ROLE, "InputPath": "$.detail"}])
    events.put_events(Entries=[{"Source": "of-a-machine", "DetailType": "d", "Detail": '{"n": 2}'}])
    # By their ids: what takes longer than the visibility timeout is received twice.
    bodies: dict[str, Any] = {}

    def both() -> bool:
        for message in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
            bodies[message["MessageId"]] = json.loads(message["Body"])
        return len(bodies) >= 2

    wait.until(both, "what both executions sent", 90)
    assert sorted(body["n"] for body in bodies.values()) == [1, 2]
    machines.delete_state_machine(stateMachineArn=arn)


@pytest.mark.parametrize(
    ("definition", "code"),
    [("nothing", "INVALID_JSON_DESCRIPTION"), ('{"StartAt": "A", "States": {"A": {"Type": "Nope"}}}', "SCHEMA_VALIDATION_FAILED"), (PASSES, None)],
)
def test_a_definition_is_looked_at_before_a_machine_is_made_of_it(shared: Engine, definition: str, code: str | None) -> None:
    """Terraform does so in every plan."""
    answer = shared.client("stepfunctions").validate_state_machine_definition(definition=definition)
    assert (answer["result"], answer["truncated"], [(d["severity"], d["code"]) for d in answer["diagnostics"]]) == (
        ("FAIL", False, [("ERROR", code)]) if code else ("OK", False, [])
    )


def test_the_versions_of_a_machine_are_told_newest_first_and_by_pages(shared: Engine) -> None:
    machines = shared.client("stepfunctions")
    made = machines.create_state_machine(name="of-versions", definition=PASSES, roleArn=ROLE, publish=True)
    arn = made["stateMachineArn"]
    for _ in range(2):
        machines.update_state_machine(stateMachineArn=arn, definition=PASSES, publish=True)
    first = machines.list_state_machine_versions(stateMachineArn=arn, maxResults=2)
    second = machines.list_state_machine_versions(stateMachineArn=arn, maxResults=2, nextToken=first["nextToken"])
    assert [v["stateMachineVersionArn"] for v in first["stateMachineVersions"]] == [f"{arn}:3", f"{arn}:2"]
    assert [v["stateMachineVersionArn"] for v in second["stateMachineVersions"]] == [made["stateMachineVersionArn"]]
    assert "nextToken" not in second
    with pytest.raises(ClientError, match="InvalidToken"):
        machines.list_state_machine_versions(stateMachineArn=arn, nextToken="x")
    machines.delete_state_machine(stateMachineArn=arn)
    with pytest.raises(ClientError, match=f"InvalidArn.*Invalid arn: {arn}"):
        machines.list_state_machine_versions(stateMachineArn=arn)
