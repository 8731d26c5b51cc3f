"""The embedded API Gateway, made to keep what it drops. Runs in the embedded AWS's process.

moto forgets a REST API's binary media types when it is created, the expression that a token must match when an authorizer is, and has
no list of an HTTP API's authorizers.
"""

from __future__ import annotations

import functools
import json
from typing import Any


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

    APIGatewayResponse.create_rest_api = create_rest_api
    APIGatewayResponse.create_authorizer = create_with_expression
    ApiGatewayV2Response.get_authorizers = get_authorizers
