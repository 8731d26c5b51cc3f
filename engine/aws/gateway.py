"""The embedded API Gateway, made to keep what it drops. Runs in the embedded AWS's process.

moto forgets a REST API's binary media types when it is created, the expression that a token must match when an authorizer is, and has
no list of an HTTP API's authorizers; of OpenAPI documents it reads version 3 only, and no integrations. It changes no methods.
"""

from __future__ import annotations

import functools
import json
import os
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import unquote

from engine.aws import http_apis, method_changes, openapi
from engine.aws.http_api_resources import HttpApiHandler
from engine.aws.lambda_resources import Handler, Made
from engine.aws.rest_api_resources import RestApiHandler


def install() -> None:
    """Work so from now on; once per process."""
    from moto.apigateway.responses import APIGatewayResponse  # noqa: PLC0415 - moto is an extra
    from moto.apigatewayv2.responses import ApiGatewayV2Response  # noqa: PLC0415

    create_api, create_authorizer = APIGatewayResponse.create_rest_api, APIGatewayResponse.create_authorizer

    @functools.wraps(create_api)
    def create_rest_api(self: Any) -> Any:
        status, headers, body = create_api(self)
        binary = self._get_param("binaryMediaTypes")
        if status < 300 and binary:
            api = self.backend.get_rest_api(json.loads(body)["id"])
            api.binaryMediaTypes = list(binary)
            body = json.dumps(api.to_dict())
        return status, headers, body

    @functools.wraps(create_authorizer)
    def create_with_expression(self: Any) -> Any:
        status, headers, body = create_authorizer(self)
        expression = self._get_param("identityValidationExpression")
        if status < 300 and expression:
            api_id = self.path.replace("/restapis/", "", 1).split("/")[0]
            authorizer = self.backend.get_authorizer(api_id, json.loads(body)["id"])
            authorizer.identity_validation_expression = expression
            body = json.dumps(authorizer.to_json())
        return status, headers, body

    def get_authorizers(self: Any) -> Any:
        api = self.apigatewayv2_backend.get_api(self.path.split("/")[-2])
        return 200, {}, json.dumps({"items": [a.to_json() for a in api.authorizers.values()]})

    ApiGatewayV2Response.update_stage = _update_stage
    http_apis.install()
    ApiGatewayV2Response.reimport_api = _reimport_http_api(ApiGatewayV2Response.reimport_api)
    method_changes.install()
    _import_documents(APIGatewayResponse)
    APIGatewayResponse.create_rest_api = create_rest_api
    APIGatewayResponse.create_authorizer = create_with_expression
    ApiGatewayV2Response.get_authorizers = get_authorizers


# Members of UpdateStage that replace what was there, and those of whose keys the others stay: an empty text takes a variable away.
_STAGE = {"accessLogSettings": "access_log_settings", "autoDeploy": "auto_deploy", "clientCertificateId": "client_certificate_id",
          "defaultRouteSettings": "default_route_settings", "description": "description"}  # fmt: skip
_STAGE_MAPS = {"routeSettings": "route_settings", "stageVariables": "stage_variables"}


def _update_stage(self: Any) -> Any:
    """UpdateStage of an HTTP or WebSocket API."""
    _, _, _, api_id, _, stage_name = self.path.split("/")[:6]
    asked = json.loads(self.body)
    stage = self.apigatewayv2_backend.get_stage(api_id, unquote(stage_name))
    if asked.get("deploymentId"):
        http_apis.check(self.apigatewayv2_backend.get_api(api_id), asked["deploymentId"])
        stage.deployment_id = asked["deploymentId"]
    for member in asked.keys() & _STAGE.keys():
        setattr(stage, _STAGE[member], asked[member])
    for member in asked.keys() & _STAGE_MAPS.keys():
        merged = {**getattr(stage, _STAGE_MAPS[member]), **asked[member]}
        setattr(stage, _STAGE_MAPS[member], {k: v for k, v in merged.items() if v != ""})
    stage.updated = datetime.now()  # noqa: DTZ005 - as moto's own
    return 200, {}, json.dumps(stage.to_json())


def _import_documents(responses: Any) -> None:
    """ImportRestApi and PutRestApi in mode overwrite make of a document what a stack would, where the engine's address is known."""
    import_api, put_api = responses.import_rest_api, responses.put_rest_api

    @functools.wraps(import_api)
    def import_rest_api(self: Any) -> Any:
        handler = _handler(self, RestApiHandler)
        if handler is None:
            return import_api(self)
        made = handler.create("", {"Body": _document(self.body)})
        return 201, {}, json.dumps(self.backend.get_rest_api(made.physical).to_dict())

    @functools.wraps(put_api)
    def put_rest_api(self: Any) -> Any:
        handler = _handler(self, RestApiHandler) if self._get_param("mode") == "overwrite" else None
        if handler is None:
            return put_api(self)
        api = self.backend.get_rest_api(self.path.split("/")[-1])
        handler.update(Made(api.id, api.id, {}), {}, {"Body": _document(self.body)})
        return 200, {}, json.dumps(api.to_dict())

    responses.import_rest_api, responses.put_rest_api = import_rest_api, put_rest_api


def _reimport_http_api(reimport_api: Any) -> Any:
    """ReimportApi, which makes the routes of a document with their integrations and authorizers, as a stack would."""

    @functools.wraps(reimport_api)
    def reimport(self: Any) -> Any:
        handler = _handler(self, HttpApiHandler)
        if handler is None:
            return reimport_api(self)
        document = _document(json.loads(self.body).get("body") or "")
        about = document.get("info") or {}
        api = self.apigatewayv2_backend.get_api(self.path.split("/")[-1])
        api.name, api.version = about.get("title") or api.name, about.get("version") or api.version
        api.description = about.get("description") or api.description
        cors = openapi.cors(document)
        if cors:
            api.cors_configuration = {name[0].lower() + name[1:]: value for name, value in cors.items()}
        handler.refill(api.api_id, document)
        return 201, {}, json.dumps(api.to_json())

    return http_apis.addressed(reimport)


Kind = TypeVar("Kind", bound=Handler)


def _handler(response: Any, kind: type[Kind]) -> Kind | None:
    from engine.aws import stack_bridge  # noqa: PLC0415 - it imports moto's CloudFormation

    bridge = stack_bridge.bridge_of(os.environ)
    return None if bridge is None else bridge.handler(kind, response.current_account)


def _document(text: Any) -> Any:
    """Raises moto's BadRequestException for what is no OpenAPI document."""
    import yaml  # noqa: PLC0415 - moto brings it
    from moto.apigateway.exceptions import BadRequestException  # noqa: PLC0415

    try:
        found = yaml.safe_load(text)
        openapi.operations(found)
    except (yaml.YAMLError, ValueError, AttributeError) as e:
        raise BadRequestException(f"Invalid OpenAPI input: {e}") from e
    return found
