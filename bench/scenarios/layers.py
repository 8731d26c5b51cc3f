"""What each layer of isolation adds to a cold start: the same starts with one layer after the other put in, from a bare fork on.

The engine has no switch for its fences, so each line is measured on a copy of its code from which some have been cut out (``CUTS``). Every
case is told twice: *from stock*, where the sandbox was made before the request came, as is usual; and *on demand* (``pool_size`` 0), where the
request waits for its making. CPU time is that of the whole engine, everything ended included, per start.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench import http1
from bench.context import ROOT, Context
from bench.engine import COUNT, Engine, started, zipped
from bench.loadgen import Generator, Http, Outcome, Plan
from bench.rows import Latencies, Row, row
from bench.scenarios.cold import KEEP_ALIVE_S, only_cold

FROM_STOCK, ON_DEMAND = "from stock", "on demand"
DEFAULT = "+ NAT: the default"
VPC = "a VPC instead of NAT"
RATE = 12.0
FUNCTIONS = 48

# Name -> (module below engine/sandbox, what is appended to it).
CUTS = {
    "mounts": (
        "nest",
        "_whole = plan\n\n\ndef plan(build):\n"
        "    return _whole(build)._replace(furnish=(kernel.Step('host name', _socket.sethostname, (HOSTNAME,)),))\n",
    ),
    "landlock": ("levels", "def _landlock():\n    return False, 'none: left out'\n"),
    "seccomp": ("kernel", "def filter_step(program):\n    return Step('no filter', int)\n"),
    "groups": (
        "cgroups",
        "def _without(self, movable=frozenset()):\n    self.__dict__.update(Groups.none('left out').__dict__)\n\n\nGroups.__init__ = _without\n",
    ),
}
_VPCS = {"vpc-bench": {"cidr": "10.9.0.0/16", "subnets": {"subnet-bench": "10.9.1.0/24"}, "security_groups": {"sg-bench": {}}}}
_IN_VPC = {"VpcConfig": {"SubnetIds": ["subnet-bench"], "SecurityGroupIds": ["sg-bench"]}}
_FULL = {"sandbox": "full", "network": "host", "cpu_quota": False}


@dataclass
class Layer:
    """One line: the engine's settings, what is cut out of it, and settings of the function."""

    name: str
    settings: dict[str, object]
    cuts: tuple[str, ...] = ()
    function: dict[str, object] = field(default_factory=dict)


LAYERS = (
    Layer("a fork with resource limits (level process)", {"sandbox": "process", "cpu_quota": False}),
    Layer("+ user, pid, mount, ipc, uts namespaces, no capabilities", _FULL, ("mounts", "landlock", "seccomp", "groups")),
    Layer("+ own /proc, /tmp, /dev/shm in an own root", _FULL, ("landlock", "seccomp", "groups")),
    Layer("+ Landlock", _FULL, ("seccomp", "groups")),
    Layer("+ seccomp", _FULL, ("groups",)),
    Layer("+ control groups", _FULL),
    Layer("+ CPU quota", _FULL | {"cpu_quota": True}),
    Layer("+ network namespace", {"sandbox": "full", "network": "isolated", "cpu_quota": True}),
    Layer(DEFAULT, {"sandbox": "full", "network": "nat", "cpu_quota": True}),
    Layer(VPC, {"sandbox": "full", "network": "nat", "cpu_quota": True, "vpcs": json.dumps(_VPCS)}, function=_IN_VPC),
)


def cut(work: Path, cuts: tuple[str, ...]) -> Path:
    """A copy of the engine without some of its fences, in ``work``; the engine itself when nothing is left out."""
    if not cuts:
        return ROOT
    root = work / "-".join(cuts)
    if not root.exists():
        for package in ("engine", "runtime_bootstrap"):
            shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
        for name in cuts:
            module, text = CUTS[name]
            with (root / "engine" / "sandbox" / f"{module}.py").open("a", encoding="utf-8") as out:
                out.write(f"\n\n{text}")
    return root


def run(context: Context) -> list[Row]:
    """Every layer from stock and on demand, in turns, so that what else the machine does falls on all of them."""
    if context.endpoint is not None:
        return []
    rows: list[Row] = []
    for kind, pool in ((FROM_STOCK, 8), (ON_DEMAND, 0)):
        found = [Latencies() for _ in LAYERS]
        cpu_s, starts, errors, wrong = [0.0] * len(LAYERS), [0] * len(LAYERS), [0] * len(LAYERS), [""] * len(LAYERS)
        for _ in range(1 if context.quick else 2):
            for n, layer in enumerate(LAYERS):
                context.say(f"{layer.name}, {kind}")
                used, outcome = _measure(context, layer, pool)
                for value in outcome.kinds.get("cold", ()):
                    found[n].add(value)
                    starts[n] += 1
                cpu_s[n] += used
                errors[n] += outcome.errors + len(outcome.kinds.get("warm", ()))
                wrong[n] = wrong[n] or outcome.first_error
        for n, layer in enumerate(LAYERS):
            rows.append(
                row(
                    "layers",
                    layer.name,
                    kind,
                    generator="Python, open loop",
                    latencies=found[n],
                    seconds=starts[n] / RATE,
                    errors=errors[n],
                    first_error=wrong[n],
                    # What it takes when nothing else happens on the machine; on a busy one the only figure to compare.
                    p10_us=found[n].us(10),
                    cpu_ms_per_start=round(cpu_s[n] * 1e3 / max(1, starts[n]), 2),
                )
            )
    return rows


def _measure(context: Context, layer: Layer, pool: int) -> tuple[float, Outcome]:
    """CPU seconds, and what came of the starts, of one engine."""
    samples = 48 if context.quick else 144
    settings = {"pool_size": pool, "keep_alive_s": KEEP_ALIVE_S, **layer.settings}
    with started(context.work, root=cut(context.work, layer.cuts), **settings) as engine:
        names = [f"layer-{n}" for n in range(FUNCTIONS)]
        engine.deploy_many(names, zipped(COUNT), **layer.function)
        raw = [http1.request(engine.host, engine.path(name), b"{}") for name in names]
        engine.settle(instances=0, stock=pool > 0)
        # The first few find everything new: the zygote, the caches, the networks.
        _starts(engine, raw[:8], 8)
        engine.settle(instances=0, stock=pool > 0)
        time.sleep(0.5)
        before = _cpu_s(engine)
        outcome = _starts(engine, raw, samples)
        engine.settle(instances=0, stock=pool > 0)
        return _cpu_s(engine) - before, outcome


def _starts(engine: Engine, raw: list[bytes], samples: int) -> Outcome:
    plan = Plan(
        engine.host,
        Http(),
        lambda n: (raw[n % len(raw)], None),
        connections=4,
        count=samples,
        seconds=samples / RATE + 60,
        rate=RATE,
        check=only_cold,
    )
    return Generator(plan).run()


def _cpu_s(engine: Engine) -> float:
    """CPU seconds of the engine's processes and of all that have ended among them."""
    total = 0.0
    for process in engine.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
