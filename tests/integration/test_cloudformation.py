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
from tests.framework import stacks
from tests.framework.engine import OWN_RUNTIME, ROLE, Engine, engine, url_host, zip_of
from tests.framework.wait import until

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


def result(client: Any, function: str) -> Any:
    return json.load(client.invoke(FunctionName=function, Payload=b"5")["Payload"])


def functions(client: Any, start: str) -> list[str]:
    pages = client.get_paginator("list_functions").paginate()
    return [f["FunctionName"] for page in pages for f in page["Functions"] if f["FunctionName"].startswith(start)]


def test_a_stack_is_created_updated_and_deleted(shared: Engine) -> None:
    formation, client = shared.client("cloudformation"), shared.client()
    formation.create_stack(StackName="cfn-a", TemplateBody=template(1))
    stacks.finished(formation, "cfn-a", "create")
    made = stacks.outputs(formation, "cfn-a")
    assert made["F"].startswith("cfn-a-F-")
    assert result(client, made["A"]) == [5, 1]
    assert ".lambda-url." in url_host(made["U"])
    assert json.loads(client.get_policy(FunctionName=made["F"])["Policy"])["Statement"][0]["Principal"] == {"Service": "s3.amazonaws.com"}
    assert "Policy" in shared.client("sqs").get_queue_attributes(QueueUrl=made["Q"], AttributeNames=["Policy"])["Attributes"]

    formation.update_stack(StackName="cfn-a", TemplateBody=template(2, MemorySize=256))
    stacks.finished(formation, "cfn-a", "update")
    assert stacks.outputs(formation, "cfn-a")["F"] == made["F"]
    assert result(client, made["F"]) == [5, 2]
    assert client.get_function_configuration(FunctionName=made["F"])["MemorySize"] == 256
    assert result(client, made["A"]) == [5, 1], "the version did not change"

    formation.delete_stack(StackName="cfn-a")
    stacks.finished(formation, "cfn-a", "delete")
    assert functions(client, "cfn-a") == []


def test_keys_of_a_template_guard_variables_packages_and_filters(shared: Engine) -> None:
    formation, client = shared.client("cloudformation"), shared.client()
    one, two = (shared.client("kms").create_key()["KeyMetadata"]["Arn"] for _ in range(2))
    pattern = {"Filters": [{"Pattern": '{"body": ["a"]}'}]}

    def document(key: str | None) -> str:
        kept = {} if key is None else {"KmsKeyArn": key}
        code = {"ZipFile": "def f(e, c): return 1\n"} | ({} if key is None else {"SourceKMSKeyArn": key})
        function = {"Role": ROLE, "Handler": "index.f", "Runtime": OWN_RUNTIME, "Environment": {"Variables": {"AB": "c"}}, "Code": code, **kept}
        mapping = {
            "FunctionName": {"Ref": "F"}, "EventSourceArn": {"Fn::GetAtt": ["Q", "Arn"]}, "Enabled": False, "FilterCriteria": pattern, **kept,
        }  # fmt: skip
        resources = {
            "Q": {"Type": "AWS::SQS::Queue"},
            "F": {"Type": "AWS::Lambda::Function", "Properties": function},
            "M": {"Type": "AWS::Lambda::EventSourceMapping", "Properties": mapping},
        }
        return json.dumps({"Resources": resources, "Outputs": {name: {"Value": {"Ref": name}} for name in "FM"}})

    formation.create_stack(StackName="cfn-keys", TemplateBody=document(one))
    stacks.finished(formation, "cfn-keys", "create")
    for key in (one, two, None):
        if key != one:
            formation.update_stack(StackName="cfn-keys", TemplateBody=document(key))
            stacks.finished(formation, "cfn-keys", "update")
        made = stacks.outputs(formation, "cfn-keys")
        found = client.get_function(FunctionName=made["F"])
        mapping = client.get_event_source_mapping(UUID=made["M"])
        assert (found["Configuration"].get("KMSKeyArn"), found["Code"].get("SourceKMSKeyArn"), mapping.get("KMSKeyArn")) == (key, key, key)
        assert (found["Configuration"]["Environment"], mapping["FilterCriteria"]) == ({"Variables": {"AB": "c"}}, pattern)
        assert result(client, made["F"]) == 1
    formation.delete_stack(StackName="cfn-keys")
    stacks.finished(formation, "cfn-keys", "delete")


def test_properties_that_a_template_no_longer_has_are_as_if_it_never_had_them(shared: Engine) -> None:
    """Without a Timeout or a MemorySize it had before, a stack's update failed, and so did its way back from one that gave it them."""
    formation, client = shared.client("cloudformation"), shared.client()
    key = shared.client("kms").create_key()["KeyMetadata"]["Arn"]
    publishers = {"SigningProfileVersionArns": ["arn:aws:signer:us-east-1:000000000000:/signing-profiles/p/0123456789"]}
    signed = client.create_code_signing_config(AllowedPublishers=publishers)["CodeSigningConfig"]["CodeSigningConfigArn"]
    dead, pattern = {"Fn::GetAtt": ["D", "Arn"]}, {"Filters": [{"Pattern": '{"data": {"a": [1]}}'}]}
    function = {
        "Description": "d", "Timeout": 9, "MemorySize": 256, "Environment": {"Variables": {"AB": "c"}}, "DeadLetterConfig": {"TargetArn": dead},
        "TracingConfig": {"Mode": "Active"}, "EphemeralStorage": {"Size": 1024}, "KmsKeyArn": key, "CodeSigningConfigArn": signed,
        "LoggingConfig": {"LogFormat": "JSON", "SystemLogLevel": "WARN", "LogGroup": "/cfn-shed"}, "ReservedConcurrentExecutions": 1,
    }  # fmt: skip
    either = {
        "BatchSize": 20, "MaximumBatchingWindowInSeconds": 2, "FunctionResponseTypes": ["ReportBatchItemFailures"], "FilterCriteria": pattern,
        "KmsKeyArn": key, "MetricsConfig": {"Metrics": ["EventCount"]}, "Enabled": False,
    }  # fmt: skip
    stream = {
        "ParallelizationFactor": 2, "MaximumRecordAgeInSeconds": 100, "BisectBatchOnFunctionError": True, "MaximumRetryAttempts": 3,
        "TumblingWindowInSeconds": 30, "DestinationConfig": {"OnFailure": {"Destination": dead}},
    }  # fmt: skip

    def document(*, full: bool) -> str:
        code = {"Role": ROLE, "Handler": "index.f", "Runtime": OWN_RUNTIME, "Code": {"ZipFile": "def f(e, c): return 1\n"}}
        resources: dict[str, Any] = {n: {"Type": "AWS::SQS::Queue"} for n in "DQ"} | {"K": {"Type": "AWS::Kinesis::Stream", "Properties": {"ShardCount": 1}}}
        for name, more in (("Bare", {}), ("Full", function if full else {})):
            resources[name] = {"Type": "AWS::Lambda::Function", "Properties": code | more}
        for source, start, more in (("Q", {}, {**either, "ScalingConfig": {"MaximumConcurrency": 5}}), ("K", {"StartingPosition": "LATEST"}, {**either, **stream})):
            for name, given in (("Bare", {}), ("Full", more if full else {})):
                mapped = {"FunctionName": {"Ref": name}, "EventSourceArn": {"Fn::GetAtt": [source, "Arn"]}, **start, **given}
                resources[source + name] = {"Type": "AWS::Lambda::EventSourceMapping", "Properties": mapped}
        return json.dumps({"Resources": resources, "Outputs": {name: {"Value": {"Ref": name}} for name in resources}})

    def shown(made: dict[str, str], which: str) -> list[dict[str, Any]]:
        """What tells nothing of which function it is."""
        found = client.get_function(FunctionName=made[which])
        configuration = found["Configuration"]
        configuration["LoggingConfig"]["LogGroup"] = configuration["LoggingConfig"]["LogGroup"].replace(made[which], "")
        signing = client.get_function_code_signing_config(FunctionName=made[which])
        told = [configuration, found.get("Concurrency", {}), signing, *(client.get_event_source_mapping(UUID=made[source + which]) for source in "QK")]
        apart = {"FunctionName", "FunctionArn", "LastModified", "RevisionId", "UUID", "EventSourceMappingArn", "ResponseMetadata"}
        return [{k: v for k, v in one.items() if k not in apart} for one in told]

    formation.create_stack(StackName="cfn-shed", TemplateBody=document(full=True))
    stacks.finished(formation, "cfn-shed", "create")
    made = stacks.outputs(formation, "cfn-shed")
    formation.update_stack(StackName="cfn-shed", TemplateBody=document(full=False))
    stacks.finished(formation, "cfn-shed", "update")
    assert stacks.outputs(formation, "cfn-shed") == made, "nothing was replaced"
    assert shown(made, "Full") == shown(made, "Bare")
    formation.delete_stack(StackName="cfn-shed")
    stacks.finished(formation, "cfn-shed", "delete")


def test_a_stack_that_cannot_be_made_is_refused_and_leaves_nothing(shared: Engine) -> None:
    formation, client = shared.client("cloudformation"), shared.client()
    document = json.loads(template(1))
    document["Resources"]["Bad"] = {
        "Type": "AWS::Lambda::Alias",
        "Properties": {"FunctionName": {"Ref": "F"}, "Name": "bad", "FunctionVersion": "77"},
        "DependsOn": ["A", "P", "U"],
    }
    formation.create_stack(StackName="cfn-b", TemplateBody=json.dumps(document))
    with pytest.raises(AssertionError, match=r"Bad CREATE_FAILED AWS::Lambda::Alias: ResourceNotFoundException: Function not found: .*:77"):
        stacks.finished(formation, "cfn-b", "create")
    until(lambda: formation.describe_stacks(StackName="cfn-b")["Stacks"][0]["StackStatus"] == "ROLLBACK_COMPLETE", "everything is taken away")
    assert functions(client, "cfn-b") == []
    with pytest.raises(ClientError, match="is in ROLLBACK_COMPLETE state and can not be updated"):
        formation.update_stack(StackName="cfn-b", TemplateBody=template(1))
    formation.delete_stack(StackName="cfn-b")
    stacks.finished(formation, "cfn-b", "delete")


def test_a_change_that_cannot_be_made_is_changed_back(shared: Engine) -> None:
    formation, client = shared.client("cloudformation"), shared.client()
    formation.create_stack(StackName="cfn-d", TemplateBody=template(1))
    stacks.finished(formation, "cfn-d", "create")
    made = stacks.outputs(formation, "cfn-d")
    document = json.loads(template(2))
    document["Resources"]["Bad"] = {"Type": "AWS::Lambda::Url", "Properties": {"TargetFunctionArn": "nobody", "AuthType": "NONE"}, "DependsOn": "F"}
    formation.update_stack(StackName="cfn-d", TemplateBody=json.dumps(document))
    with pytest.raises(AssertionError, match="Bad CREATE_FAILED AWS::Lambda::Url: ResourceNotFoundException"):
        stacks.finished(formation, "cfn-d", "update")
    until(lambda: formation.describe_stacks(StackName="cfn-d")["Stacks"][0]["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE", "it is changed back")
    assert result(client, made["F"]) == [5, 1]
    assert stacks.outputs(formation, "cfn-d") == made
    formation.delete_stack(StackName="cfn-d")
    stacks.finished(formation, "cfn-d", "delete")
    gone = [e["LogicalResourceId"] for e in formation.describe_stack_events(StackName=made_id(formation, "cfn-d"))["StackEvents"] if e["ResourceStatus"] == "DELETE_COMPLETE"]
    assert gone.index("F") < gone.index("V") < gone.index("A"), "the newest event first: what refers to others goes before them"


def made_id(formation: Any, name: str) -> str:
    """The id of a deleted stack, which its name means no more."""
    return next(s["StackId"] for s in formation.list_stacks()["StackSummaries"] if s["StackName"] == name)


def test_what_nothing_here_makes_is_refused_before_anything_is_made(shared: Engine) -> None:
    formation = shared.client("cloudformation")
    with pytest.raises(ClientError, match=r"Template format error: Unrecognized resource types: \[AWS::Foo::Bar\]"):
        formation.create_stack(StackName="cfn-e", TemplateBody=json.dumps({"Resources": {"X": {"Type": "AWS::Foo::Bar"}, "Q": {"Type": "AWS::SQS::Queue"}}}))


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
    stacks.finished(shared.client("cloudformation"), "cfn-c", "delete")
    assert functions(client, "cfn-c") == []


@pytest.mark.slow
def test_provisioned_concurrency_is_scaled_by_what_a_template_says() -> None:
    def scaled(minimum: int, *actions: str, target: float | None = None) -> str:
        document = json.loads(template(1))
        resources = document["Resources"]
        resource = {"Fn::Sub": "function:${F}:live"}
        dimension = {"ServiceNamespace": "lambda", "ScalableDimension": "lambda:function:ProvisionedConcurrency"}
        at = [{"ScheduledActionName": a, "Schedule": "at(2099-01-01T00:00:00)", "ScalableTargetAction": {"MinCapacity": "1"}} for a in actions]
        bounds = {"MinCapacity": minimum, "MaxCapacity": "3", "RoleARN": ROLE}
        resources["T"] = {
            "Type": "AWS::ApplicationAutoScaling::ScalableTarget",
            "DependsOn": "A",
            "Properties": {"ResourceId": resource, **dimension, **bounds, "ScheduledActions": at},
        }
        if target is not None:
            metric = {"PredefinedMetricSpecification": {"PredefinedMetricType": "LambdaProvisionedConcurrencyUtilization"}, "TargetValue": str(target)}
            resources["S"] = {
                "Type": "AWS::ApplicationAutoScaling::ScalingPolicy",
                "Properties": {
                    "PolicyName": "track", "PolicyType": "TargetTrackingScaling", "ScalingTargetId": {"Ref": "T"},
                    "TargetTrackingScalingPolicyConfiguration": {**metric, "DisableScaleIn": "true"},
                },
            }  # fmt: skip
        return json.dumps(document)

    def provisioned() -> list[int]:
        configs = client.list_provisioned_concurrency_configs(FunctionName=name)["ProvisionedConcurrencyConfigs"]
        return [c["AvailableProvisionedConcurrentExecutions"] for c in configs]

    with engine(autoscaling_period_s=0.6) as running:
        formation, client, scaling = running.client("cloudformation"), running.client(), running.client("application-autoscaling")
        formation.create_stack(StackName="scaled", TemplateBody=scaled(1, "a", "b", target=0.5))
        stacks.finished(formation, "scaled", "create")
        name = stacks.outputs(formation, "scaled")["F"]
        until(lambda: provisioned() == [1], "the target's least is provisioned", 60)
        (policy,) = scaling.describe_scaling_policies(ServiceNamespace="lambda")["ScalingPolicies"]
        settings = policy["TargetTrackingScalingPolicyConfiguration"]
        assert (policy["ResourceId"], settings["TargetValue"], settings["DisableScaleIn"]) == (f"function:{name}:live", 0.5, True)

        formation.update_stack(StackName="scaled", TemplateBody=scaled(2, "b"))
        stacks.finished(formation, "scaled", "update")
        until(lambda: provisioned() == [2], "a change of it is obeyed", 60)
        assert scaling.describe_scaling_policies(ServiceNamespace="lambda")["ScalingPolicies"] == []
        actions = scaling.describe_scheduled_actions(ServiceNamespace="lambda")["ScheduledActions"]
        assert [a["ScheduledActionName"] for a in actions] == ["b"]
        assert actions[0]["ScalableTargetAction"] == {"MinCapacity": 1}

        formation.delete_stack(StackName="scaled")
        stacks.finished(formation, "scaled", "delete")
        assert scaling.describe_scalable_targets(ServiceNamespace="lambda")["ScalableTargets"] == []
        assert functions(client, "scaled") == []


def test_a_log_group_is_changed_in_place(shared: Engine) -> None:
    formation, logs = shared.client("cloudformation"), shared.client("logs")

    def body(**properties: Any) -> str:
        group = {"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": "cfn-f", **properties}}
        return json.dumps({"Resources": {"L": group}, "Outputs": {"Arn": {"Value": {"Fn::GetAtt": ["L", "Arn"]}}}})

    formation.create_stack(StackName="cfn-f", TemplateBody=body(RetentionInDays=7, Tags=[{"Key": "a", "Value": "1"}]))
    stacks.finished(formation, "cfn-f", "create")
    arn = stacks.outputs(formation, "cfn-f")["Arn"]
    assert arn.endswith("log-group:cfn-f:*")
    formation.update_stack(StackName="cfn-f", TemplateBody=body(RetentionInDays=30, Tags=[{"Key": "b", "Value": "2"}]))
    stacks.finished(formation, "cfn-f", "update")
    assert logs.describe_log_groups(logGroupNamePrefix="cfn-f")["logGroups"][0]["retentionInDays"] == 30
    assert logs.list_tags_for_resource(resourceArn=arn.removesuffix(":*"))["tags"] == {"b": "2"}
    formation.update_stack(StackName="cfn-f", TemplateBody=body())
    stacks.finished(formation, "cfn-f", "update")
    assert "retentionInDays" not in logs.describe_log_groups(logGroupNamePrefix="cfn-f")["logGroups"][0]
    formation.delete_stack(StackName="cfn-f")
    stacks.finished(formation, "cfn-f", "delete")
    assert logs.describe_log_groups(logGroupNamePrefix="cfn-f")["logGroups"] == []


@pytest.mark.parametrize(("service", "operation"), [("cloudtrail", "lookup_events"), ("iam", "list_service_specific_credentials"), ("cloudformation", "list_types")])
def test_what_the_embedded_aws_does_not_have_is_named(shared: Engine, service: str, operation: str) -> None:
    with pytest.raises(ClientError) as caught:
        getattr(shared.client(service), operation)()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501
    assert caught.value.response["Error"]["Code"] == "NotImplemented"
    assert f"The embedded AWS has no {service}" in caught.value.response["Error"]["Message"]


def test_a_bucket_policys_conditions_are_obeyed(shared: Engine) -> None:
    s3 = shared.client("s3")
    s3.create_bucket(Bucket="policy-conditions")

    def deny(condition: dict[str, Any]) -> None:
        statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::policy-conditions/*", **condition}
        s3.put_bucket_policy(Bucket="policy-conditions", Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))

    deny({"Condition": {"Bool": {"aws:SecureTransport": "false"}}})
    s3.put_object(Bucket="policy-conditions", Key="k", Body=b"x")
    deny({})
    with pytest.raises(ClientError) as caught:
        s3.put_object(Bucket="policy-conditions", Key="k", Body=b"x")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_change_sets_are_those_of_their_stacks(shared: Engine) -> None:
    """Tools call the change sets of all stacks alike."""
    formation = shared.client("cloudformation")
    queue = json.dumps({"Resources": {"Q": {"Type": "AWS::SQS::Queue"}}, "Parameters": {"P": {"Type": "String", "Default": "d"}}})
    formation.delete_change_set(ChangeSetName="deploy", StackName="cfn-g1")
    for stack in ("cfn-g1", "cfn-g2"):
        formation.create_change_set(StackName=stack, ChangeSetName="deploy", ChangeSetType="CREATE", TemplateBody=queue)
    # One that was only reviewed so far may be made anew.
    formation.create_change_set(StackName="cfn-g1", ChangeSetName="deploy", ChangeSetType="CREATE", TemplateBody=queue)
    for stack in ("cfn-g1", "cfn-g2"):
        assert formation.describe_change_set(ChangeSetName="deploy", StackName=stack)["StackName"] == stack
        formation.execute_change_set(ChangeSetName="deploy", StackName=stack)
        stacks.finished(formation, stack, "create")
    assert [s["StackName"] for s in formation.list_stacks()["StackSummaries"]].count("cfn-g1") == 1
    formation.create_change_set(StackName="cfn-g1", ChangeSetName="again", ChangeSetType="UPDATE", TemplateBody=queue)
    same = formation.describe_change_set(ChangeSetName="again", StackName="cfn-g1")
    assert (same["Status"], same["StatusReason"].split(".")[0]) == ("FAILED", "The submitted information didn't contain changes")
    with pytest.raises(ClientError, match="cannot be executed in its current status"):
        formation.execute_change_set(ChangeSetName="again", StackName="cfn-g1")
    with pytest.raises(ClientError, match=r"ChangeSet \[none\] does not exist"):
        formation.describe_change_set(ChangeSetName="none", StackName="cfn-g1")
    with pytest.raises(ClientError, match="already exists"):
        formation.create_change_set(StackName="cfn-g1", ChangeSetName="deploy", ChangeSetType="CREATE", TemplateBody=queue)
    for stack in ("cfn-g1", "cfn-g2"):
        formation.delete_stack(StackName=stack)
        stacks.finished(formation, stack, "delete")
