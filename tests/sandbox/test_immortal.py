"""What a zygote does to its objects so that workers share them: it takes where the interpreter allows it, and programs notice nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from engine.sandbox.interpreters import discover
from tests.sandbox.rig import Rig

_ROOT = Path(__file__).parents[2]
_PROGRAM = """
import sys
sys.path.insert(0, {root!r})
import collections, gc, json, logging, os, weakref
from engine.sandbox.immortal import make_immortal

class Thing:
    pass

KEPT = {{"thing": Thing()}}
made = make_immortal()
gc.freeze()
known = sys.getrefcount(json) if made else 0
for _ in range(3):
    json.dumps({{"a": [1, "b"]}}), logging.getLogger("x").info("y")
steady = not made or sys.getrefcount(json) == known
gone = weakref.ref(new := Thing())
del new
KEPT["thing"] = KEPT["other"] = Thing()
later = weakref.ref(KEPT.pop("thing"))
del KEPT["other"]
cycle = Thing()
cycle.self = cycle
loop = weakref.ref(cycle)
del cycle, sys.modules["collections"]
gc.collect()
import collections
print(json.dumps([made, steady, gone() is None, later() is None, loop() is None, sys.intern("".join(["json"])) == "json", os.getpid() > 0]), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("name", sorted(n for n in discover() if n.startswith("python")))
def test_it_takes_where_the_interpreter_has_immortal_objects_and_new_objects_die_as_before(name: str) -> None:
    done = subprocess.run(
        [discover()[name].path, "-I", "-S", "-B", "-c", _PROGRAM.format(root=str(_ROOT))], capture_output=True, text=True, check=True, timeout=60
    )
    made, *rest = json.loads(done.stdout.splitlines()[0])
    assert (made > 1000) == (int(name.rpartition(".")[2]) >= 12)
    assert rest == [True] * 6


@pytest.mark.root
def test_a_worker_leaves_the_counts_of_what_the_zygote_imported_alone(tmp_path: Path) -> None:
    modern = [n for n in discover() if n.startswith("python") and int(n.rpartition(".")[2]) >= 12]
    if not modern:
        pytest.skip("no interpreter with immortal objects (3.12) here")
    with Rig(tmp_path, runtime=modern[0]) as rig:
        box = rig.make()
        counts = box.run("import sys, os\nresult = [sys.getrefcount(os), sys.getrefcount(None), sys.getrefcount(object())]", wait=False)
        assert counts[0] == counts[1] > 1 << 31
        assert counts[2] < 10
