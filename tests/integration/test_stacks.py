"""Templates made real: SAM's, CDK's and plain ones; created, changed, continued, taken away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.aws import embedded
from engine.cli.output import CliError
from engine.cli.session import Session
from engine.cli.stack.stack import Stack
from engine.cli.stacks import stack_of
from tests.framework.engine import OWN_RUNTIME, ROLE, Engine, url_host

pytestmark = pytest.mark.skipif(embedded.available() is not None, reason="the extra 'embedded' is not installed")

SAM = """
AWSTemplateFormatVersion: '2010-09-09'
Transform: AWS::Serverless-2016-10-31
Parameters:
  Greeting: {Type: String, Default: Hello}
Globals:
  Function: {Timeout: 20, MemorySize: 256, Runtime: RUNTIME}
Resources:
  Hello:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: src/
      Handler: app.handler
      AutoPublishAlias: live
      Environment: {Variables: {GREETING: !Ref Greeting, QUEUE: !Ref Inbox}}
      Policies: [AWSLambdaBasicExecutionRole, {SQSSendMessagePolicy: {QueueName: !GetAtt Inbox.QueueName}}]
      FunctionUrlConfig: {AuthType: NONE}
      Layers: [!Ref Shared]
      Tags: {team: a}
  Shared:
    Type: AWS::Serverless::LayerVersion
    Properties: {ContentUri: layer, LayerName: sam-shared, RetentionPolicy: Delete}
  Inbox:
    Type: AWS::SQS::Queue
Outputs:
  Function: {Value: !Ref Hello}
  Alias: {Value: !Ref Hello.Alias}
  Url: {Value: !GetAtt HelloUrl.FunctionUrl}
  Queue: {Value: !GetAtt Inbox.Arn}
"""
APP = "import os, common\ndef handler(event, context):\n    return [os.environ['GREETING'], event['name'], common.NAME, os.environ['QUEUE'].rsplit('/', 1)[0]]\n"


class Project:
    """A directory with a template, deployed to the shared engine."""

    def __init__(self, folder: Path, engine: Engine, template: Any, name: str = "template.yaml") -> None:
        self.folder = folder
        self.engine = engine
        self.path = folder / name
        self.said: list[str] = []
        self.write(template)

    def write(self, template: Any) -> None:
        text = template if isinstance(template, str) else json.dumps(template)
        self.path.write_text(text.replace("RUNTIME", OWN_RUNTIME))

    def stack(self) -> Stack:
        stack = stack_of(Session(self.engine.url), self.path, self.folder.name)
        self.said.clear()
        stack._say = self.said.append
        return stack

    def deploy(self, **parameters: str) -> Any:
        return self.stack().deploy(parameters)

    def invoke(self, function: str, payload: Any = None, **more: Any) -> Any:
        answer = self.engine.client().invoke(FunctionName=function, Payload=json.dumps(payload), **more)
        assert "FunctionError" not in answer
        return json.load(answer["Payload"])


def functions(engine: Engine, start: str) -> list[str]:
    pages = engine.client().get_paginator("list_functions").paginate()
    return [f["FunctionName"] for page in pages for f in page["Functions"] if f["FunctionName"].startswith(start)]


def test_a_sam_template_is_created_updated_and_deleted(shared: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    (folder / "src").mkdir(parents=True)
    (folder / "layer" / "python").mkdir(parents=True)
    (folder / "src" / "app.py").write_text(APP)
    (folder / "layer" / "python" / "common.py").write_text("NAME = 'shared'\n")
    project = Project(folder, shared, SAM)
    state = project.deploy()
    name = state.outputs["Function"]
    assert name.startswith("shop-Hello-")
    assert state.outputs["Alias"].endswith(f":function:{name}:live")
    assert ".lambda-url." in url_host(state.outputs["Url"])
    assert state.outputs["Queue"].startswith("arn:aws:sqs:us-east-1:000000000000:shop-Inbox-")
    first = project.invoke(name, {"name": "Ada"}, Qualifier="live")
    assert first[:3] == ["Hello", "Ada", "shared"]
    client = shared.client()
    function = client.get_function(FunctionName=name)
    assert function["Configuration"]["Role"].startswith("arn:aws:iam::000000000000:role/shop-HelloRole-")
    assert (function["Configuration"]["Timeout"], function["Configuration"]["MemorySize"], function["Tags"]["team"]) == (20, 256, "a")

    # The same once more changes nothing.
    project.deploy()
    assert not [s for s in project.said if s.startswith(("created", "updated", "deleted"))]

    # New code: a new version, to which the alias moves; a parameter: the configuration.
    (folder / "src" / "app.py").write_text(APP.replace("event['name']", "event['name'].upper()"))
    project.deploy(Greeting="Moin")
    assert project.invoke(name, {"name": "Ada"}, Qualifier="live")[:2] == ["Moin", "ADA"]

    # What a template leaves out goes.
    project.write(SAM.replace("      FunctionUrlConfig: {AuthType: NONE}\n", "").replace("  Url: {Value: !GetAtt HelloUrl.FunctionUrl}\n", ""))
    project.deploy(Greeting="Moin")
    assert client.list_function_url_configs(FunctionName=name)["FunctionUrlConfigs"] == []
    assert "deleted HelloUrl (AWS::Lambda::Url)" in project.said

    assert project.stack().delete()
    assert functions(shared, "shop-") == []
    assert not [layer for layer in client.list_layers()["Layers"] if layer["LayerName"] == "sam-shared"]
    assert shared.client("sqs").list_queues(QueueNamePrefix="shop-").get("QueueUrls", []) == []
    assert not project.stack().delete()


def cdk_assembly(folder: Path) -> Path:
    """What ``cdk synth`` writes for a stack with one asset, an inline function and an alias."""
    asset = folder / "asset.2f3c8a"
    asset.mkdir(parents=True)
    (asset / "index.py").write_text("import os\ndef handler(event, context):\n    return [os.environ['OTHER'], event]\n")
    bucket = {"Fn::Sub": "cdk-hnb659fds-assets-${AWS::AccountId}-${AWS::Region}"}
    role = {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "AssumeRolePolicyDocument": {
                "Statement": [{"Action": "sts:AssumeRole", "Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}}],
                "Version": "2012-10-17",
            },
            "ManagedPolicyArns": [
                {"Fn::Join": ["", ["arn:", {"Ref": "AWS::Partition"}, ":iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"]]}
            ],
        },
    }
    template = {
        "Resources": {
            "WorkerServiceRole3A": role,
            "Worker7C": {
                "Type": "AWS::Lambda::Function",
                "Properties": {
                    "Code": {"S3Bucket": bucket, "S3Key": "2f3c8a.zip"},
                    "Environment": {"Variables": {"OTHER": {"Ref": "Inline9D"}}},
                    "Handler": "index.handler",
                    "Role": {"Fn::GetAtt": ["WorkerServiceRole3A", "Arn"]},
                    "Runtime": OWN_RUNTIME,
                },
                "DependsOn": ["WorkerServiceRole3A"],
                "Metadata": {"aws:cdk:path": "Demo/Worker/Resource", "aws:asset:path": "asset.2f3c8a", "aws:asset:property": "Code"},
            },
            "Inline9D": {
                "Type": "AWS::Lambda::Function",
                "Properties": {
                    "Code": {"ZipFile": "def handler(event, context):\n    return 'inline'\n"},
                    "FunctionName": "cdk-inline",
                    "Handler": "index.handler",
                    "Role": {"Fn::GetAtt": ["WorkerServiceRole3A", "Arn"]},
                    "Runtime": OWN_RUNTIME,
                    "ReservedConcurrentExecutions": 3,
                    "RuntimeManagementConfig": {"UpdateRuntimeOn": "FunctionUpdate"},
                },
            },
            "WorkerVersionA1": {"Type": "AWS::Lambda::Version", "Properties": {"FunctionName": {"Ref": "Worker7C"}, "RuntimePolicy": {"UpdateRuntimeOn": "FunctionUpdate"}}},
            "LiveB2": {
                "Type": "AWS::Lambda::Alias",
                "Properties": {
                    "FunctionName": {"Ref": "Worker7C"},
                    "FunctionVersion": {"Fn::GetAtt": ["WorkerVersionA1", "Version"]},
                    "Name": "live",
                },
            },
            "RuleC3": {
                "Type": "AWS::Events::Rule",
                "Properties": {
                    "ScheduleExpression": "rate(1 day)",
                    "State": "DISABLED",
                    "Targets": [{"Arn": {"Fn::GetAtt": ["Worker7C", "Arn"]}, "Id": "Target0"}],
                },
            },
            "RuleAllowD4": {
                "Type": "AWS::Lambda::Permission",
                "Properties": {
                    "Action": "lambda:InvokeFunction",
                    "FunctionName": {"Fn::GetAtt": ["Worker7C", "Arn"]},
                    "Principal": "events.amazonaws.com",
                    "SourceArn": {"Fn::GetAtt": ["RuleC3", "Arn"]},
                },
            },
            "CDKMetadata": {"Type": "AWS::CDK::Metadata", "Properties": {"Analytics": "v2:deflate64:H4"}, "Condition": "CDKMetadataAvailable"},
        },
        "Conditions": {"CDKMetadataAvailable": {"Fn::Or": [{"Fn::Equals": [{"Ref": "AWS::Region"}, "us-east-1"]}, {"Fn::Equals": ["a", "b"]}]}},
        "Parameters": {"BootstrapVersion": {"Type": "AWS::SSM::Parameter::Value<String>", "Default": "/cdk-bootstrap/hnb659fds/version"}},
        "Rules": {"CheckBootstrapVersion": {"Assertions": []}},
        "Outputs": {"Name": {"Value": {"Ref": "Worker7C"}}, "Live": {"Value": {"Ref": "LiveB2"}}},
    }
    manifest = {
        "version": "44.0.0",
        "files": {
            "2f3c8a": {
                "source": {"path": "asset.2f3c8a", "packaging": "zip"},
                "destinations": {"current": {"bucketName": "cdk-hnb659fds-assets-${AWS::AccountId}-${AWS::Region}", "objectKey": "2f3c8a.zip"}},
            }
        },
        "dockerImages": {},
    }
    path = folder / "Demo.template.json"
    path.write_text(json.dumps(template, indent=1))
    (folder / "Demo.assets.json").write_text(json.dumps(manifest))
    return path


def test_a_template_that_cdk_synthesised_goes_the_same_way(shared: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "cdkout"
    path = cdk_assembly(folder)
    project = Project(folder, shared, path.read_text(), path.name)
    state = project.deploy()
    assert project.invoke(state.outputs["Live"], 1) == ["cdk-inline", 1]
    assert project.invoke("cdk-inline") == "inline"
    client = shared.client()
    assert client.get_function_concurrency(FunctionName="cdk-inline")["ReservedConcurrentExecutions"] == 3
    held = [("cdk-inline", "$LATEST"), (state.outputs["Name"], "1"), (state.outputs["Name"], "$LATEST")]
    modes = [client.get_runtime_management_config(FunctionName=name, Qualifier=qualifier)["UpdateRuntimeOn"] for name, qualifier in held]
    assert modes == ["FunctionUpdate", "FunctionUpdate", "Auto"]
    policy = json.loads(client.get_policy(FunctionName=state.outputs["Name"])["Policy"])
    assert policy["Statement"][0]["Condition"]["ArnLike"]["AWS:SourceArn"].startswith("arn:aws:events:us-east-1:000000000000:rule/cdkout-")
    (rule,) = [r for r in shared.client("events").list_rules()["Rules"] if r["Name"].startswith("cdkout-")]
    (target,) = shared.client("events").list_targets_by_rule(Rule=rule["Name"])["Targets"]
    assert target["Arn"].endswith(f":function:{state.outputs['Name']}")
    assert project.stack().delete()
    assert functions(shared, "cdk") == []


def plain(**resources: Any) -> dict[str, Any]:
    return {"Resources": resources}


def function(**properties: Any) -> dict[str, Any]:
    code = {"ZipFile": "def handler(event, context):\n    return event\n"}
    return {
        "Type": "AWS::Lambda::Function",
        "Properties": {"Code": code, "Handler": "index.handler", "Role": ROLE, "Runtime": OWN_RUNTIME, **properties},
    }


def test_a_stack_that_cannot_be_made_is_taken_away_again(shared: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "halfway"
    folder.mkdir()
    bad = plain(Good=function(FunctionName="halfway-good"), Bad={**function(Runtime="cobol", FunctionName="halfway-bad"), "DependsOn": "Good"})
    project = Project(folder, shared, bad, "t.json")
    with pytest.raises(CliError, match="Value cobol at 'runtime'"):
        project.deploy()
    assert "created Good (AWS::Lambda::Function)" in project.said
    assert functions(shared, "halfway-") == []
    assert not project.stack().delete()


def test_a_failed_update_is_continued_by_the_next(shared: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    folder.mkdir()
    project = Project(folder, shared, plain(One=function(FunctionName="again-one")), "t.json")
    project.deploy()
    both = plain(One=function(FunctionName="again-one", MemorySize=256), Two={**function(FunctionName="again-two", Timeout=901), "DependsOn": "One"})
    project.write(both)
    with pytest.raises(CliError, match="timeout"):
        project.deploy()
    assert functions(shared, "again-") == ["again-one"]
    both["Resources"]["Two"]["Properties"]["Timeout"] = 900
    project.write(both)
    project.deploy()
    assert [s for s in project.said if "One" in s] == []
    assert sorted(functions(shared, "again-")) == ["again-one", "again-two"]
    # Deleted behind the stack's back: made again when it changes.
    shared.client().delete_function(FunctionName="again-one")
    both["Resources"]["One"]["Properties"]["MemorySize"] = 512
    project.write(both)
    project.deploy()
    assert shared.client().get_function_configuration(FunctionName="again-one")["MemorySize"] == 512
    # A function whose name changes is another one.
    both["Resources"]["One"]["Properties"]["FunctionName"] = "again-other"
    project.write(both)
    project.deploy()
    assert sorted(functions(shared, "again-")) == ["again-other", "again-two"]
    both["Resources"]["Two"]["DeletionPolicy"] = "Retain"
    project.write(both)
    project.deploy()
    project.stack().delete()
    assert functions(shared, "again-") == ["again-two"]
    shared.client().delete_function(FunctionName="again-two")


def test_a_function_is_let_go_before_its_runtime_changes_and_held_after(shared: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "letting"
    folder.mkdir()
    client = shared.client()
    project = Project(folder, shared, plain(One=function(FunctionName="letting-one")), "t.json")
    project.deploy()
    arn = client.get_function_configuration(FunctionName="letting-one")["RuntimeVersionConfig"]["RuntimeVersionArn"]
    held = {"UpdateRuntimeOn": "Manual", "RuntimeVersionArn": arn}
    for runtime, properties in ((OWN_RUNTIME, {"RuntimeManagementConfig": held}), ("provided.al2023", {}), (OWN_RUNTIME, {"RuntimeManagementConfig": held})):
        project.write(plain(One=function(FunctionName="letting-one", **{"Runtime": runtime, **properties})))
        project.deploy()
        assert client.get_function_configuration(FunctionName="letting-one")["Runtime"] == runtime
        mode = client.get_runtime_management_config(FunctionName="letting-one")
        assert (mode["UpdateRuntimeOn"], mode.get("RuntimeVersionArn")) == (("Manual", arn) if properties else ("Auto", None))
    project.stack().delete()


def test_resources_beside_lambda_that_cloudformation_does_not_know(shared: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "beside"
    folder.mkdir()
    everybody = {"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}]}
    template = plain(
        F=function(),
        Bucket={"Type": "AWS::S3::Bucket", "Properties": {}},
        Queue={"Type": "AWS::SQS::Queue", "Properties": {}},
        Topic={"Type": "AWS::SNS::Topic", "Properties": {}},
        BucketPolicy={"Type": "AWS::S3::BucketPolicy", "Properties": {"Bucket": {"Ref": "Bucket"}, "PolicyDocument": everybody}},
        QueuePolicy={"Type": "AWS::SQS::QueuePolicy", "Properties": {"Queues": [{"Ref": "Queue"}], "PolicyDocument": everybody}},
        TopicPolicy={"Type": "AWS::SNS::TopicPolicy", "Properties": {"Topics": [{"Ref": "Topic"}], "PolicyDocument": everybody}},
        Sub={
            "Type": "AWS::SNS::Subscription",
            "Properties": {"TopicArn": {"Ref": "Topic"}, "Protocol": "sqs", "Endpoint": {"Fn::GetAtt": ["Queue", "Arn"]}, "FilterPolicy": {"a": ["b"]}},
        },
    )
    template["Outputs"] = {n: {"Value": {"Ref": n}} for n in ("Bucket", "Queue", "Topic", "Sub")}
    project = Project(folder, shared, template, "t.json")
    made = project.deploy().outputs
    assert json.loads(shared.client("s3").get_bucket_policy(Bucket=made["Bucket"])["Policy"]) == everybody
    queue = shared.client("sqs").get_queue_attributes(QueueUrl=made["Queue"], AttributeNames=["Policy"])["Attributes"]
    assert json.loads(queue["Policy"]) == everybody
    sns = shared.client("sns")
    assert json.loads(sns.get_topic_attributes(TopicArn=made["Topic"])["Attributes"]["Policy"]) == everybody
    assert sns.get_subscription_attributes(SubscriptionArn=made["Sub"])["Attributes"]["FilterPolicy"] == '{"a": ["b"]}'
    assert project.stack().delete()
    assert made["Topic"] not in [t["TopicArn"] for t in sns.list_topics()["Topics"]]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (plain(X={"Type": "AWS::Foo::Bar", "Properties": {}}), r"nothing here makes X \(AWS::Foo::Bar\)"),
        (plain(X={"Type": "AWS::Lambda::CapacityProvider"}), "does not deploy resources of type AWS::Lambda::CapacityProvider"),
        (plain(F=function(Description={"Ref": "Nobody"})), "refers to Nobody, which it does not have"),
        ({**plain(F=function()), "Transform": "AWS::LanguageExtensions"}, "transform AWS::LanguageExtensions is not supported"),
        (plain(F=function(Description={"Ref": "Q"}), Q={"Type": "AWS::SQS::Queue", "Properties": {"QueueName": {"Ref": "V"}}},
               V={"Type": "AWS::Lambda::Version", "Properties": {"FunctionName": {"Ref": "F"}}}), "refer to each other in a circle: F, V"),
    ],
)  # fmt: skip
def test_what_cannot_be_deployed_is_refused_by_name(shared: Engine, tmp_path: Path, template: Any, words: str) -> None:
    folder = tmp_path / "refused"
    folder.mkdir()
    project = Project(folder, shared, template, "t.json")
    with pytest.raises(CliError, match=words):
        project.deploy()
    assert functions(shared, "refused-") == []


def test_an_invalid_sam_template_is_refused_in_the_translators_words(shared: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "invalid"
    folder.mkdir()
    sam = {"Transform": "AWS::Serverless-2016-10-31", **plain(F={"Type": "AWS::Serverless::Function", "Properties": {"CodeUri": "nowhere"}})}
    project = Project(folder, shared, sam, "t.json")
    with pytest.raises(CliError, match="CodeUri nowhere is not there"):
        project.deploy()
    sam["Resources"]["F"]["Properties"]["CodeUri"] = "."
    project.write(sam)
    with pytest.raises(CliError, match=r"the SAM template is not valid: .*Runtime"):
        project.deploy()
