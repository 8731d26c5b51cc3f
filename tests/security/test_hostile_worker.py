"""What a function says to the engine: its channel is an inherited descriptor, and user code can write anything to it."""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from typing import Any

import msgspec
import pytest

from engine.wire import messages
from engine.wire.frames import MAX_FRAME, frame
from tests.security.siege import Attempt, Siege

pytestmark = pytest.mark.root

FORGED = "99999999-8888-7777-6666-555555555555"


def say(siege: Siege, name: str, data: bytes, then: str = "time.sleep(30)") -> Attempt:
    """Write raw bytes to the channel from inside an invocation."""
    source = f"data = base64.b64decode({base64.b64encode(data).decode()!r})\nwhile data: data = data[os.write(3, data):]\n{then}"
    return siege.attack(source, name)


VIOLATIONS = {
    "an empty frame": frame(b""),
    "no msgpack": frame(b"\xc1" * 10),
    "text instead of an array": frame(b"\xa5hello"),
    "an unknown type": frame(b"\x91\x7f"),
    "a deep nest": frame(b"\x91" * 100_000 + b"\x03"),
    "a length over the cap": (MAX_FRAME + 1).to_bytes(4, "big") + b"\x95\x08",
    "a length of four gigabytes": b"\xff\xff\xff\xff",
    "an array that is longer than the frame": frame(b"\xdd\xff\xff\xff\xff\x08"),
    "NEXT in the middle": messages.pack(messages.NEXT),
    "INIT_ERROR after init": messages.pack(messages.INIT_ERROR, "X", b"{}"),
    "a supervisor's INVOKE": messages.encode_invoke(FORGED, 0, messages.invoke_tail("arn"), b"{}"),
    "a supervisor's SHUTDOWN": messages.pack(messages.SHUTDOWN),
    "a client's CALL": messages.encode_call(messages.Call(1, "victim", None, 0, None, None, None, b"{}")),
    "the control plane's CATALOGUE": messages.pack(messages.CATALOGUE, {"account": "000000000000", "name": "victim"}),
    "a reply to another's request": messages.encode_reply(messages.RESPONSE, FORGED, b'"stolen"'),
    "an error for another's request": messages.encode_reply(messages.ERROR, FORGED, b'{"errorType":"x"}', "x"),
    "a LOG of the wrong shape": messages.pack(messages.LOG, None, "now", 0, "text"),
    "a second HELLO": messages.pack(messages.HELLO, messages.VERSION, {}),
}


@pytest.mark.parametrize("what", VIOLATIONS)
def test_a_broken_protocol_ends_the_sandbox(siege: Siege, what: str) -> None:
    name = f"says-{list(VIOLATIONS).index(what)}"
    siege.attacker(name)
    done = say(siege, name, VIOLATIONS[what])
    assert done.error is not None
    assert done.error["errorType"] == "Runtime.Unknown"
    assert done.error["errorMessage"] == f"RequestId: {done.request_id} Error: Runtime broke the invocation protocol"
    assert siege.errors(name, "Runtime.Unknown") == 1
    assert "[engine] worker ended: " in siege.log(name, "[engine] worker ended: ")
    assert siege.attack("result = 'new'", name).result == "new", "the function itself goes on, in another sandbox"


class Babble:
    """Messages of every kind with anything in them: half of them of the right shape, some of them cut or bent. The same ones each time."""

    TEXTS = ("", "a\r\nX-Evil: 1", "text/html", "x" * 300, "\u2028\0", FORGED, FORGED, "application/json", "Runtime.X")
    DATA = (b"", b"{}", b'"x"', b"\xff\xfe", bytes(100_000), b'{"statusCode":200,"headers":{"a":"b\\r\\nX-Evil: 1"}}', b'{"errorType":"q","errorMessage":"m"}')
    NUMBERS = (0, 1, -1, 255, 1 << 32, (1 << 63) - 1, -1 << 63, (1 << 64) - 1, 1_700_000_000_000_000)

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def anything(self, depth: int = 0) -> Any:
        pick = self.random.choice
        kind = self.random.randrange(8)
        if kind == 0 and depth < 3:
            return [self.anything(depth + 1) for _ in range(self.random.randrange(4))]
        if kind == 1 and depth < 3:
            return {pick(self.TEXTS): self.anything(depth + 1)}
        return (None, pick((True, False)), pick(self.NUMBERS), pick((0.0, float("nan"), 1e308)), pick(self.TEXTS), pick(self.TEXTS), pick(self.DATA), None)[kind]

    def message(self) -> bytes:
        data = self.random.choice(self.DATA)
        shapes = (
            [messages.RESPONSE, FORGED, True, self.anything(), data], [messages.ERROR, FORGED, True, self.random.choice(self.TEXTS), data],
            [messages.LOG, self.random.choice((None, FORGED)), self.anything(), self.anything(), data], [messages.STREAM_START, FORGED, self.anything(), self.anything()],
            [messages.STREAM_CHUNK, FORGED, data], [messages.STREAM_END, FORGED, self.anything(), self.anything(), self.anything()],
            [messages.TOO_LARGE, FORGED, self.anything(), self.anything()], [messages.IMPORTS, data], [messages.INIT_ERROR, "x", data],
            [self.random.randrange(0x36), *(self.anything() for _ in range(self.random.randrange(6)))],
        )  # fmt: skip
        parts = list(self.random.choice(shapes))
        if self.random.random() < 0.2:
            parts[self.random.randrange(len(parts))] = self.anything()
        packed = bytearray(msgspec.msgpack.encode(parts))
        if self.random.random() < 0.1:
            packed[self.random.randrange(len(packed))] = self.random.randrange(256)
        return frame(bytes(packed))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_babble_harms_only_who_babbles(siege: Siege) -> None:
    """Each invocation has an answer without waiting for its deadline, and nothing in the engine is surprised."""
    name = siege.attacker("babbler", MemorySize=1769, Timeout=300)
    before = siege.engine.log.stat().st_size
    babble = Babble(7)
    for _ in range(80):
        said = base64.b64encode(b"".join(babble.message() for _ in range(babble.random.randrange(1, 4)))).decode()
        source = f"data = base64.b64decode({said!r}).replace({FORGED.encode()!r}, context.aws_request_id.encode())\nos.write(3, data)\nresult = 'said'"
        answer = siege.client.invoke(FunctionName=name, Payload=json.dumps({"source": source}))
        assert not [header for header in answer["ResponseMetadata"]["HTTPHeaders"] if "evil" in header]
        assert b"Sandbox.Timedout" not in answer["Payload"].read()
    with siege.engine.log.open("rb") as log:
        log.seek(before)
        assert b"xception" not in log.read()


def test_a_second_reply_reaches_nobody(siege: Siege) -> None:
    name = siege.attacker("twice")
    source = f"""
reply = base64.b64decode({base64.b64encode(messages.encode_reply(messages.RESPONSE, FORGED, b'"one"')).decode()!r})
reply = reply.replace({FORGED.encode()!r}, context.aws_request_id.encode())
os.write(3, reply + reply)
time.sleep(30)
"""
    done = siege.attack(source, name)
    assert done.result == "one", "the first reply is the function's own"
    assert "a reply to an invocation that is not running" in siege.log(name, "[engine] worker ended: ")
    assert siege.attack("result = 'new'", name).result == "new"


def test_a_reply_after_the_deadline_reaches_nobody(siege: Siege) -> None:
    name = siege.attacker("late", Timeout=4)
    done = siege.attack("signal.alarm(0)\ntime.sleep(4.5)\nresult = 'late'", name)
    assert done.error is not None
    assert done.error["errorType"] == "Sandbox.Timedout"
    assert siege.attack("result = 'in time'", name).result == "in time"
    assert siege.errors(name, "Sandbox.Timedout") == 1


def test_a_reply_kept_for_the_next_invocation_reaches_nobody(siege: Siege) -> None:
    """A thread that answers in another invocation's name, with the former one's id, ends the sandbox."""
    name = siege.attacker("keeper", Timeout=10)
    source = """
import builtins
builtins.kept = context.aws_request_id
result = 'first'
"""
    assert siege.attack(source, name).result == "first"
    forged = base64.b64encode(messages.encode_reply(messages.RESPONSE, FORGED, b'"stale"')).decode()
    done = siege.attack(
        f"import builtins\nos.write(3, base64.b64decode({forged!r}).replace({FORGED.encode()!r}, builtins.kept.encode()))\ntime.sleep(30)", name
    )
    assert done.error is not None
    assert done.error["errorType"] == "Runtime.Unknown"


def test_an_endless_frame_ends_with_the_deadline(siege: Siege) -> None:
    """Half of a frame, then a byte at a time: nothing is held beyond the cap, and the time limit stands."""
    name = siege.attacker("endless", Timeout=1)
    done = say(siege, name, (5_000_000).to_bytes(4, "big") + b"\x96\x05", "while True:\n    os.write(3, b'x'); time.sleep(0.01)")
    assert done.error is not None
    assert done.error["errorType"] == "Sandbox.Timedout"


def test_a_channel_that_is_closed_is_a_crash_or_a_timeout(siege: Siege) -> None:
    for n, source in enumerate(("os.close(3)", "socket.socket(fileno=os.dup(3)).shutdown(2)")):
        name = siege.attacker(f"closer-{n}", Timeout=5)
        done = siege.attack(source, name)
        assert done.error is not None
        assert done.error["errorType"] in ("Runtime.ExitError", "Sandbox.Timedout")
        assert siege.attack("result = 'new'", name).result == "new"


@pytest.mark.slow
def test_log_events_of_the_idle_and_the_many(siege: Siege) -> None:
    """A hundred thousand log frames at once: the engine keeps answering, what is too much is counted and dropped."""
    name = siege.attacker("chatter", Timeout=3, MemorySize=1769)
    piece = base64.b64encode(messages.pack(messages.LOG, None, 1_700_000_000_000_000, 0, b"x" * 50) * 200).decode()
    flooding = threading.Thread(
        target=siege.attack, args=(f"data = base64.b64decode({piece!r})\nwhile True: os.write(3, data)", name)
    )
    flooding.start()
    slowest = 0.0
    while flooding.is_alive():
        start = time.monotonic()
        siege.unharmed()
        slowest = max(slowest, time.monotonic() - start)
    flooding.join()
    assert slowest < 10, f"the victim waited {slowest:.1f} s"


def test_the_endpoint_is_the_api_and_no_more(siege: Siege) -> None:
    """The engine's endpoint answers inside as outside; the engine's own sockets and pages of the control link do not."""
    source = """
import http.client
def get(path):
    c = http.client.HTTPConnection('127.0.0.1', 4566, timeout=20)
    c.request('GET', path, headers={'x-lambda-engine-peer': '10.9.8.7'})
    return c.getresponse().status
result = [get(p) for p in ('/livez', '/../../etc/passwd', '/_engine/../../etc/passwd', '/2015-03-31/functions/..%2f..%2fetc')]
"""
    done = siege.attack(source)
    assert done.error is None, done.error
    assert done.result[0] == 200
    assert all(status >= 400 for status in done.result[1:]), done.result


def test_smuggled_requests_at_the_endpoint(siege: Siege) -> None:
    source = r"""
def talk(data):
    s = socket.create_connection(('127.0.0.1', 4566), 20)
    s.settimeout(3)
    s.sendall(data)
    got = b''
    try:
        while piece := s.recv(65536): got += piece
    except OSError: pass
    return [line[:12].decode('latin-1') for line in got.split(b'\r\n') if line.startswith(b'HTTP/1.1 ')]
invoke = b'POST /2015-03-31/functions/victim/invocations HTTP/1.1\r\nHost: x\r\n'
result = [
    talk(invoke + b'Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'),
    talk(invoke + b'Content-Length: 4\r\nContent-Length: 0\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'),
    talk(invoke + b'Content-Length: -1\r\n\r\n'),
    talk(b'\x16\x03\x01' + b'x' * 200),
    talk(b'GET / HTTP/1.1\r\n' + b'X-A: ' + b'y' * 2_000_000 + b'\r\n\r\n'),
]
"""
    done = siege.attack(source)
    assert done.error is None, done.error
    for answers in done.result:
        assert all(a[9:10] == "4" for a in answers), done.result
        assert len(answers) <= 1, done.result


def test_json_that_is_none(siege: Siege) -> None:
    """Bytes that are no JSON as a result are the function's own business: the engine hands them on unread."""
    name = siege.attacker("no-json")
    reply = base64.b64encode(messages.encode_reply(messages.RESPONSE, FORGED, b"\xff\x00{not json")).decode()
    source = f"os.write(3, base64.b64decode({reply!r}).replace({FORGED.encode()!r}, context.aws_request_id.encode()))\nos._exit(0)"
    answer = siege.client.invoke(FunctionName=name, Payload=json.dumps({"source": source}))
    assert answer["Payload"].read() == b"\xff\x00{not json"
