"""Resources beside functions that templates commonly have, through the embedded CloudFormation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from engine.aws import embedded
from tests.framework import stacks
from tests.framework.engine import Engine

pytestmark = pytest.mark.skipif(embedded.available() is not None, reason="the extra 'embedded' is not installed")


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
