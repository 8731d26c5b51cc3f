"""Resources that come with functions now and then: deployments of aliases, code signing, parts of user pools, global tables, validators of APIs.

Source: docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from engine.aws.lambda_resources import Handler, Made, Properties, Replace, tags_of

AT_ONCE = "CodeDeployDefault.LambdaAllAtOnce"


class DeploymentApplicationHandler(Handler):
    """AWS::CodeDeploy::Application. The embedded CodeDeploy has no way to take one away."""

    def create(self, name: str, properties: Properties) -> Made:
        client = self.clients("codedeploy")
        called = properties.get("ApplicationName") or name
        platform = properties.get("ComputePlatform") or "Server"
        self.forgiving(
            client.create_application, client.exceptions.ApplicationAlreadyExistsException, applicationName=called, computePlatform=platform
        )
        return Made(called, called, {})

    def delete(self, made: Made, properties: Properties) -> None:
        """Nothing to do."""


class DeploymentGroupHandler(Handler):
    """AWS::CodeDeploy::DeploymentGroup. Aliases move at once and without hooks, whatever it says; where it says otherwise, so does the log."""

    def create(self, name: str, properties: Properties) -> Made:
        client = self.clients("codedeploy")
        called, wanted = properties.get("DeploymentGroupName") or name, properties.get("DeploymentConfigName") or AT_ONCE
        if wanted != AT_ONCE:
            sys.stderr.write(f"embedded AWS: {called} asks for {wanted}: the alias moves to its new version at once here, and no hooks run\n")
        self.forgiving(
            client.create_deployment_group, client.exceptions.DeploymentGroupAlreadyExistsException,
            applicationName=properties["ApplicationName"], deploymentGroupName=called, serviceRoleArn=properties["ServiceRoleArn"],
            deploymentConfigName=wanted,
        )  # fmt: skip
        return Made(called, called, {})

    def delete(self, made: Made, properties: Properties) -> None:
        """Nothing to do."""


class CodeSigningHandler(Handler):
    """AWS::Lambda::CodeSigningConfig."""

    def create(self, name: str, properties: Properties) -> Made:
        arguments = {k: properties[k] for k in ("AllowedPublishers", "CodeSigningPolicies", "Description") if properties.get(k)}
        made = self.client.create_code_signing_config(**arguments)["CodeSigningConfig"]
        arn = made["CodeSigningConfigArn"]
        return Made(arn, arn, {"CodeSigningConfigArn": arn, "CodeSigningConfigId": made["CodeSigningConfigId"]})

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        arguments = {k: new[k] for k in ("AllowedPublishers", "CodeSigningPolicies", "Description") if new.get(k)}
        self.client.update_code_signing_config(CodeSigningConfigArn=made.physical, **arguments)
        return made

    def delete(self, made: Made, properties: Properties) -> None:
        self.missing(self.client.delete_code_signing_config, CodeSigningConfigArn=made.physical)


class UserPoolDomainHandler(Handler):
    """AWS::Cognito::UserPoolDomain."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        domain = properties["Domain"]
        self.clients("cognito-idp").create_user_pool_domain(Domain=domain, UserPoolId=properties["UserPoolId"])
        return Made(domain, domain, {})

    def delete(self, made: Made, properties: Properties) -> None:
        client = self.clients("cognito-idp")
        self.forgiving(client.delete_user_pool_domain, client.exceptions.ClientError, Domain=made.physical, UserPoolId=properties["UserPoolId"])


class UserPoolGroupHandler(Handler):
    """AWS::Cognito::UserPoolGroup."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        called = properties.get("GroupName") or name
        arguments = {k: properties[k] for k in ("Description", "Precedence", "RoleArn", "UserPoolId") if properties.get(k) is not None}
        self.clients("cognito-idp").create_group(GroupName=called, **arguments)
        return Made(called, called, {})

    def delete(self, made: Made, properties: Properties) -> None:
        client = self.clients("cognito-idp")
        self.forgiving(client.delete_group, client.exceptions.ClientError, GroupName=made.physical, UserPoolId=properties["UserPoolId"])


class ResourceServerHandler(Handler):
    """AWS::Cognito::UserPoolResourceServer."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        arguments = {k: properties[k] for k in ("UserPoolId", "Identifier", "Name", "Scopes") if properties.get(k)}
        self.clients("cognito-idp").create_resource_server(**arguments)
        return Made(properties["Identifier"], properties["Identifier"], {})

    def delete(self, made: Made, properties: Properties) -> None:
        """It goes with its pool: the embedded Cognito has no way to take one away."""


class GlobalTableHandler(Handler):
    """AWS::DynamoDB::GlobalTable, as the CDK makes tables: the replica of the engine's region is the table."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        client = self.clients("dynamodb")
        called = properties.get("TableName") or name
        client.create_table(TableName=called, **self._arguments(client, properties))
        client.get_waiter("table_exists").wait(TableName=called, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        ttl = properties.get("TimeToLiveSpecification")
        if ttl:
            client.update_time_to_live(TableName=called, TimeToLiveSpecification={"AttributeName": ttl.get("AttributeName", "ttl"), **ttl})
        made = client.describe_table(TableName=called)["Table"]
        attributes = {"Arn": made["TableArn"], "TableId": made.get("TableId", "")}
        if made.get("LatestStreamArn"):
            attributes["StreamArn"] = made["LatestStreamArn"]
        return Made(called, called, attributes)

    @staticmethod
    def _arguments(client: Any, properties: Properties) -> dict[str, Any]:
        same = ("AttributeDefinitions", "KeySchema", "LocalSecondaryIndexes", "GlobalSecondaryIndexes")
        arguments = {k: properties[k] for k in same if properties.get(k)}
        # What is provisioned is written otherwise here, and limits nothing in the embedded DynamoDB.
        arguments["BillingMode"] = "PAY_PER_REQUEST"
        known = ("IndexName", "KeySchema", "Projection")
        if "GlobalSecondaryIndexes" in arguments:
            arguments["GlobalSecondaryIndexes"] = [{k: i[k] for k in known if k in i} for i in arguments["GlobalSecondaryIndexes"]]
        stream = properties.get("StreamSpecification")
        if stream:
            arguments["StreamSpecification"] = {"StreamEnabled": True, "StreamViewType": stream["StreamViewType"]}
        here: Properties = next((r for r in properties.get("Replicas") or [] if r.get("Region") == client.meta.region_name), {})
        if tags_of(here):
            arguments["Tags"] = [{"Key": k, "Value": v} for k, v in tags_of(here).items()]
        return arguments

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        structure = ("TableName", "AttributeDefinitions", "KeySchema", "LocalSecondaryIndexes", "GlobalSecondaryIndexes", "StreamSpecification")
        if any(old.get(k) != new.get(k) for k in structure):
            raise Replace
        return made

    def delete(self, made: Made, properties: Properties) -> None:
        client = self.clients("dynamodb")
        self.forgiving(client.delete_table, client.exceptions.ResourceNotFoundException, TableName=made.physical)


class ParameterHandler(Handler):
    """AWS::SSM::Parameter; the embedded CloudFormation fails at one without a name."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        called = properties.get("Name") or name
        same = ("Type", "Value", "Description", "AllowedPattern", "Tier", "Policies", "DataType")
        arguments = {k: properties[k] for k in same if properties.get(k) is not None}
        if tags_of(properties):
            arguments["Tags"] = [{"Key": k, "Value": str(v)} for k, v in tags_of(properties).items()]
        self.clients("ssm").put_parameter(Name=called, **arguments)
        return Made(called, called, {"Type": str(properties["Type"]), "Value": str(properties["Value"])})

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        if any(old.get(k) != new.get(k) for k in ("Name", "Tags", "Policies")):
            raise Replace
        arguments = {k: new[k] for k in ("Type", "Value", "Description", "AllowedPattern", "Tier", "DataType") if new.get(k) is not None}
        self.clients("ssm").put_parameter(Name=made.physical, Overwrite=True, **arguments)
        return Made(made.ref, made.physical, {"Type": str(new["Type"]), "Value": str(new["Value"])})

    def delete(self, made: Made, properties: Properties) -> None:
        client = self.clients("ssm")
        self.forgiving(client.delete_parameter, client.exceptions.ClientError, Name=made.physical)


class StateMachineHandler(Handler):
    """AWS::StepFunctions::StateMachine; the embedded CloudFormation reads no definitions but those in one string, and fills in none."""

    def create(self, name: str, properties: Properties) -> Made:
        called = properties.get("StateMachineName") or name
        arguments = {"type": properties["StateMachineType"]} if properties.get("StateMachineType") else {}
        if tags_of(properties):
            arguments["tags"] = [{"key": k, "value": str(v)} for k, v in tags_of(properties).items()]
        arn = self.clients("stepfunctions").create_state_machine(
            name=called, definition=_definition(properties), roleArn=properties["RoleArn"], **arguments
        )["stateMachineArn"]
        return Made(arn, arn, {"Arn": arn, "Name": called})

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        if any(old.get(k) != new.get(k) for k in ("StateMachineName", "StateMachineType", "Tags")):
            raise Replace
        self.clients("stepfunctions").update_state_machine(
            stateMachineArn=made.physical, definition=_definition(new), roleArn=new["RoleArn"]
        )
        return made

    def delete(self, made: Made, properties: Properties) -> None:
        self.clients("stepfunctions").delete_state_machine(stateMachineArn=made.physical)


def _definition(properties: Properties) -> str:
    if properties.get("DefinitionS3Location"):
        raise ValueError("DefinitionS3Location is not read here: give DefinitionString or Definition")
    text = properties.get("DefinitionString") or json.dumps(properties.get("Definition") or {})
    for name, value in (properties.get("DefinitionSubstitutions") or {}).items():
        text = text.replace("${" + name + "}", str(value))
    return text


class InlineQueuePolicyHandler(Handler):
    """AWS::SQS::QueueInlinePolicy."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        policy = json.dumps(properties["PolicyDocument"])
        self.clients("sqs").set_queue_attributes(QueueUrl=properties["Queue"], Attributes={"Policy": policy})
        return Made(properties["Queue"], properties["Queue"], {})

    def delete(self, made: Made, properties: Properties) -> None:
        client = self.clients("sqs")
        self.forgiving(client.set_queue_attributes, client.exceptions.ClientError, QueueUrl=made.physical, Attributes={"Policy": ""})


class InlineTopicPolicyHandler(Handler):
    """AWS::SNS::TopicInlinePolicy."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        topic, policy = properties["TopicArn"], json.dumps(properties["PolicyDocument"])
        self.clients("sns").set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=policy)
        return Made(topic, topic, {})

    def delete(self, made: Made, properties: Properties) -> None:
        """Nothing to do: a topic keeps it until it goes."""


class LogStreamHandler(Handler):
    """AWS::Logs::LogStream."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        called = properties.get("LogStreamName") or name
        self.clients("logs").create_log_stream(logGroupName=properties["LogGroupName"], logStreamName=called)
        return Made(called, called, {})

    def delete(self, made: Made, properties: Properties) -> None:
        client = self.clients("logs")
        gone = client.exceptions.ClientError
        self.forgiving(client.delete_log_stream, gone, logGroupName=properties["LogGroupName"], logStreamName=made.physical)


class RequestValidatorHandler(Handler):
    """AWS::ApiGateway::RequestValidator."""

    def create(self, name: str, properties: Properties) -> Made:
        made = self.clients("apigateway").create_request_validator(
            restApiId=properties["RestApiId"], name=properties.get("Name") or name,
            validateRequestBody=properties.get("ValidateRequestBody") or False,
            validateRequestParameters=properties.get("ValidateRequestParameters") or False,
        )  # fmt: skip
        return Made(made["id"], made["id"], {"RequestValidatorId": made["id"]})

    def delete(self, made: Made, properties: Properties) -> None:
        client = self.clients("apigateway")
        gone = client.exceptions.ClientError
        self.forgiving(client.delete_request_validator, gone, restApiId=properties["RestApiId"], requestValidatorId=made.physical)


class ModelHandler(Handler):
    """AWS::ApiGateway::Model."""

    def create(self, name: str, properties: Properties) -> Made:
        called, schema = properties.get("Name") or "".join(filter(str.isalnum, name)), properties.get("Schema") or {}
        self.clients("apigateway").create_model(
            restApiId=properties["RestApiId"], name=called, contentType=properties.get("ContentType") or "application/json",
            schema=schema if isinstance(schema, str) else json.dumps(schema), description=properties.get("Description") or "",
        )  # fmt: skip
        return Made(called, called, {})

    def delete(self, made: Made, properties: Properties) -> None:
        """It goes with its API: the embedded API Gateway has no way to take one away."""


FURTHER: Mapping[str, type[Handler]] = {
    "AWS::CodeDeploy::Application": DeploymentApplicationHandler,
    "AWS::CodeDeploy::DeploymentGroup": DeploymentGroupHandler,
    "AWS::Lambda::CodeSigningConfig": CodeSigningHandler,
    "AWS::Cognito::UserPoolDomain": UserPoolDomainHandler,
    "AWS::Cognito::UserPoolGroup": UserPoolGroupHandler,
    "AWS::Cognito::UserPoolResourceServer": ResourceServerHandler,
    "AWS::DynamoDB::GlobalTable": GlobalTableHandler,
    "AWS::StepFunctions::StateMachine": StateMachineHandler,
    "AWS::SSM::Parameter": ParameterHandler,
    "AWS::SQS::QueueInlinePolicy": InlineQueuePolicyHandler,
    "AWS::SNS::TopicInlinePolicy": InlineTopicPolicyHandler,
    "AWS::Logs::LogStream": LogStreamHandler,
    "AWS::ApiGateway::RequestValidator": RequestValidatorHandler,
    "AWS::ApiGateway::Model": ModelHandler,
}
