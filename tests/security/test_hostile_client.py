"""What a function does to the engine as its client and by its answers: requests that never end, connections, error types, headers, its init."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import threading

import pytest
from botocore.exceptions import ClientError

from engine.supervisor.door import MOST_BYTES, MOST_CONNECTIONS
from engine.wire import messages
from tests.framework.engine import url_host, zip_of
from tests.framework.wait import until
from tests.security.siege import Siege

pytestmark = pytest.mark.root

FORGED = "99999999-8888-7777-6666-555555555555"


def test_requests_that_never_end_hold_little_of_the_engine(siege: Siege) -> None:
    """Each holds nearly six megabytes of the supervisor; a function of 128 MB could so take all that the host has."""
    size = 6_000_000
    most = MOST_BYTES // size
    source = f"""
held, refused = [], 0
for _ in range({most + 10}):
    s = socket.create_connection(('127.0.0.1', 4566), 30)
    try:
        s.sendall(b'POST /2015-03-31/functions/victim/invocations HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: {size + 1}\\r\\n\\r\\n' + bytes({size}))
        held.append(s)
    except OSError:
        refused += 1
# What was sent last may have been refused after it was sent.
import select
told, end = [], time.monotonic() + 40
while refused + len(told) < 10 and time.monotonic() < end:
    for s in select.select(held, [], [], 1)[0]: held.remove(s); told.append(s)
refused += len(told)
for s in held + told: s.close()
s = socket.create_connection(('127.0.0.1', 4566), 30)
s.sendall(b'GET /livez HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')
result = [refused, s.recv(15).decode()]
"""
    name = siege.attacker("never-ending", MemorySize=1769, Timeout=60)
    refused, again = siege.attack(source, name).result
    assert refused >= 10
    assert again == "HTTP/1.1 200 OK"


def test_connections_to_the_engine_are_counted(siege: Siege) -> None:
    name = siege.attacker("many-connections", MemorySize=1769, Timeout=60)
    source = """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
held = [socket.socket() for _ in range(900)]
for s in held:
    s.setblocking(False)
    s.connect_ex(('127.0.0.1', 4566))
signal.sigtimedwait([signal.SIGUSR1], 50)
"""
    before = siege.descriptors()
    attack = threading.Thread(target=siege.attack, args=(source, name))
    attack.start()
    until(lambda: siege.descriptors() >= before + MOST_CONNECTIONS, "as many connections as there may be")
    for _ in range(5):
        siege.unharmed()
        assert siege.descriptors() <= before + MOST_CONNECTIONS + 32
    (pid,) = [i["pid"] for i in siege.engine.state()["instances"] if i["function"] == name]
    os.kill(pid, signal.SIGUSR1)
    attack.join()
    until(lambda: siege.descriptors() <= before + 32, "they are closed")
    again = "s = socket.create_connection(('127.0.0.1', 4566), 30)\ns.sendall(b'GET /livez HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\nresult = s.recv(15).decode()"
    assert siege.attack(again, name).result == "HTTP/1.1 200 OK"


TYPES = ["x\r\nX-Evil: 1\r\n\r\n", 'a"b\\c\n# HELP d', "e\u2028f", "t\tStatus: success", "y" * 255]


def test_error_types_are_not_believed(siege: Siege) -> None:
    """An error's type goes into a line of the log, a label on /metrics and once was a header: none of them can be broken out of."""
    for n, kind in enumerate(TYPES):
        name = siege.attacker(f"typed-{n}")
        reply = base64.b64encode(messages.encode_reply(messages.ERROR, FORGED, b'{"errorType":"q","errorMessage":"m"}', kind)).decode()
        source = f"os.write(3, base64.b64decode({reply!r}).replace({FORGED.encode()!r}, context.aws_request_id.encode()))\ntime.sleep(60)"
        answer = siege.client.invoke(FunctionName=name, Payload=json.dumps({"source": source}), LogType="Tail")
        assert answer["FunctionError"] == "Unhandled"
        assert not [h for h in answer["ResponseMetadata"]["HTTPHeaders"] if "evil" in h]
        assert json.loads(answer["Payload"].read()) == {"errorType": "q", "errorMessage": "m"}
        tail = base64.b64decode(answer["LogResult"]).decode()
        reports = [line for line in tail.splitlines() if line.startswith("REPORT ")]
        assert len(reports) == 1
        assert reports[0].count("Status: ") <= 1, reports
        assert "Evil" not in reports[0]
    metric = re.compile(r'(#.*|[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-zA-Z_]\w*="([^"\\\n]|\\["\\n])*",?)*\})? \S+)')
    lines = siege.engine.get("/metrics")[1].decode().split("\n")
    assert [line for line in lines if line and not metric.fullmatch(line)] == []


def test_error_types_without_end_are_not_kept(siege: Siege) -> None:
    name = siege.attacker("inventive", MemorySize=1769)
    for n in range(60):
        siege.attack(f"raise type('Kind{n}', (Exception,), {{}})('x')", name)
    kinds = re.findall(rf'errors_total{{error_type="([^"]*)",function="{name}"}}', siege.engine.get("/metrics")[1].decode())
    assert 1 <= len(kinds) <= 32, kinds


SPLITTING = [
    {"headers": {"X-A": "1\r\nX-Evil: 1\r\n\r\nHTTP/1.1 200 OK"}},
    {"headers": {"X-A\r\nX-Evil": "1"}},
    {"headers": {"X-A": "1\nX-Evil: 1"}},
    {"headers": {"content-length": "1", "transfer-encoding": "chunked", "connection": "upgrade"}},
    {"cookies": ["a=b\r\nX-Evil: 1"]},
    {"statusCode": 99},
    {"statusCode": 20000},
    {"statusCode": "200 OK\r\nX-Evil: 1"},
]


def test_a_url_s_answer_cannot_be_split(siege: Siege) -> None:
    """Status, headers and cookies are the function's own words; where the answer begins and ends is not."""
    name = siege.attacker("splitter", MemorySize=1769)
    url = siege.client.create_function_url_config(FunctionName=name, AuthType="NONE")["FunctionUrl"]
    siege.client.add_permission(FunctionName=name, StatementId="u", Action="lambda:InvokeFunctionUrl", Principal="*", FunctionUrlAuthType="NONE")
    host = url_host(url)
    port = int(siege.engine.url.rsplit(":", 1)[1])
    for words in SPLITTING:
        code = f"def f(event, context): return {{'statusCode': 200, 'body': 'the body', **{words!r}}}"
        _update(siege, name, code)
        with socket.create_connection(("127.0.0.1", port), 30) as s:
            s.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            raw = b"".join(iter(lambda s=s: s.recv(65536), b""))  # type: ignore[misc]
        head, _, body = raw.partition(b"\r\n\r\n")
        assert re.match(rb"HTTP/1\.1 [1-5]\d\d [ \w]*\r\n", head), head
        names = [line.partition(b":")[0].lower() for line in re.split(rb"\r\n|\n|\r", head)[1:]]
        assert b"x-evil" not in names, (words, head)
        assert names.count(b"content-length") + names.count(b"transfer-encoding") == 1, (words, head)
        if b"content-length" in names:
            (length,) = re.findall(rb"(?i)content-length: (\d+)", head)
            assert len(body) == int(length), (words, raw)
        assert body in (b"the body", b"Internal Server Error"), "it is the function that answers"


def _update(siege: Siege, name: str, code: str) -> None:
    siege.client.update_function_code(FunctionName=name, ZipFile=zip_of({"m.py": code}))
    siege.client.get_waiter("function_updated_v2").wait(FunctionName=name)


INITS = {
    "noise": "os.write(3, b'\\xff' * 64)",
    "a reply to nothing": f"os.write(3, base64.b64decode({base64.b64encode(messages.encode_reply(messages.RESPONSE, FORGED, b'1')).decode()!r}))",
    "two ends of init": f"os.write(3, base64.b64decode({base64.b64encode(messages.pack(messages.NEXT) * 2).decode()!r}))",
    "a closed channel": "os.close(3)",
    "children that stay": "[os.fork() or time.sleep(1000) for _ in range(3)]\nos._exit(7)",
}


@pytest.mark.parametrize("what", INITS)
def test_an_init_that_attacks_harms_only_its_function(siege: Siege, what: str) -> None:
    name = f"init-{list(INITS).index(what)}"
    code = f"import base64, os, time\n{INITS[what]}\ndef f(event, context): return 'ran'"
    siege.engine.deploy(name, {"m.py": code}, MemorySize=512, Timeout=3)
    try:
        answer = siege.client.invoke(FunctionName=name, Payload=b"{}")
    except ClientError as e:
        assert e.response["Error"]["Code"] == "ServiceException"  # noqa: PT017 - either is an answer
        assert "the worker broke the protocol" in e.response["Error"]["Message"]  # noqa: PT017
    else:
        assert answer["FunctionError"] == "Unhandled"
        assert json.loads(answer["Payload"].read())["errorType"].startswith(("Runtime.", "Sandbox."))
    siege.unharmed()
