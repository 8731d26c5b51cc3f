"""Stacks made through CloudFormation itself, by whatever client: their functions are the engine's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from engine.aws import embedded
from tests.framework.engine import OWN_RUNTIME, ROLE, Engine, zip_of

pytestmark = pytest.mark.skipif(embedded.available() is not None, reason="the extra 'embedded' is not installed")


def template(number: int, **properties: Any) -> str:
    source = f"def handler(event, context):\n    return [event, {number}]\n"
    function = {"Runtime": OWN_RUNTIME, "Handler": "index.handler", "Role": ROLE, "Code": {"ZipFile": source}, **properties}
    resources = {
        "F": {"Type": "AWS::Lambda::Function", "Properties": function},
        "V": {"Type": "AWS::Lambda::Version", "Properties": {"FunctionName": {"Ref": "F"}}},
        "A": {
            "Type": "AWS::Lambda::Alias",
            "Properties": {"FunctionName": {"Ref": "F"}, "Name": "live", "FunctionVersion": {"Fn::GetAtt": ["V", "Version"]}},
        },
        "P": {
            "Type": "AWS::Lambda::Permission",
            "Properties": {"FunctionName": {"Ref": "F"}, "Action": "lambda:InvokeFunction", "Principal": "s3.amazonaws.com"},
        },
        "U": {"Type": "AWS::Lambda::Url", "Properties": {"TargetFunctionArn": {"Ref": "F"}, "AuthType": "NONE"}},
        "Q": {"Type": "AWS::SQS::Queue"},
        "QP": {
            "Type": "AWS::SQS::QueuePolicy",
            "Properties": {"Queues": [{"Ref": "Q"}], "PolicyDocument": {"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*"}]}},
        },
    }
    outputs = {n: {"Value": {"Ref": n}} for n in ("F", "A", "Q")} | {"U": {"Value": {"Fn::GetAtt": ["U", "FunctionUrl"]}}}
    return json.dumps({"Resources": resources, "Outputs": outputs})


def outputs(client: Any, stack: str) -> dict[str, str]:
    return {o["OutputKey"]: o["OutputValue"] for o in client.describe_stacks(StackName=stack)["Stacks"][0]["Outputs"]}


def result(client: Any, function: str) -> Any:
    return json.load(client.invoke(FunctionName=function, Payload=b"5")["Payload"])


def functions(client: Any, start: str) -> list[str]:
    pages = client.get_paginator("list_functions").paginate()
    return [f["FunctionName"] for page in pages for f in page["Functions"] if f["FunctionName"].startswith(start)]


def test_a_stack_is_created_updated_and_deleted(shared: Engine) -> None:
    formation, client = shared.client("cloudformation"), shared.client()
    formation.create_stack(StackName="cfn-a", TemplateBody=template(1))
    formation.get_waiter("stack_create_complete").wait(StackName="cfn-a")
    made = outputs(formation, "cfn-a")
    assert made["F"].startswith("cfn-a-F-")
    assert result(client, made["A"]) == [5, 1]
    assert ".lambda-url." in made["U"]
    assert json.loads(client.get_policy(FunctionName=made["F"])["Policy"])["Statement"][0]["Principal"] == {"Service": "s3.amazonaws.com"}
    assert "Policy" in shared.client("sqs").get_queue_attributes(QueueUrl=made["Q"], AttributeNames=["Policy"])["Attributes"]

    formation.update_stack(StackName="cfn-a", TemplateBody=template(2, MemorySize=256))
    formation.get_waiter("stack_update_complete").wait(StackName="cfn-a")
    assert outputs(formation, "cfn-a")["F"] == made["F"]
    assert result(client, made["F"]) == [5, 2]
    assert client.get_function_configuration(FunctionName=made["F"])["MemorySize"] == 256
    assert result(client, made["A"]) == [5, 1], "the version did not change"

    formation.delete_stack(StackName="cfn-a")
    formation.get_waiter("stack_delete_complete").wait(StackName="cfn-a")
    assert functions(client, "cfn-a") == []


def test_a_stack_that_cannot_be_made_is_refused_and_leaves_nothing(shared: Engine) -> None:
    formation, client = shared.client("cloudformation"), shared.client()
    document = json.loads(template(1))
    document["Resources"]["Bad"] = {
        "Type": "AWS::Lambda::Alias",
        "Properties": {"FunctionName": {"Ref": "F"}, "Name": "bad", "FunctionVersion": "77"},
        "DependsOn": ["A", "P", "U"],
    }
    with pytest.raises(ClientError, match=r"AWS::Lambda::Alias: ResourceNotFoundException: Function not found: .*:77"):
        formation.create_stack(StackName="cfn-b", TemplateBody=json.dumps(document))
    assert functions(client, "cfn-b") == []
    with pytest.raises(ClientError, match="does not exist"):
        formation.describe_stacks(StackName="cfn-b")


@pytest.mark.slow
def test_aws_cloudformation_deploy_with_a_sam_template_and_code_in_s3(shared: Engine, tmp_path: Path) -> None:
    s3 = shared.client("s3")
    s3.create_bucket(Bucket="cfn-code")
    s3.put_object(Bucket="cfn-code", Key="f.zip", Body=zip_of({"app.py": "def f(event, context):\n    return ['sam', event]\n"}))
    (tmp_path / "t.yaml").write_text(
        "Transform: AWS::Serverless-2016-10-31\nResources:\n  Fn:\n    Type: AWS::Serverless::Function\n    Properties:\n"
        f"      Runtime: {OWN_RUNTIME}\n      Handler: app.f\n      CodeUri: s3://cfn-code/f.zip\n      FunctionName: cfn-c-fn\n      AutoPublishAlias: live\n"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    env |= {"AWS_ENDPOINT_URL": shared.url, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    aws = str(Path(sys.executable).with_name("aws"))
    command = [aws, "cloudformation", "deploy", "--template-file", "t.yaml", "--stack-name", "cfn-c", "--capabilities", "CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    client = shared.client()
    assert result(client, "cfn-c-fn:live") == ["sam", 5]
    shared.client("cloudformation").delete_stack(StackName="cfn-c")
    assert functions(client, "cfn-c") == []
