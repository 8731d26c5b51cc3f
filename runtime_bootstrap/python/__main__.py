"""``python -s -S runtime_bootstrap/python --fd N [--path DIR] [--env own]``: a worker in a process of its own, on an inherited socket.

``--path`` names the runtime's directory for the function's search path, where a sandbox has /var/runtime. With
``--env own`` the process's environment is the function's, whatever a wrapper before it has made of it, and not INIT's.
"""

from __future__ import annotations

import os
import socket
import sys


def main() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    root = os.path.dirname(os.path.dirname(here))
    own = [p for p in sys.path if os.path.abspath(p) != here]
    sys.path[:] = [root, *own]
    from runtime_bootstrap.python import worker

    options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    sys.path[:] = [options["--path"], *own] if "--path" in options else own
    del sys.modules["__main__"]
    sys.modules["__main__"] = type(sys)("__main__")
    worker.serve(socket.socket(fileno=int(options["--fd"])), lambda: None, own_env="--env" in options)


main()
