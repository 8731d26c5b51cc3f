"""Code packages on disk, named by their content.

``blobs/<sha256>.zip`` is the package as uploaded, ``code/<sha256>/`` its extracted tree, ``code/<sha256>.<runtime>`` the marker that the
tree holds bytecode for that runtime, ``code/<sha256>.asks`` or ``.extends`` what was found in its code. The rows of the database are the reference count. A package nobody refers to stays for
``grace_s`` more: instances of the former version may run, and import from it, for as long as an invocation can last.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Select, delete, select

from engine.clock import Clock
from engine.store.database import Database
from engine.store.flushes import Flushes, flush_file_system
from engine.store.references import unused
from engine.store.schema import code

# The longest invocation is 900 s; draining instances get a little more.
GRACE_S = 1_000.0
_BUILDING = ".building-"


class DiskCodeStore:
    """``CodeStore`` below ``data_dir``."""

    def __init__(self, database: Database, data_dir: Path, clock: Clock, grace_s: float = GRACE_S) -> None:
        self._reading = database.reading
        self._writer = database.writer
        self._blobs = data_dir / "blobs"
        self._trees = data_dir / "code"
        self._clock = clock
        self._grace_s = grace_s
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._flushes = Flushes()
        for path in (self._blobs, self._trees):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Functions run as other users and reach their tree through this directory.
        self._trees.chmod(0o711)

    def blob(self, sha256: str) -> Path:
        return self._blobs / f"{sha256}.zip"

    def tree(self, sha256: str) -> Path:
        return self._trees / sha256

    def compiled(self, sha256: str, runtime: str) -> Path:
        return self._trees / f"{sha256}.{runtime}"

    def mentions(self, sha256: str, what: str) -> Path:
        return self._trees / f"{sha256}.{what}"

    def present(self) -> frozenset[str]:
        return frozenset(os.listdir(self._trees))

    @contextlib.contextmanager
    def hold(self, sha256: str) -> Iterator[None]:
        with self._lock:
            self._held[sha256] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[sha256] -= 1
                if not self._held[sha256]:
                    del self._held[sha256]

    def add(self, sha256: str, data: bytes) -> None:
        if self._write_blob(sha256, data, flush=True):
            _fsync_directory(self._blobs)

    def _write_blob(self, sha256: str, data: bytes, *, flush: bool) -> bool:
        """Whether it had to be written. Without ``flush`` a flush of the file system must follow before anything relies on it."""
        path = self.blob(sha256)
        if path.exists():
            return False
        fd, temporary = tempfile.mkstemp(dir=self._blobs, prefix=_BUILDING)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                if flush:
                    file.flush()
                    os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        return True

    def scratch(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._trees, prefix=_BUILDING))

    def publish(self, sha256: str, scratch: Path, data: bytes | None = None) -> Path:
        tree = self.tree(sha256)
        # One flush for both: it is most of what a deployment waits for. A tree that is found has been flushed, and its upload with it; a
        # rename that a crash undoes costs an unpacking.
        if data is not None:
            self._write_blob(sha256, data, flush=False)
            if self._blobs.stat().st_dev != self._trees.stat().st_dev:
                flush_file_system(self._blobs)
        self._flushes.flush(scratch)
        try:
            os.rename(scratch, tree)
        except OSError:
            if not tree.is_dir():
                raise
            remove_tree(scratch)
        return tree

    def collect(self) -> list[str]:
        """Remove the packages that have been unused for the grace time; their hashes. Blocks."""
        limit_ms = self._clock.epoch_ms() - round(self._grace_s * 1000)
        overdue = select(code.c.sha256).where(code.c.released_ms <= limit_ms, unused())
        with self._reading.connect() as connection:
            candidates = connection.execute(overdue).scalars().all()
        return [sha256 for sha256 in candidates if self._forget(sha256, overdue.where(code.c.sha256 == sha256))]

    def _forget(self, sha256: str, overdue: Select[tuple[str]]) -> bool:
        """Remove a package unless it has found a user since; whether it is gone.

        It cannot find one while the lock is held and nobody holds it. The row goes first: files without one are rubbish that a start
        sweeps away, while a row with half of its files would pass for a whole package.
        """
        row = delete(code).where(code.c.sha256.in_(overdue))
        with self._lock:
            if self._held[sha256] or not self._writer.submit(lambda c: c.execute(row).rowcount).result():
                return False
            rubbish = self._unname(sha256)
        _remove(rubbish)
        return True

    def _unname(self, sha256: str) -> Path:
        """Let nobody find a package any more; what is left of its tree is to be removed."""
        # The tree at once, though removing it takes a while and may be cut short: half a tree must never be found.
        rubbish = self._trees / f"{_BUILDING}{sha256}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.tree(sha256), rubbish)
        for path in (self.blob(sha256), *self._trees.glob(f"{sha256}.*")):
            _remove(path)
        return rubbish

    def discard(self, sha256: str) -> bool:
        with self._lock:
            if self._held[sha256]:
                return False
            with self._reading.connect() as connection:
                if connection.execute(select(code.c.sha256).where(code.c.sha256 == sha256)).first() is not None:
                    return False
            rubbish = self._unname(sha256)
        _remove(rubbish)
        return True

    def sweep(self) -> int:
        """At start: remove what no row knows, as a crash between disk and database leaves it; how many. Blocks."""
        with self._reading.connect() as connection:
            known = set(connection.execute(select(code.c.sha256)).scalars())
        removed = 0
        for path in (*self._blobs.iterdir(), *self._trees.iterdir()):
            if path.name.partition(".")[0] not in known:
                _remove(path)
                removed += 1
        return removed


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove an extracted package; what cannot be removed now is left for the next sweep."""
    shutil.rmtree(path, ignore_errors=True)


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
