"""What APIs make of any request and of any answer: never an error that nobody declared, and nothing that could end a header."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.protocol.function_url import MalformedResponse
from engine.protocol.gateway import alb, authorizers, balancers, http, rest, tokens, websocket
from engine.protocol.gateway.definition import HTTP, REST, Api, Authorizer, Integration, Route, Stage, read_http, read_rest
from engine.protocol.gateway.request import ApiContext, ApiRequest
from engine.protocol.gateway.routes import Router, stage_of

few = settings(max_examples=50)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
MEMBERS = st.sampled_from(
    ["statusCode", "headers", "multiValueHeaders", "body", "isBase64Encoded", "cookies", "policyDocument", "principalId", "context", "isAuthorized", "x"]
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS | st.text(max_size=5), inner, max_size=5), max_leaves=12)
LATIN = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=12)
SEGMENT = st.text("abcXYZ019-._~", min_size=1, max_size=5)


def api(kind: str, *routes: Route, binary: tuple[str, ...] = ()) -> Api:
    return Api("id", kind, "000000000000", "us-east-1", routes, {"s": Stage("s"), "$default": Stage("$default")}, binary=binary)


def route(method: str, path: str) -> Route:
    return Route(method, path, f"{method} {path}", Integration("AWS_PROXY"))


@few
@given(JSON, st.sampled_from([REST, HTTP]), st.sampled_from([(), ("*/*",), ("image/*",)]))
def test_any_answer_is_a_response_or_malformed(answer: Any, kind: str, binary: tuple[str, ...]) -> None:
    try:
        made = rest.response(json.dumps(answer).encode(), kind, binary, "image/png")
    except MalformedResponse:
        return
    assert 200 <= made.status <= 599
    assert not any(c in f"{name}{value}" for name, value in made.headers for c in "\r\n\0")


@few
@given(JSON, st.booleans())
def test_any_answer_to_a_load_balancer_is_a_response_or_malformed(answer: Any, multi_value: bool) -> None:
    try:
        made, reason = alb.response(json.dumps(answer).encode(), multi_value=multi_value)
    except MalformedResponse:
        return
    assert 200 <= made.status <= 599
    assert not any(c in f"{reason}{name}{value}" for name, value in made.headers for c in "\r\n\0")


@given(
    st.sampled_from(["path-pattern", "host-header", "http-header", "http-request-method", "query-string", "source-ip", "other"]),
    st.lists(st.text("ab*?=.[/", max_size=6), max_size=2), st.text("ab/", max_size=6), st.text("ab&=%", max_size=6),
)  # fmt: skip
def test_any_condition_holds_or_not(field: str, values: list[str], path: str, query: str) -> None:
    rule = balancers.Rule((balancers.Condition(field, tuple(values), "a"),), ())
    listener = balancers.Listener(80, "HTTP", (rule, balancers.Rule((), ())))
    chosen = balancers.choose(listener, balancers.Asked("GET", "a.b", path, query, [("A", "b")], "::1"))
    assert chosen is not None
    if field == "other" or not values:
        assert chosen is listener.rules[1]
    if field == "path-pattern" and path in values:
        assert chosen is rule


@given(st.binary(max_size=40))
def test_any_bytes_are_a_response_or_malformed(answer: bytes) -> None:
    for read in (lambda: rest.response(answer, REST, (), ""), lambda: authorizers.verdict(answer, simple=True)):
        try:
            read()
        except (MalformedResponse, authorizers.MalformedVerdict):
            pass


@few
@given(JSON, st.booleans())
def test_any_verdict_is_one_or_malformed(answer: Any, simple: bool) -> None:
    try:
        said = authorizers.verdict(json.dumps(answer).encode(), simple=simple)
        assert said.allowed is not None or said.policy is not None
        authorizers.of_rest(said, 1)
    except authorizers.MalformedVerdict:
        pass


@few
@given(
    st.lists(st.tuples(st.text("abcX-", min_size=1, max_size=5), LATIN), max_size=6), LATIN, st.binary(max_size=30),
    st.dictionaries(SEGMENT, LATIN, max_size=2), st.sampled_from(["", "text/plain", "image/png", "application/json"]),
)  # fmt: skip
def test_any_request_is_an_event(headers: list[tuple[str, str]], query: str, body: bytes, parameters: dict[str, str], kind: str) -> None:
    request = ApiRequest("GET", "/a", "/s/a", query, [*headers, ("Content-Type", kind)], body, "127.0.0.1")
    for made in (api(REST, binary=("image/*",)), api(HTTP)):
        context = ApiContext(made, made.stages["s"], route("GET", "/a"), parameters, "r", "e", 0, "id.example")
        event = json.loads(rest.event(request, context))
        assert {k.lower() for k in event["headers"]} == {n.lower() for n, _ in request.headers}
        assert sum(map(len, event["multiValueHeaders"].values())) == len(request.headers)
        assert all(event["queryStringParameters"][k] == v[-1] for k, v in (event["multiValueQueryStringParameters"] or {}).items())
        assert (event["body"] is None) == (not body)
        newer = json.loads(http.event(request, context))
        assert ("body" in newer, newer["rawQueryString"]) == (bool(body), query)


@given(st.lists(SEGMENT, min_size=1, max_size=5), st.data())
def test_a_path_finds_the_route_it_was_made_for(parts: list[str], data: st.DataObject) -> None:
    names = [f"{{p{n}}}" if data.draw(st.booleans()) else part for n, part in enumerate(parts)]
    greedy = data.draw(st.integers(1, len(parts)))
    patterns = [f"/{'/'.join(names)}", f"/{'/'.join([*names[: greedy - 1], '{rest+}'])}"]
    for kind in (REST, HTTP):
        found = Router(api(kind, *[route("GET", p) for p in patterns])).find("GET", f"/{'/'.join(parts)}")
        assert found is not None
        assert found.route.path == patterns[0], "a greedy parameter comes last"
        assert found.parameters == {name[1:-1]: part for name, part in zip(names, parts, strict=True) if name.startswith("{")}
        only = Router(api(kind, route("ANY", patterns[1]))).find("PUT", f"/{'/'.join(parts)}")
        assert only is not None
        assert only.parameters["rest"] == "/".join(parts[greedy - 1 :])


@given(st.text(max_size=20))
def test_any_path_has_a_stage_or_none(path: str) -> None:
    found = stage_of(api(HTTP), f"/{path}")
    assert found is not None
    assert found[1].startswith("/")
    Router(api(REST, route("GET", "/{a}/{b+}"))).find("GET", found[1])


@few
@given(st.dictionaries(st.sampled_from(["iss", "aud", "client_id", "exp", "nbf", "iat", "scope", "scp", "x"]), JSON, max_size=6))
def test_any_claims_are_good_or_refused(claims: dict[str, Any]) -> None:
    authorizer = Authorizer("a", "JWT", issuer="i", audience=("shop",))
    try:
        tokens.check_claims(claims, authorizer, ["read"], 100.0)
    except tokens.TokenRefused:
        pass
    else:
        assert (claims["iss"], claims["exp"] > 100) == ("i", True)
    assert all(isinstance(v, str) for v in tokens.described(claims, ["read"])["claims"].values())


@few
@given(st.sampled_from(["$request.body.a", "${request.body.a.b}", "$request.header.x", ""]), st.text(max_size=20) | JSON.map(json.dumps))
def test_any_message_has_a_route_key(selection: str, message: str) -> None:
    assert isinstance(websocket.route_key(selection, message), str)
    try:
        websocket.answer_body(message.encode("utf-8", "surrogatepass"))
    except MalformedResponse:
        pass


def test_a_message_is_routed_by_its_member() -> None:
    assert websocket.route_key("$request.body.action", '{"action": "join"}') == "join"
    assert websocket.route_key("${request.body.a.b}", '{"a": {"b": true}}') == "true"
    assert websocket.route_key("$request.body.action", '{"action": {}}') == "$default"


def test_what_a_definition_asks_for_in_vain_is_named() -> None:
    method = {"requestValidatorId": "v", "requestModels": {"application/json": "M"}, "methodIntegration": {"requestParameters": {"a": "b"}}}
    stage = {
        "stageName": "s", "cacheClusterEnabled": True, "canarySettings": {"percentTraffic": 1}, "methodSettings": {"*/*": {"throttlingRateLimit": 5.0}},
    }  # fmt: skip
    resource = {"id": "r", "path": "/", "resourceMethods": {"GET": method}}
    made = read_rest("0", "r", {"id": "a", "minimumCompressionSize": 0}, [resource], [stage], [], {}, (), [{"id": "v", "validateRequestBody": True}])
    assert made.ignored == (
        "canary deployments", "compression of responses", "method throttling", "models of request bodies", "parameter mappings of integrations",
        "the stage's cache",
    )  # fmt: skip
    throttled = {"StageName": "s", "DefaultRouteSettings": {"ThrottlingBurstLimit": 1}}
    mapped = {"IntegrationId": "i", "RequestParameters": {"a": "b"}}
    assert read_http("0", "r", {"ApiId": "a"}, [], [mapped], [throttled], []).ignored == ("parameter mappings of integrations", "route throttling")


def test_definitions_of_nothing_are_empty() -> None:
    assert read_rest("0", "r", {"id": "a"}, [{"id": "x", "path": "/"}], [], [], {}).routes == ()
    made = read_http("0", "r", {"ApiId": "a", "ProtocolType": "HTTP"}, [{"RouteKey": "$default"}], [], [], [])
    assert (made.routes[0].key, made.routes[0].integration) == ("$default", None)
