"""The standard library's process pools: a Python caller hands bytes to a worker process and gets bytes back."""

from __future__ import annotations

import multiprocessing
import threading
import time
from array import array
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.pool import Pool

from bench.rows import Latencies, from_array

Submit = Callable[[Callable[[], None]], None]


def echo(data: bytes) -> bytes:
    """The function."""
    return data


def process_pool(payload: bytes, workers: int, in_flight: int, seconds: float) -> tuple[Latencies, float]:
    """concurrent.futures.ProcessPoolExecutor."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:

        def submit(done: Callable[[], None]) -> None:
            def finished(future: Future[bytes]) -> None:
                future.result()
                done()

            pool.submit(echo, payload).add_done_callback(finished)

        return _closed_loop(submit, in_flight, seconds)


def multiprocessing_pool(payload: bytes, workers: int, in_flight: int, seconds: float) -> tuple[Latencies, float]:
    """multiprocessing.Pool."""
    pool: Pool
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        if in_flight == 1:
            return _one_by_one(lambda: pool.apply(echo, (payload,)), seconds)

        def submit(done: Callable[[], None]) -> None:
            pool.apply_async(echo, (payload,), callback=lambda _data: done())

        return _closed_loop(submit, in_flight, seconds)


def _one_by_one(call: Callable[[], object], seconds: float) -> tuple[Latencies, float]:
    values = array("q")
    for _ in range(50):
        call()
    begin = time.perf_counter_ns()
    stop = begin + int(seconds * 1e9)
    now = begin
    while now < stop:
        started = now
        call()
        now = time.perf_counter_ns()
        values.append(now - started)
    return from_array(values), (now - begin) / 1e9


def _closed_loop(submit: Submit, in_flight: int, seconds: float) -> tuple[Latencies, float]:
    """Each answer's callback submits the next call, so that ``in_flight`` are always out."""
    values = array("q")
    begin = time.perf_counter_ns()
    stop = begin + int(seconds * 1e9)
    left = threading.Semaphore(0)

    def go() -> None:
        started = time.perf_counter_ns()

        def done() -> None:
            now = time.perf_counter_ns()
            values.append(now - started)
            if now < stop:
                go()
            else:
                left.release()

        submit(done)

    for _ in range(in_flight):
        go()
    for _ in range(in_flight):
        if not left.acquire(timeout=seconds + 60):
            raise TimeoutError("the pool stopped answering")
    return from_array(values), (time.perf_counter_ns() - begin) / 1e9
