"""APIs on an engine's API Gateway, made with boto3 as users make them, and plain HTTP requests to them."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from tests.framework.engine import Engine

ACCOUNT, REGION = "000000000000", "us-east-1"


class Answer:
    """Status, headers (all of them, in order) and body of one HTTP exchange."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.pairs = [(name.lower(), value) for name, value in answer.getheaders()]
        self.headers = dict(self.pairs)
        self.body = answer.read()

    def json(self) -> Any:
        return json.loads(self.body)


def call(target: Engine, host: str, path: str = "/", method: str = "GET", body: bytes | str | None = None, **headers: Any) -> Answer:
    """One request; ``host`` empty: the engine's own. Underscores in header names are hyphens; a list is sent as several headers."""
    port = urlsplit(target.url).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.putrequest(method, path, skip_host=bool(host), skip_accept_encoding=True)
        if host:
            connection.putheader("Host", f"{host}:{port}")
        for name, value in headers.items():
            for one in value if isinstance(value, list) else [value]:
                connection.putheader(name.replace("_", "-"), one)
        data = body.encode() if isinstance(body, str) else body
        if data is not None:
            connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def function_arn(name: str) -> str:
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"


def invocation_uri(name: str) -> str:
    return f"arn:aws:apigateway:{REGION}:lambda:path/2015-03-31/functions/{function_arn(name)}/invocations"


def let_in(target: Engine, function: str, source: str, principal: str = "apigateway.amazonaws.com", sid: str = "gateway") -> None:
    """A permission as the console and SAM give it. ``source``: what follows the account in the source's ARN."""
    arn = f"arn:aws:execute-api:{REGION}:{ACCOUNT}:{source}" if not source.startswith("arn:") else source
    target.client().add_permission(
        FunctionName=function, StatementId=sid, Action="lambda:InvokeFunction", Principal=principal, SourceArn=arn
    )


class RestApi:
    """A REST API that grows by ``method`` and is there after ``deploy``."""

    def __init__(self, target: Engine, name: str, **settings: Any) -> None:
        self.client = target.client("apigateway")
        self.id = self.client.create_rest_api(name=name, **settings)["id"]
        self.host = f"{self.id}.execute-api.{REGION}.localhost"
        self._resources = {"/": self.client.get_resources(restApiId=self.id)["items"][0]["id"]}

    def resource(self, path: str) -> str:
        """The id of a resource, made with its parents."""
        if path not in self._resources:
            parent, _, part = path.rpartition("/")
            made = self.client.create_resource(restApiId=self.id, parentId=self.resource(parent or "/"), pathPart=part)
            self._resources[path] = made["id"]
        return self._resources[path]

    def method(self, method: str, path: str, function: str = "", integration: dict[str, Any] | None = None, **settings: Any) -> None:
        """A method with a Lambda proxy integration, or another one."""
        where = {"restApiId": self.id, "resourceId": self.resource(path), "httpMethod": method}
        self.client.put_method(**where, **{"authorizationType": "NONE", **settings})
        proxy = {"type": "AWS_PROXY", "integrationHttpMethod": "POST", "uri": invocation_uri(function)}
        self.client.put_integration(**where, **{**proxy, **(integration or {})})

    def authorizer(self, function: str, kind: str, source: str, **settings: Any) -> str:
        made = self.client.create_authorizer(
            restApiId=self.id, name="a", type=kind, authorizerUri=invocation_uri(function), identitySource=source, **settings
        )
        return str(made["id"])

    def deploy(self, stage: str = "prod", **variables: str) -> None:
        self.client.create_deployment(restApiId=self.id, stageName=stage, variables=variables)


class HttpApi:
    """An HTTP API with a stage, which deploys itself."""

    def __init__(self, target: Engine, name: str, stage: str = "$default", variables: dict[str, str] | None = None, **settings: Any) -> None:
        self.client = target.client("apigatewayv2")
        self.id = self.client.create_api(Name=name, **{"ProtocolType": "HTTP", **settings})["ApiId"]
        self.client.create_stage(ApiId=self.id, StageName=stage, AutoDeploy=True, StageVariables=variables or {})
        self.host = f"{self.id}.execute-api.{REGION}.localhost"

    def integration(self, function: str, **settings: Any) -> str:
        described = {
            "IntegrationType": "AWS_PROXY", "IntegrationUri": function_arn(function), "PayloadFormatVersion": "2.0", **settings,
        }  # fmt: skip
        return str(self.client.create_integration(ApiId=self.id, **described)["IntegrationId"])

    def route(self, key: str, function: str = "", integration: dict[str, Any] | None = None, **settings: Any) -> None:
        made = self.integration(function, **(integration or {}))
        self.client.create_route(ApiId=self.id, RouteKey=key, Target=f"integrations/{made}", **settings)

    def authorizer(self, **settings: Any) -> str:
        return str(self.client.create_authorizer(ApiId=self.id, Name="a", **settings)["AuthorizerId"])
