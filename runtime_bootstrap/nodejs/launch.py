"""A holder's worker that becomes Node.js.

Node.js cannot be forked, so it is started ahead of need: the worker, locked down and still without a function, executes it with the
channel as descriptor 3 and the pipe that announces the function's code as 4. A function that sets NODE_OPTIONS or an exec wrapper needs
its environment at the start of the process; for it the worker waits, looks at INIT without taking it, and executes Node.js then.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Callable, Optional

from runtime_bootstrap import packing

_MAIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "index.js")
_CHANNEL, _GO = 3, 4
_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "en_US.UTF-8", "TZ": ":UTC"}


def serve(sock: socket.socket, wait_ready: "Callable[[], None]", command: "tuple[str, ...]" = ()) -> None:
    """Become ``command`` (the path of node, its flags, and ``late`` to wait for INIT). Returns only when there was no INIT."""
    node, late = command[0], "late" in command[1:]
    os.set_inheritable(_CHANNEL, True)
    argv = [node, *(flag for flag in command[1:] if flag.startswith("-")), _MAIN]
    if not late:
        os.set_inheritable(_GO, True)
        os.execve(node, argv, _ENV)
    init = _peek_init(sock)
    if init is None:
        return
    wait_ready()
    env = {k: str(v) for k, v in init["env"].items()}
    wrapper = env.get("AWS_LAMBDA_EXEC_WRAPPER")
    # What a function turns on is not turned off, as Lambda's start script has it.
    wanted = env.get("NODE_OPTIONS", "").split()
    argv = [flag for flag in argv if flag.replace("--no-", "--", 1) not in wanted]
    argv.append("late")
    if not wrapper:
        os.execve(node, argv, env)
    try:
        os.execve(wrapper, [wrapper, *argv], env)
    except OSError as e:
        print("%s: %s" % (wrapper, e.strerror), flush=True)
        # As the shell of AWS's start script.
        os._exit(127)


def _peek_init(sock: socket.socket) -> "Optional[dict[str, Any]]":
    """INIT's map, which stays in the socket for the process that comes; None when the channel ended first."""
    sock.setblocking(True)
    size = 4
    while True:
        data = sock.recv(size, socket.MSG_PEEK | socket.MSG_WAITALL)
        if len(data) < size:
            return None
        if size == 4:
            size += int.from_bytes(data, "big")
            continue
        parts = packing.unpack(data[4:])
        init: "dict[str, Any]" = parts[1]
        return init
