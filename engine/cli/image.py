"""``image``: container images for functions with PackageType Image."""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from engine.cli.options import Json
from engine.cli.output import CliError, data, document, say, table
from engine.cli.own_socket import DataDir, ask

PATH = "/_engine/images"
# Unpacking 10 GB takes a while.
IMPORT_TIMEOUT_S = 3600.0
_CHUNK = 1 << 20

app = typer.Typer(no_args_is_help=True, help="Container images for functions with PackageType Image.")


@app.command("import")
def take(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="An OCI layout (directory or tar), an archive of docker save, or https://REGISTRY/NAME:TAG.")
    ],
    name: Annotated[
        str, typer.Option("--name", metavar="URI", help="The ImageUri functions will name. Default: what the archive or the address says.")
    ] = "",
    user: Annotated[str, typer.Option("--user", help="For a registry; its password is read from $LAMBDA_ENGINE_REGISTRY_PASSWORD.")] = "",
    data_dir: DataDir = None,
) -> None:
    """Import an image, so that functions can be created of it."""
    if source.startswith(("http://", "https://")):
        with tempfile.TemporaryDirectory(prefix="lambda-engine-image-") as folder:
            name = _pull(source, Path(folder), user) if not name else _pull(source, Path(folder), user) and name
            _send(_tar(Path(folder)), name, data_dir)
        return
    path = Path(source)
    if not path.exists():
        raise CliError(f"{source} is not there", 2)
    _send(_tar(path) if path.is_dir() else _read(path), name, data_dir)


def _pull(address: str, folder: Path, user: str) -> str:
    """Fetch an image into an empty directory; its name."""
    from engine.images.refused import ImageRefused
    from engine.images.registry import Registry, parse

    try:
        reference = parse(address)
        Registry(reference, (user, os.environ.get("LAMBDA_ENGINE_REGISTRY_PASSWORD", "")) if user else None).pull(folder)
    except (ImageRefused, OSError) as e:
        raise CliError(f"the image could not be pulled: {e}") from e
    return reference.name


def _send(archive: Iterator[bytes], name: str, data_dir: Path | None) -> None:
    found = ask(data_dir, "POST", f"{PATH}?name={quote(name, safe='')}", archive, timeout_s=IMPORT_TIMEOUT_S)
    for known in found["names"]:
        data(known)
    say(f"sha256:{found['digest']}, {found['size'] / 1e6:.0f} MB")
    if found["devices"]:
        say(f"left out: {found['devices']} device files, pipes or sockets")


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _tar(folder: Path) -> Iterator[bytes]:
    """A directory as a tar, without a copy of it on disk or in memory."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        info = tarfile.TarInfo(path.relative_to(folder).as_posix())
        info.size = path.stat().st_size
        yield info.tobuf()
        yield from _read(path)
        yield bytes(-info.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


@app.command("remove")
def remove(name: Annotated[str, typer.Argument(metavar="URI", help="As list prints it.")], data_dir: DataDir = None) -> None:
    """Forget an image's name. Functions that were created of it keep it."""
    ask(data_dir, "DELETE", f"{PATH}?name={quote(name, safe='')}")


@app.command("list")
def show(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the imported images."""
    found = ask(data_dir, "GET", PATH)["images"]
    if as_json:
        document(found)
        return
    table(("IMAGE", "DIGEST", "MB"), [(i["name"], i["digest"][:12], "lost" if i["size"] is None else f"{i['size'] / 1e6:.0f}") for i in found])
