"""The calls that Terraform's AWS provider makes, in its order and with its way of reading the answers.

Source: internal/service/{lambda,iam,apigateway,kinesis,appautoscaling}/*.go of hashicorp/terraform-provider-aws. The provider itself comes from a
registry that tests do not reach.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.framework.engine import OWN_RUNTIME, ROLE, Engine, zip_of

PACKAGES = [zip_of({"app.py": f"def handler(event, context): return {n}\n"}) for n in (1, 2)]
WAIT_S = 60


def wait_for(read: Callable[[], Any], reached: Callable[[Any], bool]) -> Any:
    """As the provider's StateChangeConf, with less time between looks."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        found = read()
        if reached(found):
            return found
        assert time.monotonic() < deadline_s, found
        time.sleep(0.05)


class Provider:
    """aws_lambda_function of one name."""

    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.name = name

    def read(self) -> dict[str, Any]:
        """resourceFunctionRead: what goes into the state."""
        found = self.client.get_function(FunctionName=self.name)
        configuration, code = found["Configuration"], found["Code"]
        assert configuration is not None
        assert code is not None
        versions = self.client.list_versions_by_function(FunctionName=self.name, MaxItems=10000)["Versions"]
        signing = self.client.get_function_code_signing_config(FunctionName=self.name)
        return {
            "arn": configuration["FunctionArn"],
            "version": versions[-1]["Version"],
            "reserved": found.get("Concurrency", {}).get("ReservedConcurrentExecutions", -1),
            "tags": found.get("Tags", {}),
            "memory": configuration["MemorySize"],
            "timeout": configuration["Timeout"],
            "environment": configuration["Environment"]["Variables"] if "Environment" in configuration else None,
            "ephemeral": configuration["EphemeralStorage"]["Size"],
            "tracing": configuration["TracingConfig"]["Mode"],
            "logging": configuration["LoggingConfig"],
            "architectures": configuration["Architectures"],
            "source_code_hash": configuration["CodeSha256"],
            "vpc": configuration.get("VpcConfig", {}).get("SubnetIds", []),
            "signing": signing.get("CodeSigningConfigArn", ""),
        }

    def updated(self) -> None:
        """waitFunctionUpdated: no status counts as in progress."""
        wait_for(lambda: self.client.get_function(FunctionName=self.name)["Configuration"].get("LastUpdateStatus"), lambda s: s == "Successful")

    def published(self, version: str) -> None:
        wait_for(
            lambda: self.client.get_function_configuration(FunctionName=self.name, Qualifier=version).get("LastUpdateStatus"),
            lambda s: s == "Successful",
        )


@pytest.fixture
def provider(shared: Engine) -> Provider:
    return Provider(shared.client(), "terraform-function")


def test_function_alias_and_permission_from_create_to_destroy(provider: Provider) -> None:
    client, name = provider.client, provider.name
    # apply: create
    client.create_function(
        FunctionName=name, Role=ROLE, Runtime=OWN_RUNTIME, Handler="app.handler", Code={"ZipFile": PACKAGES[0]}, Description="", MemorySize=128,
        Timeout=3, Publish=True, PackageType="Zip", Environment={"Variables": {"STAGE": "1"}}, Tags={"team": "a"},
    )  # fmt: skip
    wait_for(lambda: client.get_function(FunctionName=name)["Configuration"]["State"], lambda s: s == "Active")
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=5)
    state = provider.read()
    assert state["version"] == "1"
    assert state["reserved"] == 5
    assert state["tags"] == {"team": "a"}
    assert state["source_code_hash"] == base64.b64encode(hashlib.sha256(PACKAGES[0]).digest()).decode()
    assert (state["ephemeral"], state["tracing"], state["vpc"], state["signing"]) == (512, "PassThrough", [], "")

    # plan: nothing differs
    assert provider.read() == state

    # apply: configuration, then code, then concurrency, then a version
    client.update_function_configuration(
        FunctionName=name, Role=ROLE, Handler="app.handler", Runtime=OWN_RUNTIME, Description="", MemorySize=256, Timeout=3,
        Environment={"Variables": {}}, DeadLetterConfig={"TargetArn": ""}, VpcConfig={"SubnetIds": [], "SecurityGroupIds": []}, Layers=[],
    )  # fmt: skip
    provider.updated()
    client.update_function_code(FunctionName=name, ZipFile=PACKAGES[1])
    provider.updated()
    client.delete_function_concurrency(FunctionName=name)
    version = client.publish_version(FunctionName=name)["Version"]
    provider.published(version)
    after = provider.read()
    assert (after["version"], after["memory"], after["reserved"], after["environment"]) == ("2", 256, -1, None)

    # aws_lambda_alias: RoutingConfig is sent even when it is empty
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1", RoutingConfig={})
    client.update_alias(
        FunctionName=name, Name="live", FunctionVersion="1", Description="", RoutingConfig={"AdditionalVersionWeights": {"2": 0.5}}
    )
    client.update_alias(FunctionName=name, Name="live", FunctionVersion="2", Description="", RoutingConfig={})
    wait_for(
        lambda: client.get_alias(FunctionName=name, Name="live"), lambda a: not a.get("RoutingConfig", {}).get("AdditionalVersionWeights")
    )
    assert json.load(client.invoke(FunctionName=name, Qualifier="live")["Payload"]) == 2

    # aws_lambda_permission: conditions are read as map[operator]map[key]string
    client.add_permission(
        FunctionName=name, Qualifier="live", StatementId="events", Action="lambda:InvokeFunction", Principal="events.amazonaws.com",
        SourceArn="arn:aws:events:us-east-1:000000000000:rule/r", SourceAccount="000000000000",
    )  # fmt: skip
    policy = json.loads(client.get_policy(FunctionName=name, Qualifier="live")["Policy"])
    (statement,) = [s for s in policy["Statement"] if s["Sid"] == "events"]
    assert statement["Principal"] == {"Service": "events.amazonaws.com"}
    assert statement["Condition"]["ArnLike"] == {"AWS:SourceArn": "arn:aws:events:us-east-1:000000000000:rule/r"}
    assert statement["Condition"]["StringEquals"] == {"AWS:SourceAccount": "000000000000"}
    client.remove_permission(FunctionName=name, Qualifier="live", StatementId="events")
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_policy(FunctionName=name, Qualifier="live")

    # destroy
    client.delete_alias(FunctionName=name, Name="live")
    client.delete_function(FunctionName=name)
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_function(FunctionName=name)


def test_errors_that_the_provider_tells_apart(provider: Provider) -> None:
    client = provider.client
    for call, arguments in ((client.get_function, {}), (client.get_alias, {"Name": "live"}), (client.get_policy, {})):
        with pytest.raises(ClientError) as caught:
            call(FunctionName="terraform-nothing", **arguments)
        assert caught.value.response["Error"]["Code"] == "ResourceNotFoundException"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404


def test_a_role_with_a_policy_of_aws_own(shared: Engine) -> None:
    """aws_iam_role and aws_iam_role_policy_attachment, as nearly every configuration with a function has them."""
    iam, name = shared.client("iam"), "terraform-role"
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
    arn = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
    try:
        iam.attach_role_policy(RoleName=name, PolicyArn=arn)
        assert [p["PolicyArn"] for p in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]] == [arn]
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        document = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
        assert "logs:PutLogEvents" in document["Statement"][0]["Action"]
        iam.detach_role_policy(RoleName=name, PolicyArn=arn)
    finally:
        iam.delete_role(RoleName=name)
    with pytest.raises(ClientError, match="NoSuchEntity"):
        iam.get_role(RoleName=name)


def test_a_rest_apis_method_and_integration_are_changed_in_place(shared: Engine) -> None:
    """aws_api_gateway_method and aws_api_gateway_integration: patches, and NotFoundException for what was taken away."""
    gateway = shared.client("apigateway")
    api = gateway.create_rest_api(name="terraform-rest")["id"]
    root = gateway.get_resources(restApiId=api)["items"][0]["id"]
    there = {"restApiId": api, "resourceId": root, "httpMethod": "GET"}
    gateway.put_method(**there, authorizationType="NONE", requestParameters={"method.request.querystring.q": True})
    with pytest.raises(ClientError, match=r"NotFoundException.*Invalid Integration identifier specified"):
        gateway.get_integration(**there)
    gateway.put_integration(**there, type="MOCK", requestTemplates={"application/json": "{}"})
    patches = [{"op": "replace", "path": "/apiKeyRequired", "value": "true"}, {"op": "remove", "path": "/requestParameters/method.request.querystring.q"}]
    gateway.update_method(**there, patchOperations=patches)
    changed = gateway.get_method(**there)
    assert (changed["apiKeyRequired"], changed["requestParameters"]) == (True, {})
    answer = gateway.update_integration(
        **there,
        patchOperations=[{"op": "replace", "path": "/timeoutInMillis", "value": "5000"}, {"op": "add", "path": "/requestTemplates/text~1plain", "value": "x"}],
    )
    assert answer["timeoutInMillis"] == 5000
    assert gateway.get_integration(**there)["requestTemplates"] == {"application/json": "{}", "text/plain": "x"}
    with pytest.raises(ClientError, match=r"BadRequestException.*Invalid patch path"):
        gateway.update_integration(**there, patchOperations=[{"op": "replace", "path": "/nothing", "value": "x"}])
    gateway.delete_integration(**there)
    with pytest.raises(ClientError, match="NotFoundException"):
        gateway.get_integration(**there)
    with pytest.raises(ClientError, match="NotFoundException"):
        gateway.update_integration(**there, patchOperations=[])
    gateway.delete_rest_api(restApiId=api)


def test_tags_that_are_read_by_arn(shared: Engine) -> None:
    """aws_kinesis_stream, aws_kinesis_stream_consumer, aws_appautoscaling_target."""
    kinesis, name = shared.client("kinesis"), "terraform-stream"
    kinesis.create_stream(StreamName=name, ShardCount=1, Tags={"a": "1", "b": "2"})
    try:
        stream = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]["StreamARN"]
        assert {t["Key"]: t["Value"] for t in kinesis.list_tags_for_stream(StreamName=name)["Tags"]} == {"a": "1", "b": "2"}
        consumer = kinesis.register_stream_consumer(StreamARN=stream, ConsumerName="c")["Consumer"]["ConsumerARN"]
        for arn, before, after in ((stream, {"a": "1", "b": "2"}, {"b": "2", "c": "3"}), (consumer, {}, {"c": "3"})):
            assert {t["Key"]: t["Value"] for t in kinesis.list_tags_for_resource(ResourceARN=arn)["Tags"]} == before
            kinesis.tag_resource(ResourceARN=arn, Tags={"c": "3"})
            kinesis.untag_resource(ResourceARN=arn, TagKeys=["a"])
            assert {t["Key"]: t["Value"] for t in kinesis.list_tags_for_resource(ResourceARN=arn)["Tags"]} == after
    finally:
        kinesis.delete_stream(StreamName=name, EnforceConsumerDeletion=True)
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        kinesis.list_tags_for_resource(ResourceARN=stream)

    scaling = shared.client("application-autoscaling")
    target = {"ServiceNamespace": "dynamodb", "ResourceId": "table/terraform", "ScalableDimension": "dynamodb:table:ReadCapacityUnits"}
    arn = scaling.register_scalable_target(**target, MinCapacity=1, MaxCapacity=2, Tags={"a": "1"})["ScalableTargetARN"]
    assert scaling.list_tags_for_resource(ResourceARN=arn)["Tags"] == {"a": "1"}
    scaling.tag_resource(ResourceARN=arn, Tags={"b": "2"})
    scaling.untag_resource(ResourceARN=arn, TagKeys=["a"])
    assert scaling.list_tags_for_resource(ResourceARN=arn)["Tags"] == {"b": "2"}
    scaling.deregister_scalable_target(**target)
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        scaling.list_tags_for_resource(ResourceARN=arn)


def test_an_http_apis_stage_is_changed_in_place(shared: Engine) -> None:
    """aws_apigatewayv2_stage."""
    gateway = shared.client("apigatewayv2")
    api = gateway.create_api(Name="terraform-http", ProtocolType="HTTP")["ApiId"]
    stage = {"ApiId": api, "StageName": "$default"}
    gateway.create_stage(**stage, AutoDeploy=True, StageVariables={"a": "1", "b": "2"}, Description="first")
    gateway.update_stage(**stage, Description="second", StageVariables={"a": "", "c": "3"}, DefaultRouteSettings={"ThrottlingBurstLimit": 7})
    found = gateway.get_stage(**stage)
    assert (found["Description"], found["StageVariables"], found["AutoDeploy"]) == ("second", {"b": "2", "c": "3"}, True)
    assert found["DefaultRouteSettings"]["ThrottlingBurstLimit"] == 7
    with pytest.raises(ClientError) as caught:
        gateway.update_stage(**stage, DeploymentId="none")
    assert (caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]) == ("NotFoundException", 404)
    with pytest.raises(gateway.exceptions.NotFoundException):
        gateway.update_stage(ApiId=api, StageName="other")
    with pytest.raises(ClientError, match=f"The embedded AWS has no GET /v2/apis/{api}/exports/OAS30") as caught:
        gateway.export_api(ApiId=api, OutputType="JSON", Specification="OAS30")
    assert (caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]) == ("NotImplemented", 501)
    gateway.delete_api(ApiId=api)


def test_a_queues_policies_are_set_one_by_one(shared: Engine) -> None:
    """aws_sqs_queue_policy, aws_sqs_queue_redrive_policy, aws_sqs_queue_redrive_allow_policy: each is set alone and waited for."""
    sqs = shared.client("sqs")
    queue, dead = (sqs.create_queue(QueueName=f"terraform-{name}")["QueueUrl"] for name in ("queue", "dead"))

    def attributes(url: str, *names: str) -> dict[str, str]:
        found: dict[str, str] = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(names)).get("Attributes", {})
        return found

    arn = attributes(dead, "QueueArn")["QueueArn"]
    policy = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": "*"}]})
    redrive, allow = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 3}), json.dumps({"redrivePermission": "denyAll"})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"RedrivePolicy": redrive})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "40"})
    found = attributes(queue, "All")
    assert json.loads(found["Policy"]) == json.loads(policy)
    # Without spaces, as the provider writes it: any other text is a change to it.
    assert found["RedrivePolicy"] == redrive.replace(" ", "")
    sqs.set_queue_attributes(QueueUrl=dead, Attributes={"RedriveAllowPolicy": allow})
    assert attributes(dead, "RedriveAllowPolicy") == {"RedriveAllowPolicy": allow}
    assert attributes(dead, "All")["RedriveAllowPolicy"] == allow
    for name, url in (("Policy", queue), ("RedrivePolicy", queue), ("RedriveAllowPolicy", dead)):
        sqs.set_queue_attributes(QueueUrl=url, Attributes={name: ""})
        assert name not in attributes(url, "All")
    for url in (queue, dead):
        sqs.delete_queue(QueueUrl=url)


def test_a_bucket_that_tells_eventbridge_says_so(shared: Engine) -> None:
    """aws_s3_bucket_notification with eventbridge = true."""
    s3, name = shared.client("s3"), "terraform-eventbridge"
    s3.create_bucket(Bucket=name)
    s3.put_bucket_notification_configuration(Bucket=name, NotificationConfiguration={"EventBridgeConfiguration": {}})
    assert s3.get_bucket_notification_configuration(Bucket=name)["EventBridgeConfiguration"] == {}
    s3.put_bucket_notification_configuration(Bucket=name, NotificationConfiguration={})
    assert "EventBridgeConfiguration" not in s3.get_bucket_notification_configuration(Bucket=name)
    s3.delete_bucket(Bucket=name)


def test_an_http_api_is_called_where_it_says_it_is(shared: Engine) -> None:
    """aws_apigatewayv2_api with a target and with a body: any client can call ``api_endpoint``."""
    shared.deploy("terraform-http", PACKAGES[0], "app.handler")
    client, http = shared.client(), shared.client("apigatewayv2")
    arn = client.get_function(FunctionName="terraform-http")["Configuration"]["FunctionArn"]
    client.add_permission(
        FunctionName="terraform-http", StatementId="any", Action="lambda:InvokeFunction", Principal="apigateway.amazonaws.com",
        SourceArn="arn:aws:execute-api:us-east-1:000000000000:*",
    )  # fmt: skip
    made = http.create_api(Name="terraform-quick", ProtocolType="HTTP", Target=arn)
    api_id, address = made["ApiId"], made["ApiEndpoint"]
    try:
        assert http.get_api(ApiId=api_id)["ApiEndpoint"] == address
        assert address in {api["ApiEndpoint"] for api in http.get_apis()["Items"]}
        assert http.update_api(ApiId=api_id, Description="d")["ApiEndpoint"] == address
        (route,) = http.get_routes(ApiId=api_id)["Items"]
        (integration,) = http.get_integrations(ApiId=api_id)["Items"]
        assert (route["RouteKey"], route["Target"]) == ("$default", f"integrations/{integration['IntegrationId']}")
        assert (integration["IntegrationUri"], integration["PayloadFormatVersion"]) == (arn, "2.0")
        assert fetched(f"{address}/pets/7") == b"1"

        operation = {"httpMethod": "POST", "type": "AWS_PROXY", "uri": arn, "payloadFormatVersion": "2.0"}
        cors = {"allowOrigins": ["https://a.example"]}
        document = {
            "openapi": "3.0.1", "info": {"title": "terraform-body", "version": "1.0"}, "x-amazon-apigateway-cors": cors,
            "paths": {"/x": {"get": {"x-amazon-apigateway-integration": operation}}},
        }  # fmt: skip
        again = http.reimport_api(ApiId=api_id, Body=json.dumps(document))
        assert (again["Name"], again["Version"], again["ApiEndpoint"]) == ("terraform-body", "1.0", address)
        assert again["CorsConfiguration"]["AllowOrigins"] == ["https://a.example"]
        assert [r["RouteKey"] for r in http.get_routes(ApiId=api_id)["Items"]] == ["GET /x"]
        assert fetched(f"{address}/x") == b"1"
    finally:
        http.delete_api(ApiId=api_id)
        client.delete_function(FunctionName="terraform-http")


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return bytes(answer.read())


def test_stages_name_deployments_of_http_apis(shared: Engine) -> None:
    """aws_apigatewayv2_deployment, aws_apigatewayv2_stage."""
    http = shared.client("apigatewayv2")
    socket = http.create_api(Name="terraform-socket", ProtocolType="WEBSOCKET", RouteSelectionExpression="$request.body.action")
    assert socket["ApiEndpoint"].startswith("ws://")
    api_id = socket["ApiId"]
    try:
        first = http.create_deployment(ApiId=api_id, Description="one")
        assert (first["DeploymentStatus"], first["Description"]) == ("DEPLOYED", "one")
        named = {"ApiId": api_id, "StageName": "live"}
        assert http.create_stage(**named, DeploymentId=first["DeploymentId"])["DeploymentId"] == first["DeploymentId"]
        second = http.create_deployment(ApiId=api_id)
        assert http.update_stage(**named, DeploymentId=second["DeploymentId"])["DeploymentId"] == second["DeploymentId"]
        third = http.create_deployment(ApiId=api_id, StageName="live")
        assert http.get_stage(**named)["DeploymentId"] == third["DeploymentId"]
        http.update_deployment(ApiId=api_id, DeploymentId=first["DeploymentId"], Description="1")
        assert http.get_deployment(ApiId=api_id, DeploymentId=first["DeploymentId"])["Description"] == "1"
        http.delete_deployment(ApiId=api_id, DeploymentId=first["DeploymentId"])
        assert {d["DeploymentId"] for d in http.get_deployments(ApiId=api_id)["Items"]} == {d["DeploymentId"] for d in (second, third)}
        for call, more in (
            (http.get_deployment, {}), (http.delete_deployment, {}), (http.update_deployment, {}),
            (http.update_stage, {"StageName": "live"}), (http.create_stage, {"StageName": "other"}),
        ):  # fmt: skip
            with pytest.raises(ClientError) as refused:
                call(ApiId=api_id, DeploymentId=first["DeploymentId"], **more)
            assert refused.value.response["Error"] == {"Code": "NotFoundException", "Message": "Invalid deployment identifier specified"}
    finally:
        http.delete_api(ApiId=api_id)
