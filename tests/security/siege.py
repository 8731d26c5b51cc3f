"""An engine under attack: a function that runs what it is told, another that must notice nothing, and what the operator sees."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.sandbox import seccomp
from tests.framework.engine import Engine

SECRETS = {"env": "in-the-environment-5f1c", "code": "in-the-code-9d2e", "tmp": "in-tmp-77ab", "memory": "in-memory-0c4d"}
VICTIM = """
import os
SECRET = %(code)r
kept = bytearray(%(memory)r, 'ascii')
with open('/tmp/secret', 'w') as f: f.write(%(tmp)r)
N = 0
def f(e, c):
    global N
    N += 1
    with open('/tmp/secret') as f: return [N, os.environ['SECRET'], SECRET, f.read(), kept.decode()]
"""
ATTACKER = """
import base64, ctypes, errno, glob, json, mmap, os, resource, signal, socket, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def sc(number, *args):
    r = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return 'DONE' if r >= 0 else errno.errorcode[ctypes.get_errno()]

def attempt(call, *args):
    try:
        call(*args)
    except OSError as e:
        return errno.errorcode.get(e.errno, type(e).__name__)
    except Exception as e:
        return type(e).__name__
    return 'DONE'

def f(event, context):
    scope = dict(globals(), context=context)
    exec(event['source'], scope)
    print('attempt over')
    return scope.get('result')
"""
NUMBERS = {"x86_64": 0, "aarch64": 1}


def number(name: str) -> int:
    """A system call of this machine, by its name."""
    import platform

    if name in seccomp._REFUSED_NEW:
        return seccomp._REFUSED_NEW[name]
    return int(str(seccomp._REFUSED_OLD[name][NUMBERS[platform.machine()]]))


@dataclass(frozen=True)
class Attempt:
    """What came of an attack: the function's result or its error document, its request id and the tail of its log."""

    result: Any
    error: dict[str, Any] | None
    request_id: str
    tail: str

    @property
    def report(self) -> str:
        (line,) = [x for x in self.tail.splitlines() if x.startswith(f"REPORT RequestId: {self.request_id}\t")]
        return line


class Siege:
    """One engine with its attacker and its victim."""

    def __init__(self, running: Engine) -> None:
        self.engine = running
        self.client = running.client()
        running.deploy(
            "victim", {"m.py": VICTIM % SECRETS}, MemorySize=1769, Environment={"Variables": {"SECRET": SECRETS["env"]}}, Timeout=30
        )
        self.attacker("attacker")
        self._served = 0
        self.unharmed()
        self._pids = self._long_lived()

    def attacker(self, name: str, **settings: Any) -> str:
        """Deploy one more function that runs what it is told, in place of one that a test left which now runs again."""
        with contextlib.suppress(self.client.exceptions.ResourceNotFoundException):
            self.client.delete_function(FunctionName=name)
        self.engine.deploy(name, {"m.py": ATTACKER}, **{"MemorySize": 512, "Timeout": 20, **settings})
        return name

    def _long_lived(self) -> dict[str, int]:
        """Processes whose numbers may never change."""
        assert self.engine.process is not None
        pids = self.engine.state()["processes"]
        return {"engine": self.engine.process.pid, **{k: v for k, v in pids.items() if k in ("supervisor", "broker", "control")}}

    def attack(self, source: str, name: str = "attacker") -> Attempt:
        """Have the attacker run ``source`` (its ``result``, helpers ``sc`` and ``attempt``)."""
        answer = self.client.invoke(FunctionName=name, Payload=json.dumps({"source": source}), LogType="Tail")
        document = json.loads(answer["Payload"].read())
        failed = answer.get("FunctionError") is not None
        tail = base64.b64decode(answer["LogResult"]).decode()
        return Attempt(
            None if failed else document, document if failed else None, answer["ResponseMetadata"]["RequestId"], tail
        )

    def unharmed(self) -> None:
        """The engine is the one that was started and ready; the victim is the same instance and keeps its secrets."""
        assert self.engine.process is not None
        assert self.engine.process.poll() is None, "the engine ended"
        assert self.engine.get("/readyz")[0] == 200
        answer = self.client.invoke(FunctionName="victim", Payload=b"{}")
        document = json.loads(answer["Payload"].read())
        # One that was replaced is told of once.
        expected, self._served = self._served + 1, document[0] if isinstance(document, list) else 0
        assert document == [expected, SECRETS["env"], SECRETS["code"], SECRETS["tmp"], SECRETS["memory"]], self._what_happened(document)
        if hasattr(self, "_pids"):
            assert self._long_lived() == self._pids

    def _what_happened(self, document: Any) -> str:
        """What the victim's log and the engine's own say of it, and which instances there are now."""
        instances = [i for i in self.engine.state()["instances"] if i["function"] == "victim"]
        said = self.log_path("victim").read_text(errors="replace")[-3000:]
        return f"{document}\n{instances}\n{said}\n{self.engine.log.read_text(errors='replace')[-3000:]}"

    def errors(self, function: str, error_type: str) -> int:
        """Failed invocations of a function by type, as /metrics counts them."""
        text = self.engine.get("/metrics")[1].decode()
        found = re.search(rf'errors_total{{error_type="{re.escape(error_type)}",function="{function}"}} (\d+)', text)
        return int(found[1]) if found else 0

    def log(self, function: str, marker: str) -> str:
        """The function's log on disk, once ``marker`` is in it."""
        path = self.log_path(function)
        end = time.monotonic() + 60
        while True:
            text = path.read_text(errors="replace") if path.exists() else ""
            if marker in text:
                return text
            assert time.monotonic() < end, f"{marker} never reached {path}"
            time.sleep(0.02)

    def log_path(self, function: str) -> Path:
        return self.engine.data_dir / "logs" / "000000000000" / f"{function}.log"

    def descriptors(self) -> int:
        """Open descriptors of the supervisor."""
        return len(list(Path(f"/proc/{self._pids['engine']}/fd").iterdir()))
