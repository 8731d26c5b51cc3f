"""The same calls under different circumstances, in many short turns, and whether the difference is more than chance.

A machine is slower for seconds at a time, and a p99 rests on few calls. Every round has one turn of each side, in another order than the round before; the calls of all
turns of a side make one p99, and how far chance moves the ratio of two of them is told by drawing whole rounds anew, with replacement, again and
again (a bootstrap over rounds: calls of one turn resemble each other, so single calls would promise too much).
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.beside import Companion, at_once
from bench.counters import Count, counts
from bench.loadgen import Generator, Plan
from bench.rows import Latencies

_DRAWS = 1000
_OUTSIDE = 0.025
Groups = Callable[[], Mapping[str, Sequence[int]]]


class Ratio(NamedTuple):
    """How many times as high; 95 of 100 such runs would find it between ``low`` and ``high``."""

    value: float
    low: float
    high: float

    def text(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass
class Side:
    """What one side's turns gave. ``seconds`` without, ``took_s`` with the calls that are no samples; ``used``: what each group of processes did in all of it."""

    turns: list[Sequence[int]] = field(default_factory=list)
    errors: int = 0
    seconds: float = 0.0
    took_s: float = 0.0
    used: dict[str, Count] = field(default_factory=dict)

    def latencies(self) -> Latencies:
        return Latencies(itertools.chain.from_iterable(self.turns))


def alternate(
    plan: Plan, sides: Mapping[str, Companion | None], rounds: int, groups: Groups, say: Callable[[str], None] = lambda _text: None
) -> dict[str, Side]:
    """``plan`` in turns beside each of these, None for nothing beside it. ``groups`` are the processes whose work is counted, asked before each turn."""
    found = {name: Side() for name in sides}
    names = list(sides)
    with at_once():
        for n in range(rounds):
            say(f"round {n + 1} of {rounds}: {', '.join(names)}")
            for name in _order(names, n):
                side = found[name]
                with _beside(sides[name]):
                    watched = groups()
                    before = counts(watched)
                    outcome = Generator(plan).run()
                    for group, now in counts(watched).items():
                        side.used[group] = side.used.get(group, Count()).plus(now.since(before[group]))
                side.turns.append(outcome.kinds.get("ok", ()))
                side.errors += outcome.errors
                side.seconds += outcome.seconds - plan.lead_s
                side.took_s += outcome.seconds
    return found


def _order(names: Sequence[str], n: int) -> list[str]:
    """Another one each round, so that nobody always comes first or always after the same."""
    at = n % len(names)
    turned = [*names[at:], *names[:at]]
    return turned[::-1] if n // len(names) % 2 else turned


def _beside(companion: Companion | None) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if companion is None else companion.during()


def ratio(side: Sequence[Sequence[int]], to: Sequence[Sequence[int]], percentile: float = 99) -> Ratio:
    """Of the percentiles of all calls of each; the n-th turns of both are of one round. Raises ValueError without calls on either side."""
    if len(side) != len(to):
        raise ValueError(f"{len(side)} turns cannot be compared with {len(to)}")
    draw = random.Random(1)
    side, to = [sorted(turn) for turn in side], [sorted(turn) for turn in to]
    rounds = range(len(side))
    drawn = sorted(_of(side, to, picked, percentile) for picked in (draw.choices(rounds, k=len(rounds)) for _ in range(_DRAWS)))
    outside = math.floor(_DRAWS * _OUTSIDE)
    return Ratio(_of(side, to, rounds, percentile), drawn[outside], drawn[-1 - outside])


def _of(side: Sequence[Sequence[int]], to: Sequence[Sequence[int]], rounds: Sequence[int], percentile: float) -> float:
    over, under = (sorted(itertools.chain.from_iterable(turns[n] for n in rounds)) for turns in (side, to))
    if not over or not under:
        raise ValueError("there are no calls to compare")
    return _at(over, percentile) / _at(under, percentile)


def _at(values: Sequence[int], percentile: float) -> int:
    return values[max(0, math.ceil(len(values) * percentile / 100) - 1)]


def worse(side: Sequence[Sequence[int]], to: Sequence[Sequence[int]], times: float, percentile: float = 99) -> int:
    """Rounds in which one side's percentile was more than so many times the other's: half of them if it is no more than that, but for chance."""
    return sum(_at(sorted(over), percentile) > times * _at(sorted(under), percentile) for over, under in zip(side, to, strict=True))


def told(side: Side) -> Iterator[tuple[str, dict[str, float]]]:
    """What each group of processes did, per second of the turns."""
    for name, used in side.used.items():
        yield name, {key: round(value / side.took_s, 1) for key, value in used._asdict().items()}
