"""Resources of templates that make HTTP and WebSocket APIs, made through API Gateway's API: SAM's ``HttpApi`` events and others.

Source: docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/AWS_ApiGatewayV2.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.aws import openapi
from engine.aws.lambda_resources import Handler, Made, Properties
from engine.aws.rest_api_resources import local_address

HTTP = "apigatewayv2"
_API = ("Name", "ProtocolType", "Description", "RouteSelectionExpression", "CorsConfiguration", "DisableExecuteApiEndpoint", "Version")


class HttpApiHandler(Handler):
    """AWS::ApiGatewayV2::Api. Its ``Body`` is made route by route; a changed one replaces all routes."""

    def create(self, name: str, properties: Properties) -> Made:
        http, body = self.clients(HTTP), properties.get("Body") or {}
        for member in ("BodyS3Location", "Target"):
            if properties.get(member):
                raise ValueError(f"{member} of an API is not supported here: write its routes")
        arguments = {"ProtocolType": "HTTP", "Name": (body.get("info") or {}).get("title") or name}
        arguments |= {m: properties[m] for m in _API if properties.get(m) is not None}
        cors = openapi.cors(body)
        if cors and "CorsConfiguration" not in arguments:
            arguments["CorsConfiguration"] = cors
        api_id = http.create_api(**arguments)["ApiId"]
        self._fill(api_id, body)
        return Made(api_id, api_id, {"ApiId": api_id, "ApiEndpoint": local_address(http, api_id)})

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        before, after = old.get("Body") or {}, new.get("Body") or {}
        plain = [{k: v for k, v in p.items() if k not in ("Body", "Tags")} for p in (old, new)]
        if plain[0] != plain[1] or openapi.cors(before) != openapi.cors(after):
            return super().update(made, old, new)
        self.refill(made.physical, after)
        return made

    def refill(self, api_id: str, body: Mapping[str, Any]) -> None:
        """Have the routes of a document in place of all there are."""
        http = self.clients(HTTP)
        for route in http.get_routes(ApiId=api_id)["Items"]:
            http.delete_route(ApiId=api_id, RouteId=route["RouteId"])
            if route.get("AuthorizerId"):
                self.forgiving(
                    http.delete_authorizer, http.exceptions.ClientError, ApiId=api_id, AuthorizerId=route["AuthorizerId"]
                )
        for integration in http.get_integrations(ApiId=api_id)["Items"]:
            http.delete_integration(ApiId=api_id, IntegrationId=integration["IntegrationId"])
        self._fill(api_id, body)

    def delete(self, made: Made, properties: Properties) -> None:
        http = self.clients(HTTP)
        self.forgiving(http.delete_api, http.exceptions.NotFoundException, ApiId=made.physical)

    def _fill(self, api_id: str, body: Mapping[str, Any]) -> None:
        http = self.clients(HTTP)
        named: dict[str, tuple[str, str]] = {}
        for name, about in openapi.authorizers(body).items():
            kind = str(about["type"]).upper()
            made = http.create_authorizer(ApiId=api_id, Name=name, AuthorizerType=kind, **_authorizer(about))
            named[name] = (made["AuthorizerId"], "JWT" if kind == "JWT" else "CUSTOM")
        for operation in openapi.operations(body):
            about = operation.integration
            arguments: dict[str, Any] = {
                "IntegrationType": str(about["type"]).upper(),
                "IntegrationUri": about.get("uri"),
                "IntegrationMethod": about.get("httpMethod"),
                "PayloadFormatVersion": str(about.get("payloadFormatVersion") or "1.0"),
                "CredentialsArn": about.get("credentials"),
                "IntegrationSubtype": about.get("integrationSubtype"),
                "TimeoutInMillis": None if not about.get("timeoutInMillis") else int(about["timeoutInMillis"]),
            }
            made = http.create_integration(ApiId=api_id, **{k: v for k, v in arguments.items() if v is not None})
            key = operation.path if operation.path == "$default" else f"{operation.method} {operation.path}"
            authorizer, kind = named.get(operation.authorizer or "", (None, "AWS_IAM" if operation.signed else "NONE"))
            more: dict[str, Any] = {"AuthorizerId": authorizer} if authorizer else {}
            if operation.scopes:
                more["AuthorizationScopes"] = list(operation.scopes)
            http.create_route(ApiId=api_id, RouteKey=key, Target=f"integrations/{made['IntegrationId']}", AuthorizationType=kind, **more)


def _authorizer(about: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of CreateAuthorizer that a scheme's extension stands for."""
    source = about.get("identitySource") or ["$request.header.Authorization"]
    found: dict[str, Any] = {"IdentitySource": source if isinstance(source, list) else [s.strip() for s in str(source).split(",")]}
    jwt = about.get("jwtConfiguration")
    if jwt:
        found["JwtConfiguration"] = {"Issuer": jwt["issuer"], "Audience": list(jwt["audience"])}
    for member in ("authorizerUri", "authorizerPayloadFormatVersion"):
        if about.get(member):
            found[member[0].upper() + member[1:]] = str(about[member])
    if about.get("authorizerCredentials"):
        found["AuthorizerCredentialsArn"] = about["authorizerCredentials"]
    if about.get("enableSimpleResponses") is not None:
        found["EnableSimpleResponses"] = str(about["enableSimpleResponses"]).lower() == "true"
    if about.get("authorizerResultTtlInSeconds") is not None:
        found["AuthorizerResultTtlInSeconds"] = int(about["authorizerResultTtlInSeconds"])
    return found


class _Part(Handler):
    """A part of an API whose members in a template are those of its operations. ``name``: of the operations and the id's member."""

    exclusive = True
    name = ""
    members: tuple[str, ...] = ()
    # Of a template that writes numbers and truth values as text.
    whole: tuple[str, ...] = ()
    truths: tuple[str, ...] = ()

    def create(self, name: str, properties: Properties) -> Made:
        arguments = {m: properties[m] for m in self.members if properties.get(m) is not None}
        arguments |= {m: int(arguments[m]) for m in self.whole if m in arguments}
        arguments |= {m: str(arguments[m]).lower() == "true" for m in self.truths if m in arguments}
        call = getattr(self.clients(HTTP), f"create_{self.name.lower()}")
        made_id = str(call(ApiId=properties["ApiId"], **arguments)[f"{self.name}Id"])
        return Made(made_id, made_id, {f"{self.name}Id": made_id})

    def delete(self, made: Made, properties: Properties) -> None:
        http = self.clients(HTTP)
        call = getattr(http, f"delete_{self.name.lower()}")
        self.forgiving(call, http.exceptions.ClientError, ApiId=properties["ApiId"], **{f"{self.name}Id": made.physical})


class HttpRouteHandler(_Part):
    """AWS::ApiGatewayV2::Route."""

    name = "Route"
    members = (
        "RouteKey", "Target", "AuthorizationType", "AuthorizerId", "AuthorizationScopes", "ApiKeyRequired", "OperationName",
        "RouteResponseSelectionExpression",
    )  # fmt: skip
    truths = ("ApiKeyRequired",)


class HttpIntegrationHandler(_Part):
    """AWS::ApiGatewayV2::Integration."""

    name = "Integration"
    members = (
        "IntegrationType", "IntegrationUri", "IntegrationMethod", "PayloadFormatVersion", "CredentialsArn", "TimeoutInMillis",
        "IntegrationSubtype", "RequestParameters", "RequestTemplates",
    )  # fmt: skip
    whole = ("TimeoutInMillis",)


class HttpAuthorizerHandler(_Part):
    """AWS::ApiGatewayV2::Authorizer."""

    name = "Authorizer"
    members = (
        "Name", "AuthorizerType", "AuthorizerUri", "AuthorizerCredentialsArn", "IdentitySource", "JwtConfiguration",
        "AuthorizerPayloadFormatVersion", "EnableSimpleResponses", "AuthorizerResultTtlInSeconds",
    )  # fmt: skip
    whole = ("AuthorizerResultTtlInSeconds",)
    truths = ("EnableSimpleResponses",)


class HttpStageHandler(Handler):
    """AWS::ApiGatewayV2::Stage."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        http, stage = self.clients(HTTP), str(properties["StageName"])
        variables = {k: str(v) for k, v in (properties.get("StageVariables") or {}).items()}
        automatic = str(properties.get("AutoDeploy")).lower() == "true"
        http.create_stage(ApiId=properties["ApiId"], StageName=stage, AutoDeploy=automatic, StageVariables=variables)
        path = "" if stage == "$default" else f"/{stage}"
        return Made(stage, stage, {"Address": f"{local_address(http, properties['ApiId'])}{path}"})

    def delete(self, made: Made, properties: Properties) -> None:
        http = self.clients(HTTP)
        self.forgiving(http.delete_stage, http.exceptions.ClientError, ApiId=properties["ApiId"], StageName=made.physical)


class HttpDeploymentHandler(Handler):
    """AWS::ApiGatewayV2::Deployment: a name. The stages of these APIs show them as they are."""

    def create(self, name: str, properties: Properties) -> Made:
        return Made(name, name, {"DeploymentId": name})

    def delete(self, made: Made, properties: Properties) -> None:
        """Nothing to do."""


HTTP_API: Mapping[str, type[Handler]] = {
    "AWS::ApiGatewayV2::Api": HttpApiHandler,
    "AWS::ApiGatewayV2::Route": HttpRouteHandler,
    "AWS::ApiGatewayV2::Integration": HttpIntegrationHandler,
    "AWS::ApiGatewayV2::Authorizer": HttpAuthorizerHandler,
    "AWS::ApiGatewayV2::Stage": HttpStageHandler,
    "AWS::ApiGatewayV2::Deployment": HttpDeploymentHandler,
}
