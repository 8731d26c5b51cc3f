"""Definitions of APIs and load balancers, read from the services in use for the supervisor, which serves them; and the keys that sign tokens.

The supervisor asks here, with the secret that only it and the control plane know: for an API by its id or a load balancer by its name, in the
engine's own account; and for the key set of an issuer of tokens. Nothing is kept here. boto3 blocks and runs in threads.
Source: docs.aws.amazon.com/apigateway/latest/api, docs.aws.amazon.com/apigatewayv2/latest/api-reference,
openid.net/specs/openid-connect-discovery-1_0.html.
"""

from __future__ import annotations

import asyncio
import json
import re
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from engine.config import AuthMode, Settings
from engine.control.link import Hello
from engine.control.questions import QuestionEndpoint
from engine.errors import ServiceError
from engine.protocol.gateway import balancers
from engine.protocol.gateway.balancers import Balancer
from engine.protocol.gateway.definition import Api, read_http, read_rest

if TYPE_CHECKING:
    from engine.aws.clients import AwsClients

PATH = "/_lambda-engine/gateway"
FETCH_S = 10.0
# The supervisor tells reading from writing by it, where the method does not.
READING = "lambda-engine-reading"
MAX_KEYS = 1024 * 1024
_COGNITO = re.compile(r"https://cognito-idp\.[a-z0-9-]+\.amazonaws\.com/([A-Za-z0-9_-]+)/?")


class Gateways:
    """Asks API Gateway. Blocks: call it in a thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clients: dict[tuple[str, str], AwsClients] = {}

    def api(self, api_id: str, hello: Hello) -> Api | None:
        """The API of this id, None when there is none. Raises ServiceError when API Gateway cannot be asked."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - a third of a second that few starts need

        for read in (self._http, self._rest):
            try:
                return read(self._aws(hello), hello.account_id, api_id, hello.region)
            except ClientError as e:
                if e.response["Error"]["Code"] in ("NotFoundException", "404"):
                    continue
                raise ServiceError(f"API Gateway could not be asked for {api_id}: {e}") from e
            except BotoCoreError as e:
                raise ServiceError(f"API Gateway could not be asked for {api_id}: {e}") from e
        return None

    def _rest(self, aws: AwsClients, account: str, api_id: str, region: str) -> Api:
        client = aws.client("apigateway")
        api = client.get_rest_api(restApiId=api_id)
        resources = list(_pages(client, "get_resources", "items", restApiId=api_id, embed=["methods"]))
        stages = client.get_stages(restApiId=api_id)["item"]
        authorizers = client.get_authorizers(restApiId=api_id, limit=500).get("items") or []
        responses = client.get_gateway_responses(restApiId=api_id, limit=500).get("items") or []
        validators: list[Any] = []
        if any(m.get("requestValidatorId") for r in resources for m in (r.get("resourceMethods") or {}).values()):
            validators = client.get_request_validators(restApiId=api_id, limit=500).get("items") or []
        keys: dict[str, dict[str, str]] = {}
        if any(m.get("apiKeyRequired") for r in resources for m in (r.get("resourceMethods") or {}).values()):
            keys = _keys(client, api_id)
        return read_rest(account, region, api, resources, stages, authorizers, keys, responses, validators)

    def _http(self, aws: AwsClients, account: str, api_id: str, region: str) -> Api:
        client = aws.client("apigatewayv2")
        api = client.get_api(ApiId=api_id)
        routes = list(_pages_v2(client.get_routes, api_id))
        named = sorted({r["AuthorizerId"] for r in routes if r.get("AuthorizerId")})
        return read_http(
            account,
            region,
            api,
            routes,
            list(_pages_v2(client.get_integrations, api_id)),
            list(_pages_v2(client.get_stages, api_id)),
            [client.get_authorizer(ApiId=api_id, AuthorizerId=name) for name in named],
        )

    def balancer(self, name: str, hello: Hello) -> Balancer | None:
        """The application load balancer of this name, or whose DNS name begins with it. Raises ServiceError when ELB cannot be asked."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - as in api

        client = self._aws(hello).client("elbv2", user_agent_extra=READING)
        try:
            for found in _pages(client, "describe_load_balancers", "LoadBalancers"):
                names = (str(found["LoadBalancerName"]).lower(), str(found.get("DNSName") or "").partition(".")[0].lower())
                if name in names and found.get("Type", "application") == "application":
                    return _balancer(client, hello.account_id, found)
        except (ClientError, BotoCoreError) as e:
            raise ServiceError(f"Elastic Load Balancing could not be asked for {name}: {e}") from e
        return None

    def key_set(self, issuer: str, hello: Hello) -> dict[str, Any]:
        """The JSON Web Key Set of an issuer, found by its discovery document. Raises ServiceError when it cannot be had.

        A user pool of the embedded Cognito calls itself by AWS's name and is asked here.
        """
        pool = _COGNITO.fullmatch(issuer)
        if pool is not None and self._settings.aws_endpoint != "aws":
            base = hello.endpoint_url if self._settings.aws_endpoint == "embedded" else self._settings.aws_endpoint
            signing = hello.function_key if self._settings.auth is not AuthMode.OFF else ("test", "test", None)
            return _get(f"{base.rstrip('/')}/{pool[1]}/.well-known/jwks.json", (*signing, hello.region))
        described = _get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        return _get(str(described.get("jwks_uri") or ""))

    def _aws(self, hello: Hello) -> AwsClients:
        from engine.aws.clients import for_settings  # noqa: PLC0415 - imports boto3

        account = hello.account_id
        found = self._clients.get((account, hello.endpoint_url))
        if found is None:
            credentials: tuple[str, str, str | None] | None = None
            if self._settings.aws_endpoint == "embedded":
                credentials = hello.function_key if self._settings.auth is not AuthMode.OFF else (account, "engine", None)
            found = self._clients[account, hello.endpoint_url] = for_settings(self._settings, hello.endpoint_url, credentials)
        return found


def _pages(client: Any, operation: str, member: str, **arguments: Any) -> Iterator[Any]:
    for page in client.get_paginator(operation).paginate(**arguments):
        yield from page.get(member) or ()


def _pages_v2(operation: Callable[..., Any], api_id: str) -> Iterator[Any]:
    more: dict[str, str] = {}
    while True:
        page = operation(ApiId=api_id, **more)
        yield from page.get("Items") or ()
        if not page.get("NextToken"):
            return
        more = {"NextToken": page["NextToken"]}


def _balancer(client: Any, account: str, found: Any) -> Balancer:
    arn = found["LoadBalancerArn"]
    listeners = [
        (about, client.describe_rules(ListenerArn=about["ListenerArn"])["Rules"])
        for about in _pages(client, "describe_listeners", "Listeners", LoadBalancerArn=arn)
    ]
    groups = []
    named = {
        one.get("TargetGroupArn")
        for _, rules in listeners for rule in rules for action in rule["Actions"]
        for one in (action, *((action.get("ForwardConfig") or {}).get("TargetGroups") or ()))
    }  # fmt: skip
    used = sorted(filter(None, named))
    for about in _pages(client, "describe_target_groups", "TargetGroups", TargetGroupArns=used) if used else ():
        group = {"TargetGroupArn": about["TargetGroupArn"]}
        targets = [t["Target"]["Id"] for t in client.describe_target_health(**group)["TargetHealthDescriptions"]]
        groups.append((about, targets, _attributes(client.describe_target_group_attributes(**group))))
    return balancers.read(account, found, listeners, groups, _attributes(client.describe_load_balancer_attributes(LoadBalancerArn=arn)))


def _attributes(answer: Any) -> dict[str, str]:
    return {a["Key"]: a["Value"] for a in answer["Attributes"]}


def _keys(client: Any, api_id: str) -> dict[str, dict[str, str]]:
    """Values of enabled API keys by stage and id: a key opens the stages of its usage plans."""
    values = {k["id"]: k["value"] for k in _pages(client, "get_api_keys", "items", includeValues=True) if k.get("enabled")}
    found: dict[str, dict[str, str]] = {}
    for plan in _pages(client, "get_usage_plans", "items"):
        stages = [s["stage"] for s in plan.get("apiStages") or () if s.get("apiId") == api_id and s.get("stage")]
        if stages:
            keys = [k["id"] for k in _pages(client, "get_usage_plan_keys", "items", usagePlanId=plan["id"])]
            for stage in stages:
                found.setdefault(stage, {}).update({k: values[k] for k in keys if k in values})
    return found


def _get(url: str, signing: tuple[str, str, str | None, str] | None = None) -> dict[str, Any]:
    """A JSON object. ``signing``: access key, secret, token and region, for Cognito. Raises ServiceError naming the address."""
    if not url.startswith(("https://", "http://")):
        raise ServiceError(f"{url[:200]!r} is not the address of a document")
    request = urllib.request.Request(url, headers={} if signing is None else _signed(url, *signing))  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=FETCH_S) as answer:  # noqa: S310 - as above
            document = json.loads(answer.read(MAX_KEYS))
    except (OSError, ValueError, urllib.error.URLError) as e:
        raise ServiceError(f"{url}: {e}") from e
    if not isinstance(document, dict):
        raise ServiceError(f"{url} is not a JSON object")
    return document


def _signed(url: str, key: str, secret: str, token: str | None, region: str) -> dict[str, str]:
    """The headers of a signed request: by its service, the engine and the embedded AWS tell whose it is."""
    from botocore.auth import SigV4Auth  # noqa: PLC0415 - a third of a second that few starts need
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415
    from botocore.credentials import Credentials  # noqa: PLC0415

    request = AWSRequest("GET", url)
    SigV4Auth(Credentials(key, secret, token), "cognito-idp", region).add_auth(request)
    return dict(request.headers.items())


class GatewayEndpoint(QuestionEndpoint):
    """The question is ``{"api": id}``, ``{"balancer": name}`` or ``{"issuer": url}``."""

    def __init__(self, gateways: Gateways, hello: Callable[[], Awaitable[Hello]]) -> None:
        super().__init__(hello)
        self._gateways = gateways

    async def answer(self, asked: dict[str, Any], hello: Hello) -> tuple[int, Any]:
        ask: Mapping[str, Callable[[str, Hello], Any]] = {
            "issuer": self._gateways.key_set, "balancer": self._gateways.balancer, "api": self._gateways.api,
        }  # fmt: skip
        ((kind, name),) = asked.items()
        try:
            return 200, await asyncio.to_thread(ask[kind], name, hello)
        except ServiceError as e:
            return 502, {"message": e.message}
