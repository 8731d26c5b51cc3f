"""Resources beside functions that templates commonly have, through the embedded CloudFormation."""

from __future__ import annotations

import importlib.util
import json
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

from engine.aws import embedded
from tests.framework import stacks
from tests.framework.engine import OWN_RUNTIME, Engine

pytestmark = pytest.mark.skipif(embedded.available() is not None, reason="the extra 'embedded' is not installed")
with_sam = pytest.mark.skipif(importlib.util.find_spec("samtranslator") is None, reason="the extra 'sam' is not installed")


def template(threshold: int, description: str) -> str:
    generate = {"SecretStringTemplate": '{"user": "u"}', "GenerateStringKey": "password", "PasswordLength": "20", "ExcludePunctuation": True}
    alarm = {"MetricName": "Errors", "Namespace": "AWS/Lambda", "Statistic": "Sum", "Period": "60", "EvaluationPeriods": "1", "Threshold": threshold,
             "ComparisonOperator": "GreaterThanThreshold"}  # fmt: skip
    transformation = {"MetricName": "m", "MetricNamespace": "n", "MetricValue": "1"}
    resources: dict[str, Any] = {
        "Client": {"Type": "AWS::Cognito::UserPoolClient", "Properties": {"UserPoolId": {"Ref": "Pool"}, "GenerateSecret": True}},
        "Filter": {"Type": "AWS::Logs::MetricFilter", "Properties": {"LogGroupName": {"Ref": "Logs"}, "FilterPattern": "ERROR", "MetricTransformations": [transformation]}},
        "Logs": {"Type": "AWS::Logs::LogGroup", "Properties": {}},
        "Pool": {"Type": "AWS::Cognito::UserPool", "Properties": {"AutoVerifiedAttributes": ["email"]}},
        "Secret": {"Type": "AWS::SecretsManager::Secret", "Properties": {"GenerateSecretString": generate, "Description": description}},
        "Plain": {"Type": "AWS::SecretsManager::Secret", "Properties": {"SecretString": description}},
        "Alarm": {"Type": "AWS::CloudWatch::Alarm", "Properties": alarm},
    }
    outputs = {name: {"Value": {"Ref": name}} for name in resources} | {"Url": {"Value": {"Fn::GetAtt": ["Pool", "ProviderURL"]}}}
    return json.dumps({"Resources": resources, "Outputs": outputs})


def test_common_resources_are_made_changed_and_deleted(shared: Engine) -> None:
    formation, secrets, watch = shared.client("cloudformation"), shared.client("secretsmanager"), shared.client("cloudwatch")
    formation.create_stack(StackName="common", TemplateBody=template(1, "first"))
    stacks.finished(formation, "common", "create")
    made = stacks.outputs(formation, "common")
    generated = json.loads(secrets.get_secret_value(SecretId=made["Secret"])["SecretString"])
    assert (generated["user"], len(generated["password"])) == ("u", 20)
    assert made["Url"].endswith(made["Pool"])
    assert shared.client("cognito-idp").describe_user_pool_client(UserPoolId=made["Pool"], ClientId=made["Client"])["UserPoolClient"]["ClientSecret"]
    assert [f["filterPattern"] for f in shared.client("logs").describe_metric_filters(logGroupName=made["Logs"])["metricFilters"]] == ["ERROR"]

    formation.update_stack(StackName="common", TemplateBody=template(5, "second"))
    stacks.finished(formation, "common", "update")
    assert stacks.outputs(formation, "common") == made
    assert watch.describe_alarms(AlarmNames=[made["Alarm"]])["MetricAlarms"][0]["Threshold"] == 5
    assert json.loads(secrets.get_secret_value(SecretId=made["Secret"])["SecretString"]) == generated, "another description, the same secret"
    assert secrets.get_secret_value(SecretId=made["Plain"])["SecretString"] == "second"

    formation.delete_stack(StackName="common")
    stacks.finished(formation, "common", "delete")
    assert watch.describe_alarms(AlarmNames=[made["Alarm"]])["MetricAlarms"] == []
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        secrets.get_secret_value(SecretId=made["Secret"])


def role_template(action: str, managed: list[str], path: str = "inline") -> str:
    statement = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    policy = {"PolicyName": path, "PolicyDocument": {"Statement": [{"Effect": "Allow", "Action": action, "Resource": "*"}]}}
    properties = {
        "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [statement]}, "Policies": [policy],
        "ManagedPolicyArns": [f"arn:aws:iam::aws:policy/{name}" for name in managed],
    }  # fmt: skip
    return json.dumps({"Resources": {"R": {"Type": "AWS::IAM::Role", "Properties": properties}}, "Outputs": {"R": {"Value": {"Ref": "R"}}}})


def test_a_stacks_role_has_the_policies_of_its_template_and_loses_those_taken_out(shared: Engine) -> None:
    formation, iam = shared.client("cloudformation"), shared.client("iam")
    formation.create_stack(StackName="rights", TemplateBody=role_template("s3:*", ["service-role/AWSLambdaBasicExecutionRole", "AmazonS3FullAccess"]))
    stacks.finished(formation, "rights", "create")
    role = stacks.outputs(formation, "rights")["R"]
    attached = {p["PolicyName"] for p in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]}
    assert attached == {"AWSLambdaBasicExecutionRole", "AmazonS3FullAccess"}
    other = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sns:*", "Resource": "*"}]}
    iam.put_role_policy(RoleName=role, PolicyName="other", PolicyDocument=json.dumps(other))

    formation.update_stack(StackName="rights", TemplateBody=role_template("sqs:*", ["AmazonS3ReadOnlyAccess"], "second"))
    stacks.finished(formation, "rights", "update")
    assert [p["PolicyName"] for p in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]] == ["AmazonS3ReadOnlyAccess"]
    assert set(iam.list_role_policies(RoleName=role)["PolicyNames"]) == {"second", "other"}
    assert iam.get_role_policy(RoleName=role, PolicyName="second")["PolicyDocument"]["Statement"][0]["Action"] == "sqs:*"
    iam.delete_role_policy(RoleName=role, PolicyName="other")

    formation.delete_stack(StackName="rights")
    stacks.finished(formation, "rights", "delete")
    with pytest.raises(ClientError, match="NoSuchEntity"):
        iam.get_role(RoleName=role)


def test_a_stacks_role_with_a_managed_policy_that_is_none_is_not_made(shared: Engine) -> None:
    formation = shared.client("cloudformation")
    formation.create_stack(StackName="no-rights", TemplateBody=role_template("s3:*", ["NoSuchPolicy"]), OnFailure="DO_NOTHING")
    with pytest.raises(AssertionError, match="NoSuchPolicy does not exist or is not attachable"):
        stacks.finished(formation, "no-rights", "create")
    formation.delete_stack(StackName="no-rights")
    stacks.finished(formation, "no-rights", "delete")


SAM = """
Transform: AWS::Serverless-2016-10-31
Parameters: {Seconds: {Type: String, Default: "7"}}
Resources:
  F:
    Type: AWS::Serverless::Function
    Properties:
      Runtime: RUNTIME
      Handler: index.f
      Timeout: !Ref Seconds
      Environment: {Variables: {PERIOD: 5, FLAG: true, RATIO: 0.5, QUEUE: !GetAtt Q.QueueUrl}}
      InlineCode: |
        import os
        def f(e, c): return {k: os.environ[k] for k in ("PERIOD", "FLAG", "RATIO", "QUEUE")}
      AutoPublishAlias: live
      DeploymentPreference: {Type: AllAtOnce}
  Q: {Type: AWS::SQS::Queue, Properties: {FifoQueue: true, VisibilityTimeout: "60"}}
  T: {Type: AWS::SNS::Topic, Properties: {FifoTopic: true}}
  QP: {Type: AWS::SQS::QueueInlinePolicy, Properties: {Queue: !Ref Q, PolicyDocument: {Version: "2012-10-17", Statement: []}}}
  TP: {Type: AWS::SNS::TopicInlinePolicy, Properties: {TopicArn: !GetAtt T.TopicArn, PolicyDocument: {Version: "2012-10-17", Statement: []}}}
  G:
    Type: AWS::DynamoDB::GlobalTable
    Properties:
      AttributeDefinitions: [{AttributeName: id, AttributeType: S}, {AttributeName: at, AttributeType: N}]
      KeySchema: [{AttributeName: id, KeyType: HASH}]
      BillingMode: PAY_PER_REQUEST
      StreamSpecification: {StreamViewType: NEW_IMAGE}
      TimeToLiveSpecification: {AttributeName: ttl, Enabled: true}
      GlobalSecondaryIndexes: [{IndexName: by-at, KeySchema: [{AttributeName: at, KeyType: HASH}], Projection: {ProjectionType: ALL}}]
      Replicas: [{Region: us-east-1, Tags: [{Key: k, Value: v}]}]
  S: {Type: AWS::SSM::Parameter, Properties: {Type: String, Value: !Ref Seconds, Tags: {a: b}}}
  M:
    Type: AWS::StepFunctions::StateMachine
    Properties:
      RoleArn: arn:aws:iam::000000000000:role/r
      Definition: {StartAt: "${First}", States: {A: {Type: Pass, End: true}}}
      DefinitionSubstitutions: {First: A}
  P: {Type: AWS::Cognito::UserPool}
  PD: {Type: AWS::Cognito::UserPoolDomain, Properties: {Domain: UNIQUE, UserPoolId: !Ref P}}
  PG: {Type: AWS::Cognito::UserPoolGroup, Properties: {UserPoolId: !Ref P, Precedence: "1"}}
  PS: {Type: AWS::Cognito::UserPoolResourceServer, Properties: {Identifier: x, Name: y, UserPoolId: !Ref P, Scopes: [{ScopeName: a, ScopeDescription: b}]}}
  L: {Type: AWS::Logs::LogGroup}
  LS: {Type: AWS::Logs::LogStream, Properties: {LogGroupName: !Ref L}}
  A: {Type: AWS::ApiGateway::RestApi, Properties: {Name: further}}
  V: {Type: AWS::ApiGateway::RequestValidator, Properties: {RestApiId: !Ref A, ValidateRequestParameters: true}}
  MO: {Type: AWS::ApiGateway::Model, Properties: {RestApiId: !Ref A, Schema: {type: object}}}
  C: {Type: AWS::Lambda::CodeSigningConfig, Properties: {AllowedPublishers: {SigningProfileVersionArns: ["arn:aws:signer:us-east-1:000000000000:/signing-profiles/p/1234567890"]}}}
  B: {Type: AWS::Events::EventBus, Properties: {Name: UNIQUE}}
  E: {Type: AWS::ECR::Repository}
  K: {Type: AWS::KMS::Key, Properties: {KeyPolicy: {Version: "2012-10-17", Statement: []}}}
  I: {Type: AWS::IAM::ManagedPolicy, Properties: {PolicyDocument: {Version: "2012-10-17", Statement: [{Effect: Allow, Action: "s3:*", Resource: "*"}]}}}
  X: {Type: AWS::SecretsManager::Secret}
Outputs:
  F: {Value: !Ref F}
  Q: {Value: !Ref Q}
  G: {Value: !Ref G}
  Stream: {Value: !GetAtt G.StreamArn}
  S: {Value: !Ref S}
  SV: {Value: !GetAtt S.Value}
  M: {Value: !GetAtt M.Arn}
  N: {Value: !GetAtt M.Name}
  B: {Value: !Ref B}
  E: {Value: !Ref E}
  K: {Value: !GetAtt K.KeyId}
  I: {Value: !GetAtt I.PolicyArn}
  T: {Value: !Ref T}
  C: {Value: !GetAtt C.CodeSigningConfigArn}
  L: {Value: !Ref L}
  V: {Value: !Ref V}
"""


@with_sam
def test_what_templates_ask_for_now_and_then(shared: Engine) -> None:
    """Names made up as each service wants them, numbers as text and the other way round, attributes that moto does not know."""
    formation, stack = shared.client("cloudformation"), f"further-{uuid.uuid4().hex[:8]}"
    body = SAM.replace("RUNTIME", OWN_RUNTIME).replace("UNIQUE", stack)
    formation.create_stack(StackName=stack, TemplateBody=body, Capabilities=["CAPABILITY_AUTO_EXPAND", "CAPABILITY_IAM"])
    stacks.finished(formation, stack, "create")
    made = stacks.outputs(formation, stack)
    client = shared.client()
    said = json.loads(client.invoke(FunctionName=made["F"])["Payload"].read())
    assert said == {"PERIOD": "5", "FLAG": "true", "RATIO": "0.5", "QUEUE": made["Q"]}
    assert client.get_function_configuration(FunctionName=made["F"])["Timeout"] == 7
    assert client.get_alias(FunctionName=made["F"], Name="live")["FunctionVersion"] == "1"
    assert made["Q"].startswith("http://127.0.0.1:"), "no SDK is sent to the real AWS"
    assert (made["Q"][-5:], made["T"][-5:], made["B"], made["SV"]) == (".fifo", ".fifo", stack, "7")
    assert made["E"] == made["E"].lower()
    assert made["I"].endswith(shared.client("iam").get_policy(PolicyArn=made["I"])["Policy"]["PolicyName"])
    assert shared.client("kms").describe_key(KeyId=made["K"])["KeyMetadata"]["KeyId"] == made["K"]
    assert shared.client("ssm").get_parameter(Name=made["S"])["Parameter"]["Value"] == "7"
    machine = shared.client("stepfunctions").describe_state_machine(stateMachineArn=made["M"])
    assert (json.loads(machine["definition"])["StartAt"], machine["name"]) == ("A", made["N"])
    table = shared.client("dynamodb").describe_table(TableName=made["G"])["Table"]
    assert (table["LatestStreamArn"], [i["IndexName"] for i in table["GlobalSecondaryIndexes"]]) == (made["Stream"], ["by-at"])
    body = body.replace('Default: "7"', 'Default: "8"').replace("First: A", "First: B").replace("States: {A", "States: {B").replace("ttl", "ttl2")
    formation.update_stack(StackName=stack, TemplateBody=body, Capabilities=["CAPABILITY_AUTO_EXPAND", "CAPABILITY_IAM"])
    stacks.finished(formation, stack, "update")
    assert stacks.outputs(formation, stack) == {**made, "SV": "8"}
    assert shared.client("ssm").get_parameter(Name=made["S"])["Parameter"]["Value"] == "8"
    assert client.get_function_configuration(FunctionName=made["F"])["Timeout"] == 8
    formation.delete_stack(StackName=stack)
    stacks.finished(formation, stack, "delete")
    with pytest.raises(ClientError, match="ParameterNotFound"):
        shared.client("ssm").get_parameter(Name=made["S"])


@with_sam
def test_a_sam_template_that_is_none_is_told_why(shared: Engine) -> None:
    resources = {"F": {"Type": "AWS::Serverless::Function", "Properties": {"Handler": "h", "Runtime": "python3.12", "CodeUri": "src/"}}}
    with pytest.raises(ClientError) as caught:
        shared.client("cloudformation").create_stack(
            StackName="none", TemplateBody=json.dumps({"Transform": "AWS::Serverless-2016-10-31", "Resources": resources})
        )
    assert caught.value.response["Error"] == {"Type": "Sender", "Code": "ValidationError", "Message": (
        "Transform AWS::Serverless-2016-10-31 failed with: Invalid Serverless Application Specification document. Number of errors found: 1. "
        "Resource with id [F] is invalid. 'CodeUri' is not a valid S3 Uri of the form 's3://bucket/key' with optional versionId query parameter."
    )}  # fmt: skip
