"""What isolation this host allows, found out by a broker that makes one trial sandbox and ends."""

from __future__ import annotations

import subprocess
import tempfile

from engine.config import Settings
from engine.errors import SandboxUnavailable
from engine.sandbox import packets
from engine.sandbox.api import SandboxReport
from engine.sandbox.keeper import broker_config, spawn_broker
from engine.sandbox.link import report_of

TRIAL_S = 30.0


def probe(settings: Settings) -> SandboxReport:
    """The level the engine would run at here and what each mechanism would rest on. Leaves nothing behind.

    Raises SandboxUnavailable, naming the step, the error and a fix, when the level asked for cannot be had.
    """
    with tempfile.TemporaryDirectory(prefix="lambda-engine-") as scratch:
        config = broker_config(settings, probe=True)
        config |= {"data_dir": scratch, "mountpoint": f"{scratch}/empty"}
        ours, theirs = packets.pair()
        with ours:
            try:
                process = spawn_broker(theirs)
            except OSError as e:
                raise SandboxUnavailable(f"cannot start the sandbox broker: {e}") from e
            finally:
                theirs.close()
            try:
                ours.settimeout(TRIAL_S)
                packets.send(ours, ["config", config])
                answer = packets.receive(ours)
            except (OSError, packets.PacketError) as e:
                raise SandboxUnavailable(f"the sandbox broker does not answer: {type(e).__name__} {e}") from e
            finally:
                _end(process)
    if answer is None:
        raise SandboxUnavailable("the sandbox broker ended while starting; its error output says why")
    if answer.kind != "report":
        raise SandboxUnavailable(str(answer.args[0]))
    return report_of(answer.args[0])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for the broker, which ends by itself after its answer; one that hangs is killed."""
    try:
        process.wait(TRIAL_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
