"""``backup`` and ``restore``: everything the engine keeps, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.options import Json
from engine.cli.output import CliError, document, say
from engine.cli.session import settings_of

if TYPE_CHECKING:
    from engine.store.backup import Summary

DataDir = Annotated[Path | None, typer.Option(help="The engine's data directory.")]


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write; it must not exist.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write functions, layers, settings and queued events to FILE, while the engine runs or not: lambda-engine backup le.tar"""
    from engine.errors import ConfigurationError
    from engine.store.backup import backup as write

    settings = settings_of(data_dir=data_dir)
    try:
        done = write(settings.database(), settings.data_dir, file)
    except (ConfigurationError, OSError) as e:
        raise CliError(str(e)) from e
    _tell("wrote", file, done, as_json)


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What 'backup' wrote.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a new store from FILE, in a data directory (and database) without one: lambda-engine restore le.tar --data-dir new"""
    from engine.data_dir import held
    from engine.errors import ConfigurationError
    from engine.store.backup import restore as read

    settings = settings_of(data_dir=data_dir)
    try:
        with held(settings.data_dir):
            done = read(file, settings.database(), settings.data_dir)
    except (ConfigurationError, OSError) as e:
        raise CliError(str(e)) from e
    _tell("restored", file, done, as_json)


def _tell(verb: str, file: Path, done: Summary, as_json: bool) -> None:
    manifest = done.manifest
    if as_json:
        document({"file": str(file), "bytes": done.size, "rows": manifest.rows, "packages": manifest.blobs, "schema": manifest.schema})
        return
    functions, events = manifest.rows.get("functions", 0), manifest.rows.get("events", 0)
    layers = manifest.rows.get("layer_versions", 0)
    say(f"{verb} {file}: {functions} functions, {layers} layer versions, {manifest.blobs} packages, {events} queued events, {done.size} bytes")
