"""Reading container images: what is unpacked, how layers are laid over each other, and everything that is refused."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from engine.images import layers as unpacking
from engine.images.archive import machine
from engine.images.refused import ImageRefused
from engine.images.store import ImageStore
from tests.framework import images
from tests.framework.images import Layer


def archive(tmp_path: Path, layers: list[bytes], config: dict[str, Any] | None = None, **more: Any) -> Path:
    """The tar of an OCI layout."""
    folder = tmp_path / "layout"
    folder.mkdir()
    images.oci(folder, layers, config or {}, **more)
    path = tmp_path / "image.tar"
    with tarfile.open(path, "w") as tar:
        for entry in sorted(folder.rglob("*")):
            tar.add(entry, entry.relative_to(folder), recursive=False)
    return path


def taken(tmp_path: Path, *layers: Layer, **config: Any) -> tuple[Path, dict[str, Any]]:
    """The tree of an image of these layers, and what is kept of it."""
    store = ImageStore(tmp_path / "images")
    found = store.take(archive(tmp_path, [layer.bytes() for layer in layers], config))
    image = store.image(found["digest"])
    assert image is not None
    return store.tree(image["tree"]), image


def refusal(tmp_path: Path, *layers: Layer) -> str:
    with pytest.raises(ImageRefused) as caught:
        taken(tmp_path, *layers)
    return str(caught.value)


def test_layers_are_laid_over_each_other(tmp_path: Path) -> None:
    lower = (
        Layer().folder("a").add("a/kept", "1").add("a/changed", "old").add("a/gone", "2").add("d/deep/below", "3").add("o/hidden", "4")
        .add("file", "f").link("lib", "usr/lib").add("usr/lib/x", "5").folder("becomes")
    )  # fmt: skip
    upper = (
        Layer().add("a/changed", "new", mode=0o4755).add("a/.wh.gone").add("d/.wh.deep").add("o/.wh..wh..opq").add("o/seen", "6")
        .folder("file").add("file/inside", "7").add("becomes", "a file now").add("hard", "8", mode=0o600)
        .add("hardlink", kind=tarfile.LNKTYPE, link="hard")
    )  # fmt: skip
    tree, image = taken(tmp_path, lower, upper, Entrypoint=["/a/kept"], Cmd=["x"], WorkingDir="/a", Env=["A=b"])
    files = {str(p.relative_to(tree)): p.read_text() for p in tree.rglob("*") if p.is_file() and not p.is_symlink()}
    assert files == {
        "a/kept": "1", "a/changed": "new", "o/seen": "6", "file/inside": "7", "becomes": "a file now", "hard": "8", "hardlink": "8",
        "usr/lib/x": "5", "etc/hosts": "", "etc/resolv.conf": "",
    }  # fmt: skip
    assert os.readlink(tree / "lib") == "usr/lib"
    assert stat.S_IMODE((tree / "a/changed").stat().st_mode) == 0o755
    assert (tree / "hard").stat().st_ino == (tree / "hardlink").stat().st_ino
    assert all((tree / name).is_dir() for name in ("proc", "dev", "tmp", "sys"))
    assert (image["entrypoint"], image["cmd"], image["workdir"], image["env"]) == (["/a/kept"], ["x"], "/a", ["A=b"])
    assert image["size"] == 1 + 3 + 1 + 1 + 1 + 1 + 1 + 3 + 1 + 1 + 10 + 1


def test_a_layer_is_unpacked_once_and_a_tree_shared(tmp_path: Path) -> None:
    base, store = Layer().add("base", "x" * 1000).bytes(), ImageStore(tmp_path / "images")
    digests = []
    for n, more in enumerate(([], [Layer().add("more", "1").bytes()])):
        folder = tmp_path / str(n)
        folder.mkdir()
        digests.append(store.take(archive(folder, [base, *more]))["digest"])
    trees = [store.tree(image["tree"]) for image in map(store.image, digests) if image is not None]
    assert len({(tree / "base").stat().st_ino for tree in trees}) == 1
    store.set_names({"kept": {"digest": digests[0], "imported_ms": 1}})
    assert store.collect([]) == 1
    assert [tree.is_dir() for tree in trees] == [True, False]
    assert len(list((tmp_path / "images/layers").iterdir())) == 2


def test_what_docker_save_writes(tmp_path: Path) -> None:
    path = tmp_path / "saved.tar"
    path.write_bytes(images.docker_save([Layer().add("x", "1").bytes()], {"Cmd": ["/x"]}, ["app:1", "app:latest"]))
    found = ImageStore(tmp_path / "images").take(path)
    assert found["names"] == ("app:1", "app:latest")


def test_names_that_lead_out_are_refused(tmp_path: Path) -> None:
    for n, layer in enumerate(
        [
            Layer().add("../out", "x"),
            Layer().add("a/../../out", "x"),
            Layer().add("hard", kind=tarfile.LNKTYPE, link="../../../etc/passwd"),
            Layer().add("a/.wh...", "x"),
            Layer().add(".wh.a/b", "x"),
        ]
    ):
        folder = tmp_path / str(n)
        folder.mkdir()
        assert refusal(folder, layer)
        assert not (tmp_path / "out").exists()
        assert not list((folder / "images/trees").iterdir())
        assert not list((folder / "images/layers").iterdir())


def test_links_are_followed_inside_only(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("mine")
    layer = (
        Layer().link("abs", str(outside)).add("abs/planted", "x").link("up", "../../../..").add("up/planted", "y")
        .add("stolen", kind=tarfile.SYMTYPE, link=str(outside / "secret"))
    )  # fmt: skip
    tree, _ = taken(tmp_path, layer)
    assert sorted(os.listdir(outside)) == ["secret"]
    assert (tree / str(outside).lstrip("/") / "planted").read_text() == "x"
    assert (tree / "planted").read_text() == "y"
    assert os.readlink(tree / "stolen") == str(outside / "secret")


def test_a_link_in_a_directorys_place_is_not_followed_for_its_time(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "below").mkdir(parents=True)
    before = [path.stat().st_mtime_ns for path in (outside, outside / "below")]
    layer = (
        Layer().folder("d").folder("e").folder("e/below").folder("gone").folder("kept")
        .link("d", str(outside)).link("e", str(outside)).link("gone", "nowhere")
    )  # fmt: skip
    tree, _ = taken(tmp_path, layer)
    assert [path.stat().st_mtime_ns for path in (outside, outside / "below")] == before
    assert os.readlink(tree / "e") == str(outside)
    assert (tree / "kept").stat().st_mtime == 1_700_000_000


def test_what_is_mounted_upon_is_never_a_link(tmp_path: Path) -> None:
    """The broker mounts there, as root: nothing in an image may send it elsewhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    layer = Layer().link("etc", str(outside)).link("tmp", "/root").link("dev", "../..").add("proc", "a file").link("sys", "dev")
    tree, _ = taken(tmp_path, layer, Layer().folder("more").link("more/etc", "/"))
    for name in ("etc", "tmp", "dev", "proc", "sys"):
        assert stat.S_ISDIR((tree / name).lstat().st_mode)
    for name in ("etc/hosts", "etc/resolv.conf"):
        assert stat.S_ISREG((tree / name).lstat().st_mode)
    assert not list(outside.iterdir())


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: Layer().add("hard", kind=tarfile.LNKTYPE, link="nowhere"), "no file of the layer"),
        (lambda: Layer().folder("d").add("hard", kind=tarfile.LNKTYPE, link="d"), "no file of the layer"),
        (lambda: Layer().link("a", "b").link("b", "a").add("a/x", "1"), "too many links"),
        (lambda: Layer().add("f", "1").add("f/x", "1"), "leads through a file"),
        (lambda: Layer().add("x" * 300, "1"), "cannot be unpacked"),
        (lambda: Layer().add("d/" * 257 + "x", "1"), "more than 256 directories deep"),
        (lambda: Layer().link("a", "d/" * 200 + "b").add("a/" + "d/" * 200 + "x", "1"), "more than 256 directories deep"),
        (lambda: Layer().add("never", "1", modified_s=1e30), "cannot be read"),
    ],
)
def test_impossible_entries_are_refused(tmp_path: Path, layer: Any, reason: str) -> None:
    assert reason in refusal(tmp_path, layer())


def test_devices_are_left_out_and_counted(tmp_path: Path) -> None:
    layer = Layer().add("dev/null", kind=tarfile.CHRTYPE).add("pipe", kind=tarfile.FIFOTYPE).add("x", "1")
    store = ImageStore(tmp_path / "images")
    found = store.take(archive(tmp_path, [layer.bytes()]))
    assert found["devices"] == 2


def test_sizes_are_bounded(tmp_path: Path) -> None:
    data = Layer().add("big", b"\0" * 5_000_000).add("d/" * 200 + "more", "x").bytes()
    digest = images._digest(data)[7:]
    bounds = (
        (unpacking.Budget(bytes_left=4_000_000), "is bigger than"),
        (unpacking.Budget(entries_left=1), "more than"),
        (unpacking.Budget(entries_left=150), "more than"),
    )
    for n, (budget, reason) in enumerate(bounds):
        into = tmp_path / str(n)
        into.mkdir()
        with pytest.raises(ImageRefused, match=reason):
            unpacking.unpack(io.BytesIO(data), str(into), "", digest, budget)


def test_what_is_damaged_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    folder.mkdir()
    digest = images.oci(folder, [Layer().add("x", "1").bytes()], {})
    layer = next(p for p in (folder / "blobs/sha256").iterdir() if p.name != digest and not p.read_bytes().startswith(b"{"))
    good = layer.read_bytes()
    for n, bad in enumerate((good[:-9], good[:20] + b"\xff" + good[21:], b"", b"not a tar at all")):
        layer.write_bytes(bad)
        path = tmp_path / f"{n}.tar"
        with tarfile.open(path, "w") as tar:
            tar.add(folder, ".")
        with pytest.raises(ImageRefused, match=r"damaged|cannot be read"):
            ImageStore(tmp_path / f"images{n}").take(path)


def test_documents_that_are_not_an_images_are_refused(tmp_path: Path) -> None:
    other = "arm64" if machine() == "amd64" else "amd64"
    with pytest.raises(ImageRefused, match=f"the image is for linux/{other}"):
        ImageStore(tmp_path / "images").take(archive(tmp_path, [Layer().add("x", "1").bytes()], architecture=other))
    documents: list[tuple[str, Any]] = [
        ("index.json", {"manifests": []}),
        ("index.json", {"manifests": [{"digest": "sha256:" + "0" * 64}]}),
        ("index.json", {"manifests": [{"digest": "sha256:../../etc/passwd"}]}),
        ("index.json", {"manifests": [{"digest": "sha256:" + "0" * 64, "platform": {"os": "linux", "architecture": other}}]}),
        ("index.json", []),
        ("manifest.json", [{}, {}]),
        ("manifest.json", [{"Config": "nowhere", "Layers": []}]),
        ("else.json", {}),
    ]
    for n, (name, document) in enumerate(documents):
        path = tmp_path / f"{n}.tar"
        path.write_bytes(Layer().add(name, json.dumps(document)).bytes())
        with pytest.raises(ImageRefused):
            ImageStore(tmp_path / f"other{n}").take(path)
    path = tmp_path / "no.tar"
    path.write_bytes(b"no tar")
    with pytest.raises(ImageRefused, match="not a tar archive"):
        ImageStore(tmp_path / "none").take(path)
