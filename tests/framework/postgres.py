"""A real PostgreSQL for the tests: started in a directory of its own, spoken to over a Unix socket, thrown away afterwards.

It refuses to run as root, so as root it is started as the user ``postgres`` or ``nobody``.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from tests.framework.networks import Host

_numbers = itertools.count(1)


def binaries() -> Path | None:
    """Where ``postgres`` and ``initdb`` are; None when they are not installed."""
    for found in sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"), reverse=True):
        return Path(found).parent
    on_path = shutil.which("postgres")
    return None if on_path is None else Path(os.path.realpath(on_path)).parent


def _user() -> str | None:
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class Postgres:
    """A running server. Each ``schema()`` is the URL of an empty schema."""

    def __init__(self, sockets: str) -> None:
        self.sockets = sockets
        self._base = f"postgresql://engine@/postgres?host={sockets}"

    def schema(self) -> str:
        name = f"s{os.getpid()}_{next(_numbers)}"
        self.run(f"CREATE SCHEMA {name}")
        return f"{self._base}&options=-csearch_path%3D{name}"

    def run(self, statement: str) -> None:
        engine = create_engine(self._base.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.execute(text(statement))
        finally:
            engine.dispose()


@contextlib.contextmanager
def postgres(host: Host | None = None) -> Iterator[Postgres]:
    """A server that is ready. Needs ``binaries()``. With a ``host`` it also lets in everybody who reaches that one's port 5432."""
    programs, user = binaries(), _user()
    assert programs is not None
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as folder:
        # An engine that has given up root's powers must reach the socket.
        os.chmod(folder, 0o755)
        if user is not None:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        data, log = f"{folder}/data", Path(folder) / "log"
        common: Any = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
        with open(f"{folder}/log", "wb") as out:
            subprocess.run(
                [str(programs / "initdb"), "-D", data, "-U", "engine", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"],
                cwd=folder, stdout=out, stderr=out, check=True, timeout=120, **common,
            )  # fmt: skip
            if host is not None:
                with open(f"{data}/pg_hba.conf", "a") as rules:
                    rules.write("host all all all trust\n")
            with contextlib.nullcontext() if host is None else host.inside():
                server = subprocess.Popen(
                    [str(programs / "postgres"), "-D", data, "-k", folder, "-c", f"listen_addresses={'*' if host else ''}",
                     "-c", "max_connections=60", "-c", "fsync=off"],
                    cwd=folder, stdout=out, stderr=out, **common,
                )  # fmt: skip
        try:
            _until_ready(server, programs, folder, log)
            yield Postgres(folder)
        finally:
            server.send_signal(signal.SIGINT)  # without waiting for anybody
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait(10)


def _until_ready(server: subprocess.Popen[bytes], programs: Path, folder: str, log: Path) -> None:
    deadline_s = time.monotonic() + 60
    while subprocess.run([str(programs / "pg_isready"), "-q", "-h", folder], check=False, timeout=20).returncode != 0:
        if server.poll() is not None or time.monotonic() > deadline_s:
            raise AssertionError(f"PostgreSQL did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)
