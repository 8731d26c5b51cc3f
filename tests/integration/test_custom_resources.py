"""Custom resources: made, changed and deleted by functions, which answer by writing to the URL they are given."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.aws import embedded
from engine.aws.custom_resources import About, CustomResources, Failed
from engine.aws.lambda_resources import Made
from tests.framework import clients, host, stacks
from tests.framework.engine import OWN_RUNTIME, ROLE, Engine, engine
from tests.framework.wait import until

pytestmark = pytest.mark.skipif(embedded.available() is not None, reason="the extra 'embedded' is not installed")
MAKER = """
import json, urllib.request
def handler(event, context):
    print(event["RequestType"], event.get("PhysicalResourceId"), json.dumps(event["ResourceProperties"], sort_keys=True))
    wanted = event["ResourceProperties"]
    if wanted.get("Raise") == "true":
        raise ValueError("no answer")
    answer = {"Status": "FAILED" if wanted.get("Fail") == event["RequestType"] else "SUCCESS", "Reason": "as it was asked to",
              "PhysicalResourceId": "made-" + wanted["Name"], "Data": {"Word": wanted["Name"] * int(wanted["Count"]), "Deep": {"Er": 1}},
              **{k: event[k] for k in ("StackId", "RequestId", "LogicalResourceId")}}
    request = urllib.request.Request(event["ResponseURL"], json.dumps(answer).encode(), {"Content-Type": ""}, method="PUT")
    urllib.request.urlopen(request)
"""
# As cfn-response does it, and CDK's provider framework: https, the URL's host and path, whatever its scheme and port.
NODE_MAKER = """
const https = require('https');
exports.handler = (event) => new Promise((resolve, reject) => {
  const url = new URL(event.ResponseURL);
  const { StackId, RequestId, LogicalResourceId } = event;
  const body = JSON.stringify({ Status: 'SUCCESS', PhysicalResourceId: 'node', Data: { Word: event.ResourceType }, StackId, RequestId, LogicalResourceId });
  const options = { hostname: url.hostname, port: 443, path: url.pathname + url.search, method: 'PUT',
    headers: { 'content-type': '', 'content-length': Buffer.byteLength(body) } };
  const request = https.request(options, (answer) => answer.statusCode === 200 ? resolve() : reject(new Error(answer.statusCode)));
  request.on('error', reject);
  request.end(body);
});
"""


def template(kind: str = "Custom::Thing", runtime: str = OWN_RUNTIME, source: str = MAKER, **properties: Any) -> str:
    maker = {"Runtime": runtime, "Handler": "index.handler", "Role": ROLE, "Code": {"ZipFile": source}, "Timeout": 30}
    return json.dumps(
        {
            "Resources": {
                "Thing": {
                    "Type": kind,
                    "Properties": {"ServiceToken": {"Fn::GetAtt": ["Maker", "Arn"]}, "Name": "a", "Count": 3, "ServiceTimeout": 60, **properties},
                },
                "Maker": {"Type": "AWS::Lambda::Function", "Properties": maker},
            },
            "Outputs": {"Id": {"Value": {"Ref": "Thing"}}, "Word": {"Value": {"Fn::GetAtt": ["Thing", "Word"]}}, "Maker": {"Value": {"Ref": "Maker"}}},
        }
    )


def asked(running: Engine, function: str, count: int) -> list[str]:
    """What the function was asked for, once it was asked so often."""
    logs = running.client("logs")

    def lines() -> list[str] | None:
        try:
            found = logs.filter_log_events(logGroupName=f"/aws/lambda/{function}", filterPattern="?Create ?Update ?Delete")["events"]
        except logs.exceptions.ResourceNotFoundException:
            return None
        told = [event["message"].strip() for event in found]
        return told if len(told) >= count else None

    return until(lines, f"{count} requests to {function}")


def test_a_function_makes_changes_and_deletes_a_resource(shared: Engine) -> None:
    formation = shared.client("cloudformation")
    formation.create_stack(StackName="custom-a", TemplateBody=template(Flag=True, List=[1, {"x": 2.5}]))
    stacks.finished(formation, "custom-a", "create")
    made = stacks.outputs(formation, "custom-a")
    assert (made["Id"], made["Word"]) == ("made-a", "aaa")
    formation.update_stack(StackName="custom-a", TemplateBody=template(Count=2))
    stacks.finished(formation, "custom-a", "update")
    assert stacks.outputs(formation, "custom-a")["Word"] == "aa"
    formation.update_stack(StackName="custom-a", TemplateBody=template(Name="b"))
    stacks.finished(formation, "custom-a", "update")
    assert stacks.outputs(formation, "custom-a")["Id"] == "made-b"
    formation.delete_stack(StackName="custom-a")
    stacks.finished(formation, "custom-a", "delete")
    told = asked(shared, made["Maker"], 5)
    assert [line.split(" {")[0] for line in told] == ["Create None", "Update made-a", "Update made-a", "Delete made-a", "Delete made-b"]
    properties = json.loads(told[0].partition(" None ")[2])
    assert properties.pop("ServiceToken").endswith(made["Maker"])
    assert properties == {"Name": "a", "Count": "3", "Flag": "true", "List": ["1", {"x": "2.5"}]}
    left = shared.client("s3").list_objects_v2(Bucket="cloudformation-custom-resource-response").get("Contents", [])
    assert not [key for key in left if "custom-a" in key["Key"]]


@pytest.mark.parametrize(
    ("name", "properties", "words"),
    [
        ("custom-b", {"Fail": "Create"}, r"Received response status \[FAILED\] from custom resource. Message returned: as it was asked to \(RequestId: "),
        ("custom-c", {"Raise": True}, "failed without an answer: .*no answer"),
        ("custom-d", {"ServiceToken": "arn:aws:sns:us-east-1:000000000000:topic"}, "this engine's custom resources are functions"),
    ],
)
def test_a_resource_that_is_not_made_takes_the_stack_away(shared: Engine, name: str, properties: dict[str, Any], words: str) -> None:
    formation = shared.client("cloudformation")
    formation.create_stack(StackName=name, TemplateBody=template(**properties))
    with pytest.raises(AssertionError, match=f"Thing CREATE_FAILED Custom::Thing: Failed: .*{words}"):
        stacks.finished(formation, name, "create")
    until(lambda: formation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"] == "ROLLBACK_COMPLETE", "everything is taken away")


@pytest.mark.slow
def test_nodejs_functions_answer_by_https() -> None:
    host.require("no Node.js with npm")
    with engine(runtimes={"nodejs20.x": str(clients.node_program(20))}, pool_size=1) as running:
        formation = running.client("cloudformation")
        formation.create_stack(StackName="custom-e", TemplateBody=template("AWS::CloudFormation::CustomResource", "nodejs20.x", NODE_MAKER))
        stacks.finished(formation, "custom-e", "create")
        made = stacks.outputs(formation, "custom-e")
        assert (made["Id"], made["Word"]) == ("node", "AWS::CloudFormation::CustomResource")
        formation.delete_stack(StackName="custom-e")
        stacks.finished(formation, "custom-e", "delete")


def test_an_answer_may_come_later_or_never(shared: Engine) -> None:
    """Some functions leave the answer to others."""
    name = "custom-late"
    shared.deploy(name, {"m.py": "def f(event, context):\n    return None\n"})
    token = f"arn:aws:lambda:us-east-1:000000000000:function:{name}"
    client, waits = shared.client, []

    def late(_wait_s: float) -> None:
        waits.append(_wait_s)
        if len(waits) == 3:
            s3 = client("s3")
            (key,) = [o["Key"] for o in s3.list_objects_v2(Bucket="late-keys")["Contents"]]
            s3.put_object(Bucket="cloudformation-custom-resource-response", Key=key, Body=b'{"Status": "SUCCESS", "PhysicalResourceId": "x"}')

    class Noting:
        """Notes the key of what is signed, for the test to write there."""

        def generate_presigned_url(self, _operation: str, **options: Any) -> str:
            client("s3").create_bucket(Bucket="late-keys")
            client("s3").put_object(Bucket="late-keys", Key=options["Params"]["Key"], Body=b"")
            return "http://nowhere"

    custom = CustomResources(lambda service, **_config: client(service), lambda _service: Noting(), late)
    about = About("arn:aws:cloudformation:us-east-1:000000000000:stack/s/1", "Late", "Custom::Late")
    assert custom.create(about, {"ServiceToken": token}) == Made("x", "x", {})
    with pytest.raises(Failed, match="CloudFormation did not receive a response from your Custom Resource"):
        custom.create(about, {"ServiceToken": token, "ServiceTimeout": "0.05"})
