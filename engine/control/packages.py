"""From uploaded bytes to a tree a sandbox can mount: checked, unpacked, compiled, looked at.

A package is named by the SHA-256 of the bytes as uploaded and exists once, whoever uploads it. Its bytecode is compiled here with the
runtime's own interpreter, so that a cold start neither compiles nor checks time stamps.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from engine.control import archive, mentions
from engine.control.compiler import TIMEOUT_S, Bytecode, Compiler, CompilerFailed
from engine.core.runtimes import compiles
from engine.errors import AwsError, InvalidParameterValue, ServiceError
from engine.store.api import CodeStore
from engine.store.code import remove_tree

TASK_ROOT = "/var/task"
OPT_ROOT = "/opt"
# Reading sources for the preload hint stops here; the hint only saves time.
MAX_SCANNED = 32 * 1024 * 1024
_SDK = re.compile(rb"^[ \t]*(?:import|from)[ \t]+(?:[\w. \t]+,[ \t]*)*(?:boto3|botocore)\b", re.MULTILINE)
_DIGEST, _RUNTIME = re.compile(r"[0-9a-f]{64}"), re.compile(r"[a-z0-9.]+")
_NOTHING = Bytecode(0, 0, 0)
# Packages whose installation is remembered.
MAX_KNOWN = 4096
# Begins what is kept of an encrypted package; no upload may begin so.
SEALED_HEAD = b"\x00lambda-engine sealed package 1\n"
_log = logging.getLogger(__name__)


class Package(NamedTuple):
    """An installed package. ``sha256`` is hexadecimal, ``size`` the bytes uploaded, ``preload`` what its zygote should have imported."""

    sha256: str
    size: int
    tree: Path
    preload: tuple[str, ...]


class Packages:
    """Installs packages into a code store. All methods block and may run in any thread. ``opener`` decrypts what is kept encrypted."""

    def __init__(self, code: CodeStore, *, compile_timeout_s: float = TIMEOUT_S, opener: Callable[[bytes], bytes] | None = None) -> None:
        self._code = code
        self._opener = opener
        self._compiler = Compiler(compile_timeout_s)
        self._preloads: dict[tuple[str, str], tuple[str, ...]] = {}

    def known(self, sha256: str, runtime: str, size: int) -> Package | None:
        """A package of ``size`` bytes that was installed for ``runtime`` since the start and is there still, unsealed: many functions may have
        the same. Hardly blocks.
        """
        found = self._preloads.get((sha256, runtime))
        tree = self._code.tree(sha256)
        if found is None or not all(path.exists() for path in (tree, self._code.blob(sha256), self._code.compiled(sha256, runtime))):
            return None
        return Package(sha256, size, tree, found)

    def check(self, data: bytes) -> None:
        """Every check that does not need unpacking; writes nothing.

        The size of ``data`` itself is for the caller to limit: what comes from S3 may be bigger than what comes in a request. Raises
        InvalidParameterValue with AWS's texts.
        """
        if data.startswith(SEALED_HEAD):
            raise InvalidParameterValue(archive.NOT_A_ZIP)
        archive.inspect(data)

    def install(self, data: bytes, runtime: str, interpreter: str, sealed: bytes | None = None) -> Package:
        """Make ``data`` ready to run; installing the same bytes again is cheap. Hold its digest in the store meanwhile. ``sealed``: what to keep
        of it, and to name it by.

        Raises as ``check``, and OSError when the disk fails.
        """
        self.check(data)
        kept = data if sealed is None else sealed
        sha256 = hashlib.sha256(kept).hexdigest()
        if not self._code.tree(sha256).is_dir():
            self._unpack(data, sha256, runtime, interpreter, TASK_ROOT, kept)
        else:
            self._compiled(sha256, runtime, interpreter, TASK_ROOT)
        self._code.add(sha256, kept)
        tree = self._code.tree(sha256)
        package = Package(sha256, len(data), tree, preload(tree) if compiles(runtime) else ())
        if sealed is None and self._code.compiled(sha256, runtime).exists():
            if len(self._preloads) >= MAX_KNOWN:
                self._preloads.clear()
            self._preloads[sha256, runtime] = package.preload
        return package

    def unpack(self, data: bytes) -> str:
        """As ``install`` for content that has no runtime yet: a layer. Its digest."""
        self.check(data)
        sha256 = hashlib.sha256(data).hexdigest()
        if not self._code.tree(sha256).is_dir():
            self._unpack(data, sha256, kept=data)
        self._code.add(sha256, data)
        return sha256

    def ensure(self, sha256: str, runtime: str, interpreter: str, *, root: str = TASK_ROOT) -> Path:
        """The tree of an installed package, compiled for ``runtime``; unpacked again from the upload if it is gone.

        ``root``: where functions will see it. Raises FileNotFoundError when the upload is gone too, and as
        ``content``.
        """
        if not self._code.tree(sha256).is_dir():
            return self._unpack(self.content(sha256), sha256, runtime, interpreter, root)
        return self._compiled(sha256, runtime, interpreter, root)

    def present(self) -> frozenset[str]:
        """Digests of the packages that are unpacked, and ``<digest>.<runtime>`` of those compiled for a runtime: what ``ensure`` would
        find, in one look at the disk.
        """
        return self._code.present()

    def unzipped(self, sha256: str) -> int:
        """Bytes of an installed package when unpacked. Raises FileNotFoundError when the upload is gone."""
        path = self._code.blob(sha256)
        with path.open("rb") as file:
            if file.read(len(SEALED_HEAD)) == SEALED_HEAD:
                return int(json.loads(file.readline())["unzipped"])
        return archive.unzipped(path)

    def content(self, sha256: str) -> bytes:
        """An installed package as it was uploaded. Raises FileNotFoundError when it is gone, KmsRefused and ServiceError when it cannot be
        decrypted.
        """
        kept = self._code.blob(sha256).read_bytes()
        if not kept.startswith(SEALED_HEAD):
            return kept
        if self._opener is None:
            raise ServiceError("There is nobody here to decrypt a package.")
        return self._opener(kept)

    def download(self, sha256: str) -> Path | bytes | None:
        """What to send of a package that somebody may have; None when it is gone or its key does not give it out."""
        path = self._code.blob(sha256)
        try:
            with path.open("rb") as file:
                sealed = file.read(len(SEALED_HEAD)) == SEALED_HEAD
            return self.content(sha256) if sealed else path
        except (FileNotFoundError, AwsError):
            return None

    def _unpack(
        self,
        data: bytes,
        sha256: str,
        runtime: str | None = None,
        interpreter: str | None = None,
        root: str = TASK_ROOT,
        kept: bytes | None = None,
    ) -> Path:
        """A new tree, compiled if that works: trying a second time in one call would outlast the client."""
        scratch = self._code.scratch()
        try:
            archive.extract(data, scratch)
            mention = mentions.find(scratch)
            if mention is not None:
                self._code.mentions(sha256, mention).touch()
            done = None if runtime is None or interpreter is None else self._compile(scratch, runtime, interpreter, root)
            tree = self._code.publish(sha256, scratch, kept)
        except BaseException:
            remove_tree(scratch)
            raise
        if done is not None and runtime is not None:
            self._note(sha256, runtime, done)
        return tree

    def _compiled(self, sha256: str, runtime: str, interpreter: str, root: str) -> Path:
        tree, marker = self._code.tree(sha256), self._code.compiled(sha256, runtime)
        if not marker.exists():
            done = self._compile(tree, runtime, interpreter, root)
            if done is not None:
                self._note(sha256, runtime, done)
        return tree

    def _note(self, sha256: str, runtime: str, made: Bytecode) -> None:
        """The marker says that the bytecode is there, and what it was measured to spare."""
        self._code.compiled(sha256, runtime).write_text(json.dumps(made._asdict()))

    def bytecode(self, sha256: str, runtime: str) -> Bytecode | None:
        """What was measured when the tree was compiled for ``runtime``; None when it was not, or before this was measured."""
        if not _DIGEST.fullmatch(sha256) or not _RUNTIME.fullmatch(runtime):
            return None
        try:
            return Bytecode(**json.loads(self._code.compiled(sha256, runtime).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def figures(self, name: str) -> dict[str, int] | None:
        """``bytecode`` of ``<sha256>/<runtime>``, for ``/_engine/bytecode``."""
        made = self.bytecode(*name.split("/")) if name.count("/") == 1 else None
        return None if made is None else made._asdict()

    def _compile(self, tree: Path, runtime: str, interpreter: str, root: str) -> Bytecode | None:
        """Give the tree its bytecode; None when it has none now."""
        if not compiles(runtime):
            return _NOTHING
        try:
            return self._compiler.compile(tree, interpreter, root)
        except CompilerFailed as e:
            _log.warning("bytecode for %s was not compiled, imports will be slower: %s", tree.name, e)
            return None

    def close(self) -> None:
        """Let go of helper processes. Idempotent."""
        self._compiler.close()


def preload(tree: Path) -> tuple[str, ...]:
    """``("boto3",)`` when the package's own source imports the SDK and does not bring a copy of it, else empty."""
    if any((tree / name).is_dir() for name in ("boto3", "botocore")):
        return ()
    vendored = _vendored(tree)
    left = MAX_SCANNED
    for directory, folders, files in os.walk(tree):
        if Path(directory) == tree:
            folders[:] = [f for f in folders if f not in vendored]
        for name in files:
            if not name.endswith(".py") or (Path(directory) == tree and name in vendored):
                continue
            path = os.path.join(directory, name)
            if os.path.islink(path):
                continue
            with open(path, "rb") as file:
                source = file.read(left)
            if _SDK.search(source):
                return ("boto3",)
            left -= len(source)
            if left <= 0:
                return ()
    return ()


def _vendored(tree: Path) -> set[str]:
    """Names at the top of the tree that installed distributions say are theirs."""
    names: set[str] = set()
    for record in tree.glob("*.dist-info/RECORD"):
        if not record.is_symlink():
            names.update(line.partition("/")[0].partition(",")[0] for line in record.read_text("utf-8", "replace").splitlines())
    return names
