"""Resources that templates of functions commonly have, whose services are embedded and whose types the embedded CloudFormation does not know.

Source: docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engine.aws.lambda_resources import Handler, Made, Properties, Replace

_WHOLE = ("EvaluationPeriods", "Period", "DatapointsToAlarm")


def _taken(client: Any, operation: str, properties: Properties) -> dict[str, Any]:
    """The properties that an operation has members for, by the same name."""
    members = client.meta.service_model.operation_model(operation).input_shape.members
    return {k: v for k, v in properties.items() if k in members and k != "Tags"}


class SecretHandler(Handler):
    """AWS::SecretsManager::Secret."""

    def create(self, name: str, properties: Properties) -> Made:
        client = self.clients("secretsmanager")
        arguments = {k: properties[k] for k in ("Description", "KmsKeyId", "Tags") if properties.get(k)}
        arn = client.create_secret(Name=properties.get("Name") or name, SecretString=self._text(properties), **arguments)["ARN"]
        return Made(arn, arn, {"Id": arn, "Arn": arn})

    def _text(self, properties: Properties) -> str:
        generate = properties.get("GenerateSecretString")
        if generate is None:
            # The service takes no empty secret, and a template may say nothing of what is in it.
            return str(properties.get("SecretString") or "{}")
        client = self.clients("secretsmanager")
        wanted = _taken(client, "GetRandomPassword", generate)
        if "PasswordLength" in wanted:
            wanted["PasswordLength"] = int(wanted["PasswordLength"])
        text = str(client.get_random_password(**wanted)["RandomPassword"])
        if not generate.get("GenerateStringKey"):
            return text
        return json.dumps({**json.loads(generate.get("SecretStringTemplate") or "{}"), generate["GenerateStringKey"]: text})

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        if old.get("Name") != new.get("Name"):
            raise Replace
        client = self.clients("secretsmanager")
        client.update_secret(SecretId=made.physical, Description=new.get("Description", ""))
        if any(old.get(k) != new.get(k) for k in ("SecretString", "GenerateSecretString")):
            client.put_secret_value(SecretId=made.physical, SecretString=self._text(new))
        return made

    def delete(self, made: Made, properties: Properties) -> None:
        client = self.clients("secretsmanager")
        self.forgiving(
            client.delete_secret, client.exceptions.ResourceNotFoundException, SecretId=made.physical, ForceDeleteWithoutRecovery=True
        )


class AlarmHandler(Handler):
    """AWS::CloudWatch::Alarm."""

    def create(self, name: str, properties: Properties) -> Made:
        client = self.clients("cloudwatch")
        called = properties.get("AlarmName") or name
        arguments = {k: int(v) if k in _WHOLE else v for k, v in _taken(client, "PutMetricAlarm", properties).items()}
        if "Threshold" in arguments:
            arguments["Threshold"] = float(arguments["Threshold"])
        client.put_metric_alarm(**{**arguments, "AlarmName": called})
        arn = client.describe_alarms(AlarmNames=[called])["MetricAlarms"][0]["AlarmArn"]
        return Made(called, called, {"Arn": arn})

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        if old.get("AlarmName") != new.get("AlarmName"):
            raise Replace
        return self.create(made.physical, new)

    def delete(self, made: Made, properties: Properties) -> None:
        self.clients("cloudwatch").delete_alarms(AlarmNames=[made.physical])


class MetricFilterHandler(Handler):
    """AWS::Logs::MetricFilter."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        called = properties.get("FilterName") or name
        members = ("MetricName", "MetricNamespace", "MetricValue", "DefaultValue", "Unit")
        metrics = [{k[0].lower() + k[1:]: m[k] for k in members if m.get(k) is not None} for m in properties["MetricTransformations"]]
        self.clients("logs").put_metric_filter(
            logGroupName=properties["LogGroupName"],
            filterName=called,
            filterPattern=properties.get("FilterPattern", ""),
            metricTransformations=metrics,
        )
        return Made(called, called, {})

    def delete(self, made: Made, properties: Properties) -> None:
        logs = self.clients("logs")
        self.forgiving(logs.delete_metric_filter, logs.exceptions.ClientError, logGroupName=properties["LogGroupName"], filterName=made.physical)


class UserPoolHandler(Handler):
    """AWS::Cognito::UserPool."""

    def create(self, name: str, properties: Properties) -> Made:
        client = self.clients("cognito-idp")
        arguments = _taken(client, "CreateUserPool", properties)
        made = client.create_user_pool(**arguments, PoolName=properties.get("UserPoolName") or name)["UserPool"]
        provider = f"cognito-idp.{client.meta.region_name}.amazonaws.com/{made['Id']}"
        attributes = {"Arn": made["Arn"], "UserPoolId": made["Id"], "ProviderName": provider, "ProviderURL": f"https://{provider}"}
        return Made(made["Id"], made["Id"], attributes)

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        client = self.clients("cognito-idp")
        changeable = client.meta.service_model.operation_model("UpdateUserPool").input_shape.members.keys() | {"UserPoolTags"}
        if any(old.get(k) != new.get(k) for k in {*old, *new} - changeable):
            raise Replace
        client.update_user_pool(UserPoolId=made.physical, **_taken(client, "UpdateUserPool", new))
        return made

    def delete(self, made: Made, properties: Properties) -> None:
        client = self.clients("cognito-idp")
        self.forgiving(client.delete_user_pool, client.exceptions.ResourceNotFoundException, UserPoolId=made.physical)


class UserPoolClientHandler(Handler):
    """AWS::Cognito::UserPoolClient."""

    def create(self, name: str, properties: Properties) -> Made:
        client = self.clients("cognito-idp")
        arguments = {**_taken(client, "CreateUserPoolClient", properties), "ClientName": properties.get("ClientName") or name}
        made = client.create_user_pool_client(**arguments)["UserPoolClient"]
        attributes = {"ClientId": made["ClientId"], "Name": made["ClientName"]}
        if made.get("ClientSecret"):
            attributes["ClientSecret"] = made["ClientSecret"]
        return Made(made["ClientId"], made["ClientId"], attributes)

    def delete(self, made: Made, properties: Properties) -> None:
        client = self.clients("cognito-idp")
        gone = client.exceptions.ResourceNotFoundException
        self.forgiving(client.delete_user_pool_client, gone, UserPoolId=properties["UserPoolId"], ClientId=made.physical)


COMMON: Mapping[str, type[Handler]] = {
    "AWS::SecretsManager::Secret": SecretHandler,
    "AWS::CloudWatch::Alarm": AlarmHandler,
    "AWS::Logs::MetricFilter": MetricFilterHandler,
    "AWS::Cognito::UserPool": UserPoolHandler,
    "AWS::Cognito::UserPoolClient": UserPoolClientHandler,
}
