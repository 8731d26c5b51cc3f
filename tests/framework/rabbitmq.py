"""A real RabbitMQ of its own, on free ports and in a directory of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.framework import wait

START_S = 240.0
# Debian's wrapper on the PATH would become another user; this is what it runs.
_PLACES = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/local/sbin/rabbitmq-server")


class RabbitMq(NamedTuple):
    """A running server; ``guest`` with the password ``guest`` may do everything."""

    url: str
    port: int


def server() -> str | None:
    """The server's program, if there is one."""
    return next((place for place in _PLACES if os.access(place, os.X_OK)), shutil.which("rabbitmq-server"))


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    """Whether AMQP is spoken there: a server answers another version with its own."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
        stream.sendall(b"AMQP\x00\x00\x00\x00")
        return stream.recv(4) == b"AMQP"
    return False


@contextlib.contextmanager
def rabbitmq(port: int) -> Iterator[RabbitMq]:
    """Started, and ended with all that it started."""
    program = server()
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="le-rabbit-") as folder:
        names = free_port()
        config = Path(folder) / "rabbitmq.conf"
        config.write_text(f"listeners.tcp.local = 127.0.0.1:{port}\nlog.console = false\n")
        (Path(folder) / "plugins").write_text("[].\n")
        env = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(names),
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(Path(folder) / "plugins"),
            "RABBITMQ_LOG_BASE": folder,
            "RABBITMQ_MNESIA_BASE": folder,
            "RABBITMQ_NODENAME": f"le{port}@localhost",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }
        # The daemon of names would stay behind if the server started it.
        daemon = subprocess.Popen(["epmd", "-port", str(names), "-address", "127.0.0.1"], env=env, stderr=subprocess.DEVNULL)
        process = subprocess.Popen([program], env=env, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait.until(lambda: process.poll() is not None or _answers(port), "RabbitMQ", START_S)
            assert process.poll() is None, "RabbitMQ ended"
            yield RabbitMq(f"amqp://127.0.0.1:{port}", port)
        finally:
            for one in (process, daemon):
                one.terminate()
                try:
                    one.wait(30)
                except subprocess.TimeoutExpired:
                    one.kill()
                    one.wait()
