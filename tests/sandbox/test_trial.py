"""The life that zygotes learn from: it is a worker's, it goes until the second answer, and what does not get there is no life."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.framework import host

_ROOT = Path(__file__).parents[2]
# A zygote at level ``process`` as far as its first fork, and one life in a fork of it. Prints what became of that.
_PROGRAM = """
import os, signal, socket, sys
sys.path.insert(0, {root!r})
from engine.sandbox import zygote
nest, trial = zygote.nest, zygote.trial
here, _ = socket.socketpair()
names = {{"entry": "runtime_bootstrap.python.worker", "runtime_dir": {root!r}, "level": "process", "network": "host", "nice": 0}}
names |= dict.fromkeys(("landlock", "trial")) | {{"prefixes": [], "preload": [], "command": []}}
one = zygote.Zygote(here, names)
one.prepare()
piece = sys.modules["runtime_bootstrap.python.worker"].REHEARSAL
plan = nest.bare(one._build)
if {by!r} == "Python":
    plan = plan._replace(runs={{0: None}})
if {by!r} == "helper":
    nest.enter_bare = None
one._nest = plan
try:
    pid = trial.live(plan, {piece}, one._serve_by if {by!r} == "helper" else None)
except OSError as e:
    print(e)
else:
    os.kill(pid, 0)
    print("lives")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
print(len(os.listdir("/proc/self/fd")) < 20)
"""
_OTHER_HANDLER = "(piece[0].replace(b'_rehearsed.handler', b'_rehearsed.handles'), *piece[1:])"


@pytest.mark.parametrize(
    ("piece", "by", "said"),
    [
        ("piece", "calls", "lives"),
        ("piece", "Python", "lives"),
        ("piece", "helper", "lives"),
        (_OTHER_HANDLER, "calls", "a trial of a worker said 7"),
        # SHUTDOWN in place of the event.
        ("(piece[0], bytes((0, 0, 0, 2, 0x91, 9)), piece[2])", "calls", "a trial of a worker ended"),
    ],
    ids=["by calls", "by Python", "by the helper", "no such handler", "ended"],
)
def test_a_worker_lives_until_its_second_answer_or_says_what_kept_it(piece: str, by: str, said: str) -> None:
    host.require("no C compiler")
    program = _PROGRAM.format(root=str(_ROOT), piece=piece, by=by)
    done = subprocess.run([sys.executable, "-I", "-S", "-B", "-c", program], capture_output=True, text=True, check=False, timeout=100, env={})
    assert done.stdout.split("\n")[:2] == [said, "True"], done.stderr
