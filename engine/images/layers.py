"""A layer, from the tar in an archive to a directory. Nothing in it is believed.

Nothing may leave the directory it is unpacked to: names are taken apart, and where a part is a link of the layer's own, it is followed
inside that directory only. Device files and pipes are left out, set-id bits taken off, sizes and numbers counted against a budget.
Whiteouts are not files but said by ``Unpacked``: they mean something only when the layer is laid over others (``tree``).
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import importlib
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, cast

from engine.images.refused import ImageRefused

# Lambda's limit for an image, uncompressed; and one for what a size does not bound.
MAX_BYTES = 10 << 30
MAX_ENTRIES = 2_000_000
_MAX_LINKS = 40
# Far from where walking or removing a tree ends for want of stack.
_MAX_DEPTH = 256
_CHUNK = 1 << 20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE)
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


@dataclass(slots=True)
class Budget:
    """What an image may still take of the disk."""

    bytes_left: int = MAX_BYTES
    entries_left: int = MAX_ENTRIES

    def spend(self, size: int, entries: int = 0) -> None:
        """Raises ImageRefused when there is not so much left."""
        self.bytes_left -= size
        self.entries_left -= entries
        if self.bytes_left < 0:
            raise ImageRefused(f"the image is bigger than {MAX_BYTES} bytes when it is unpacked")
        if self.entries_left < 0:
            raise ImageRefused(f"the image has more than {MAX_ENTRIES} files")


@dataclass(slots=True)
class Unpacked:
    """What a layer says besides its files: paths that are ``gone`` from the layers below, directories of which nothing below is to be seen
    (``opaque``); how many ``devices`` and pipes were left out; ``size`` of its files in bytes.
    """

    gone: list[str] = field(default_factory=list)
    opaque: list[str] = field(default_factory=list)
    devices: int = 0
    size: int = 0


class Hashing:
    """A file that hashes what is read of it and never reads more than a budget allows."""

    def __init__(self, file: IO[bytes], spend: Callable[[int], None] | None = None) -> None:
        self._file = file
        self._spend = spend
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(_CHUNK if size < 0 else size)
        if self._spend is not None:
            self._spend(len(data))
        self.digest.update(data)
        return data

    def finish(self) -> str:
        """The digest of the whole file, what nobody has read included."""
        while self.read(_CHUNK):
            pass
        return self.digest.hexdigest()


def unpack(file: IO[bytes], into: str, digest: str, diff_id: str, budget: Budget) -> Unpacked:
    """Unpack a layer into an existing empty directory. Raises ImageRefused; what is in ``into`` then is rubbish."""
    stored = Hashing(file)
    # Padding and headers count too: a tar of nothing else must end as well.
    room = budget.bytes_left + budget.entries_left * 1024 + (64 << 20)
    read = 0

    def spend(size: int) -> None:
        nonlocal read
        read += size
        if read > room:
            raise ImageRefused(f"the image is bigger than {MAX_BYTES} bytes when it is unpacked")

    try:
        plain = Hashing(_decompressed(stored, file), spend)
        with tarfile.open(fileobj=cast("IO[bytes]", plain), mode="r|", errorlevel=2) as tar:
            found = _Unpacking(into, budget).all(tar)
        if plain.finish() != diff_id:
            raise ImageRefused(f"layer {diff_id[:12]} is damaged: its content has another digest")
    except (tarfile.TarError, zlib.error, EOFError, UnicodeError, ValueError, OverflowError, MemoryError) as e:
        raise ImageRefused(f"layer {diff_id[:12]} cannot be read: {e or type(e).__name__}") from e
    except OSError as e:
        # gzip's own, which has no number; a full disk has one.
        if e.errno is None:
            raise ImageRefused(f"layer {diff_id[:12]} cannot be read: {e}") from e
        raise
    if digest and stored.finish() != digest:
        raise ImageRefused(f"layer {diff_id[:12]} is damaged: its digest is another")
    return found


def _decompressed(stored: Hashing, file: IO[bytes]) -> IO[bytes]:
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(_GZIP):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=cast("IO[bytes]", stored)))
    if magic == _ZSTD:
        return _zstd(stored)
    return cast("IO[bytes]", stored)


def _zstd(stored: Hashing) -> IO[bytes]:
    try:
        zstd: Any = importlib.import_module("compression.zstd")
    except ImportError:
        raise ImageRefused("a layer is compressed with zstd, which needs Python 3.14: save the image with gzip") from None
    return cast("IO[bytes]", zstd.ZstdFile(stored))


class _Unpacking:
    """One layer."""

    def __init__(self, root: str, budget: Budget) -> None:
        self._root = root
        self._budget = budget
        self._found = Unpacked()
        self._times: list[tuple[str, float]] = []

    def all(self, tar: tarfile.TarFile) -> Unpacked:
        for member in tar:
            self._budget.spend(0, 1)
            try:
                self._take(tar, member)
            except OSError as e:
                if e.errno is None or e.errno in _FULL:
                    raise
                raise ImageRefused(f"{member.name!r} cannot be unpacked: {e.strerror}") from e
            # The reader keeps every member it has seen.
            tar.members.clear()  # type: ignore[attr-defined, unused-ignore]
        real = os.path.realpath(self._root)
        for path, modified_s in reversed(self._times):
            # A later entry may have put a link where the directory, or one above it, was: it leads anywhere on the host.
            if os.path.isdir(path) and os.path.realpath(path) == real + path[len(self._root) :]:
                os.utime(path, (modified_s, modified_s), follow_symlinks=False)
        return self._found

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = _parts(member.name)
        if not parts:
            return
        if parts[-1].startswith(_WHITEOUT):
            self._whiteout(parts)
            return
        path = os.path.join(self._directory(parts[:-1]), parts[-1])
        if member.isdir():
            self._make_directory(path, member)
        elif member.isreg():
            self._make_file(tar, path, member)
        elif member.issym():
            self._clear(path)
            os.symlink(member.linkname, path)
        elif member.islnk():
            self._make_link(path, member)
        else:
            self._found.devices += 1

    def _whiteout(self, parts: list[str]) -> None:
        folder, name = parts[:-1], parts[-1]
        if name == _OPAQUE:
            self._found.opaque.append("/".join(folder))
        elif not name.startswith(".wh..wh."):
            gone = name[len(_WHITEOUT) :]
            if gone in ("", ".", ".."):
                raise ImageRefused(f"a layer says that {gone!r} is gone")
            self._found.gone.append("/".join([*folder, gone]))

    def _directory(self, parts: list[str]) -> str:
        """The directory of this name, made where it is missing; links on the way are followed inside the root."""
        left, at, links = list(parts), "", 0
        while left:
            name = left.pop(0)
            if name == "..":
                at = os.path.dirname(at)
                continue
            path = os.path.join(self._root, at, name)
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                if at.count("/") + 2 > _MAX_DEPTH:
                    raise ImageRefused(f"{'/'.join(parts)[:200]!r} lies more than {_MAX_DEPTH} directories deep") from None
                # One entry may name hundreds of them.
                self._budget.spend(0, 1)
                os.mkdir(path, 0o755)
                mode = stat.S_IFDIR
            if stat.S_ISLNK(mode):
                links += 1
                if links > _MAX_LINKS:
                    raise ImageRefused(f"{'/'.join(parts)!r} leads through too many links")
                target = os.readlink(path)
                if target.startswith("/"):
                    at = ""
                left[:0] = [p for p in target.split("/") if p not in ("", ".")]
                continue
            if not stat.S_ISDIR(mode):
                raise ImageRefused(f"{'/'.join(parts)!r} leads through a file")
            at = os.path.join(at, name)
        return os.path.join(self._root, at)

    def _clear(self, path: str) -> None:
        """Take away what a later entry of the same name replaces."""
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def _make_directory(self, path: str, member: tarfile.TarInfo) -> None:
        if os.path.islink(path) or not os.path.isdir(path):
            self._clear(path)
            os.mkdir(path)
        # Whoever removes the tree must be able to enter.
        os.chmod(path, member.mode & 0o777 | 0o700)
        self._times.append((path, member.mtime))

    def _make_file(self, tar: tarfile.TarFile, path: str, member: tarfile.TarInfo) -> None:
        self._budget.spend(member.size)
        self._found.size += member.size
        self._clear(path)
        source = tar.extractfile(member)
        assert source is not None  # noqa: S101 - it is a regular file
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as target:
            shutil.copyfileobj(source, target, _CHUNK)
            os.fchmod(fd, member.mode & 0o777)
        os.utime(path, (member.mtime, member.mtime))

    def _make_link(self, path: str, member: tarfile.TarInfo) -> None:
        target = _parts(member.linkname)
        if not target:
            raise ImageRefused(f"{member.name!r} is a link to the root")
        source = os.path.join(self._directory(target[:-1]), target[-1])
        if source == path:
            return
        if not os.path.lexists(source) or (os.path.isdir(source) and not os.path.islink(source)):
            raise ImageRefused(f"{member.name!r} is a link to {member.linkname!r}, which is no file of the layer")
        self._clear(path)
        os.link(source, path, follow_symlinks=False)


def _parts(name: str) -> list[str]:
    """A name's parts. Raises ImageRefused for one that leads out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise ImageRefused(f"the name {name!r} leads out of the image")
    if any(part.startswith(_WHITEOUT) for part in parts[:-1]):
        raise ImageRefused(f"the name {name!r} leads through a whiteout")
    return parts
