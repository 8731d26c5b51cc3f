"""WebSocket APIs on a real engine: made with boto3, spoken to by a real WebSocket client, posted to with the management API's client."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.exceptions import ClientError
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.framework.apis import REGION, call, invocation_uri, let_in
from tests.framework.engine import Engine, engine, zip_of
from tests.framework.wait import until

# Echoes events by way of the management API, keeps none. What connects with ?no=1 is turned away; ?sub=x chooses a protocol.
CHAT = zip_of(
    {
        "m.py": (
            "import json\n"
            "import boto3\n"
            "def f(e, c):\n"
            "    context = e['requestContext']\n"
            "    query = e.get('queryStringParameters') or {}\n"
            "    if context['eventType'] == 'CONNECT':\n"
            "        if 'fail' in query: raise ValueError('x')\n"
            "        return {'statusCode': int(query.get('status', 200)), 'headers': {'Sec-WebSocket-Protocol': query['sub']} if 'sub' in query else {}}\n"
            "    if context['eventType'] == 'DISCONNECT':\n"
            "        print('BYE ' + json.dumps(e))\n"
            "        return {}\n"
            "    if context['routeKey'] == 'raise': raise ValueError('x')\n"
            "    if context['routeKey'] == 'twoway': return {'statusCode': 200, 'body': 'back: ' + e['body']}\n"
            "    boto3.client('apigatewaymanagementapi').post_to_connection(ConnectionId=context['connectionId'], Data=json.dumps(e).encode())\n"
            "    return {'statusCode': 200, 'body': 'nobody sees this'}\n"
        )
    }
)
AUTHORIZER = zip_of(
    {
        "m.py": (
            "def f(e, c):\n"
            "    token = e['queryStringParameters']['token']\n"
            "    statement = {'Action': 'execute-api:Invoke', 'Effect': 'Allow' if token == 'allow' else 'Deny', 'Resource': e['methodArn']}\n"
            "    return {'principalId': 'ada', 'policyDocument': {'Version': '2012-10-17', 'Statement': [statement]}, 'context': {'type': e['type'], 'arn': e['methodArn']}}\n"
        )
    }
)


class SocketApi:
    """A WebSocket API with a stage."""

    def __init__(self, target: Engine, name: str, *routes: str, **connect_settings: Any) -> None:
        self.engine = target
        self.client = target.client("apigatewayv2")
        self.id = self.client.create_api(Name=name, ProtocolType="WEBSOCKET", RouteSelectionExpression="$request.body.action")["ApiId"]
        self.host = f"{self.id}.execute-api.{REGION}.localhost"
        self.client.create_stage(ApiId=self.id, StageName="prod", StageVariables={"colour": "red"})
        made = self.client.create_integration(ApiId=self.id, IntegrationType="AWS_PROXY", IntegrationUri=invocation_uri("ws-chat"))
        self.target = f"integrations/{made['IntegrationId']}"
        for key in routes:
            more = connect_settings if key == "$connect" else {"RouteResponseSelectionExpression": "$default"} if key == "twoway" else {}
            self.client.create_route(ApiId=self.id, RouteKey=key, Target=self.target, **more)

    @contextlib.contextmanager
    def open(self, query: str = "", **options: Any) -> Iterator[ClientConnection]:
        port = urlsplit(self.engine.url).port
        raw = socket.create_connection(("127.0.0.1", port))
        with connect(f"ws://{self.host}:{port}/prod{query}", sock=raw, open_timeout=60, close_timeout=60, **options) as client:
            yield client

    def management(self) -> Any:
        """A client of the stage's own address, in its path form."""
        keys: Any = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        return boto3.client("apigatewaymanagementapi", endpoint_url=f"{self.engine.url}/_api/{self.id}/prod", region_name=REGION, **keys)


@pytest.fixture(scope="module")
def gate(shared: Engine) -> Engine:
    for name, code in (("ws-chat", CHAT), ("ws-auth", AUTHORIZER)):
        shared.deploy(name, code, Timeout=30, MemorySize=512)
        let_in(shared, name, "*/*")
    return shared


def receive(client: ClientConnection) -> Any:
    return json.loads(client.recv(timeout=60))


def test_messages_become_events_and_functions_post_back(gate: Engine) -> None:
    api = SocketApi(gate, "chat", "$connect", "$disconnect", "$default", "known", "raise", "twoway")
    with api.open("?x=1", user_agent_header="tester/1") as client:
        client.send('{"action": "known", "n": 1}')
        event = receive(client)
        context = event.pop("requestContext")
        assert event == {"body": '{"action": "known", "n": 1}', "isBase64Encoded": False, "stageVariables": {"colour": "red"}}
        connection_id = context.pop("connectionId")
        assert context.pop("requestId") == context.pop("extendedRequestId")
        assert context.pop("messageId")
        assert 0 <= context.pop("requestTimeEpoch") - context.pop("connectedAt") < 300_000
        assert context.pop("requestTime").endswith("+0000")
        assert context == {
            "routeKey": "known", "eventType": "MESSAGE", "messageDirection": "IN", "stage": "prod", "domainName": api.host, "apiId": api.id,
            "identity": {"sourceIp": "127.0.0.1", "userAgent": "tester/1"},
        }  # fmt: skip
        for other in ('{"action": "unknown"}', "no JSON", '{"action": "$connect"}', "[1]"):
            client.send(other)
            received = receive(client)
            assert (received["requestContext"]["routeKey"], received["body"]) == ("$default", other)
        client.send(["fragm", "ented"])
        assert receive(client)["body"] == "fragmented"
        client.send('{"action": "twoway"}')
        assert client.recv(timeout=60) == 'back: {"action": "twoway"}'
        client.send('{"action": "raise"}')
        failed = receive(client)
        assert (failed["message"], failed["connectionId"]) == ("Internal server error", connection_id)

        management = api.management()
        management.post_to_connection(ConnectionId=connection_id, Data=b"from outside")
        assert client.recv(timeout=60) == "from outside"
        about = management.get_connection(ConnectionId=connection_id)
        assert (about["Identity"]["SourceIp"], about["Identity"]["UserAgent"]) == ("127.0.0.1", "tester/1")
        assert about["ConnectedAt"] <= about["LastActiveAt"]
        with pytest.raises(ClientError, match="PayloadTooLarge"):
            management.post_to_connection(ConnectionId=connection_id, Data=b"x" * (128 * 1024 + 1))
        management.delete_connection(ConnectionId=connection_id)
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=60)
    with pytest.raises(management.exceptions.GoneException):
        until(lambda: management.get_connection(ConnectionId=connection_id) and None, "the connection is gone")
    log = gate.data_dir / "logs" / "000000000000" / "ws-chat.log"

    def bye() -> Any:
        lines = log.read_text().splitlines() if log.exists() else []
        found = (line.partition("BYE ")[2] for line in lines if "BYE " in line and connection_id in line)
        return next((json.loads(text) for text in found), None)

    goodbye = until(bye, "$disconnect was invoked")
    assert (goodbye["requestContext"]["routeKey"], goodbye["requestContext"]["eventType"]) == ("$disconnect", "DISCONNECT")
    assert goodbye["requestContext"]["disconnectStatusCode"] == 1000


def test_the_function_of_connect_decides(gate: Engine) -> None:
    api = SocketApi(gate, "decides", "$connect", "$default")
    with api.open("?sub=chat.v1", subprotocols=["chat.v1", "chat.v2"]) as client:
        assert client.subprotocol == "chat.v1"
    for query, status in (("?status=403", 403), ("?status=500", 500), ("?fail=1", 502)):
        with pytest.raises(InvalidStatus) as refused, api.open(query):
            pass
        assert refused.value.response.status_code == status
    plain = call(gate, api.host, "/prod")
    assert (plain.status, plain.headers["connection"]) == (426, "keep-alive")
    assert call(gate, api.host, "/nostage").status == 403
    with pytest.raises(InvalidStatus), connect(
        f"ws://127.0.0.1:{urlsplit(gate.url).port}/_api/{api.id}/other", open_timeout=60
    ):
        pass


def test_without_routes_a_connection_opens_and_messages_are_forbidden(gate: Engine) -> None:
    api = SocketApi(gate, "bare")
    with api.open() as client:
        client.send("hello")
        assert receive(client)["message"] == "Forbidden"
        api.client.create_route(ApiId=api.id, RouteKey="$default", Target=api.target)
        client.send("hello")
        assert receive(client)["body"] == "hello", "a route made while the connection was open"
        client.send(b"binary")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=60)
    assert closed.value.rcvd.code == 1003
    with api.open() as client:
        client.send("x" * (32 * 1024 + 1))
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=60)
    assert closed.value.rcvd.code == 1009


def test_an_authorizer_is_asked_at_connect_and_remembered(gate: Engine) -> None:
    client = gate.client("apigatewayv2")
    api = SocketApi(gate, "authorized", "$default")
    authorizer = client.create_authorizer(
        ApiId=api.id, Name="a", AuthorizerType="REQUEST", AuthorizerUri=invocation_uri("ws-auth"), IdentitySource=["route.request.querystring.token"]
    )["AuthorizerId"]
    client.create_route(ApiId=api.id, RouteKey="$connect", Target=api.target, AuthorizationType="CUSTOM", AuthorizerId=authorizer)
    with api.open("?token=allow") as allowed:
        allowed.send("hello")
        found = receive(allowed)["requestContext"]["authorizer"]
        assert (found["principalId"], found["type"]) == ("ada", "REQUEST")
        assert found["arn"] == f"arn:aws:execute-api:{REGION}:000000000000:{api.id}/prod/$connect"
    for query, status in (("?token=no", 403), ("", 401)):
        with pytest.raises(InvalidStatus) as refused, api.open(query):
            pass
        assert refused.value.response.status_code == status


def test_many_clients_have_their_own_connections(gate: Engine) -> None:
    api = SocketApi(gate, "many", "twoway")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(api.open()) for _ in range(20)]
        for number, client in enumerate(clients):
            client.send(json.dumps({"action": "twoway", "n": number}))
        assert [json.loads(client.recv(timeout=60)[6:])["n"] for client in clients] == list(range(20))
        page = gate.get("/metrics")[1].decode()
    assert f'lambda_engine_websocket_connections{{api="{api.id}"}} 20.0' in page
    assert f'lambda_engine_api_requests_total{{api="{api.id}",stage="prod",status="1xx"}} 20.0' in page


@pytest.mark.slow
def test_clients_are_told_when_the_engine_stops() -> None:
    with engine() as own:
        own.deploy("ws-chat", CHAT)
        api = SocketApi(own, "stops")
        with api.open() as client:
            assert own.stop() == 0
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=60)
        assert closed.value.rcvd.code == 1001
