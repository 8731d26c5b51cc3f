"""Damaged and hostile image archives: refused or unpacked inside, nothing else."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.images import layers as unpacking
from engine.images.archive import Archive
from engine.images.refused import ImageRefused
from tests.framework import images
from tests.framework.images import Layer

_NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", "", ".wh.a", ".wh..wh..opq", "c"]), min_size=1, max_size=4).map("/".join)
_KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])


@given(st.lists(st.tuples(_NAMES, _KINDS, _NAMES, st.booleans()), max_size=8))
@settings(max_examples=150, deadline=None)
def test_whatever_a_layer_names_it_stays_inside(entries: list[tuple[str, bytes, str, bool]]) -> None:
    layer = Layer()
    for name, kind, link, absolute in entries:
        layer.add(("/" if absolute else "") + name, b"x" if kind == tarfile.REGTYPE else b"", kind=kind, link=link)
    data = layer.bytes()
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "in/to"
        into.mkdir(parents=True)
        try:
            unpacking.unpack(io.BytesIO(data), str(into), "", hashlib.sha256(data).hexdigest(), unpacking.Budget())
        except ImageRefused:
            pass
        assert os.listdir(folder) == ["in"]
        assert os.listdir(Path(folder) / "in") == ["to"]


@given(st.binary(max_size=64), st.integers(0, 1 << 16), st.integers(1, 64))
@settings(max_examples=80, deadline=None)
def test_a_damaged_archive_is_refused_or_read(noise: bytes, at: int, cut: int) -> None:
    data = images.docker_save([Layer().add("x", "1").bytes()], {"Cmd": ["/x"]}, ["app:1"])
    at %= len(data)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        path.write_bytes(data[:at] + noise + data[at + cut :])
        try:
            opened = Archive(path)
        except ImageRefused:
            return
        try:
            opened.image()
        except ImageRefused:
            pass
        finally:
            opened.close()
