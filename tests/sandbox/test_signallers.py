"""Who signals a sandbox from inside it, where there are no control groups: stopped or ended on its way, the sandbox is given up."""

from __future__ import annotations

import subprocess
import sys

import pytest

# The zygote waits for every child of its process, so it gets a process.
SCRIPT = """
import os, signal, socket, sys, time
from engine.sandbox import packets, zygote
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
z = object.__new__(zygote.Zygote)
z._control, z._inits, z._signals = theirs, {}, {7: signal.SIGCONT}
pid = os.fork()
if pid == 0:
    time.sleep(100)
z._children = {pid: (sys.argv[1], 7)}
os.kill(pid, int(sys.argv[2]))
ours.setblocking(False)
while True:
    z._reap()
    try:
        packet = packets.receive(ours)
    except BlockingIOError:
        time.sleep(0.01)
        continue
    print(packet.kind, packet.args, z._children, z._signals)
    break
"""


@pytest.mark.parametrize("kind", ["signalled", "swept"])
@pytest.mark.parametrize("number", [9, 19])
def test_a_sandbox_whose_signaller_was_hindered_is_given_up(kind: str, number: int) -> None:
    told = subprocess.run([sys.executable, "-c", SCRIPT, kind, str(number)], capture_output=True, text=True, timeout=60, check=False)
    assert told.stdout == "refused [7, 'signal the sandbox', 'who did it ended with wait status 9'] {} {}\n", told.stderr
