"""What functions import, in a real engine: the report, and instances that find their packages imported."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.framework.engine import Engine, engine
from tests.framework.frame_server import until

OWN = "import os, time, uuid, heavy\nME = uuid.uuid4().hex\ndef f(e, c):\n    time.sleep(e.get('s', 0))\n    return [ME, heavy.PID, heavy.ENV, os.listdir('/tmp')]\n"
HEAVY = "import os, time\ntime.sleep(0.3)\nPID, ENV = os.getpid(), os.environ.get('AWS_LAMBDA_LOG_STREAM_NAME')\n"
RECORD = "heavy.py,sha256=x,1\n"


def files(heavy: str = HEAVY) -> dict[str, str]:
    return {"m.py": OWN, "heavy.py": heavy, "heavy-1.0.dist-info/RECORD": RECORD}


def report(running: Engine, name: str) -> dict[str, Any]:
    found = [f for f in json.loads(running.get("/_engine/cold-starts")[1]) if f["name"] == name]
    return found[0] if found else {}


def invoke(client: Any, name: str, **event: Any) -> Any:
    return json.loads(client.invoke(FunctionName=name, Payload=json.dumps(event))["Payload"].read())


def test_the_first_instance_tells_what_its_init_was_spent_on(shared: Engine) -> None:
    shared.deploy("reported", files())
    client = shared.client()
    invoke(client, "reported")
    until(lambda: bool(report(shared, "reported")), 60)
    shown = report(shared, "reported")
    assert (shown["version"], shown["preloading"], shown["preloaded_init_ms"]) == ("$LATEST", "off", None)
    assert [p["name"] for p in shown["packages"] if p["kind"] == "package"] == ["heavy"]
    assert shown["init_ms"] >= shown["spare_ms"] >= 300


@pytest.mark.slow
def test_packages_are_imported_once_and_inits_run_in_every_instance() -> None:
    with engine(learn_imports=True) as running:
        client = running.client()
        running.deploy("learning", files(), Timeout=60)
        first = invoke(client, "learning")
        until(lambda: report(running, "learning").get("preloading") == "ready", 60)
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(3) as pool:
            seen = list(pool.map(lambda _: invoke(client, "learning", s=1.0), range(3)))
        copies = [s for s in seen if s[0] != first[0]]
        assert len(copies) == 2
        assert len({me for me, *_ in seen}) == 3, "the function's own init ran in each"
        assert len({(pid, stream) for _, pid, stream, _ in copies}) == 1, "its package was imported once"
        assert all(s[3] == [] for s in copies)
        assert report(running, "learning")["preloaded_init_ms"] < 300
        kinds = {i["kind"] for i in running.state()["instances"] if i["invocations"]}
        assert kinds == {"on-demand"}

        running.deploy("threaded", files(HEAVY + "import threading\nthreading.Thread(target=time.sleep, args=(9e5,), daemon=True).start()\n"))
        running.deploy("writing", files(HEAVY + "open('/tmp/x', 'w').close()\nos.environ['A'] = 'b'\n"))
        running.deploy("talking", files(HEAVY + "print('hello')\n"))
        for name, reason in (("threaded", "leave threads"), ("writing", "they change the environment and /tmp"), ("talking", "print")):
            invoke(client, name)
            until(lambda name=name: report(running, name).get("preloading") == "plain", 60)  # type: ignore[misc]
            assert reason in report(running, name)["reason"]
            invoke(client, name)
