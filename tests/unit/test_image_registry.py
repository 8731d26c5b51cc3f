"""Pulling from a registry: a real HTTP server that behaves as registries do, with tokens, redirects and mistakes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.images.archive import machine
from engine.images.refused import ImageRefused
from engine.images.registry import Registry, parse
from engine.images.store import ImageStore
from tests.framework import images
from tests.framework import registry as registries
from tests.framework.images import Layer


@pytest.fixture
def registry() -> Iterator[Any]:
    blobs, digest = images.blobs_of([Layer().add("x", "pulled").bytes()], {"Cmd": ["/x"]})
    blobs["index"] = json.dumps(
        {
            "manifests": [
                {"digest": "sha256:" + "0" * 64, "size": 1, "platform": {"os": "linux", "architecture": "s390x"}},
                {"digest": digest, "size": 1, "platform": {"os": "linux", "architecture": machine()}},
            ]
        }
    ).encode()
    with registries.registry(blobs, {"1": digest, "many": "index"}) as server:
        yield server


def pull(server: Any, folder: Path, tag: str = "1", **options: Any) -> dict[str, Any]:
    """Pull, import, and the image's document."""
    into = folder / "pulled"
    into.mkdir()
    Registry(parse(f"{server.url}/team/app:{tag}"), **options).pull(into)
    archive = Layer()
    for path in sorted(into.rglob("*")):
        if path.is_file():
            archive.add(path.relative_to(into).as_posix(), path.read_bytes())
    (folder / "image.tar").write_bytes(archive.bytes())
    store = ImageStore(folder / "images")
    found = store.take(folder / "image.tar")
    image = store.image(found["digest"])
    assert image is not None
    assert (store.tree(image["tree"]) / "x").read_text() == "pulled"
    return {**found, **image}


def test_an_image_is_pulled_with_a_token(registry: Any, tmp_path: Path) -> None:
    found = pull(registry, tmp_path)
    assert f"sha256:{found['digest']}" == registry.tags["1"]
    assert found["names"] == (f"{registry.url[7:]}/team/app:1",)
    assert {who for path, who in registry.came if path.startswith("/elsewhere/")} == {None}


def test_the_one_for_this_machine_is_taken(registry: Any, tmp_path: Path) -> None:
    assert f"sha256:{pull(registry, tmp_path, 'many')['digest']}" == registry.tags["1"]


def test_a_password_goes_to_the_token_service_only(registry: Any, tmp_path: Path) -> None:
    registry.password = "hush"
    (tmp_path / "a").mkdir()
    with pytest.raises(ImageRefused, match="HTTP 401"):
        pull(registry, tmp_path / "a")
    registry.came.clear()
    pull(registry, tmp_path, credentials=("me", "hush"))
    assert {path.partition("?")[0] for path, who in registry.came if who is not None and who.startswith("Basic")} == {"/token"}


def test_what_does_not_come_as_promised_is_refused(registry: Any, tmp_path: Path) -> None:
    with pytest.raises(ImageRefused, match="HTTP 404"):
        Registry(parse(f"{registry.url}/team/app:none")).pull(tmp_path / "none")
    layer = next(d for d, data in registry.blobs.items() if d.startswith("sha256:") and not data.startswith(b"{"))
    for n, data in enumerate((b"other", registry.blobs[layer] + b"more", registry.blobs[layer][:-1])):
        registry.blobs[layer] = data
        with pytest.raises(ImageRefused, match="damaged or cut short"):
            Registry(parse(f"{registry.url}/team/app:1")).pull(tmp_path / str(n))
    wrong = "sha256:" + hashlib.sha256(b"no").hexdigest()
    registry.blobs[wrong] = b"{}"
    with pytest.raises(ImageRefused, match="came damaged"):
        Registry(parse(f"{registry.url}/team/app@{wrong}")).pull(tmp_path / "wrong")


def test_addresses() -> None:
    assert parse("https://r.example.com:5000/a/b:1").name == "r.example.com:5000/a/b:1"
    assert parse("https://r.example.com/a").tag == "latest"
    digest = "sha256:" + "a" * 64
    assert parse(f"https://r.example.com/a:1@{digest}")[2:] == ("a", digest)
    for bad in ("ftp://x/y", "https://x", "https:///y", "https://x/y?z=1", "https://x:nine/y"):
        with pytest.raises(ImageRefused):
            parse(bad)
