"""Reading an uploaded zip without believing it.

Nothing in it may leave the directory it is extracted to, be anything but a file, a directory or a link to one of these inside, or be
bigger than announced. Links are made after all files, in directories that exist by then, so nothing is ever written through one.
Source of limits and texts: docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html and recorded replies.
"""

from __future__ import annotations

import errno
import io
import lzma
import os
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from engine.errors import InvalidParameterValue

MAX_UNZIPPED = 262_144_000
MAX_ENTRIES = 100_000
MAX_LINK = 4096
# Far deeper than anybody packs, and far from where walking or removing a tree ends for want of stack.
MAX_DEPTH = 256
_UNIX = 3
_CENTRAL_ENTRY = b"PK\x01\x02"
NOT_A_ZIP = "Could not unzip uploaded file. Please check your file, then try to upload again."
_BROKEN = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    UnicodeError,
    ValueError,
    OverflowError,
)
# A name too long, a file where a directory must be: the archive's fault. A full disk is not.
_BROKEN_PATH = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL, errno.EILSEQ)


class _Entry(NamedTuple):
    info: zipfile.ZipInfo
    parts: tuple[str, ...]
    kind: int


def inspect(data: bytes) -> None:
    """Check everything that can be told without extracting. Raises InvalidParameterValue saying what is wrong."""
    with _open(data) as archive:
        _entries(archive)


def extract(data: bytes, into: Path) -> None:
    """Unpack into an existing empty directory: directories 755, files 644 or, with any execute bit, 755.

    Raises InvalidParameterValue as ``inspect`` does and for what only unpacking shows; what is in ``into`` then is rubbish.
    """
    try:
        with _open(data) as archive:
            _unpack(archive, _entries(archive), into)
    except _BROKEN as e:
        raise InvalidParameterValue(NOT_A_ZIP) from e
    except OSError as e:
        if e.errno in _BROKEN_PATH:
            raise InvalidParameterValue(NOT_A_ZIP) from e
        raise
    into.chmod(0o755)


def unzipped(path: Path) -> int:
    """Bytes that the files of an archive, already judged, unpack to."""
    with zipfile.ZipFile(path) as archive:
        return sum(info.file_size for info in archive.infolist())


def unzipped_bytes(data: bytes) -> int:
    """As ``unzipped``, of an archive in memory."""
    with _open(data) as archive:
        return sum(info.file_size for info in archive.infolist())


def _open(data: bytes) -> zipfile.ZipFile:
    # Counted before the directory is parsed: a million entries would cost hundreds of megabytes to learn the same.
    if data.count(_CENTRAL_ENTRY) > MAX_ENTRIES:
        raise InvalidParameterValue(f"The package has more than {MAX_ENTRIES} entries.")
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except (*_BROKEN, OSError) as e:
        raise InvalidParameterValue(NOT_A_ZIP) from e


def _entries(archive: zipfile.ZipFile) -> list[_Entry]:
    infos = archive.infolist()
    if not infos:
        raise InvalidParameterValue("Uploaded file must be a non-empty zip")
    if sum(info.file_size for info in infos) > MAX_UNZIPPED:
        raise InvalidParameterValue(f"Unzipped size must be smaller than {MAX_UNZIPPED} bytes")
    return [_entry(info) for info in infos]


def _entry(info: zipfile.ZipInfo) -> _Entry:
    name = info.filename
    if not name:
        raise InvalidParameterValue(NOT_A_ZIP)
    if name.startswith("/"):
        raise _unsafe(name, "its path is absolute")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise _unsafe(name, "its path leads out of the package")
    if len(parts) > MAX_DEPTH:
        raise _unsafe(name, f"it lies more than {MAX_DEPTH} directories deep")
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == _UNIX else 0
    if info.is_dir():
        kind = stat.S_IFDIR
    elif kind == 0:
        kind = stat.S_IFREG
    if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        raise _unsafe(name, "it is neither a file nor a directory nor a link")
    if kind == stat.S_IFLNK and info.file_size > MAX_LINK:
        raise _unsafe(name, "its link target is too long")
    return _Entry(info, parts, kind)


def _unsafe(name: str, why: str) -> InvalidParameterValue:
    return InvalidParameterValue(f"The package cannot be used because of its entry '{name[:200]}': {why}.")


def _unpack(archive: zipfile.ZipFile, entries: list[_Entry], into: Path) -> None:
    made = {str(into)}
    links: list[tuple[str, str, str]] = []
    written = 0
    for info, parts, kind in entries:
        path = os.path.join(into, *parts)
        _directories(path if kind == stat.S_IFDIR else os.path.dirname(path), made)
        # An entry of a few kilobytes names hundreds of directories that no entry counts.
        if len(made) > MAX_ENTRIES:
            raise InvalidParameterValue(f"The package has more than {MAX_ENTRIES} directories.")
        if kind == stat.S_IFREG:
            if not parts:
                raise InvalidParameterValue(NOT_A_ZIP)
            written += _write(archive, info, path)
            if written > MAX_UNZIPPED:
                raise InvalidParameterValue(f"Unzipped size must be smaller than {MAX_UNZIPPED} bytes")
        elif kind == stat.S_IFLNK:
            links.append((info.filename, path, _target(archive, info, parts)))
    for _, path, target in links:
        os.symlink(target, path)
    root = os.path.realpath(into)
    for name, path, _ in links:
        # Links through links can leave although each alone looks harmless.
        real = os.path.realpath(path)
        if real != root and not real.startswith(root + os.sep):
            raise _unsafe(name, "its link leads out of the package")


def _directories(path: str, made: set[str]) -> None:
    if path in made:
        return
    _directories(os.path.dirname(path), made)
    if not os.path.isdir(path):
        os.mkdir(path)
    os.chmod(path, 0o755)  # noqa: S103 - functions run as other users and must read their code
    made.add(path)


def _write(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str) -> int:
    with archive.open(info) as source, open(path, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 18)
        size = file.tell()
        os.fchmod(file.fileno(), 0o755 if info.create_system == _UNIX and info.external_attr >> 16 & 0o111 else 0o644)
    return size


def _target(archive: zipfile.ZipFile, info: zipfile.ZipInfo, parts: tuple[str, ...]) -> str:
    target = os.fsdecode(archive.read(info))
    if not target or "\0" in target:
        raise InvalidParameterValue(NOT_A_ZIP)
    if target.startswith("/") or os.path.normpath(os.path.join(*parts[:-1], target)).split("/")[0] == "..":
        raise _unsafe(info.filename, "its link leads out of the package")
    return target
