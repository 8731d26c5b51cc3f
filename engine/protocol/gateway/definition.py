"""What an API is, as the front serves it: stages, routes, integrations, authorizers. Pure values that travel between processes as JSON.

``read_rest``, ``read_http`` and ``read_websocket`` make them of what API Gateway's own operations answer.
Source: docs.aws.amazon.com/apigateway/latest/api and docs.aws.amazon.com/apigatewayv2/latest/api-reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

REST, HTTP, WEBSOCKET = "REST", "HTTP", "WEBSOCKET"
DEFAULT_STAGE = DEFAULT_ROUTE = "$default"
REST_TIMEOUT_S, HTTP_TIMEOUT_S = 29.0, 30.0
AUTHORIZER_TTL_S = 300
_FUNCTION = re.compile(r"arn:aws[a-zA-Z-]*:lambda:[^:/]*:[^:/]*:function:[^/]+")
# The one mapped parameter that a proxy integration needs: whom a function with TenancyConfig is invoked for.
TENANT = "integration.request.header.x-amz-tenant-id"
_GATEWAY_HEADER = "gatewayresponse.header."
_VARIABLE = re.compile(r"\$\{stageVariables\.([A-Za-z0-9_]+)\}")
Document = Mapping[str, Any]


class Integration(msgspec.Struct, frozen=True):
    """What a route leads to. ``payload``: the version of the event's format. ``mock``: of a MOCK, its answer by status. ``tenant``: the
    expression whose value a function is told as its tenant.
    """

    kind: str
    uri: str = ""
    timeout_s: float = REST_TIMEOUT_S
    payload: str = "1.0"
    credentials: str = ""
    mock: dict[str, MockAnswer] = {}
    mock_status: str = "200"
    subtype: str = ""
    tenant: str = ""

    def function_arn(self, variables: Mapping[str, str]) -> str | None:
        """The ARN of the function, stage variables put in; None when the target is not a function, or one that is to stream."""
        if "/response-streaming-invocations" in self.uri:
            return None
        return function_arn(self.uri, variables) if self.kind == "AWS_PROXY" and not self.subtype else None


class MockAnswer(msgspec.Struct, frozen=True):
    """A method's answer without an integration behind it: fixed headers and a fixed body."""

    headers: dict[str, str] = {}
    body: str = ""


class Authorizer(msgspec.Struct, frozen=True):
    """``kind``: TOKEN, REQUEST, JWT or COGNITO_USER_POOLS. ``sources``: expressions as API Gateway has them. ``simple``: a REQUEST
    authorizer of an HTTP API that may answer ``{"isAuthorized": …}``.
    """

    authorizer_id: str
    kind: str
    uri: str = ""
    sources: tuple[str, ...] = ()
    validation: str = ""
    ttl_s: int = AUTHORIZER_TTL_S
    payload: str = "1.0"
    simple: bool = False
    issuer: str = ""
    audience: tuple[str, ...] = ()
    credentials: str = ""


class Route(msgspec.Struct, frozen=True):
    """``method`` may be ANY. ``path``: the resource's path with its parameters in braces. ``key``: ``GET /pets/{id}`` or ``$default``;
    of a WebSocket API the value that selects it. ``two_way``: what the function answers to a message goes back to who sent it.
    ``required``: parameters that a request must have, as ``querystring.q``.
    """

    method: str
    path: str
    key: str
    integration: Integration | None
    authorization: str = "NONE"
    authorizer_id: str = ""
    scopes: tuple[str, ...] = ()
    key_required: bool = False
    resource_id: str = ""
    operation: str = ""
    two_way: bool = False
    required: tuple[str, ...] = ()


class Stage(msgspec.Struct, frozen=True):
    """``keys``: the values of API keys that open this stage, by their ids."""

    name: str
    deployment_id: str = ""
    variables: dict[str, str] = {}
    keys: dict[str, str] = {}


class GatewayResponse(msgspec.Struct, frozen=True):
    """``status`` None: the refusal's own. ``headers`` have expressions as values, ``template`` is that for JSON."""

    status: int | None = None
    headers: dict[str, str] = {}
    template: str | None = None


class Api(msgspec.Struct, frozen=True):
    """One API. ``binary``: media types whose bodies travel in Base64. ``cors`` has the members of an HTTP API's configuration.
    ``policy``: the API's own resource policy. ``responses``: its gateway responses by type. ``selection``: the route selection expression. ``key_from_authorizer``: API keys
    come from what a Lambda authorizer says, not from a header. ``ignored``: settings that have no effect here.
    """

    api_id: str
    kind: str
    account: str
    region: str
    routes: tuple[Route, ...]
    stages: dict[str, Stage]
    authorizers: dict[str, Authorizer] = {}
    binary: tuple[str, ...] = ()
    cors: dict[str, Any] | None = None
    policy: str = ""
    responses: dict[str, GatewayResponse] = {}
    disabled: bool = False
    selection: str = ""
    key_from_authorizer: bool = False
    ignored: tuple[str, ...] = ()

    def arn(self, rest: str) -> str:
        """``arn:aws:execute-api:<region>:<account>:<id>/<rest>``."""
        return f"arn:aws:execute-api:{self.region}:{self.account}:{self.api_id}/{rest}"


def function_arn(uri: str, variables: Mapping[str, str]) -> str | None:
    """The function that an integration's URI names, whether alone or in an invocation path; None when it names none."""
    match = _FUNCTION.search(_VARIABLE.sub(lambda m: variables.get(m[1], ""), uri))
    return None if match is None else match[0]


def read_rest(
    account: str,
    region: str,
    api: Document,
    resources: Iterable[Document],
    stages: Iterable[Document],
    authorizers: Iterable[Document],
    keys: Mapping[str, Mapping[str, str]],
    responses: Sequence[Document] = (),
    validators: Sequence[Document] = (),
) -> Api:
    """A REST API. ``resources`` have their methods embedded; ``keys``: values of API keys by stage and key id."""
    routes: list[Route] = []
    ignored: set[str] = set()
    for resource in resources:
        for method, about in (resource.get("resourceMethods") or {}).items():
            validator = next((v for v in validators if v.get("id") == about.get("requestValidatorId")), {})
            routes.append(_rest_route(resource, method, about, validator))
            if validator.get("validateRequestBody") and about.get("requestModels"):
                ignored.add("models of request bodies")
            integration = about.get("methodIntegration") or {}
            if {name.lower() for name in integration.get("requestParameters") or {}} - {TENANT}:
                ignored.add("parameter mappings of integrations")
    found = {}
    for stage in stages:
        name = str(stage["stageName"])
        found[name] = Stage(name, str(stage.get("deploymentId") or ""), dict(stage.get("variables") or {}), dict(keys.get(name) or {}))
        settings = (stage.get("methodSettings") or {}).values()
        if any(s.get("throttlingRateLimit", -1) >= 0 or s.get("throttlingBurstLimit", -1) >= 0 for s in settings):
            ignored.add("method throttling")
        if stage.get("cacheClusterEnabled"):
            ignored.add("the stage's cache")
        if stage.get("canarySettings"):
            ignored.add("canary deployments")
    if api.get("minimumCompressionSize") is not None:
        ignored.add("compression of responses")
    return Api(
        str(api["id"]),
        REST,
        account,
        region,
        tuple(routes),
        found,
        {a["id"]: _rest_authorizer(a) for a in authorizers},
        tuple(str(t).replace("~1", "/") for t in api.get("binaryMediaTypes") or ()),
        policy=_policy(api.get("policy")),
        responses=read_responses(responses),
        disabled=bool(api.get("disableExecuteApiEndpoint")),
        key_from_authorizer=api.get("apiKeySource") == "AUTHORIZER",
        ignored=tuple(sorted(ignored)),
    )


def read_responses(items: Sequence[Document]) -> dict[str, GatewayResponse]:
    """What GetGatewayResponses answers, by response type, without those that nobody has changed."""
    found = {}
    for item in items:
        if not item.get("defaultResponse"):
            status = item.get("statusCode")
            headers = {k.removeprefix(_GATEWAY_HEADER): str(v) for k, v in (item.get("responseParameters") or {}).items() if k.startswith(_GATEWAY_HEADER)}
            template = (item.get("responseTemplates") or {}).get("application/json")
            found[str(item["responseType"])] = GatewayResponse(None if status is None else int(status), headers, template)
    return found


def _policy(text: Any) -> str:
    """The API's policy; the API gives it with its quotes escaped once more."""
    return str(text or "").replace('\\"', '"')


def _rest_route(resource: Document, method: str, about: Document, validator: Document) -> Route:
    described = about.get("methodIntegration")
    integration = None
    if described:
        answers = {
            str(status): MockAnswer(
                {k.rpartition(".")[2]: v[1:-1] for k, v in (answer.get("responseParameters") or {}).items() if v[:1] == "'" == v[-1:]},
                (answer.get("responseTemplates") or {}).get("application/json") or "",
            )
            for status, answer in (described.get("integrationResponses") or {}).items()
        }
        template = next(iter((described.get("requestTemplates") or {}).values()), "") or ""
        status = re.search(r'"statusCode"\s*:\s*"?(\d{3})', template)
        integration = Integration(
            str(described.get("type") or ""),
            str(described.get("uri") or ""),
            min(float(described.get("timeoutInMillis") or REST_TIMEOUT_S * 1000) / 1000, REST_TIMEOUT_S),
            credentials=str(described.get("credentials") or ""),
            mock=answers if described.get("type") == "MOCK" else {},
            mock_status="200" if status is None else status[1],
            tenant=next((str(v) for k, v in (described.get("requestParameters") or {}).items() if k.lower() == TENANT), ""),
        )
    path = str(resource["path"])
    return Route(
        method,
        path,
        f"{method} {path}",
        integration,
        str(about.get("authorizationType") or "NONE"),
        str(about.get("authorizerId") or ""),
        tuple(about.get("authorizationScopes") or ()),
        bool(about.get("apiKeyRequired")),
        str(resource["id"]),
        str(about.get("operationName") or ""),
        required=tuple(
            name.removeprefix("method.request.")
            for name, required in (about.get("requestParameters") or {}).items()
            if required and validator.get("validateRequestParameters")
        ),
    )


def _rest_authorizer(about: Document) -> Authorizer:
    ttl, kind = about.get("authorizerResultTtlInSeconds"), str(about.get("type") or "")
    source = about.get("identitySource") or ("" if kind == "REQUEST" else "method.request.header.Authorization")
    return Authorizer(
        str(about["id"]),
        kind,
        str(about.get("authorizerUri") or ""),
        tuple(s.strip() for s in str(source).split(",") if s.strip()),
        str(about.get("identityValidationExpression") or ""),
        AUTHORIZER_TTL_S if ttl is None else int(ttl),
        audience=tuple(about.get("providerARNs") or ()),
        credentials=str(about.get("authorizerCredentials") or ""),
    )


def read_http(
    account: str,
    region: str,
    api: Document,
    routes: Iterable[Document],
    integrations: Iterable[Document],
    stages: Iterable[Document],
    authorizers: Sequence[Document],
) -> Api:
    """An HTTP or WebSocket API, from the members of apigatewayv2's answers."""
    kind = str(api.get("ProtocolType") or HTTP)
    integrations = list(integrations)
    ignored: set[str] = set()
    if kind == HTTP and any(i.get("RequestParameters") or i.get("ResponseParameters") for i in integrations):
        ignored.add("parameter mappings of integrations")
    found: dict[str, Stage] = {}
    for stage in stages:
        name = str(stage["StageName"])
        found[name] = Stage(name, str(stage.get("DeploymentId") or ""), dict(stage.get("StageVariables") or {}))
        throttles = [stage.get("DefaultRouteSettings") or {}, *(stage.get("RouteSettings") or {}).values()]
        if any(t.get("ThrottlingRateLimit") or t.get("ThrottlingBurstLimit") for t in throttles):
            ignored.add("route throttling")
    targets = {f"integrations/{i['IntegrationId']}": _http_integration(i, kind) for i in integrations}
    cors = api.get("CorsConfiguration")
    return Api(
        str(api["ApiId"]),
        kind,
        account,
        region,
        tuple(_http_route(r, targets) for r in routes),
        found,
        {a["AuthorizerId"]: _http_authorizer(a, kind) for a in authorizers},
        cors=None if not cors else {k: v for k, v in cors.items() if v is not None},
        disabled=bool(api.get("DisableExecuteApiEndpoint")),
        selection=str(api.get("RouteSelectionExpression") or ""),
        ignored=tuple(sorted(ignored)),
    )


def _http_integration(about: Document, kind: str) -> Integration:
    limit_s = HTTP_TIMEOUT_S if kind == HTTP else REST_TIMEOUT_S
    return Integration(
        str(about.get("IntegrationType") or ""),
        str(about.get("IntegrationUri") or ""),
        min(float(about.get("TimeoutInMillis") or limit_s * 1000) / 1000, limit_s),
        str(about.get("PayloadFormatVersion") or "1.0"),
        str(about.get("CredentialsArn") or ""),
        subtype=str(about.get("IntegrationSubtype") or ""),
    )


def _http_route(about: Document, targets: Mapping[str, Integration]) -> Route:
    key = str(about["RouteKey"])
    method, _, path = key.partition(" ")
    return Route(
        method if path else "ANY",
        path,
        key,
        targets.get(str(about.get("Target") or "")),
        str(about.get("AuthorizationType") or "NONE"),
        str(about.get("AuthorizerId") or ""),
        tuple(about.get("AuthorizationScopes") or ()),
        bool(about.get("ApiKeyRequired")),
        str(about.get("RouteId") or ""),
        str(about.get("OperationName") or ""),
        bool(about.get("RouteResponseSelectionExpression")),
    )


def _http_authorizer(about: Document, kind: str) -> Authorizer:
    jwt = about.get("JwtConfiguration") or {}
    ttl = about.get("AuthorizerResultTtlInSeconds")
    return Authorizer(
        str(about["AuthorizerId"]),
        str(about.get("AuthorizerType") or ""),
        str(about.get("AuthorizerUri") or ""),
        tuple(about.get("IdentitySource") or ()),
        str(about.get("IdentityValidationExpression") or ""),
        # A Lambda authorizer of an HTTP API caches only where it is told to; those of WebSocket APIs never do.
        0 if ttl is None or kind == WEBSOCKET else int(ttl),
        str(about.get("AuthorizerPayloadFormatVersion") or "1.0"),
        bool(about.get("EnableSimpleResponses")),
        str(jwt.get("Issuer") or ""),
        tuple(jwt.get("Audience") or ()),
        str(about.get("AuthorizerCredentialsArn") or ""),
    )
