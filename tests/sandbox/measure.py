"""Measures what docs/sandbox.md promises. Not a test: run ``python -m tests.sandbox.measure [full|user|process] [rounds]``.

Wall time says what a caller waits; CPU time says what it costs, and stays meaningful on a busy machine. The first line is
this machine's own fork, to put the others into proportion.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from engine.sandbox.api import SpecialiseSpec
from tests.sandbox.rig import Box, Rig


def _spread(values: Sequence[float]) -> str:
    ordered = sorted(values)
    return f"p50 {ordered[len(ordered) // 2]:8.3f}   p99 {ordered[int(len(ordered) * 0.99)]:8.3f}"


def _fork_ms() -> float:
    """Median of fork, exit and wait in a small process."""
    code = "import os,time\nx=[]\nfor _ in range(101):\n t=time.perf_counter(); p=os.fork()\n if not p: os._exit(0)\n os.waitpid(p,0); x.append(time.perf_counter()-t)\nprint(sorted(x)[50]*1e3)"
    return float(os.popen(f"{sys.executable} -I -S -c '{code}'").read())


def _cpu_ms(pid: int) -> float:
    with open(f"/proc/{pid}/schedstat") as f:
        return int(f.read().split()[0]) / 1e6


def _children_ms(pid: int) -> float:
    """CPU of reaped descendants, to 10 ms: the sandboxes themselves."""
    with open(f"/proc/{pid}/stat", "rb") as f:
        fields = f.read().rsplit(b")", 1)[1].split()
    return (int(fields[13]) + int(fields[14])) * 1000 / os.sysconf("SC_CLK_TCK")


class Measure:
    """One rig and the figures taken from it, milliseconds."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.spec = SpecialiseSpec(str(rig.code("app", {"app.py": "x = 1\n"})))

    def cycle(self, figures: dict[str, list[float]]) -> None:
        """Make, specialise, one line run, kill; one at a time."""
        started = time.perf_counter()
        box = self.rig.make()
        made = time.perf_counter()
        time.sleep(0.002)
        asked = time.perf_counter()
        self.rig.link.specialise(box.id, self.spec)
        box.run("result = 1")
        ran = time.perf_counter()
        self._freeze(box, figures)
        held = time.perf_counter()
        self.rig.end(box)
        ended = time.perf_counter()
        for name, seconds in (("make", made - started), ("specialise until user code ran", ran - asked), ("kill until gone", ended - held)):
            figures.setdefault(name, []).append(seconds * 1e3)

    def _freeze(self, box: Box, figures: dict[str, list[float]]) -> None:
        """The calls themselves, and a round trip to a frozen worker (sent first, then thawed) beside one to a running one."""
        if box.freezer is None:
            return
        for _ in range(5):
            at = [time.perf_counter()]
            box.run("result = 1")
            at.append(time.perf_counter())
            box.freezer.freeze()
            at.append(time.perf_counter())
            self.rig.turn(0.005)
            at.append(time.perf_counter())
            box.send("result = 2")
            sent = time.perf_counter()
            box.freezer.thaw()
            at.append(time.perf_counter())
            self.rig.turn(0)  # an order through the broker leaves with the loop's next turn
            box._line()
            at.append(time.perf_counter())
            spans = {"freeze call": at[2] - at[1], "thaw call": at[4] - sent, "round trip, running": at[1] - at[0], "round trip, frozen": at[5] - at[3]}
            for name, seconds in spans.items():
                figures.setdefault(name, []).append(seconds * 1e3)

    def crowd(self, count: int) -> tuple[float, list[Box]]:
        """Ask for many holders at once; milliseconds until all are ready."""
        started = time.perf_counter()
        ids = [self.rig.next_id() for _ in range(count)]
        for holder_id in ids:
            self.rig.link.make(holder_id, self.rig.key)
        events = [self.rig.wait("holder_ready", holder_id) for holder_id in ids]
        took = (time.perf_counter() - started) * 1e3
        boxes = [Box(e[1], e[2], e[3]) for e in events]
        self.rig.boxes.extend(boxes)
        return took, boxes

    async def sustained(self, lanes: int, each: int) -> float:
        """Lives per second with several lanes at once."""
        started = time.perf_counter()
        await asyncio.gather(*(self._lane(each) for _ in range(lanes)))
        return lanes * each / (time.perf_counter() - started)

    async def _lane(self, count: int) -> None:
        for _ in range(count):
            holder_id = self.rig.next_id()
            self.rig.link.make(holder_id, self.rig.key)
            ready = await self._event("holder_ready", holder_id)
            self.rig.link.specialise(holder_id, self.spec)
            channel = socket.socket(fileno=ready[2].channel)
            channel.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(channel, b'{"source": "result = 1", "wait": true}\n')
            got = b""
            while got.count(b"\n") < 2:
                got += await loop.sock_recv(channel, 4096)
            self.rig.link.kill(holder_id)
            await self._event("holder_gone", holder_id)
            channel.detach()
            ready[2].close()

    async def _event(self, kind: str, holder_id: int) -> tuple:
        while True:
            for event in self.rig.events:
                if event[0] == kind and event[1] == holder_id:
                    self.rig.events.remove(event)
                    return event
            await asyncio.sleep(0.0005)


def main() -> None:
    level = sys.argv[1] if len(sys.argv) > 1 else "full"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    print(f"fork, exit, wait           {_fork_ms():7.2f} ms; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as directory, Rig(Path(directory), level) as rig:
        measure = Measure(rig)
        measure.cycle({})
        watched = {"broker": rig.link.broker_pid, "zygote": rig.link.zygote_pids[rig.key]}
        before = {name: _cpu_ms(pid) for name, pid in watched.items()}
        sandboxes = _children_ms(watched["zygote"])
        figures: dict[str, list[float]] = {}
        for _ in range(rounds):
            measure.cycle(figures)
        for name, values in figures.items():
            print(f"{name:32s} {_spread(values)} ms")
        for name, pid in watched.items():
            print(f"cpu of the {name:21s} {(_cpu_ms(pid) - before[name]) / rounds:7.2f} ms a life")
        print(f"cpu of the sandbox itself        {(_children_ms(watched['zygote']) - sandboxes) / rounds:7.2f} ms a life")
        took, boxes = measure.crowd(100)
        print(f"100 holders at once              {took:7.0f} ms")
        for box in boxes:
            rig.end(box)
        rate = rig.loop.run_until_complete(measure.sustained(8, max(10, rounds // 4)))
        print(f"make, specialise, run, kill      {rate:7.0f} a second")


if __name__ == "__main__":
    main()
