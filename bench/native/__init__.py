"""The C program of this directory, compiled on the spot: the dispatcher that shows the machine's limit, and a cheap load generator."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.rows import Latencies

_SOURCE = Path(__file__).with_name("limit.c")
_PYTHON_WORKER = Path(__file__).with_name("worker.py")


def compiler() -> str | None:
    """A C compiler, if there is one."""
    return shutil.which("gcc") or shutil.which("cc")


def build(directory: Path) -> Path:
    """Compile into ``directory``. Raises RuntimeError with the compiler's words."""
    cc = compiler()
    if cc is None:
        raise RuntimeError("no C compiler (gcc or cc) on PATH")
    out = directory / "limit"
    done = subprocess.run([cc, "-O2", "-o", str(out), str(_SOURCE)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{cc} failed:\n{done.stderr}")
    return out


@dataclass
class LoadResult:
    """Closed-loop load by the C generator."""

    latencies: Latencies
    errors: int
    seconds: float


def load(
    binary: Path,
    kind: str,
    address: str,
    request: bytes,
    *,
    preamble: bytes = b"",
    connections: int = 1,
    depth: int = 1,
    seconds: float = 5.0,
    count: int = 100_000_000,
    status: int = 0,
) -> LoadResult:
    """``kind`` http or frames; ``preamble`` is sent first and answered by one frame; ``status`` 200 checks framed RESULTs.

    Raises RuntimeError with what the generator said.
    """
    with tempfile.TemporaryDirectory() as tmp:
        files = []
        for name, data in (("preamble", preamble), ("request", request)):
            path = Path(tmp) / name
            path.write_bytes(data)
            files.append(str(path))
        words = [str(binary), "load", kind, address, *files, str(connections), str(depth), str(seconds), str(count), str(status)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds + 60)
    if done.returncode:
        raise RuntimeError(f"load generator: {done.stderr.strip() or done.returncode}")
    first, *lines = done.stdout.splitlines()
    _, errors, ns = first.split()
    latencies = Latencies()
    for line in lines:
        value, times = line.split()
        latencies.add(int(value), int(times))
    return LoadResult(latencies, int(errors), int(ns) / 1e9)


@contextmanager
def dispatcher(binary: Path, directory: Path, workers: int, *, python: bool) -> Iterator[str]:
    """A running C dispatcher; yields its socket's path. ``python``: its workers are Python loops, else C."""
    path = directory / f"limit-{'py' if python else 'c'}-{workers}.sock"
    with ExitStack() as stack:
        ends = []
        for _ in range(workers):
            ours, theirs = socket.socketpair()
            fd = str(theirs.fileno())
            words = [sys.executable, "-I", "-S", str(_PYTHON_WORKER), fd] if python else [str(binary), "worker", fd]
            stack.callback(_stop, subprocess.Popen(words, pass_fds=[theirs.fileno()]))
            theirs.close()
            ends.append(ours)
        fds = [s.fileno() for s in ends]
        server = subprocess.Popen([str(binary), "dispatch", str(path), *map(str, fds)], pass_fds=fds)
        stack.callback(_stop, server)
        for end in ends:
            end.close()
        while not _listens(path):
            if server.poll() is not None:
                raise RuntimeError(f"the dispatcher ended with {server.returncode}")
            time.sleep(0.005)
        yield str(path)
    path.unlink(missing_ok=True)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
