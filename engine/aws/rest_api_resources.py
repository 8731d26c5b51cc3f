"""Resources of templates that make REST APIs, made through API Gateway's API: SAM's ``Api`` events and what CDK and people write.

Source: docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/AWS_ApiGateway.html.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from engine.aws import openapi
from engine.aws.lambda_resources import Handler, Made, Properties
from engine.local_names import address, system

REST = "apigateway"


def local_address(client: Any, api_id: str) -> str:
    """Where the engine serves an API, for clients on its machine."""
    parts = urlsplit(client.meta.endpoint_url)
    where = address(parts.netloc, api_id, "execute-api", client.meta.region_name, "/_api/", names=system().lead_here())
    return f"{parts.scheme}://{where}"


class RestApiHandler(Handler):
    """AWS::ApiGateway::RestApi. Its ``Body`` is made method by method; a changed one replaces all methods."""

    def create(self, name: str, properties: Properties) -> Made:
        rest, body = self.clients(REST), properties.get("Body") or {}
        if properties.get("BodyS3Location"):
            raise ValueError("BodyS3Location is not supported: put the document into Body")
        arguments: dict[str, Any] = {}
        for member, argument in (("Description", "description"), ("ApiKeySourceType", "apiKeySource")):
            if properties.get(member):
                arguments[argument] = properties[member]
        policy = properties.get("Policy") or body.get("x-amazon-apigateway-policy")
        if policy:
            arguments["policy"] = policy if isinstance(policy, str) else json.dumps(policy)
        binary = properties.get("BinaryMediaTypes") or body.get("x-amazon-apigateway-binary-media-types") or ()
        if binary:
            arguments["binaryMediaTypes"] = [str(b).replace("~1", "/") for b in binary]
        title = properties.get("Name") or (body.get("info") or {}).get("title") or name
        api_id = rest.create_rest_api(name=title, **arguments)["id"]
        self._fill(api_id, body)
        return self._made(api_id)

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        if {k: v for k, v in old.items() if k != "Body"} != {k: v for k, v in new.items() if k != "Body"}:
            return super().update(made, old, new)
        rest, api_id = self.clients(REST), made.physical
        for resource in rest.get_resources(restApiId=api_id, limit=500)["items"]:
            if resource.get("path") == "/":
                for method in resource.get("resourceMethods") or {}:
                    rest.delete_method(restApiId=api_id, resourceId=resource["id"], httpMethod=method)
            elif resource["path"].count("/") == 1:
                self._prune(api_id, resource["id"])
        for authorizer in rest.get_authorizers(restApiId=api_id).get("items") or ():
            rest.delete_authorizer(restApiId=api_id, authorizerId=authorizer["id"])
        self._fill(api_id, new.get("Body") or {})
        return made

    def _prune(self, api_id: str, resource_id: str) -> None:
        """Delete a resource after what is below it."""
        rest = self.clients(REST)
        for resource in rest.get_resources(restApiId=api_id, limit=500)["items"]:
            if resource.get("parentId") == resource_id:
                self._prune(api_id, resource["id"])
        rest.delete_resource(restApiId=api_id, resourceId=resource_id)

    def _made(self, api_id: str) -> Made:
        rest = self.clients(REST)
        root = next(r["id"] for r in rest.get_resources(restApiId=api_id, limit=500)["items"] if r["path"] == "/")
        return Made(api_id, api_id, {"RootResourceId": root, "RestApiId": api_id})

    def delete(self, made: Made, properties: Properties) -> None:
        rest = self.clients(REST)
        self.forgiving(rest.delete_rest_api, rest.exceptions.NotFoundException, restApiId=made.physical)

    def _fill(self, api_id: str, body: Mapping[str, Any]) -> None:
        if not body:
            return
        rest = self.clients(REST)
        named: dict[str, tuple[str, str]] = {}
        for name, about in openapi.authorizers(body).items():
            kind = str(about["type"]).upper()
            members = ("authorizerUri", "authorizerCredentials", "identityValidationExpression", "identitySource", "providerARNs")
            arguments = {m: about[m] for m in members if about.get(m)}
            if about.get("authorizerResultTtlInSeconds") is not None:
                arguments["authorizerResultTtlInSeconds"] = int(about["authorizerResultTtlInSeconds"])
            made = rest.create_authorizer(restApiId=api_id, name=name, type=kind, **arguments)
            named[name] = (made["id"], "CUSTOM" if kind in ("TOKEN", "REQUEST") else kind)
        resources = {r["path"]: r["id"] for r in rest.get_resources(restApiId=api_id, limit=500)["items"]}
        for operation in openapi.operations(body):
            authorizer, kind = named.get(operation.authorizer or "", (None, "AWS_IAM" if operation.signed else "NONE"))
            put_method(
                rest,
                {"restApiId": api_id, "resourceId": self._resource(api_id, operation.path, resources), "httpMethod": operation.method},
                {"authorizationType": kind, "authorizerId": authorizer, "apiKeyRequired": operation.key_required,
                 "authorizationScopes": list(operation.scopes)},
                {k[0].upper() + k[1:]: v for k, v in operation.integration.items() if k not in ("httpMethod", "responses")}
                | {"IntegrationHttpMethod": operation.integration.get("httpMethod")},
                [
                    {k[0].upper() + k[1:]: v for k, v in about.items()} | {"SelectionPattern": None if key == "default" else key}
                    for key, about in (operation.integration.get("responses") or {}).items()
                ],
            )  # fmt: skip

        for kind, about in (body.get("x-amazon-apigateway-gateway-responses") or {}).items():
            put_response(rest, api_id, kind, about)

    def _resource(self, api_id: str, path: str, known: dict[str, str]) -> str:
        if path not in known:
            parent, _, part = path.rpartition("/")
            made = self.clients(REST).create_resource(
                restApiId=api_id, parentId=self._resource(api_id, parent or "/", known), pathPart=part
            )
            known[path] = made["id"]
        return known[path]


def put_response(rest: Any, api_id: str, kind: str, about: Mapping[str, Any]) -> None:
    """A gateway response; ``about`` has the members of OpenAPI's extension."""
    arguments: dict[str, Any] = {
        "responseParameters": dict(about.get("responseParameters") or {}), "responseTemplates": dict(about.get("responseTemplates") or {}),
    }  # fmt: skip
    if about.get("statusCode"):
        arguments["statusCode"] = str(about["statusCode"])
    rest.put_gateway_response(restApiId=api_id, responseType=kind, **arguments)


def put_method(
    rest: Any, where: dict[str, str], settings: Mapping[str, Any], integration: Mapping[str, Any], responses: list[dict[str, Any]]
) -> None:
    """A method with its integration and the integration's responses; ``integration`` and ``responses`` have CloudFormation's member names."""
    rest.put_method(**where, **{k: v for k, v in settings.items() if v})
    if not integration.get("Type"):
        return
    names = {"Type": "type", "Uri": "uri", "IntegrationHttpMethod": "integrationHttpMethod", "Credentials": "credentials"}
    names |= {"RequestTemplates": "requestTemplates", "RequestParameters": "requestParameters", "PassthroughBehavior": "passthroughBehavior"}
    arguments = {argument: integration[member] for member, argument in names.items() if integration.get(member)}
    arguments["type"] = str(arguments["type"]).upper()
    if integration.get("TimeoutInMillis"):
        arguments["timeoutInMillis"] = int(integration["TimeoutInMillis"])
    rest.put_integration(**where, **arguments)
    for about in responses:
        status = str(about["StatusCode"])
        parameters = about.get("ResponseParameters") or {}
        rest.put_method_response(**where, statusCode=status, responseParameters=dict.fromkeys(parameters, False))
        more = {"selectionPattern": about["SelectionPattern"]} if about.get("SelectionPattern") else {}
        rest.put_integration_response(
            **where, statusCode=status, responseParameters=parameters, responseTemplates=about.get("ResponseTemplates") or {}, **more
        )


class RestResourceHandler(Handler):
    """AWS::ApiGateway::Resource."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        made = self.clients(REST).create_resource(
            restApiId=properties["RestApiId"], parentId=properties["ParentId"], pathPart=properties["PathPart"]
        )
        return Made(made["id"], made["id"], {"ResourceId": made["id"]})

    def delete(self, made: Made, properties: Properties) -> None:
        rest = self.clients(REST)
        self.forgiving(
            rest.delete_resource, rest.exceptions.NotFoundException, restApiId=properties["RestApiId"], resourceId=made.physical
        )


class RestMethodHandler(Handler):
    """AWS::ApiGateway::Method."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        integration = properties.get("Integration") or {}
        where = {k[0].lower() + k[1:]: str(properties[k]) for k in ("RestApiId", "ResourceId", "HttpMethod")}
        settings = {
            "authorizationType": properties.get("AuthorizationType") or "NONE",
            "authorizerId": properties.get("AuthorizerId"),
            "apiKeyRequired": str(properties.get("ApiKeyRequired")).lower() == "true",
            "authorizationScopes": properties.get("AuthorizationScopes"),
            "operationName": properties.get("OperationName"),
        }
        put_method(self.clients(REST), where, settings, integration, integration.get("IntegrationResponses") or [])
        return Made(name, name, {})

    def delete(self, made: Made, properties: Properties) -> None:
        rest = self.clients(REST)
        where = {k[0].lower() + k[1:]: str(properties[k]) for k in ("RestApiId", "ResourceId", "HttpMethod")}
        self.forgiving(rest.delete_method, rest.exceptions.NotFoundException, **where)


class RestDeploymentHandler(Handler):
    """AWS::ApiGateway::Deployment."""

    def create(self, name: str, properties: Properties) -> Made:
        more = {"stageName": properties["StageName"]} if properties.get("StageName") else {}
        made = self.clients(REST).create_deployment(
            restApiId=properties["RestApiId"], description=properties.get("Description") or "", **more
        )
        attributes = {"DeploymentId": made["id"]}
        # SAM's translator has each deployment make a stage of this name, which nobody means.
        if more and properties["StageName"] != "Stage":
            attributes["Address"] = f"{local_address(self.clients(REST), properties['RestApiId'])}/{properties['StageName']}"
        return Made(made["id"], made["id"], attributes)

    def delete(self, made: Made, properties: Properties) -> None:
        """One that a stage still points at stays, as it goes with its API."""
        rest = self.clients(REST)
        self.forgiving(
            rest.delete_deployment, rest.exceptions.ClientError, restApiId=properties["RestApiId"], deploymentId=made.physical
        )


class RestStageHandler(Handler):
    """AWS::ApiGateway::Stage."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        stage = str(properties.get("StageName") or name)
        arguments = {"variables": {k: str(v) for k, v in (properties.get("Variables") or {}).items()}}
        self.clients(REST).create_stage(
            restApiId=properties["RestApiId"], stageName=stage, deploymentId=properties["DeploymentId"], **arguments
        )
        return Made(stage, stage, {"Address": f"{local_address(self.clients(REST), properties['RestApiId'])}/{stage}"})

    def delete(self, made: Made, properties: Properties) -> None:
        rest = self.clients(REST)
        self.forgiving(rest.delete_stage, rest.exceptions.ClientError, restApiId=properties["RestApiId"], stageName=made.physical)


class RestAuthorizerHandler(Handler):
    """AWS::ApiGateway::Authorizer."""

    def create(self, name: str, properties: Properties) -> Made:
        arguments: dict[str, Any] = {"name": properties.get("Name") or name, "type": properties["Type"]}
        members = ("AuthorizerUri", "AuthorizerCredentials", "IdentitySource", "IdentityValidationExpression")
        arguments |= {m[0].lower() + m[1:]: properties[m] for m in members if properties.get(m)}
        if properties.get("ProviderARNs"):
            arguments["providerARNs"] = properties["ProviderARNs"]
        if properties.get("AuthorizerResultTtlInSeconds") is not None:
            arguments["authorizerResultTtlInSeconds"] = int(properties["AuthorizerResultTtlInSeconds"])
        made = self.clients(REST).create_authorizer(restApiId=properties["RestApiId"], **arguments)
        return Made(made["id"], made["id"], {"AuthorizerId": made["id"]})

    def delete(self, made: Made, properties: Properties) -> None:
        rest = self.clients(REST)
        self.forgiving(
            rest.delete_authorizer, rest.exceptions.ClientError, restApiId=properties["RestApiId"], authorizerId=made.physical
        )


class GatewayResponseHandler(Handler):
    """AWS::ApiGateway::GatewayResponse."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        about = {k[0].lower() + k[1:]: v for k, v in properties.items()}
        put_response(self.clients(REST), properties["RestApiId"], properties["ResponseType"], about)
        return Made(properties["ResponseType"], name, {"Id": name})

    def delete(self, made: Made, properties: Properties) -> None:
        rest = self.clients(REST)
        self.forgiving(
            rest.delete_gateway_response, rest.exceptions.ClientError, restApiId=properties["RestApiId"], responseType=made.physical
        )


class ApiKeyHandler(Handler):
    """AWS::ApiGateway::ApiKey."""

    def create(self, name: str, properties: Properties) -> Made:
        arguments = {"value": properties["Value"]} if properties.get("Value") else {}
        enabled = str(properties.get("Enabled", True)).lower() == "true"
        made = self.clients(REST).create_api_key(name=properties.get("Name") or name, enabled=enabled, **arguments)
        return Made(made["id"], made["id"], {"APIKeyId": made["id"]})

    def delete(self, made: Made, properties: Properties) -> None:
        rest = self.clients(REST)
        self.forgiving(rest.delete_api_key, rest.exceptions.ClientError, apiKey=made.physical)


class UsagePlanHandler(Handler):
    """AWS::ApiGateway::UsagePlan."""

    def create(self, name: str, properties: Properties) -> Made:
        stages = [{"apiId": s["ApiId"], "stage": s["Stage"]} for s in properties.get("ApiStages") or ()]
        made = self.clients(REST).create_usage_plan(name=properties.get("UsagePlanName") or name, apiStages=stages)
        return Made(made["id"], made["id"], {"Id": made["id"]})

    def delete(self, made: Made, properties: Properties) -> None:
        rest = self.clients(REST)
        self.forgiving(rest.delete_usage_plan, rest.exceptions.ClientError, usagePlanId=made.physical)


class UsagePlanKeyHandler(Handler):
    """AWS::ApiGateway::UsagePlanKey."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        self.clients(REST).create_usage_plan_key(
            usagePlanId=properties["UsagePlanId"], keyId=properties["KeyId"], keyType=properties["KeyType"]
        )
        return Made(properties["KeyId"], name, {"Id": properties["KeyId"]})

    def delete(self, made: Made, properties: Properties) -> None:
        rest = self.clients(REST)
        self.forgiving(
            rest.delete_usage_plan_key, rest.exceptions.ClientError, usagePlanId=properties["UsagePlanId"], keyId=made.physical
        )


class RestAccountHandler(Handler):
    """AWS::ApiGateway::Account: where an account's API logs go. Templates of CDK have one; here there are no such logs."""

    def create(self, name: str, properties: Properties) -> Made:
        return Made(name, name, {"Id": name})

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        return made

    def delete(self, made: Made, properties: Properties) -> None:
        """Nothing to do."""


REST_API: Mapping[str, type[Handler]] = {
    "AWS::ApiGateway::RestApi": RestApiHandler,
    "AWS::ApiGateway::Resource": RestResourceHandler,
    "AWS::ApiGateway::Method": RestMethodHandler,
    "AWS::ApiGateway::Deployment": RestDeploymentHandler,
    "AWS::ApiGateway::Stage": RestStageHandler,
    "AWS::ApiGateway::Authorizer": RestAuthorizerHandler,
    "AWS::ApiGateway::GatewayResponse": GatewayResponseHandler,
    "AWS::ApiGateway::ApiKey": ApiKeyHandler,
    "AWS::ApiGateway::UsagePlan": UsagePlanHandler,
    "AWS::ApiGateway::UsagePlanKey": UsagePlanKeyHandler,
    "AWS::ApiGateway::Account": RestAccountHandler,
}
