"""Function URLs on a real engine: by Host header and by path, plain handlers and a web framework."""

from __future__ import annotations

import http.client
import json
import re
import time
from typing import Any
from urllib.parse import urlsplit

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest

from tests.framework.engine import OWN_RUNTIME, ROLE, Engine, engine, url_host, zip_of
from tests.framework.packages import package_of

ECHO = zip_of({"m.py": "def f(e, c): return {'statusCode': 200, 'body': __import__('json').dumps([e, c.invoked_function_arn])}\n"})


class Answer:
    """Status, headers (all of them, in order) and body of one HTTP exchange."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.pairs = [(name.lower(), value) for name, value in answer.getheaders()]
        self.headers = dict(self.pairs)
        self.body = answer.read()

    def json(self) -> Any:
        return json.loads(self.body)


def ask(target: Engine, host: str, method: str = "GET", path: str = "/", body: bytes | str | None = None, **headers: str) -> Answer:
    """One request on a connection of its own; underscores in header names are hyphens."""
    port = urlsplit(target.url).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Host": host, **{k.replace("_", "-"): v for k, v in headers.items()}})
        return Answer(connection.getresponse())
    finally:
        connection.close()


def url_of(target: Engine, name: str, **members: Any) -> str:
    """The host part of a new URL."""
    answer = target.client().create_function_url_config(FunctionName=name, **{"AuthType": "NONE", **members})
    return url_host(answer["FunctionUrl"])


def test_a_request_becomes_an_event_and_the_answer_a_response(shared: Engine) -> None:
    shared.deploy("url-echo", ECHO)
    host = url_of(shared, "url-echo")
    port = host.rpartition(":")[2]
    answer = ask(shared, host, "POST", "/a%20b/c?x=1&x=2", "{}", Content_Type="application/json", Cookie="a=b", X_Mine="yes")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    event, arn = answer.json()
    assert arn == "arn:aws:lambda:us-east-1:000000000000:function:url-echo"
    assert (event["rawPath"], event["rawQueryString"], event["queryStringParameters"]) == ("/a%20b/c", "x=1&x=2", {"x": "1,2"})
    assert (event["body"], event["isBase64Encoded"], event["cookies"]) == ("{}", False, ["a=b"])
    assert event["headers"]["x-mine"] == "yes"
    assert event["headers"]["x-forwarded-port"] == port
    context = event["requestContext"]
    assert context["requestId"] == answer.headers["x-amzn-requestid"]
    assert context["domainName"] == host.partition(":")[0]
    assert context["http"]["sourceIp"] == "127.0.0.1"
    assert abs(context["timeEpoch"] / 1000 - time.time()) < 60

    url_id = host.partition(".")[0]
    by_path = ask(shared, f"127.0.0.1:{port}", "GET", f"/_url/{url_id}/deeper?q=1").json()[0]
    assert (by_path["rawPath"], by_path["rawQueryString"]) == ("/deeper", "q=1")
    assert by_path["requestContext"]["domainName"] == context["domainName"]
    assert ask(shared, f"127.0.0.1:{port}", "GET", f"/_url/{url_id}?q=2").json()[0]["rawPath"] == "/"
    invoke_path = "/2015-03-31/functions/other/invocations"
    assert ask(shared, host, "POST", invoke_path, "x").json()[0]["rawPath"] == invoke_path, "every path is the function's"
    assert ask(shared, host, "HEAD").body == b""


def test_what_a_function_returns_and_what_becomes_of_failures(shared: Engine) -> None:
    code = (
        "import base64\n"
        "def f(e, c):\n"
        "    kind = e['rawPath']\n"
        "    if kind == '/error': raise ValueError('x')\n"
        "    if kind == '/timeout': __import__('time').sleep(30)\n"
        "    return {'/text': 'hello', '/object': {'a': 1}, '/bad': {'statusCode': 'x'}, '/empty': {'statusCode': 204, 'body': 'x'},\n"
        "            '/bytes': {'statusCode': 418, 'headers': {'content-type': 'image/x'}, 'cookies': ['a=1', 'b=2'], 'isBase64Encoded': True,\n"
        "                       'body': base64.b64encode(bytes(range(256))).decode()}}[kind]\n"
    )
    shared.deploy("url-kinds", {"m.py": code}, Timeout=3)
    host = url_of(shared, "url-kinds")
    text = ask(shared, host, path="/text")
    assert (text.status, text.body, text.headers["content-type"]) == (200, b"hello", "application/json")
    assert ask(shared, host, path="/object").body == b'{"a":1}'
    image = ask(shared, host, path="/bytes")
    assert (image.status, image.body, image.headers["content-type"]) == (418, bytes(range(256)), "image/x")
    assert [value for name, value in image.pairs if name == "set-cookie"] == ["a=1", "b=2"]
    empty = ask(shared, host, path="/empty")
    assert (empty.status, empty.body) == (204, b"")
    assert "content-length" not in empty.headers
    for path in ("/error", "/timeout", "/bad"):
        failed = ask(shared, host, path=path)
        assert (failed.status, failed.body) == (502, b"Internal Server Error")
        assert failed.headers["x-amzn-requestid"]
    big = ask(shared, host, "POST", "/text", b"x" * (6 * 1024 * 1024 + 1))
    assert big.status == 413
    grown = ask(shared, host, "POST", "/text", b"x" * (5 * 1024 * 1024))
    assert grown.status == 413, "Base64 makes the event bigger than a payload may be"
    page = shared.get("/metrics")[1].decode()
    counted = dict(re.findall(r'^lambda_engine_url_requests_total\{function="url-kinds",status="(\dxx)"\} (\S+)$', page, re.MULTILINE))
    assert counted == {"2xx": "3.0", "4xx": "3.0", "5xx": "3.0"}


def test_one_connection_carries_many_requests(shared: Engine) -> None:
    shared.deploy("url-many", ECHO)
    host = url_of(shared, "url-many")
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(shared.url).port, timeout=60)
    for n in range(5):
        connection.request("GET", f"/{n}", headers={"Host": host})
        assert json.loads(connection.getresponse().read())[0]["rawPath"] == f"/{n}"
    connection.request("GET", "/livez")
    assert connection.getresponse().read() == b"ok\n"
    connection.close()


def test_an_unknown_url_is_forbidden(shared: Engine) -> None:
    for host, path in ((f"{'x' * 32}.lambda-url.us-east-1.localhost", "/"), ("127.0.0.1", f"/_url/{'x' * 32}/")):
        answer = ask(shared, host, path=path)
        assert (answer.status, answer.body) == (403, b'{"Message":null}')
        assert answer.headers["x-amzn-errortype"] == "AccessDeniedException"
    shared.deploy("url-gone", ECHO)
    host = url_of(shared, "url-gone")
    assert ask(shared, host).status == 200
    shared.client().delete_function_url_config(FunctionName="url-gone")
    assert ask(shared, host).status == 403
    host = url_of(shared, "url-gone")
    shared.client().delete_function(FunctionName="url-gone")
    assert ask(shared, host).status == 403


def test_an_aliass_url_runs_its_version(shared: Engine) -> None:
    client = shared.client()
    shared.deploy("url-alias", zip_of({"m.py": "def f(e, c): return [c.function_version, c.invoked_function_arn]\n"}), Publish=True)
    client.create_alias(FunctionName="url-alias", Name="live", FunctionVersion="1")
    host = url_of(shared, "url-alias", Qualifier="live")
    assert ask(shared, host).json() == ["1", "arn:aws:lambda:us-east-1:000000000000:function:url-alias:live"]
    client.update_alias(FunctionName="url-alias", Name="live", FunctionVersion="$LATEST")
    assert ask(shared, host).json()[0] == "$LATEST"


def test_cross_origin_rules_are_the_platforms(shared: Engine) -> None:
    code = "def f(e, c): return {'statusCode': 200, 'headers': {'Access-Control-Allow-Origin': 'https://evil', 'X-Kept': '1'}, 'body': e['requestContext']['http']['method']}\n"
    shared.deploy("url-cors", {"m.py": code})
    host = url_of(shared, "url-cors", Cors={"AllowOrigins": ["https://a.example"], "AllowMethods": ["PUT"], "AllowHeaders": ["x-a"], "MaxAge": 9})
    asked = {"Origin": "https://a.example", "Access_Control_Request_Method": "PUT", "Access_Control_Request_Headers": "x-a"}
    preflight = ask(shared, host, "OPTIONS", **asked)
    assert (preflight.status, preflight.body) == (200, b"")
    assert preflight.headers["access-control-allow-origin"] == "https://a.example"
    assert preflight.headers["access-control-max-age"] == "9"
    assert "access-control-allow-origin" not in ask(shared, host, "OPTIONS", **{**asked, "Origin": "https://b.example"}).headers
    real = ask(shared, host, "PUT", Origin="https://a.example")
    assert (real.body, real.headers["x-kept"], real.headers["access-control-allow-origin"]) == (b"PUT", "1", "https://a.example")
    assert "access-control-allow-origin" not in ask(shared, host, "PUT", Origin="https://b.example").headers
    assert ask(shared, host, "OPTIONS").body == b"OPTIONS", "only a preflight is answered without the function"


def signed(host: str, port: int, secret: str, method: str = "GET", path: str = "/", key: str = "AKIDEXAMPLE") -> dict[str, str]:
    request = botocore.awsrequest.AWSRequest(method, f"http://{host}{path}", headers={"Host": host})
    botocore.auth.SigV4Auth(botocore.credentials.Credentials(key, secret), "lambda", "us-east-1").add_auth(request)
    return dict(request.headers)


def test_a_url_that_asks_for_a_signature() -> None:
    with engine(auth="sigv4", access_keys='{"AKIDEXAMPLE": "secret"}', pool_size=1) as running:
        port = int(urlsplit(running.url).port or 0)
        client = running.client(aws_access_key_id="AKIDEXAMPLE", aws_secret_access_key="secret")
        for name in ("guarded", "open"):
            client.create_function(FunctionName=name, Role=ROLE, Handler="m.f", Runtime=OWN_RUNTIME, Code={"ZipFile": ECHO})
        urls = {
            name: url_host(client.create_function_url_config(FunctionName=name, AuthType=kind)["FunctionUrl"])
            for name, kind in (("guarded", "AWS_IAM"), ("open", "NONE"))
        }
        assert ask(running, urls["open"]).status == 200
        assert ask(running, urls["guarded"]).status == 403
        answer = ask(running, urls["guarded"], path="/x?y=1", **signed(urls["guarded"], port, "secret", path="/x?y=1"))
        assert answer.status == 200, answer.body
        event = answer.json()[0]
        iam = event["requestContext"]["authorizer"]["iam"]
        assert (iam["accessKey"], iam["accountId"], iam["cognitoIdentity"]) == ("AKIDEXAMPLE", "000000000000", None)
        assert event["requestContext"]["accountId"] == "000000000000"
        assert "authorization" not in event["headers"]
        wrong = ask(running, urls["guarded"], **signed(urls["guarded"], port, "guess"))
        assert (wrong.status, wrong.headers["x-amzn-errortype"]) == (403, "InvalidSignatureException")
        other = ask(running, urls["guarded"], path="/y", **signed(urls["guarded"], port, "secret", path="/x"))
        assert other.status == 403, "the signature is for another path"


def test_without_authentication_a_caller_must_still_say_who_it_is(shared: Engine) -> None:
    shared.deploy("url-iam", ECHO)
    host = url_of(shared, "url-iam", AuthType="AWS_IAM")
    refused = ask(shared, host)
    assert refused.status == 403
    assert refused.json() == {
        "Message": "Forbidden. For troubleshooting Function URL authorization issues, see: https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html"
    }
    answer = ask(shared, host, **signed(host, 0, "any", key="111111111111"))
    assert answer.json()[0]["requestContext"]["authorizer"]["iam"]["accountId"] == "111111111111"


@pytest.fixture(scope="module")
def shop(shared: Engine) -> tuple[Engine, str]:
    shared.deploy("url-fastapi", package_of("fastapi_app"), Timeout=30, MemorySize=512)
    return shared, url_of(shared, "url-fastapi")


def test_a_web_framework_is_served(shop: tuple[Engine, str]) -> None:
    home = ask(*shop)
    assert (home.status, home.body.decode(), home.headers["content-type"]) == (200, "<h1>Grüezi</h1>", "text/html; charset=utf-8")
    made = ask(*shop, "PUT", "/items/7", json.dumps({"name": "Tasse", "price": 9.5}), Content_Type="application/json")
    assert (made.status, made.json()) == (201, {"id": 7, "name": "Tasse", "price": 9.5})
    assert ask(*shop, path="/items/7").json() == {"name": "Tasse", "price": 9.5}
    assert ask(*shop, path="/items?limit=3&tag=a%26b").json() == {"limit": 3, "tag": "a&b", "items": 1}
    missing = ask(*shop, path="/items/8")
    assert (missing.status, missing.json()) == (404, {"detail": "no such item"})
    assert ask(*shop, "PUT", "/items/7", "{}", Content_Type="application/json").status == 422
    assert ask(*shop, path="/openapi.json").json()["info"]["title"] == "shop"


def test_cookies_and_uploads_pass_both_ways(shop: tuple[Engine, str]) -> None:
    cookies = [value for name, value in ask(*shop, "POST", "/login").pairs if name == "set-cookie"]
    assert [c.partition(";")[0] for c in cookies] == ["session=abc", "theme=dark"]
    assert ask(*shop, path="/me", Cookie="session=abc; theme=dark").json() == {"session": "abc", "theme": "dark"}
    boundary, data = "frontier", bytes(range(256))
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="f"\r\nContent-Type: application/octet-stream\r\n\r\n'.encode()
        + data
        + f"\r\n--{boundary}--\r\n".encode()
    )
    answer = ask(*shop, "POST", "/upload", body, Content_Type=f"multipart/form-data; boundary={boundary}")
    assert (answer.status, answer.body) == (200, data[::-1])
