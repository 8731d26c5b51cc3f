"""Two results side by side, each case as a ratio; normalised by the C dispatcher of its own run, since machines and hours differ.

    python -m bench.compare OLD.json NEW.json --tolerance 0.1

Exit status 1 when a normalised p50 or rate got worse by more than the tolerance.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from bench.rows import Row, load
from bench.scenarios.limit import PYTHON_WORKER

Key = tuple[str, str, str, str]


class Change(NamedTuple):
    """New over old. ``p50`` above 1 is slower, ``rate`` above 1 is faster; both are corrected by the C dispatcher when it ran."""

    key: Key
    p50: float
    rate: float


def compare(old: list[Row], new: list[Row]) -> list[Change]:
    """Every case that both runs measured."""
    drift = _drift(old, new)
    before = {_key(r): r for r in old}
    changes = []
    for r in new:
        b = before.get(_key(r))
        if b is None or r.scenario == "limit" or b.p50_us <= 0 or r.p50_us <= 0 or b.rate <= 0:
            continue
        changes.append(Change(_key(r), r.p50_us / b.p50_us / drift, r.rate / b.rate * drift))
    return changes


def _key(r: Row) -> Key:
    return r.scenario, r.subject, r.case, r.generator


def _drift(old: list[Row], new: list[Row]) -> float:
    """How much slower the machine itself was in the new run; 1 when a run lacks the limit scenario."""
    floors = [
        next((r.p50_us for r in rows if r.scenario == "limit" and r.subject == PYTHON_WORKER and r.in_flight == 1), 0.0)
        for rows in (old, new)
    ]
    return floors[1] / floors[0] if all(floors) else 1.0


def main() -> int:
    """Print the changes; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description="Compare two saved results.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.1, help="how much worse a case may be (0.1 = 10 %%)")
    options = parser.parse_args()
    (_, old), (_, new) = load(options.old), load(options.new)
    drift = _drift(old, new)
    print(f"the machine itself: {drift:.2f}× the old p50 (C dispatcher); the rest is corrected by it")
    worse = 0
    for change in compare(old, new):
        bad = change.p50 > 1 + options.tolerance or change.rate < 1 - options.tolerance
        worse += bad
        print(f"{'worse ' if bad else '      '}p50 {change.p50:5.2f}×  rate {change.rate:5.2f}×  {' | '.join(change.key)}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
