"""A whole store in one file, and back: every row of one moment, and the packages they refer to.

Theory of operation. The rows are read in one transaction, so whatever an engine writes meanwhile is either all in the backup or not at all.
Packages never change under their name and stay for a while after their last user went, so they can be copied afterwards. The file
is a plain tar: ``manifest.json``, ``rows/<table>.jsonl`` (columns by name, bytes in Base64), ``blobs/<sha256>.zip``. It does not depend on the
database: what came from SQLite can be restored to PostgreSQL and the other way round. It holds secrets, so only its owner may read it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
from sqlalchemy import Connection, LargeBinary, MetaData, Table, delete, insert, select

from engine import __version__
from engine.errors import ConfigurationError
from engine.store.engines import open_engines
from engine.store.migrations import migrate, refuse_newer
from engine.store.schema import metadata

FORMAT = 1
_BATCH = 200
_ROWS = re.compile(r"rows/([a-z_]+)\.jsonl")
_BLOB = re.compile(r"blobs/([0-9a-f]{64})\.zip")
_encode = msgspec.json.Encoder().encode


class Manifest(msgspec.Struct):
    """What a backup says of itself. ``rows`` counts them by table, ``blobs`` the packages."""

    format: int
    engine: str
    schema: int
    rows: dict[str, int]
    blobs: int


class Summary(NamedTuple):
    """What was written or read. ``size``: bytes of the file."""

    manifest: Manifest
    size: int


def backup(where: Path | str, data_dir: Path, target: Path) -> Summary:
    """Write ``target``; it appears whole or not at all. An engine may be running.

    Raises ConfigurationError when there is no store, when it is newer than this engine, or when ``target`` exists.
    """
    if isinstance(where, Path) and not where.exists():
        raise ConfigurationError(f"there is no store at {where}")
    if target.exists():
        raise ConfigurationError(f"{target} exists already")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
                manifest = _write(where, data_dir, archive)
            out.flush()
            os.fsync(out.fileno())
            size = out.tell()
        os.rename(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    return Summary(manifest, size)


def _write(where: Path | str, data_dir: Path, archive: tarfile.TarFile) -> Manifest:
    engines = open_engines(where)
    rows: dict[str, int] = {}
    try:
        with engines.reading.connect() as connection, tempfile.TemporaryDirectory(dir=data_dir, prefix=".backup-") as folder:
            tables = _tables(connection, engines.name)
            schema = _schema(connection, tables["meta"])
            refuse_newer(schema, engines.name)
            for name, table in tables.items():
                path = Path(folder) / name
                rows[name] = _dump(connection, table, path)
                archive.add(path, f"rows/{name}.jsonl", filter=_anonymous)
            packages = connection.execute(select(tables["code"].c.sha256, tables["code"].c.released_ms)).all()
    finally:
        engines.writing.dispose()
        engines.reading.dispose()
    blobs = 0
    for sha256, released_ms in packages:
        path = data_dir / "blobs" / f"{sha256}.zip"
        try:
            archive.add(path, f"blobs/{sha256}.zip", filter=_anonymous)
            blobs += 1
        except FileNotFoundError:
            # One that nobody used any more may go at any time; one that is used is lost already, or has been dropped since.
            if released_ms is None:
                raise ConfigurationError(f"the package {path} is not there: it was lost, or removed meanwhile. Run the backup again") from None
    manifest = Manifest(FORMAT, __version__, schema, rows, blobs)
    _add(archive, "manifest.json", _encode(manifest))
    return manifest


def _tables(connection: Connection, name: str) -> dict[str, Table]:
    """The store's tables as they are, those referred to first; a schema of PostgreSQL may hold others, which are not ours."""
    found = MetaData()
    found.reflect(connection, only=lambda table, _: table in metadata.tables)
    if "meta" not in found.tables or "code" not in found.tables:
        raise ConfigurationError(f"{name} holds no store")
    return {table.name: table for table in found.sorted_tables}


def _schema(connection: Connection, meta: Table) -> int:
    return int(connection.execute(select(meta.c.value).where(meta.c.key == "schema_version")).scalar_one())


def _dump(connection: Connection, table: Table, path: Path) -> int:
    count = 0
    with open(path, "wb") as out:
        for row in connection.execution_options(yield_per=_BATCH).execute(select(table)).mappings():
            out.write(_encode(dict(row)) + b"\n")
            count += 1
    return count


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mode = 0o600
    return info


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = _anonymous(tarfile.TarInfo(name))
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def restore(source: Path, where: Path | str, data_dir: Path) -> Summary:
    """Make the store that ``source`` holds in an empty place. The caller holds the data directory's lock.

    Raises ConfigurationError for a file that is no backup or a damaged or newer one, and when there is a store already.
    """
    if isinstance(where, Path) and where.exists():
        raise ConfigurationError(f"there is a store at {where} already: restore to another data directory")
    try:
        with tarfile.open(source, "r:") as archive:
            members = {member.name: member for member in archive if member.isfile()}
            manifest = _manifest(archive, members, source)
            _restore_blobs(archive, members, data_dir / "blobs", manifest)
            _restore_rows(archive, members, where, manifest)
    except (tarfile.TarError, OSError, EOFError) as e:
        raise ConfigurationError(f"cannot restore {source}: {e}") from e
    return Summary(manifest, source.stat().st_size)


def _manifest(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], source: Path) -> Manifest:
    member = members.get("manifest.json")
    try:
        if member is None:
            raise ConfigurationError(f"{source} is not a backup of Lambda Engine")
        manifest = msgspec.json.decode(_open(archive, member).read(), type=Manifest)
    except msgspec.DecodeError as e:
        raise ConfigurationError(f"{source} is not a backup of Lambda Engine: {e}") from e
    if manifest.format != FORMAT:
        raise ConfigurationError(f"{source} was written by a newer engine (format {manifest.format})")
    refuse_newer(manifest.schema, str(source))
    return manifest


def _open(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    assert file is not None  # noqa: S101 - only regular files are taken
    return file


def _restore_blobs(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], folder: Path, manifest: Manifest) -> None:
    """Packages first: a row without its package would be worse than a package without a row."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = 0
    for name, member in members.items():
        match = _BLOB.fullmatch(name)
        if match is None:
            continue
        digest, path = hashlib.sha256(), folder / f"{match[1]}.zip"
        with open(path, "wb") as out, _open(archive, member) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() != match[1]:
            raise ConfigurationError(f"the backup is damaged: {name} does not have the content it is named after")
        found += 1
    if found != manifest.blobs:
        raise ConfigurationError(f"the backup is damaged: it has {found} of {manifest.blobs} packages")


def _restore_rows(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], where: Path | str, manifest: Manifest) -> None:
    """All rows in one transaction; a file of SQLite gets its name only when it is complete."""
    unfinished = where.with_name(f".{where.name}.restoring") if isinstance(where, Path) else where
    _remove_sqlite(unfinished)
    engines = open_engines(unfinished)
    try:
        with engines.writing.begin() as connection:
            if connection.dialect.has_table(connection, "meta"):
                raise ConfigurationError(f"{engines.name} holds a store already: restore to an empty schema")
            migrate(connection, engines.name, manifest.schema)
            tables = _tables(connection, engines.name)
            connection.execute(delete(tables["meta"]))
            files = {match[1]: member for name, member in members.items() if (match := _ROWS.fullmatch(name))}
            for name, table in tables.items():
                if name in files:
                    count = _load(connection, table, _open(archive, files.pop(name)))
                    if count != manifest.rows.get(name):
                        raise ConfigurationError(f"the backup is damaged: {name} has {count} of {manifest.rows.get(name)} rows")
            if files:
                raise ConfigurationError(f"the backup is damaged: it has rows of {', '.join(sorted(files))}, which its schema does not know")
    except BaseException:
        engines.writing.dispose()
        engines.reading.dispose()
        _remove_sqlite(unfinished)
        raise
    engines.writing.dispose()
    engines.reading.dispose()
    if isinstance(where, Path) and isinstance(unfinished, Path):
        os.rename(unfinished, where)


def _load(connection: Connection, table: Table, file: IO[bytes]) -> int:
    raw = [column.name for column in table.columns if isinstance(column.type, LargeBinary)]
    count = 0
    for batch in _batches(file):
        for row in batch:
            for name in raw:
                if row[name] is not None:
                    row[name] = base64.b64decode(row[name])
        connection.execute(insert(table), batch)
        count += len(batch)
    return count


def _batches(file: IO[bytes]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for line in file:
        try:
            batch.append(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.DecodeError as e:
            raise ConfigurationError(f"the backup is damaged: {e}") from e
        if len(batch) >= _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _remove_sqlite(path: Path | str) -> None:
    if isinstance(path, Path):
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}{suffix}")
