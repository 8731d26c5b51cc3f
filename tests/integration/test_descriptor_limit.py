"""An engine that may have few file descriptors: it holds as many instances as it has some for, says so, and goes on."""

from __future__ import annotations

import concurrent.futures
import json
import os
import socket
from collections import Counter
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.framework.engine import Engine, engine
from tests.framework.wait import until

CODE = {"m.py": "import time\ndef f(e, c):\n    time.sleep(e)\n    return 'done'\n"}
MOST = 256
CALLS = 60


def at_once(running: Engine, name: str, seconds: float) -> Counter[str]:
    """What as many invocations come to."""
    client = running.client()

    def one(_: int) -> str:
        try:
            answer = client.invoke(FunctionName=name, Payload=json.dumps(seconds))
            return str(json.loads(answer["Payload"].read()))
        except ClientError as e:
            return f"{e.response['Error']['Code']}: {e.response['Error']['Message']}"

    with concurrent.futures.ThreadPoolExecutor(CALLS) as pool:
        return Counter(pool.map(one, range(CALLS)))


def used(pids: dict[str, int]) -> dict[str, int]:
    return {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in pids.items()}


def limits(pid: int) -> str:
    with open(f"/proc/{pid}/limits") as f:
        return next(" ".join(line.split()[3:5]) for line in f if line.startswith("Max open files"))


def parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as f:
        return int(f.read().rsplit(b")", 1)[1].split()[1])


@pytest.mark.parametrize("level", ["full", "user", "process"])
def test_more_invocations_than_there_are_descriptors_for_wait_for_room(level: str) -> None:
    settings: dict[str, Any] = {"sandbox": level, "keep_alive_s": 1, "host_wait_s": 60}
    with engine(descriptors=(MOST, MOST), **settings) as running:
        running.deploy("busy", CODE, Timeout=60)
        running.deploy("other", CODE, Timeout=60)
        pids = running.state()["processes"]
        before = used(pids)
        assert at_once(running, "busy", 2) == {"done": CALLS}
        # Its idle instances make room.
        assert at_once(running, "other", 2) == {"done": CALLS}
        # A zygote that only one of the functions needs may have begun meanwhile.
        assert running.state()["processes"].items() >= pids.items(), "nobody ended"
        assert max(used(pids).values()) <= MOST
        assert "host is full" in running.log.read_text()
        assert '"level": "error"' not in running.log.read_text()
        # Groups that were used and passed on to the stock have more of their files open than new ones.
        until(lambda: all(now <= before[name] + 20 for name, now in used(pids).items()), f"nothing is kept: {before}", 60)


def test_who_waits_in_vain_is_told_what_the_host_is_short_of() -> None:
    with engine(descriptors=(MOST, MOST), host_wait_s=1) as running:
        running.deploy("long", CODE, Timeout=60)
        answers = at_once(running, "long", 6)
        done, throttled = answers.pop("done"), answers.total()
        assert done >= 20
        assert done + throttled == CALLS
        assert throttled
        for what in answers:
            assert what.startswith("TooManyRequestsException: Rate Exceeded. This host is full: "), what
            assert what.endswith(f" of {MOST} file descriptors are in use (ulimit -n)."), what


def test_connections_take_what_there_is_and_others_come_in_when_they_have_gone() -> None:
    with engine(descriptors=(MOST, MOST)) as running:
        running.deploy("f", CODE)
        pids = running.state()["processes"]
        host, port = running.url.removeprefix("http://").rsplit(":", 1)
        idle = [socket.create_connection((host, int(port))) for _ in range(MOST)]
        until(lambda: used(pids)["supervisor"] >= MOST - 1, "none is left")
        for sock in idle:
            sock.close()
        until(lambda: running.get("/livez")[0] == 200, "it answers again")
        assert at_once(running, "f", 0) == {"done": CALLS}
        assert running.state()["processes"].items() >= pids.items()


def test_an_engine_takes_as_many_descriptors_as_it_may_have() -> None:
    with engine(descriptors=(200, 2000)) as running:
        pids = running.state()["processes"]
        for pid in (pids["supervisor"], parent(pids["broker"]), pids["broker"]):
            assert limits(pid) == "2000 2000"
