"""Who is let into APIs: Lambda authorizers of every kind with their cache, tokens of a real issuer, signatures, keys, policies."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.credentials
import jwt
import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import rsa
from websockets.sync.client import connect

from tests.framework.apis import REGION, Answer, HttpApi, RestApi, call, invocation_uri, let_in
from tests.framework.engine import Engine, engine, zip_of

ECHO = zip_of({"m.py": "import json\ndef f(e, c): return {'statusCode': 200, 'body': json.dumps(e)}\n"})
# What it says depends on the token; its context tells one invocation from another.
AUTHORIZER = zip_of(
    {
        "m.py": (
            "import uuid\n"
            "SEEN = []\n"
            "def f(e, c):\n"
            "    sources = e.get('identitySource')\n"
            "    token = e.get('authorizationToken') or (sources[0] if sources else (e.get('headers') or {}).get('X-Token', ''))\n"
            "    arn = e.get('methodArn') or e.get('routeArn')\n"
            "    if token == 'raise': raise Exception('Unauthorized')\n"
            "    if token == 'crash': raise Exception('no')\n"
            "    if token == 'odd': return {'principalId': 'x'}\n"
            "    context = {'id': str(uuid.uuid4()), 'n': 5, 'yes': True, 'type': e['type'], 'arn': arn}\n"
            "    if token.startswith('simple'): return {'isAuthorized': token == 'simple-allow', 'context': {**context, 'list': [1]}}\n"
            "    effect = 'Deny' if token == 'deny' else 'Allow'\n"
            "    resource = arn if token == 'allow' else arn.partition('/')[0] + '/*' if token in ('all', 'deny') else 'arn:aws:execute-api:x:y:z/*'\n"
            "    statement = {'Action': 'execute-api:Invoke', 'Effect': effect, 'Resource': resource}\n"
            "    usage = {'usageIdentifierKey': e['headers']['X-Usage']} if 'X-Usage' in (e.get('headers') or {}) else {}\n"
            "    return {**usage, 'principalId': 'user', 'policyDocument': {'Version': '2012-10-17', 'Statement': [statement]}, 'context': context}\n"
        )
    }
)


@pytest.fixture(scope="module")
def gate(shared: Engine) -> Engine:
    for name, code in (("auth-echo", ECHO), ("auth-fn", AUTHORIZER)):
        shared.deploy(name, code)
        let_in(shared, name, "*/*")
    return shared


def said(answer: Answer) -> tuple[int, Any]:
    return answer.status, answer.json()


def test_token_authorizers_of_rest_apis(gate: Engine) -> None:
    api = RestApi(gate, "token")
    authorizer = api.authorizer(
        "auth-fn", "TOKEN", "method.request.header.X-Token", identityValidationExpression="^[a-z]+$", authorizerResultTtlInSeconds=0
    )
    api.method("GET", "/a/{id}", "auth-echo", authorizationType="CUSTOM", authorizerId=authorizer)
    api.deploy()
    allowed = call(gate, api.host, "/prod/a/1", X_Token="allow")
    assert allowed.status == 200, allowed.body
    found = allowed.json()["requestContext"]["authorizer"]
    assert found.pop("integrationLatency") >= 0
    again = call(gate, api.host, "/prod/a/1", X_Token="allow").json()["requestContext"]["authorizer"]
    assert found.pop("id") != again["id"], "its time is none: it is asked each time"
    arn = f"arn:aws:execute-api:{REGION}:000000000000:{api.id}/prod/GET/a/1"
    assert found == {"principalId": "user", "n": "5", "yes": "true", "type": "TOKEN", "arn": arn}
    unauthorized = (401, {"message": "Unauthorized"})
    assert said(call(gate, api.host, "/prod/a/1")) == unauthorized
    assert said(call(gate, api.host, "/prod/a/1", X_Token="NOT")) == unauthorized, "not of the form"
    assert said(call(gate, api.host, "/prod/a/1", X_Token="raise")) == unauthorized
    denied = call(gate, api.host, "/prod/a/1", X_Token="deny")
    assert said(denied) == (403, {"Message": "User is not authorized to access this resource with an explicit deny"})
    assert denied.headers["x-amzn-errortype"] == "AccessDeniedException"
    assert said(call(gate, api.host, "/prod/a/1", X_Token="other")) == (403, {"Message": "User is not authorized to access this resource"})
    for token in ("crash", "odd"):
        failed = call(gate, api.host, "/prod/a/1", X_Token=token)
        assert (said(failed), failed.headers["x-amzn-errortype"]) == ((500, {"message": None}), "AuthorizerConfigurationException")


def test_what_an_authorizer_said_is_kept_and_asked_per_resource(gate: Engine) -> None:
    api = RestApi(gate, "kept")
    authorizer = api.authorizer("auth-fn", "TOKEN", "method.request.header.X-Token", authorizerResultTtlInSeconds=300)
    for path in ("/a", "/b"):
        api.method("GET", path, "auth-echo", authorizationType="CUSTOM", authorizerId=authorizer)
    api.deploy()
    first, second = (call(gate, api.host, "/prod/a", X_Token="allow").json()["requestContext"]["authorizer"]["id"] for _ in range(2))
    assert first == second
    assert call(gate, api.host, "/prod/b", X_Token="allow").status == 403, "the kept policy is for /a only"
    assert [call(gate, api.host, path, X_Token="all").status for path in ("/prod/a", "/prod/b")] == [200, 200]
    api.deploy("other")
    assert call(gate, api.host, "/prod/a", X_Token="allow").json()["requestContext"]["authorizer"]["id"] != first, "a write forgets"


def test_request_authorizers_of_rest_apis(gate: Engine) -> None:
    api = RestApi(gate, "request")
    sources = "method.request.header.X-Token, method.request.querystring.q, stageVariables.v"
    authorizer = api.authorizer("auth-fn", "REQUEST", sources)
    api.method("GET", "/a/{id}", "auth-echo", authorizationType="CUSTOM", authorizerId=authorizer)
    api.deploy(v="1")
    answer = call(gate, api.host, "/prod/a/1?q=2", X_Token="allow")
    assert answer.status == 200, answer.body
    assert answer.json()["requestContext"]["authorizer"]["type"] == "REQUEST"
    assert said(call(gate, api.host, "/prod/a/1", X_Token="allow")) == (401, {"message": "Unauthorized"}), "a source is missing"


def test_an_authorizer_must_let_the_api_in(gate: Engine) -> None:
    gate.deploy("auth-closed", AUTHORIZER)
    api = RestApi(gate, "closed")
    authorizer = api.authorizer("auth-closed", "TOKEN", "method.request.header.X-Token")
    api.method("GET", "/", "auth-echo", authorizationType="CUSTOM", authorizerId=authorizer)
    api.deploy()
    assert said(call(gate, api.host, "/prod", X_Token="allow")) == (500, {"message": None})
    let_in(gate, "auth-closed", f"{api.id}/authorizers/{authorizer}")
    assert call(gate, api.host, "/prod", X_Token="allow").status == 200


def test_lambda_authorizers_of_http_apis(gate: Engine) -> None:
    api = HttpApi(gate, "lambda")
    common = {"AuthorizerType": "REQUEST", "AuthorizerUri": invocation_uri("auth-fn"), "IdentitySource": ["$request.header.X-Token"]}
    simple = api.authorizer(**common, AuthorizerPayloadFormatVersion="2.0", EnableSimpleResponses=True, AuthorizerResultTtlInSeconds=300)
    policy = api.authorizer(**common, AuthorizerPayloadFormatVersion="2.0")
    older = api.authorizer(**common, AuthorizerPayloadFormatVersion="1.0")
    for name, authorizer in (("simple", simple), ("policy", policy), ("older", older)):
        api.route(f"GET /{name}/{{id}}", "auth-echo", AuthorizationType="CUSTOM", AuthorizerId=authorizer)
    first = call(gate, api.host, "/simple/1", X_Token="simple-allow")
    assert first.status == 200, first.body
    found = first.json()["requestContext"]["authorizer"]["lambda"]
    assert (found["n"], found["yes"], found["list"], found["type"]) == (5, True, [1], "REQUEST")
    assert found["arn"] == f"arn:aws:execute-api:{REGION}:000000000000:{api.id}/$default/GET/simple/{{id}}"
    assert call(gate, api.host, "/simple/2", X_Token="simple-allow").json()["requestContext"]["authorizer"]["lambda"]["id"] == found["id"]
    ids = {call(gate, api.host, "/policy/1", X_Token="allow").json()["requestContext"]["authorizer"]["lambda"]["id"] for _ in range(2)}
    assert len(ids) == 2, "off unless a time is given"
    assert call(gate, api.host, "/older/1", X_Token="allow").json()["requestContext"]["authorizer"]["lambda"]["type"] == "REQUEST"
    forbidden, unauthorized = (403, {"message": "Forbidden"}), (401, {"message": "Unauthorized"})
    assert said(call(gate, api.host, "/simple/1", X_Token="simple-deny")) == forbidden
    assert said(call(gate, api.host, "/policy/1", X_Token="deny")) == forbidden
    assert said(call(gate, api.host, "/policy/1")) == unauthorized
    assert said(call(gate, api.host, "/policy/1", X_Token="crash")) == (500, {"message": "Internal Server Error"})


class Issuer:
    """An OpenID provider with one key at a time."""

    def __init__(self) -> None:
        self.url = ""
        self.asked = 0
        self.renew("one")

    def renew(self, kid: str) -> None:
        self.kid, self.key = kid, rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def token(self, key: Any = None, algorithm: str = "RS256", **claims: Any) -> str:
        now_s = int(time.time())
        whole = {"iss": self.url, "aud": "shop", "iat": now_s - 5, "exp": now_s + 600, "sub": "ada", **claims}
        return jwt.encode({k: v for k, v in whole.items() if v is not None}, key or self.key, algorithm, {"kid": self.kid})

    def document(self, path: str) -> dict[str, Any]:
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        self.asked += 1
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {"keys": [{**public, "kid": self.kid, "use": "sig", "alg": "RS256"}, {"kty": "odd", "kid": "x"}]}


@contextlib.contextmanager
def serving(issuer: Issuer) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(issuer.document(self.path)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_jwt_authorizers_of_http_apis(gate: Engine) -> None:
    issuer = Issuer()
    with serving(issuer):
        api = HttpApi(gate, "jwt")
        authorizer = api.authorizer(
            AuthorizerType="JWT",
            IdentitySource=["$request.header.Authorization"],
            JwtConfiguration={"Audience": ["shop", "other"], "Issuer": issuer.url},
        )
        api.route("GET /open", "auth-echo", AuthorizationType="JWT", AuthorizerId=authorizer)
        api.route("GET /scoped", "auth-echo", AuthorizationType="JWT", AuthorizerId=authorizer, AuthorizationScopes=["read", "write"])
        api.route("GET /older", "auth-echo", {"PayloadFormatVersion": "1.0"}, AuthorizationType="JWT", AuthorizerId=authorizer)

        def ask(path: str, token: str) -> Answer:
            return call(gate, api.host, path, Authorization=token)

        good = ask("/open", f"Bearer {issuer.token(admin=True, groups=['a', 'b'])}")
        assert good.status == 200, (good.body, good.headers)
        found = good.json()["requestContext"]["authorizer"]["jwt"]
        assert found["scopes"] is None
        claims = found["claims"]
        assert (claims["sub"], claims["aud"], claims["admin"], claims["groups"], claims["iss"]) == ("ada", "shop", "true", "[a b]", issuer.url)
        assert claims["exp"].isdigit()
        assert ask("/open", issuer.token(aud=None, client_id="other")).status == 200, "without the word Bearer, by client id"
        assert ask("/scoped", f"Bearer {issuer.token(scope='read list')}").json()["requestContext"]["authorizer"]["jwt"]["scopes"] == ["read", "list"]
        assert ask("/older", f"Bearer {issuer.token()}").json()["requestContext"]["authorizer"]["claims"]["sub"] == "ada"
        scoped = ask("/scoped", f"Bearer {issuer.token()}")
        assert (said(scoped), 'error="insufficient_scope"' in scoped.headers["www-authenticate"]) == ((403, {"message": "Forbidden"}), True)

        now_s = int(time.time())
        stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        bad = {
            "expired": issuer.token(exp=now_s - 1),
            "too early": issuer.token(nbf=now_s + 600),
            "other issuer": issuer.token(iss="http://other"),
            "other audience": issuer.token(aud=["none"]),
            "for ever": issuer.token(exp=None),
            "other key": issuer.token(stranger),
            "shared secret": issuer.token("x" * 64, "HS256"),
            "no token": "nonsense",
        }
        for what, token in bad.items():
            refused = ask("/open", f"Bearer {token}")
            assert said(refused) == (401, {"message": "Unauthorized"}), what
            assert 'error="invalid_token"' in refused.headers["www-authenticate"], what
        assert said(call(gate, api.host, "/open")) == (401, {"message": "Unauthorized"})
        assert issuer.asked == 1, "keys are kept"


def signed(host: str, path: str, key: str, secret: str, method: str = "GET") -> dict[str, str]:
    """Headers of a request signed for execute-api."""
    request = botocore.awsrequest.AWSRequest(method, f"http://{host}{path}", headers={"Host": host})
    botocore.auth.SigV4Auth(botocore.credentials.Credentials(key, secret), "execute-api", REGION).add_auth(request)
    return {k.replace("-", "_"): v for k, v in request.headers.items() if k != "Host"}


def test_without_authentication_a_caller_must_claim_a_key(gate: Engine) -> None:
    rest = RestApi(gate, "iam")
    rest.method("GET", "/", "auth-echo", authorizationType="AWS_IAM")
    rest.deploy()
    assert said(call(gate, rest.host, "/prod")) == (403, {"message": "Missing Authentication Token"})
    identity = call(gate, rest.host, "/prod", **signed(rest.host, "/prod", "test", "x")).json()["requestContext"]["identity"]
    assert (identity["accountId"], identity["accessKey"], identity["userArn"]) == ("000000000000", "test", "arn:aws:iam::000000000000:root")
    elsewhere = call(gate, rest.host, "/prod", **signed(rest.host, "/prod", "111111111111", "x"))
    assert elsewhere.status == 403, "another account needs the API's policy"
    http = HttpApi(gate, "iam")
    http.route("GET /", "auth-echo", AuthorizationType="AWS_IAM")
    assert said(call(gate, http.host, "/")) == (403, {"message": "Forbidden"})
    event = call(gate, http.host, "/", **signed(http.host, "/", "test", "x")).json()
    assert event["requestContext"]["authorizer"]["iam"]["accessKey"] == "test"


@pytest.mark.slow
def test_signatures_and_policies_with_authentication() -> None:
    with engine(auth="iam", access_keys={"ROOTKEY": "secret"}) as strict:
        keys = {"aws_access_key_id": "ROOTKEY", "aws_secret_access_key": "secret"}
        whole = strict.client
        strict.client = lambda service="lambda", **more: whole(service, **{**keys, **more})  # type: ignore[method-assign]
        strict.client("iam").create_role(
            RoleName="lambda",
            AssumeRolePolicyDocument=json.dumps(
                {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}}
            ),
        )
        strict.deploy("auth-echo", ECHO)
        let_in(strict, "auth-echo", "*/*")
        rest = RestApi(strict, "iam")
        rest.method("GET", "/open", "auth-echo")
        rest.method("ANY", "/a", "auth-echo", authorizationType="AWS_IAM")
        rest.deploy()
        iam, rest_arn = strict.client("iam"), f"arn:aws:execute-api:{REGION}:*:{rest.id}"
        iam.create_user(UserName="ada")
        made = iam.create_access_key(UserName="ada")["AccessKey"]
        own = made["AccessKeyId"], made["SecretAccessKey"]
        port = strict.url.rpartition(":")[2]

        def ask(method: str, key: str, secret: str) -> Answer:
            return call(strict, rest.host, "/prod/a", method, **signed(f"{rest.host}:{port}", "/prod/a", key, secret, method))

        assert call(strict, rest.host, "/prod/open").status == 200
        assert said(call(strict, rest.host, "/prod/a")) == (403, {"message": "Missing Authentication Token"})
        assert ask("GET", "ROOTKEY", "secret").status == 200
        wrong = ask("GET", "ROOTKEY", "wrong")
        assert (wrong.status, wrong.headers["x-amzn-errortype"]) == (403, "InvalidSignatureException")
        refused = ask("GET", *own)
        arn = f"arn:aws:execute-api:{REGION}:********0000:{rest.id}/prod/GET/a"
        assert said(refused) == (403, {"Message": f"User: arn:aws:iam::000000000000:user/ada is not authorized to perform: execute-api:Invoke on resource: {arn}"})
        document = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "execute-api:Invoke", "Resource": f"{rest_arn}/prod/GET/*"}}
        iam.put_user_policy(UserName="ada", PolicyName="p", PolicyDocument=json.dumps(document))
        allowed = ask("GET", *own)
        assert allowed.status == 200, allowed.body
        assert allowed.json()["requestContext"]["identity"]["userArn"] == "arn:aws:iam::000000000000:user/ada"
        assert ask("POST", *own).status == 403
        _websocket(strict, own)


def _websocket(strict: Engine, own: tuple[str, str]) -> None:
    """A connection that only those may write to who sign and may manage it."""
    client, port = strict.client("apigatewayv2"), int(strict.url.rpartition(":")[2])
    api_id = client.create_api(Name="ws", ProtocolType="WEBSOCKET", RouteSelectionExpression="$request.body.action")["ApiId"]
    client.create_stage(ApiId=api_id, StageName="prod")
    made = client.create_integration(ApiId=api_id, IntegrationType="AWS_PROXY", IntegrationUri=invocation_uri("auth-echo"))
    client.create_route(ApiId=api_id, RouteKey="$default", Target=f"integrations/{made['IntegrationId']}", RouteResponseSelectionExpression="$default")

    def post(connection_id: str, *keys: str) -> Any:
        base = f"{strict.url}/_api/{api_id}/prod"
        access = {"aws_access_key_id": keys[0], "aws_secret_access_key": keys[1]}
        poster: Any = boto3.client("apigatewaymanagementapi", endpoint_url=base, region_name=REGION, **access)  # type: ignore[call-overload]
        return poster.post_to_connection(ConnectionId=connection_id, Data=b"posted")

    with connect(f"ws://127.0.0.1:{port}/_api/{api_id}/prod", open_timeout=60, close_timeout=60) as socket_client:
        socket_client.send("hello")
        connection_id = json.loads(socket_client.recv(timeout=60))["requestContext"]["connectionId"]
        assert call(strict, "", f"/_api/{api_id}/prod/@connections/{connection_id}", "POST", "x").status == 403
        for keys in (("ROOTKEY", "wrong"), ("STRANGER", "x"), own):
            with pytest.raises(ClientError) as refused:
                post(connection_id, *keys)
            assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
        post(connection_id, "ROOTKEY", "secret")
        assert socket_client.recv(timeout=60) == "posted"


def test_an_apis_own_policy_is_obeyed(gate: Engine) -> None:
    def statement(effect: str, resource: str, **more: Any) -> dict[str, Any]:
        return {"Effect": effect, "Principal": "*", "Action": "execute-api:Invoke", "Resource": resource, **more}

    elsewhere = {"Condition": {"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}}
    policy = {"Version": "2012-10-17", "Statement": [statement("Allow", "execute-api:/*"), statement("Deny", "execute-api:/prod/GET/no", **elsewhere)]}
    api = RestApi(gate, "policy", policy=json.dumps(policy))
    for path in ("/yes", "/no"):
        api.method("GET", path, "auth-echo")
    api.deploy()
    assert call(gate, api.host, "/prod/yes").status == 200
    denied = call(gate, api.host, "/prod/no")
    assert denied.status == 403
    assert denied.json()["Message"].endswith("/prod/GET/no with an explicit deny"), denied.body
    assert denied.json()["Message"].startswith("User: anonymous is not authorized to perform: execute-api:Invoke on resource: arn:aws:")


def test_methods_that_need_a_key_get_one_of_the_stages_usage_plans(gate: Engine) -> None:
    api = RestApi(gate, "keys")
    api.method("GET", "/", "auth-echo", apiKeyRequired=True)
    api.deploy()
    client = api.client
    key = client.create_api_key(name="k", value="k" * 32, enabled=True)
    client.create_api_key(name="unplanned", value="u" * 32, enabled=True)
    plan = client.create_usage_plan(name="p", apiStages=[{"apiId": api.id, "stage": "prod"}])
    client.create_usage_plan_key(usagePlanId=plan["id"], keyId=key["id"], keyType="API_KEY")
    assert said(call(gate, api.host, "/prod")) == (403, {"message": "Forbidden"})
    assert call(gate, api.host, "/prod", x_api_key="u" * 32).status == 403
    answer = call(gate, api.host, "/prod", x_api_key="k" * 32)
    assert (answer.status, answer.json()["requestContext"]["identity"]["apiKeyId"]) == (200, key["id"])

    other = RestApi(gate, "keys-of-authorizers", apiKeySource="AUTHORIZER")
    authorizer = other.authorizer("auth-fn", "REQUEST", "method.request.header.X-Token", authorizerResultTtlInSeconds=0)
    other.method("GET", "/", "auth-echo", apiKeyRequired=True, authorizationType="CUSTOM", authorizerId=authorizer)
    other.deploy()
    plan = client.create_usage_plan(name="o", apiStages=[{"apiId": other.id, "stage": "prod"}])
    client.create_usage_plan_key(usagePlanId=plan["id"], keyId=key["id"], keyType="API_KEY")
    assert call(gate, other.host, "/prod", X_Token="allow", x_api_key="k" * 32).status == 403
    assert call(gate, other.host, "/prod", X_Token="allow", X_Usage="k" * 32).status == 200


def test_tokens_of_the_embedded_cognitos_user_pools(gate: Engine) -> None:
    cognito = gate.client("cognito-idp")
    pool = cognito.create_user_pool(PoolName="p")["UserPool"]
    flows = ["ALLOW_ADMIN_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"]
    client = cognito.create_user_pool_client(UserPoolId=pool["Id"], ClientName="c", ExplicitAuthFlows=flows)["UserPoolClient"]["ClientId"]
    cognito.admin_create_user(UserPoolId=pool["Id"], Username="ada", MessageAction="SUPPRESS")
    cognito.admin_set_user_password(UserPoolId=pool["Id"], Username="ada", Password="Secret-123", Permanent=True)
    made = cognito.admin_initiate_auth(
        UserPoolId=pool["Id"], ClientId=client, AuthFlow="ADMIN_USER_PASSWORD_AUTH", AuthParameters={"USERNAME": "ada", "PASSWORD": "Secret-123"}
    )["AuthenticationResult"]

    rest = RestApi(gate, "pool")
    authorizer = rest.client.create_authorizer(
        restApiId=rest.id, name="a", type="COGNITO_USER_POOLS", providerARNs=[pool["Arn"]], identitySource="method.request.header.Authorization"
    )["id"]
    rest.method("GET", "/", "auth-echo", authorizationType="COGNITO_USER_POOLS", authorizerId=authorizer)
    rest.deploy()
    for token in (made["IdToken"], f"Bearer {made['IdToken']}"):
        answer = call(gate, rest.host, "/prod", Authorization=token)
        assert answer.status == 200, answer.body
        assert answer.json()["requestContext"]["authorizer"]["claims"]["cognito:username"] == "ada"
    spoilt = made["IdToken"][:-4] + ("AAAA" if made["IdToken"][-4:] != "AAAA" else "BBBB")
    for token in (made["AccessToken"], spoilt, "nonsense"):
        assert said(call(gate, rest.host, "/prod", Authorization=token)) == (401, {"message": "Unauthorized"})

    http = HttpApi(gate, "pool")
    issuer = f"https://cognito-idp.{REGION}.amazonaws.com/{pool['Id']}"
    jwt_authorizer = http.authorizer(
        AuthorizerType="JWT", IdentitySource=["$request.header.Authorization"], JwtConfiguration={"Audience": [client], "Issuer": issuer}
    )
    http.route("GET /", "auth-echo", AuthorizationType="JWT", AuthorizerId=jwt_authorizer)
    answer = call(gate, http.host, "/", Authorization=f"Bearer {made['AccessToken']}")
    assert answer.status == 200, answer.headers
    assert answer.json()["requestContext"]["authorizer"]["jwt"]["claims"]["client_id"] == client


def test_an_apis_owner_rewrites_its_refusals(gate: Engine) -> None:
    api = RestApi(gate, "rewritten")
    authorizer = api.authorizer("auth-fn", "TOKEN", "method.request.header.X-Token")
    api.method("GET", "/", "auth-echo", authorizationType="CUSTOM", authorizerId=authorizer)
    origin = {"gatewayresponse.header.Access-Control-Allow-Origin": "'*'", "gatewayresponse.header.X-Agent": "method.request.header.User-Agent"}
    api.client.put_gateway_response(restApiId=api.id, responseType="DEFAULT_4XX", responseParameters=origin)
    api.client.put_gateway_response(
        restApiId=api.id,
        responseType="ACCESS_DENIED",
        statusCode="404",
        responseTemplates={"application/json": '{"error": $context.error.messageString, "kind": "$context.error.responseType", "id": "$context.requestId"}'},
    )
    api.deploy()
    missing = call(gate, api.host, "/prod", User_Agent="tester/1")
    assert said(missing) == (401, {"message": "Unauthorized"})
    assert (missing.headers["access-control-allow-origin"], missing.headers["x-agent"]) == ("*", "tester/1")
    denied = call(gate, api.host, "/prod", X_Token="other")
    assert said(denied) == (
        404,
        {"error": "User is not authorized to access this resource", "kind": "ACCESS_DENIED", "id": denied.headers["x-amzn-requestid"]},
    )


def test_an_issuer_that_cannot_be_asked_lets_nobody_in(gate: Engine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        issuer = f"http://127.0.0.1:{taken.getsockname()[1]}"
        api = HttpApi(gate, "away")
        authorizer = api.authorizer(
            AuthorizerType="JWT", IdentitySource=["$request.header.Authorization"], JwtConfiguration={"Audience": ["shop"], "Issuer": issuer}
        )
        api.route("GET /", "auth-echo", AuthorizationType="JWT", AuthorizerId=authorizer)
        stranger = Issuer()
        stranger.url = issuer
        refused = call(gate, api.host, "/", Authorization=stranger.token())
    assert said(refused) == (401, {"message": "Unauthorized"})
    assert "keys could not be had" in refused.headers["www-authenticate"]


def test_a_throttled_function_is_not_the_clients_fault(gate: Engine) -> None:
    gate.deploy("auth-none", ECHO)
    let_in(gate, "auth-none", "*/*")
    gate.client().put_function_concurrency(FunctionName="auth-none", ReservedConcurrentExecutions=0)
    rest, http = RestApi(gate, "throttled"), HttpApi(gate, "throttled")
    rest.method("GET", "/", "auth-none")
    rest.deploy()
    http.route("GET /", "auth-none")
    assert said(call(gate, rest.host, "/prod")) == (500, {"message": "Internal server error"})
    assert said(call(gate, http.host, "/")) == (503, {"message": "Service Unavailable"})
