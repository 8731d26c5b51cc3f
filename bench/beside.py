"""Load beside what is measured, from a process of its own that steps back: what its client computes is no part of the figure."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection

from bench.loadgen import Generator, Plan

# How long it runs before and after what is measured, so that all of that is beside it.
_MARGIN_S = 0.5
_NICER = 5


@contextlib.contextmanager
def beside(plan: Plan) -> Iterator[Callable[[], dict[str, int]]]:
    """Carry ``plan`` out before, during and after the block, which may take the plan's seconds; what is yielded gives the number of answers by kind, afterwards.

    Raises RuntimeError from there when the load did not go on to the end of the block.
    """
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_carry_out, args=(replace(plan, seconds=plan.seconds + 2 * _MARGIN_S), there))
    process.start()
    there.close()
    try:
        here.recv()
        time.sleep(_MARGIN_S)
        covered = True

        def counts() -> dict[str, int]:
            if not covered:
                raise RuntimeError("the load beside it ended first")
            found: dict[str, int] = here.recv()
            return found

        yield counts
        covered = not here.poll()
    finally:
        process.join(plan.seconds + 60)
        process.kill()
        process.join()


def _carry_out(plan: Plan, told: Connection) -> None:
    os.nice(_NICER)
    told.send("begins")
    outcome = Generator(plan).run()
    told.send({kind: len(values) for kind, values in outcome.kinds.items()})
