"""Images that come from a registry when functions are created of them: found there at once, fetched in the background.

The operator says which hosts are asked (``image_registries``): what is fetched fills the disk and becomes the file system of functions, which is not
for everybody who may create one to decide. A tag is looked up each time a function is created or updated, as on Lambda; an image whose digest
is here already is not fetched again. While one is coming its functions are Pending; what goes wrong makes them Failed, with AWS's codes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from engine.errors import InvalidParameterValue
from engine.images.refused import ImageRefused
from engine.images.registry import Registry, parse
from engine.images.store import PULLING

_NICE = 10
_DENIED, _NOT_FOUND = (401, 403), 404
_NO_ACCESS = "Lambda does not have permission to access the ECR image. Check the ECR permissions."
_log = logging.getLogger(__name__)
Arrived = Callable[[], Awaitable[None]]


class State(NamedTuple):
    """Of an image that is not here: the members of a function's configuration that say so."""

    state: str
    reason: str
    code: str


# Of one that is on its way.
COMING = State("Pending", "The function is being created.", "Creating")


class ImageRegistries:
    """``registries``: host to address. ``take`` imports an archive under a name. For one event loop."""

    def __init__(self, registries: Mapping[str, str], folder: Path, take: Callable[[Path, str], Awaitable[Any]]) -> None:
        self._registries = registries
        self._folder = folder
        self._take = take
        self._coming: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, list[Arrived]] = {}
        self._failed: dict[str, State] = {}
        self._told: set[str] = set()
        for left in folder.glob(f"{PULLING}*"):
            _remove(left)

    def url(self, uri: str) -> str | None:
        """Where an image is to be had; None when it can only have been imported."""
        host, _, rest = uri.partition("/")
        address = self._registries.get(host)
        return None if address is None or not rest else f"{address.rstrip('/')}/{rest}"

    async def digest(self, uri: str, url: str) -> str:
        """What an address means now. Raises InvalidParameterValue with AWS's words."""
        try:
            return await asyncio.to_thread(Registry(parse(url)).digest)
        except ImageRefused as e:
            if e.status == _NOT_FOUND:
                raise InvalidParameterValue(f"Source image {uri} does not exist. Provide a valid source image.") from e
            if e.status in _DENIED:
                raise InvalidParameterValue(_NO_ACCESS) from e
            raise InvalidParameterValue(f"Source image {uri} is not valid: {e}") from e
        except OSError as e:
            raise InvalidParameterValue(f"Source image {uri} is not valid: {e}") from e

    def state(self, digest: str) -> State | None:
        """Why an image is not here; None when it was never to come."""
        return COMING if digest in self._coming else self._failed.get(digest)

    def telling(self, digest: str) -> bool:
        """Whether it is coming, or has come or failed just now and those who run it are still being told.

        Coming until all of that is done: the store has it a moment before whoever fetched it goes on.
        """
        return digest in self._coming or digest in self._told

    def fetch(self, uri: str, url: str, digest: str, arrived: Arrived) -> asyncio.Task[None]:
        """Have it come, if it is not coming already; ``arrived`` is called when it is here or will not be."""
        self._failed.pop(digest, None)
        self._waiting.setdefault(digest, []).append(arrived)
        task = self._coming.get(digest)
        if task is None:
            task = self._coming[digest] = asyncio.get_running_loop().create_task(self._fetch(uri, url, digest))
        return task

    async def _fetch(self, uri: str, url: str, digest: str) -> None:
        fd, path = tempfile.mkstemp(dir=self._folder, prefix=PULLING)
        os.close(fd)
        try:
            # By its digest: what the tag means may have changed since.
            outcome = await work_apart("pull", f"{_untagged(url)}@sha256:{digest}", path, failing="it could not be fetched")
            if "refused" in outcome:
                code = "ImageAccessDenied" if outcome.get("status") in _DENIED else "InvalidImage"
                self._failed[digest] = State("Failed", str(outcome["refused"]), code)
            else:
                await self._take(Path(path), uri)
        except Exception as e:  # noqa: BLE001 - whatever it is, its functions must not be Pending for ever
            _log.warning("the image %s could not be taken: %s", uri, e)
            self._failed[digest] = State("Failed", str(e), "InvalidImage")
        finally:
            _remove(Path(path))
            del self._coming[digest]
            self._told.add(digest)
        try:
            for arrived in self._waiting.pop(digest, []):
                await arrived()
        finally:
            self._told.discard(digest)

    async def close(self) -> None:
        """Give up what is coming. Idempotent."""
        tasks = list(self._coming.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def work_apart(*words: str, failing: str) -> dict[str, Any]:
    """The outcome of ``python -m engine.images`` with these words, in a process of its own: what an image brings down is no more than that.

    ``failing``: what is said when it ends without an outcome.
    """
    process = await asyncio.create_subprocess_exec(
        "nice", "-n", str(_NICE), sys.executable, "-m", "engine.images", *words,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await process.communicate()
    except BaseException:
        process.kill()
        raise
    try:
        outcome: dict[str, Any] = json.loads(out)
    except ValueError:
        said = err.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return {"refused": f"{failing}: {said or f'status {process.returncode}'}"}
    return outcome


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _untagged(url: str) -> str:
    """An image's address without its tag or digest."""
    head, _, tail = url.partition("@")[0].rpartition("/")
    return f"{head}/{tail.partition(':')[0]}"
