"""The process behind ``serve --examples``: waits until the engine is ready, deploys the examples, says what to try next.

``python -m engine.cli.examples_deployer SERVER_PID SETTINGS_JSON``; it ends without a word when the server ends before that.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from engine.cli.output import CliError, complain, say

EXAMPLES = Path(__file__).with_name("examples")
READY_S = 120.0
POLL_S = 0.1
# name, directory, memory in MB, timeout in seconds, an event to try
TABLE = (
    ("hello", "hello", 128, 3, {"name": "Ada"}),
    (
        "json-transform",
        "json-transform",
        128,
        3,
        {"orders": [{"customer": "Ada", "price": 2.5, "quantity": 4}, {"customer": "Max", "price": 9, "quantity": 1}]},
    ),
    ("s3-writer", "s3-writer", 256, 30, {"key": "first"}),
)


def _runs(pid: int) -> bool:
    """Whether there is such a process; it is not this one's parent."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def wait_until_ready(endpoint: str, server: int, limit_s: float = READY_S) -> bool:
    """Whether ``/readyz`` answered 200 before the server ended or the time was up."""
    deadline_s = time.monotonic() + limit_s
    while _runs(server) and time.monotonic() < deadline_s:
        try:
            with urllib.request.urlopen(f"{endpoint}/readyz", timeout=5) as answer:  # noqa: S310 - the engine's own URL
                if answer.status == 200:
                    return True
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(POLL_S)
    return False


def deploy_all(endpoint: str) -> None:
    """Create or update every example. Raises CliError."""
    from engine.cli.deploy import Deployment, Wishes
    from engine.cli.session import Session

    session = Session(endpoint)
    for name, directory, memory, timeout, _event in TABLE:
        say(Deployment(session, name, EXAMPLES / directory, Wishes(memory=memory, timeout=timeout)).run().sentence())


def next_commands(endpoint: str) -> str:
    """What to type now, in a shell that knows nothing of this engine."""
    from engine.cli.session import DEFAULT_ENDPOINT, ENDPOINT_VARIABLE
    from engine.config import default_data_dir

    program = _program()
    lines = [f"{program} invoke {name} {shlex.quote(json.dumps(event))}" for name, _, _, _, event in TABLE]
    lines += [f"{program} logs hello", f"curl -s {endpoint}/metrics | grep hello", f"{program} aws lambda list-functions"]
    data_dir = os.environ["LAMBDA_ENGINE_DATA_DIR"]
    if data_dir != str(default_data_dir()):
        lines.insert(0, f"export LAMBDA_ENGINE_DATA_DIR={shlex.quote(data_dir)}")
    if endpoint != DEFAULT_ENDPOINT:
        lines.insert(0, f"export {ENDPOINT_VARIABLE}={endpoint}")
    return "\nTry, in another terminal:\n" + "\n".join(f"  {line}" for line in lines) + "\n"


def _program() -> str:
    """How to type this program's name: as it is when PATH has it, else with its place."""
    name = "lambda-engine"
    beside = Path(sys.executable).with_name(name)
    if shutil.which(name) is not None or not beside.exists():
        return name
    inside = beside.is_relative_to(Path.cwd())
    return shlex.quote(str(beside.relative_to(Path.cwd()) if inside else beside))


def main(argv: list[str]) -> int:
    """Run; 0 when the examples are there, 1 when the engine refused them or did not become ready."""
    server, settings = int(argv[0]), json.loads(argv[1])
    os.environ.update({f"LAMBDA_ENGINE_{name.upper()}": value for name, value in settings.items()})
    endpoint = os.environ["LAMBDA_ENGINE_ENDPOINT"]
    try:
        if not wait_until_ready(endpoint, server):
            if _runs(server):
                complain(f"the examples were not deployed: {endpoint}/readyz did not answer 200 within {READY_S:.0f} s")
            return 1
        deploy_all(endpoint)
    except CliError as e:
        complain(f"the examples were not deployed: {e}")
        return 1
    except KeyboardInterrupt:
        return 1
    say(next_commands(endpoint))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
