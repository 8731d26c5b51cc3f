"""REST and HTTP APIs on a real engine: made with boto3, called with plain HTTP, events compared with AWS's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.framework.apis import Answer, HttpApi, RestApi, call, function_arn, invocation_uri, let_in
from tests.framework.engine import Engine, engine, zip_of
from tests.framework.packages import package_of
from tests.framework.wait import until

ECHO = zip_of(
    {"m.py": "import json\ndef f(e, c): return {'statusCode': 200, 'body': json.dumps(e), 'headers': {'content-type': 'application/json'}}\n"}
)
GIVEN = zip_of({"m.py": "import json\ndef f(e, c):\n    if e['body'] == 'raise': raise ValueError('x')\n    return json.loads(e['body'])\n"})
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture(scope="module")
def gate(shared: Engine) -> Engine:
    """The shared engine with an echo and a function that answers what it is told to, both open to every API."""
    for name, code in (("api-echo", ECHO), ("api-given", GIVEN)):
        shared.deploy(name, code)
        let_in(shared, name, "*/*")
    return shared


def test_a_rest_request_becomes_awss_event(gate: Engine) -> None:
    api = RestApi(gate, "event", binaryMediaTypes=["image/png"])
    api.method("ANY", "/pets/{id}", "api-echo")
    api.method("GET", "/", "api-echo")
    api.deploy(colour="red")
    answer = call(
        gate, api.host, "/prod/pets/a%20b?x=1&x=2&y=%26", "POST", "hello",
        Content_Type="text/plain", X_Mine=["one", "two"], User_Agent="tester/1",
    )  # fmt: skip
    assert answer.status == 200, answer.body
    event = answer.json()
    port = str(urlsplit(gate.url).port)
    trace = event["headers"].pop("X-Amzn-Trace-Id")
    assert trace.startswith("Root=1-")
    context = event.pop("requestContext")
    assert event == {
        "resource": "/pets/{id}",
        "path": "/pets/a%20b",
        "httpMethod": "POST",
        "headers": {
            "Content-Type": "text/plain", "Host": f"{api.host}:{port}", "User-Agent": "tester/1", "X-Mine": "two",
            "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Port": port, "X-Forwarded-Proto": "http",
        },
        "multiValueHeaders": {
            "Content-Type": ["text/plain"], "Host": [f"{api.host}:{port}"], "User-Agent": ["tester/1"], "X-Mine": ["one", "two"],
            "X-Amzn-Trace-Id": [trace], "X-Forwarded-For": ["127.0.0.1"], "X-Forwarded-Port": [port], "X-Forwarded-Proto": ["http"],
        },
        "queryStringParameters": {"x": "2", "y": "&"},
        "multiValueQueryStringParameters": {"x": ["1", "2"], "y": ["&"]},
        "pathParameters": {"id": "a b"},
        "stageVariables": {"colour": "red"},
        "body": "hello",
        "isBase64Encoded": False,
    }  # fmt: skip
    assert UUID.fullmatch(context["requestId"])
    assert context["requestId"] == answer.headers["x-amzn-requestid"]
    assert context["extendedRequestId"] == answer.headers["x-amz-apigw-id"]
    assert abs(context["requestTimeEpoch"] / 1000 - time.time()) < 300
    assert re.fullmatch(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000", context["requestTime"])
    known = {k: v for k, v in context.items() if not k.startswith(("request", "extended", "deployment", "resourceId"))}
    assert known == {
        "accountId": "000000000000",
        "apiId": api.id,
        "domainName": api.host,
        "domainPrefix": api.id,
        "httpMethod": "POST",
        "identity": {
            "accessKey": None, "accountId": None, "caller": None, "cognitoAuthenticationProvider": None, "cognitoAuthenticationType": None,
            "cognitoIdentityId": None, "cognitoIdentityPoolId": None, "principalOrgId": None, "sourceIp": "127.0.0.1", "user": None,
            "userAgent": "tester/1", "userArn": None,
        },
        "path": "/prod/pets/a%20b",
        "protocol": "HTTP/1.1",
        "resourcePath": "/pets/{id}",
        "stage": "prod",
    }  # fmt: skip
    bare = call(gate, api.host, "/prod").json()
    assert (bare["path"], bare["requestContext"]["path"], bare["resource"]) == ("/", "/prod", "/")
    nulls = ("queryStringParameters", "multiValueQueryStringParameters", "pathParameters", "body")
    assert [bare[k] for k in nulls] == [None] * 4

    png = call(gate, api.host, "/prod/pets/1", "PUT", b"\x89PNG\xff", Content_Type="image/png").json()
    assert (png["body"], png["isBase64Encoded"]) == ("iVBOR/8=", True)
    for form in (f"/_api/{api.id}/prod/pets/7?q=1", f"/_aws/execute-api/{api.id}/prod/pets/7?q=1", f"/restapis/{api.id}/prod/_user_request_/pets/7?q=1"):
        by_path = call(gate, "", form).json()
        assert (by_path["path"], by_path["pathParameters"], by_path["queryStringParameters"]) == ("/pets/7", {"id": "7"}, {"q": "1"})
        assert by_path["requestContext"]["domainName"] == api.host
    invoke_path = "/2015-03-31/functions/other/invocations"
    assert call(gate, api.host, invoke_path, "POST", "{}").status == 403, "every path of the host is the API's"


def test_an_http_request_becomes_awss_event(gate: Engine) -> None:
    api = HttpApi(gate, "event", variables={"colour": "red"})
    api.route("ANY /pets/{id}", "api-echo")
    answer = call(
        gate, api.host, "/pets/7?x=1&x=2&y=%26", "POST", "{}",
        Content_Type="application/json", X_Mine=["one", "two"], User_Agent="tester/1", Cookie="a=b; c=d",
    )  # fmt: skip
    assert answer.status == 200, answer.body
    event = answer.json()
    port = str(urlsplit(gate.url).port)
    assert event["headers"].pop("x-amzn-trace-id").startswith("Root=1-")
    context = event.pop("requestContext")
    assert event == {
        "version": "2.0",
        "routeKey": "ANY /pets/{id}",
        "rawPath": "/pets/7",
        "rawQueryString": "x=1&x=2&y=%26",
        "cookies": ["a=b", "c=d"],
        "headers": {
            "content-type": "application/json", "content-length": "2", "host": f"{api.host}:{port}", "user-agent": "tester/1",
            "x-mine": "one,two", "x-forwarded-for": "127.0.0.1", "x-forwarded-port": port, "x-forwarded-proto": "http",
        },
        "queryStringParameters": {"x": "1,2", "y": "&"},
        "pathParameters": {"id": "7"},
        "stageVariables": {"colour": "red"},
        "body": "{}",
        "isBase64Encoded": False,
    }  # fmt: skip
    assert context.pop("requestId") == answer.headers["apigw-requestid"]
    assert abs(context.pop("timeEpoch") / 1000 - time.time()) < 300
    assert re.fullmatch(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000", context.pop("time"))
    assert context == {
        "accountId": "000000000000",
        "apiId": api.id,
        "domainName": api.host,
        "domainPrefix": api.id,
        "http": {"method": "POST", "path": "/pets/7", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "tester/1"},
        "routeKey": "ANY /pets/{id}",
        "stage": "$default",
    }


def test_an_http_api_offers_the_older_format(gate: Engine) -> None:
    api = HttpApi(gate, "older", "v1")
    api.route("GET /a/{proxy+}", "api-echo", {"PayloadFormatVersion": "1.0"})
    event = call(gate, api.host, "/v1/a/b/c?q=1").json()
    assert (event["version"], event["resource"], event["path"], event["httpMethod"]) == ("1.0", "/a/{proxy+}", "/v1/a/b/c", "GET")
    assert (event["pathParameters"], event["stageVariables"], event["requestContext"]["stage"]) == ({"proxy": "b/c"}, None, "v1")


def test_routes_go_by_how_special_they_are(gate: Engine) -> None:
    http = HttpApi(gate, "routes")
    for key in ("GET /pets/dog/1", "GET /pets/dog/{id}", "GET /pets/{proxy+}", "ANY /{proxy+}", "$default"):
        http.route(key, "api-echo")
    asked = (("GET", "/pets/dog/1"), ("GET", "/pets/dog/2"), ("GET", "/pets/cat/1"), ("POST", "/test/5"), ("GET", "/"))
    got = [call(gate, http.host, path, method).json()["routeKey"] for method, path in asked]
    assert got == ["GET /pets/dog/1", "GET /pets/dog/{id}", "GET /pets/{proxy+}", "ANY /{proxy+}", "$default"]

    rest = RestApi(gate, "routes")
    for method, path in (("GET", "/pets"), ("GET", "/pets/{id}"), ("ANY", "/pets/{id}"), ("ANY", "/{proxy+}")):
        rest.method(method, path, "api-echo")
    rest.deploy()
    tried = (("GET", "/pets"), ("GET", "/pets/"), ("GET", "/pets/1"), ("PUT", "/pets/1"), ("GET", "/pets/1/2"), ("GET", "/x"))
    got = [call(gate, rest.host, f"/prod{path}", method).json()["resource"] for method, path in tried]
    assert got == ["/pets", "/pets", "/pets/{id}", "/pets/{id}", "/{proxy+}", "/{proxy+}"]


def test_what_is_written_to_api_gateway_is_served_at_once(gate: Engine) -> None:
    api = HttpApi(gate, "fresh")
    assert call(gate, api.host, "/new").status == 404
    api.route("GET /new", "api-echo")
    assert call(gate, api.host, "/new").json()["routeKey"] == "GET /new"
    api.client.create_stage(ApiId=api.id, StageName="v2", StageVariables={"v": "2"})
    assert call(gate, api.host, "/v2/new").json()["stageVariables"] == {"v": "2"}
    api.client.delete_api(ApiId=api.id)
    assert call(gate, api.host, "/new").status == 403


def test_stage_variables_choose_the_function(gate: Engine) -> None:
    rest = RestApi(gate, "variables")
    rest.method("GET", "/", "${stageVariables.fn}")
    rest.deploy("one", fn="api-echo")
    rest.deploy("two", fn="api-nobody")
    assert call(gate, rest.host, "/one").json()["stageVariables"] == {"fn": "api-echo"}
    assert call(gate, rest.host, "/two").status == 500


def test_refusals_have_awss_words(gate: Engine) -> None:
    rest = RestApi(gate, "words")
    rest.method("GET", "/here", "api-echo")
    rest.method("GET", "/broken", "api-given")
    rest.method("POST", "/given", "api-given")
    rest.method("GET", "/web", integration={"type": "HTTP_PROXY", "uri": "http://example.com/"})
    rest.deploy()

    def said(answer: Answer) -> tuple[int, str, str | None]:
        return answer.status, answer.body.decode(), answer.headers.get("x-amzn-errortype")

    token = (403, '{"message":"Missing Authentication Token"}', "MissingAuthenticationTokenException")
    forbidden = (403, '{"message":"Forbidden"}', "ForbiddenException")
    failed = (502, '{"message":"Internal server error"}', "InternalServerErrorException")
    assert said(call(gate, rest.host, "/prod/nowhere")) == token
    assert said(call(gate, rest.host, "/prod/here", "POST")) == token
    assert said(call(gate, rest.host, "/nostage/here")) == forbidden
    assert said(call(gate, "nosuchapi1.execute-api.us-east-1.localhost", "/prod")) == forbidden
    assert said(call(gate, rest.host, "/prod/given", "POST", "raise")) == failed
    for answer in ('"text"', "[]", "null", '{"statusCode": 200, "stranger": 1}', '{"statusCode": "x"}', '{"body": 5}', '{"headers": ["x"]}'):
        assert said(call(gate, rest.host, "/prod/given", "POST", answer)) == failed, answer
    refused = call(gate, rest.host, "/prod/web")
    assert (refused.status, "HTTP_PROXY" in refused.body.decode()) == (501, True)
    big = call(gate, rest.host, "/prod/given", "POST", b"x" * (6 * 1024 * 1024 + 1))
    assert said(big) == (413, '{"message":"Request Too Long"}', "RequestTooLargeException")

    http = HttpApi(gate, "words")
    http.route("POST /given", "api-given")
    http.route("POST /older", "api-given", {"PayloadFormatVersion": "1.0"})
    assert said(call(gate, http.host, "/nowhere")) == (404, '{"message":"Not Found"}', None)
    error = (500, '{"message":"Internal Server Error"}', None)
    assert said(call(gate, http.host, "/given", "POST", "raise", Content_Type="text/plain")) == error
    assert said(call(gate, http.host, "/given", "POST", '{"statusCode": "x"}', Content_Type="text/plain")) == error
    assert said(call(gate, http.host, "/older", "POST", '{"no": "status"}', Content_Type="text/plain")) == error
    staged = HttpApi(gate, "staged", "v1")
    staged.route("GET /", "api-echo")
    assert said(call(gate, staged.host, "/")) == (404, '{"message":"Not Found"}', None)
    assert call(gate, staged.host, "/v1").status == 200


def test_required_parameters_are_asked_for_where_a_validator_says_so(gate: Engine) -> None:
    api = RestApi(gate, "validated")
    wanted = {"method.request.querystring.q": True, "method.request.header.X-Mine": True, "method.request.querystring.maybe": False}
    validator = api.client.create_request_validator(restApiId=api.id, name="v", validateRequestParameters=True, validateRequestBody=False)["id"]
    api.method("GET", "/strict", "api-echo", requestParameters=wanted, requestValidatorId=validator)
    api.method("GET", "/lax", "api-echo", requestParameters=wanted)
    api.deploy()
    missing = call(gate, api.host, "/prod/strict?x=1")
    assert (missing.status, missing.json()) == (400, {"message": "Missing required request parameters: [q, X-Mine]"})
    assert missing.headers["x-amzn-errortype"] == "BadRequestException"
    assert call(gate, api.host, "/prod/strict?q=1", X_Mine="y").status == 200
    assert call(gate, api.host, "/prod/lax").status == 200


@pytest.mark.slow
def test_definitions_may_be_on_another_endpoint(gate: Engine) -> None:
    api = HttpApi(gate, "elsewhere")
    api.route("GET /", "local")
    with engine(aws_endpoint=gate.url) as own:
        own.deploy("local", ECHO)
        let_in(own, "local", f"{api.id}/*")
        assert call(own, api.host, "/").json()["requestContext"]["apiId"] == api.id
        assert call(own, api.host, "/new").status == 404
        api.route("GET /new", "local")
        until(lambda: call(own, api.host, "/new").status == 200, "a change made elsewhere is seen")
    with engine(aws_endpoint="http://127.0.0.1:1") as lonely:
        refused = call(lonely, api.host, "/")
        assert (refused.status, "could not be read" in refused.body.decode()) == (502, True)


def test_requests_are_counted_by_stage_and_status(gate: Engine) -> None:
    api = RestApi(gate, "counted")
    api.method("GET", "/", "api-echo")
    api.deploy("dev")
    for path in ("/dev", "/dev", "/dev/nowhere", "/nostage"):
        call(gate, api.host, path)
    page = gate.get("/metrics")[1].decode()
    counted = dict(re.findall(rf'^lambda_engine_api_requests_total\{{api="{api.id}",stage="dev",status="(\dxx)"\}} (\S+)$', page, re.MULTILINE))
    assert counted == {"2xx": "2.0", "4xx": "1.0"}


def test_answers_become_responses(gate: Engine) -> None:
    rest = RestApi(gate, "answers", binaryMediaTypes=["image/*"])
    rest.method("POST", "/", "api-given")
    rest.deploy()

    def given(answer: dict[str, Any], **headers: str) -> Answer:
        return call(gate, rest.host, "/prod", "POST", json.dumps(answer), **headers)

    plain = given({"statusCode": "201", "body": "x", "headers": {"X-N": 5, "X-B": True, "WWW-Authenticate": "Basic"}})
    assert (plain.status, plain.body, plain.headers["content-type"]) == (201, b"x", "application/json")
    assert (plain.headers["x-n"], plain.headers["x-b"], plain.headers["x-amzn-remapped-www-authenticate"]) == ("5", "true", "Basic")
    many = given({"multiValueHeaders": {"Set-Cookie": ["a=1", "b=2"]}, "headers": {"set-cookie": "c=3"}, "body": None})
    assert (many.status, [v for k, v in many.pairs if k == "set-cookie"]) == (200, ["a=1", "b=2", "c=3"])
    image = {"statusCode": 200, "headers": {"Content-Type": "image/png"}, "isBase64Encoded": True, "body": "iVBOR/8="}
    assert given(image).body == b"\x89PNG\xff"
    text = {"statusCode": 200, "headers": {"Content-Type": "text/plain"}, "isBase64Encoded": True, "body": "aGk="}
    assert given(text, Accept="text/plain").body == b"aGk=", "its type is not binary"
    assert given(text, Accept="image/png,*/*").body == b"hi"
    assert given({"statusCode": 204, "body": "x"}).body == b""

    http = HttpApi(gate, "answers")
    http.route("POST /", "api-given")
    whole = call(gate, http.host, "/", "POST", '{"a": 1}', Content_Type="text/plain")
    assert (whole.status, whole.body, whole.headers["content-type"]) == (200, b'{"a":1}', "application/json")
    described = '{"statusCode": 418, "body": "x", "cookies": ["a=1", "b=2"], "headers": {"content-type": "text/x"}}'
    pot = call(gate, http.host, "/", "POST", described, Content_Type="text/plain")
    assert (pot.status, pot.body, [v for k, v in pot.pairs if k == "set-cookie"]) == (418, b"x", ["a=1", "b=2"])


def test_a_function_that_takes_too_long_is_not_waited_for(gate: Engine) -> None:
    gate.deploy("api-slow", {"m.py": "import time\ndef f(e, c):\n    time.sleep(20)\n"}, Timeout=3)
    let_in(gate, "api-slow", "*/*")
    rest = RestApi(gate, "slow")
    rest.method("GET", "/", "api-slow", {"timeoutInMillis": 50})
    rest.deploy()
    http = HttpApi(gate, "slow")
    http.route("GET /", "api-slow", {"TimeoutInMillis": 50})
    late = call(gate, rest.host, "/prod")
    assert (late.status, late.json()) == (504, {"message": "Endpoint request timed out"})
    late = call(gate, http.host, "/")
    assert (late.status, late.json()) == (503, {"message": "Service Unavailable"})


def test_a_function_must_let_the_api_in(gate: Engine) -> None:
    gate.deploy("api-closed", ECHO)
    rest = RestApi(gate, "closed")
    rest.method("ANY", "/a/{id}", "api-closed")
    rest.method("GET", "/role", "api-closed", {"credentials": "arn:aws:iam::000000000000:role/any"})
    rest.deploy()
    assert call(gate, rest.host, "/prod/a/1").json() == {"message": "Internal server error"}
    assert call(gate, rest.host, "/prod/role").status == 200, "the integration's role invokes it"
    let_in(gate, "api-closed", f"{rest.id}/*/GET/a/*")
    assert call(gate, rest.host, "/prod/a/1").status == 200
    assert call(gate, rest.host, "/prod/a/1", "PUT").status == 500
    http = HttpApi(gate, "closed")
    http.route("GET /a", "api-closed")
    assert call(gate, http.host, "/a").json() == {"message": "Internal Server Error"}
    let_in(gate, "api-closed", f"{http.id}/$default/GET/a", sid="http")
    assert call(gate, http.host, "/a").status == 200


def test_an_http_apis_cors_configuration_answers_preflights(gate: Engine) -> None:
    cors = {"AllowOrigins": ["https://a.example"], "AllowMethods": ["GET"], "AllowHeaders": ["x-mine"], "MaxAge": 60, "ExposeHeaders": ["x-out"]}
    api = HttpApi(gate, "cors", CorsConfiguration=cors)
    api.route("ANY /", "api-given")
    ask = {"Access_Control_Request_Method": "GET", "Access_Control_Request_Headers": "x-mine"}
    allowed = call(gate, api.host, "/", "OPTIONS", Origin="https://a.example", **ask)
    assert (allowed.status, allowed.headers["access-control-allow-origin"], allowed.headers["access-control-max-age"]) == (204, "https://a.example", "60")
    other = call(gate, api.host, "/", "OPTIONS", Origin="https://b.example", **ask)
    assert (other.status, [k for k in other.headers if k.startswith("access-control")]) == (204, [])
    body = '{"statusCode": 200, "headers": {"access-control-allow-origin": "*"}}'
    answer = call(gate, api.host, "/", "POST", body, Origin="https://a.example", Content_Type="text/plain")
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert answer.headers["access-control-expose-headers"] == "x-out"


def test_a_mock_integration_answers_preflights_of_a_rest_api(gate: Engine) -> None:
    api = RestApi(gate, "mock")
    where = {"restApiId": api.id, "resourceId": api.resource("/"), "httpMethod": "OPTIONS"}
    api.method("OPTIONS", "/", integration={"type": "MOCK", "uri": "", "requestTemplates": {"application/json": '{"statusCode": 200}'}})
    header = "method.response.header.Access-Control-Allow-Origin"
    api.client.put_method_response(**where, statusCode="200", responseParameters={header: False})
    api.client.put_integration_response(
        **where, statusCode="200", responseParameters={header: "'*'"}, responseTemplates={"application/json": "{}\n"}
    )
    api.deploy()
    answer = call(gate, api.host, "/prod", "OPTIONS")
    assert (answer.status, answer.body, answer.headers["access-control-allow-origin"]) == (200, b"{}\n", "*")


def test_a_uri_in_either_form_names_the_function() -> None:
    from engine.protocol.gateway import definition

    assert definition.function_arn(invocation_uri("f"), {}) == function_arn("f") == definition.function_arn(function_arn("f"), {})


@pytest.fixture(scope="module")
def shop(gate: Engine) -> str:
    gate.deploy("api-fastapi", package_of("fastapi_app"), Timeout=30, MemorySize=512)
    let_in(gate, "api-fastapi", "*/*")
    return "api-fastapi"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rest", "http", "older"])
def test_a_web_framework_is_served(gate: Engine, shop: str, kind: str) -> None:
    name = shop
    if kind == "rest":
        rest = RestApi(gate, "fastapi", binaryMediaTypes=["*/*"])
        rest.method("ANY", "/{proxy+}", name)
        rest.method("ANY", "/", name)
        rest.deploy()
        host, base = rest.host, "/prod"
    else:
        http = HttpApi(gate, f"fastapi-{kind}")
        http.route("$default", name, {"PayloadFormatVersion": "1.0"} if kind == "older" else {})
        host, base = http.host, ""
    home = call(gate, host, f"{base}/")
    assert (home.status, home.body.decode(), home.headers["content-type"]) == (200, "<h1>Grüezi</h1>", "text/html; charset=utf-8")
    made = call(gate, host, f"{base}/items/7", "PUT", json.dumps({"name": "Tasse", "price": 9.5}), Content_Type="application/json")
    assert (made.status, made.json()) == (201, {"id": 7, "name": "Tasse", "price": 9.5})
    assert call(gate, host, f"{base}/items?limit=3&tag=a%26b").json() == {"limit": 3, "tag": "a&b", "items": 1}
    assert call(gate, host, f"{base}/items/8").status == 404
    cookies = [value.partition(";")[0] for key, value in call(gate, host, f"{base}/login", "POST").pairs if key == "set-cookie"]
    assert cookies == ["session=abc", "theme=dark"]


@pytest.mark.slow
def test_the_pages_first_example(shared: Engine, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "api-gateway.md").read_text()
    example = page.partition("```sh\n")[2].partition("```")[0]
    shared.deploy("hi", {"m.py": "def f(event, context): return event['pathParameters']\n"})
    port = urlsplit(shared.url).port
    # Not every curl resolves names below localhost by itself.
    example = example.replace(":4566/", f":{port}/").replace("curl ", f"curl -s --resolve *:{port}:127.0.0.1 ")
    env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    env |= {"AWS_ENDPOINT_URL": shared.url, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    env |= {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "AWS_PAGER": ""}
    done = subprocess.run(["bash", "-euc", example], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith('{"id":"7"}')
