"""What a copy has in place of its template's open files. Whole copies are looked at in tests/integration/test_snap_start.py."""

from __future__ import annotations

import fcntl
import os

import pytest

from engine.sandbox import inherited

MIB = 1 << 20
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE


@pytest.fixture
def renewed():
    """Renews a descriptor; gives what it was before."""
    kept = []

    def renew(fd):
        kept.append(os.dup(fd))
        belongings = inherited.Belongings()
        belongings._tmp = os.stat("/tmp").st_dev
        belongings._reopen(fd)
        kept.append(fd)
        return kept[-2]

    yield renew
    for fd in kept:
        os.close(fd)


def test_a_file_in_memory_has_contents_and_offset_of_its_own(renewed):
    fd = os.memfd_create("cache", os.MFD_ALLOW_SEALING)
    os.write(fd, b"as it was")
    former = renewed(fd)
    assert os.lseek(fd, 0, os.SEEK_CUR) == 9
    os.write(fd, b", and more")
    assert os.pread(former, 100, 0) == b"as it was"
    assert os.pread(fd, 100, 0) == b"as it was, and more"
    assert os.lseek(former, 0, os.SEEK_CUR) == 9
    assert os.get_inheritable(fd)


def test_a_sealed_file_in_memory_stays_sealed(renewed):
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.write(fd, b"for ever")
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    renewed(fd)
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == SEALS
    assert os.pread(fd, 100, 0) == b"for ever"


def test_a_nameless_file_that_is_open_for_writing_only_is_copied_too(renewed):
    fd = os.open("/tmp", os.O_TMPFILE | os.O_WRONLY, 0o600)
    os.write(fd, b"written")
    former = renewed(fd)
    os.write(fd, b" here")
    assert (os.fstat(former).st_size, os.fstat(fd).st_size) == (7, 12)


def test_holes_stay_holes(tmp_path):
    former, copy = tmp_path / "former", tmp_path / "copy"
    former.mkdir()
    copy.mkdir()
    with open(former / "map.db", "wb") as file:
        file.write(b"begin")
        file.seek(5 * MIB)
        file.write(b"middle")
        file.truncate(64 * MIB)
    (former / "empty").touch()
    fd = os.open(former, os.O_RDONLY | os.O_DIRECTORY)
    try:
        inherited.copy_tree(fd, str(copy))
    finally:
        os.close(fd)
    assert {path.name for path in copy.iterdir()} == {"map.db", "empty"}
    found = os.stat(copy / "map.db")
    assert found.st_size == 64 * MIB
    assert found.st_blocks * 512 < 32 * MIB
    with open(copy / "map.db", "rb") as file:
        assert file.read(5) == b"begin"
        file.seek(5 * MIB)
        assert file.read(8) == b"middle\0\0"
