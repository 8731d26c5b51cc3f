"""HTTP and WebSocket APIs of the embedded API Gateway, as AWS's answers describe them. Runs in the embedded AWS's process.

moto gives APIs addresses at Amazon, knows no deployments, and drops the target that an API is made for at once. Here an address is the engine's; a deployment
is kept and named by its stages, which show their API as it is now; and the target has the API's one route.
Source: docs.aws.amazon.com/apigatewayv2/latest/api-reference.
"""

from __future__ import annotations

import functools
import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from engine.local_names import address, system

DEFAULT = "$default"
_ID_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_PATH = "{0}/v2/apis/(?P<api_id>[^/]+)/deployments"


def install() -> None:
    """Work so from now on; once per process, before moto serves its first request for one of these APIs."""
    from moto.apigatewayv2 import urls  # noqa: PLC0415 - moto is an extra
    from moto.apigatewayv2.models import Stage  # noqa: PLC0415
    from moto.apigatewayv2.responses import ApiGatewayV2Response as Responses  # noqa: PLC0415

    urls.url_paths[f"{_PATH}$"] = Responses.dispatch
    urls.url_paths[f"{_PATH}/(?P<deployment_id>[^/]+)$"] = Responses.dispatch
    for action in (_create_deployment, _get_deployments, _get_deployment, _update_deployment, _delete_deployment):
        setattr(Responses, action.__name__.removeprefix("_"), action)
    Responses.create_api = _for_target(Responses.create_api)
    for name in ("create_api", "get_api", "get_apis", "update_api"):
        setattr(Responses, name, addressed(getattr(Responses, name)))
    Responses.create_stage = _of_deployment(Responses.create_stage)
    Stage.to_json = _with_deployment(Stage.to_json)


Action = Callable[[Any], Any]


def addressed(action: Action) -> Action:
    """The action with the engine's address in place of Amazon's."""

    @functools.wraps(action)
    def answer(self: Any) -> Any:
        status, headers, body = action(self)
        found = json.loads(body)
        for api in found.get("items", [found]):
            if "apiEndpoint" in api:
                where = address(self.headers.get("Host", ""), api["apiId"], "execute-api", self.region, "/_api/", names=system().lead_here())
                api["apiEndpoint"] = f"{'ws' if api.get('protocolType') == 'WEBSOCKET' else 'http'}://{where}"
        return status, headers, json.dumps(found)

    return answer


def _for_target(action: Action) -> Action:
    """CreateApi, which makes an integration, a route and a stage when it is given a target."""

    @functools.wraps(action)
    def create_api(self: Any) -> Any:
        status, headers, body = action(self)
        asked = json.loads(self.body)
        target = asked.get("target")
        if status < 300 and target:
            api = self.apigatewayv2_backend.get_api(json.loads(body)["apiId"])
            function = str(target).startswith("arn:")
            kind, method, payload = ("AWS_PROXY", "POST", "2.0") if function else ("HTTP_PROXY", "ANY", "1.0")
            integration = api.create_integration(
                connection_type="INTERNET", description=None, integration_method=method, integration_type=kind, integration_uri=target,
                payload_format_version=payload, credentials_arn=asked.get("credentialsArn"),
            )  # fmt: skip
            api.create_route(
                api_key_required=False, authorization_scopes=None, route_key=asked.get("routeKey") or DEFAULT,
                target=f"integrations/{integration.id}",
            )  # fmt: skip
            api.create_stage({"stageName": DEFAULT, "autoDeploy": True})
        return status, headers, body

    return create_api


# Deployments.


def _deployments(response: Any) -> tuple[Any, dict[str, dict[str, Any]], str]:
    """The API that a path names, its deployments, and the one of them it names."""
    parts = response.path.split("/")
    api = response.apigatewayv2_backend.get_api(parts[3])
    return api, api.__dict__.setdefault("deployments", {}), unquote(parts[5]) if len(parts) > 5 else ""


def _missing() -> Exception:
    """For a deployment that is not there."""
    from moto.apigatewayv2.exceptions import APIGatewayV2Error  # noqa: PLC0415

    error: Any = APIGatewayV2Error("NotFoundException", "Invalid deployment identifier specified")
    error.code = 404
    return error  # type: ignore[no-any-return]


def check(api: Any, deployment_id: str) -> None:
    """Raises moto's NotFoundException."""
    if deployment_id not in api.__dict__.get("deployments", {}):
        raise _missing()


def _create_deployment(self: Any) -> Any:
    api, deployments, _ = _deployments(self)
    asked = json.loads(self.body or "{}")
    stage = api.get_stage(asked["stageName"]) if asked.get("stageName") else None
    made: dict[str, Any] = {
        "deploymentId": "".join(secrets.choice(_ID_LETTERS) for _ in range(6)),
        "createdDate": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "deploymentStatus": "DEPLOYED",
        "autoDeployed": False,
    }
    if asked.get("description"):
        made["description"] = asked["description"]
    deployments[made["deploymentId"]] = made
    if stage is not None:
        stage.deployment_id = made["deploymentId"]
    return 201, {}, json.dumps(made)


def _get_deployments(self: Any) -> Any:
    return 200, {}, json.dumps({"items": list(_deployments(self)[1].values())})


def _get_deployment(self: Any) -> Any:
    api, deployments, name = _deployments(self)
    check(api, name)
    return 200, {}, json.dumps(deployments[name])


def _update_deployment(self: Any) -> Any:
    api, deployments, name = _deployments(self)
    check(api, name)
    deployments[name] |= {k: v for k, v in json.loads(self.body or "{}").items() if k == "description"}
    return 200, {}, json.dumps(deployments[name])


def _delete_deployment(self: Any) -> Any:
    api, deployments, name = _deployments(self)
    check(api, name)
    del deployments[name]
    return 204, {}, ""


def _of_deployment(action: Action) -> Action:
    """CreateStage, which may name a deployment."""

    @functools.wraps(action)
    def create_stage(self: Any) -> Any:
        asked = json.loads(self.body)
        if asked.get("deploymentId"):
            check(self.apigatewayv2_backend.get_api(self.path.split("/")[3]), asked["deploymentId"])
        return action(self)

    return create_stage


def _with_deployment(action: Action) -> Action:
    @functools.wraps(action)
    def to_json(self: Any) -> Any:
        named = self.__dict__.get("deployment_id", self.config.get("deploymentId"))
        return {**action(self), **({"deploymentId": named} if named else {})}

    return to_json
