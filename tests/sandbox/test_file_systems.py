"""Directories of the host below /mnt: shared, kept, written to as their owner, and no way out of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from errno import EACCES, EBUSY, EINVAL, EOVERFLOW, EPERM, EROFS, EXDEV
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from engine.core.model import EfsPlace
from engine.sandbox.api import SpecialiseSpec
from tests.sandbox.rig import Box, Failed, Rig, alive, until
from tests.sandbox.test_isolation import _SYSCALL

EFS = "arn:aws:elasticfilesystem:us-east-1:000000000000:access-point/fsap-0123456789abcdef{}"
OWNER = 4321
ROOTS, OTHERS, GONE, LINKED = (EFS.format(n) for n in range(1, 5))
SHARED = EFS.format(0)


class Lab(NamedTuple):
    """A broker, and the host's directory that plays the file system."""

    rig: Rig
    share: Path

    def box(self, arn: str = SHARED, place: str = "/mnt/data", own: EfsPlace | None = None, **spec: Any) -> Box:
        return self.rig.instance(file_system=(arn, place, own), **spec)


@contextlib.contextmanager
def _lab(level: str, data_dir: Path, owner: int) -> Iterator[Lab]:
    # Not below a directory that only root may enter.
    folder = Path(tempfile.mkdtemp(prefix="lambda-engine-share-"))
    try:
        folder.chmod(0o755)
        share, roots, linked = folder / "share", folder / "roots", folder / "linked"
        for path in (share, roots):
            path.mkdir()
        linked.mkdir()
        os.chown(share, owner, owner)
        table: dict[str, Any] = {
            SHARED: str(share), ROOTS: str(roots), OTHERS: {"path": str(share), "uid": 77, "gid": 78},
            GONE: str(folder / "gone"), LINKED: str(linked),
        }  # fmt: skip
        with Rig(data_dir, level, file_systems=table) as rig:
            # What was a directory when the engine started is a link now.
            linked.rmdir()
            linked.symlink_to("/etc")
            yield Lab(rig, share)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with _lab("full", tmp_path_factory.mktemp("full"), OWNER) as made:
        yield made


@pytest.fixture(scope="module")
def unprivileged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with _lab("user", tmp_path_factory.mktemp("user"), os.getuid()) as made:
        yield made


@pytest.mark.root
def test_functions_share_files_and_what_they_make_belongs_to_the_owner(lab: Lab) -> None:
    one, two = lab.box(), lab.box(place="/mnt/else.where-_1")
    assert one.run("import os; os.mkdir('/mnt/data/d'); open('/mnt/data/d/f', 'w').write('hi'); result = os.stat('/mnt/data/d/f').st_uid") == 993
    assert two.run("import os; f = '/mnt/else.where-_1/d/f'; open(f, 'a').write('!'); os.rename(f, f + '2'); result = os.listdir('/mnt')") == ["else.where-_1"]
    made = lab.share / "d" / "f2"
    assert made.read_text() == "hi!"
    assert {(p.stat().st_uid, p.stat().st_gid) for p in (made, made.parent)} == {(OWNER, OWNER)}
    for box in (one, two):
        lab.rig.end(box)
    fresh = lab.box()
    assert fresh.run("result = open('/mnt/data/d/f2').read()") == "hi!"
    lab.rig.end(fresh)


@pytest.mark.root
def test_programs_and_links_of_the_share_work_and_setuid_does_not(lab: Lab) -> None:
    box = lab.box()
    box.run("""
import os, subprocess
open('/mnt/data/tool', 'w').write('#!/bin/sh\\necho $0\\n')
os.chmod('/mnt/data/tool', 0o4755)
result = subprocess.check_output(['/mnt/data/tool'], text=True)
flags = next(l for l in open('/proc/mounts') if l.split()[1] == '/mnt/data').split()[3].split(',')
assert {'nosuid', 'nodev', 'rw'} <= set(flags), flags
os.symlink('/etc/shadow', '/mnt/data/shadow')
os.symlink('/etc', '/mnt/data/etc')
""")
    # Both lead into the sandbox's own /etc, which has no such file.
    assert box.run("result = [os.path.exists('/mnt/data/shadow'), os.path.exists('/mnt/data/etc/shadow'), os.path.exists('/mnt/data/etc/passwd')]") == [False, False, True]
    assert box.run("result = 'sbx_user1051' in open('/mnt/data/etc/passwd').read()")
    lab.rig.end(box)


_ELSEWHERE: dict[str, set[int]] = {
    "open('/mnt/beside', 'w')": {EROFS, EACCES},
    "os.mkdir('/mnt/other')": {EROFS, EACCES},
    "os.rmdir('/mnt/data')": {EROFS, EACCES, EBUSY},
    "open('/mnt/data/../beside', 'w')": {EROFS, EACCES},
    "open('/var/task/f', 'w')": {EROFS, EACCES},
    "open('/etc/f', 'w')": {EROFS, EACCES},
    "os.link('/etc/passwd', '/mnt/data/passwd')": {EXDEV, EACCES, EPERM},
    "os.mknod('/mnt/data/disk', 0o60666, os.makedev(254, 0))": {EPERM, EACCES},
    "os.chown('/mnt/data', 0, 0)": {EPERM, EINVAL, EOVERFLOW},
}


@pytest.mark.root
@pytest.mark.parametrize("level", ["lab", "unprivileged"])
def test_nothing_else_can_be_written(request: pytest.FixtureRequest, level: str) -> None:
    lab: Lab = request.getfixturevalue(level)
    box = lab.box()
    for source, errno in _ELSEWHERE.items():
        with pytest.raises(Failed) as e:
            box.run(f"import os\n{source}")
        assert e.value.errno in errno, source
    lab.rig.end(box)


@pytest.mark.root
def test_it_cannot_be_mounted_again_moved_or_opened_by_handle(lab: Lab) -> None:
    box = lab.box()
    calls = {
        "mount": "165, None, b'/mnt/data', None, 32 | 4096, None", "umount": "166, b'/mnt/data', 2", "open_tree": "428, -100, b'/mnt/data', 1",
        "move_mount": "429, -100, b'/mnt/data', -100, b'/tmp', 0", "mount_setattr": "442, -100, b'/mnt/data', 0, b'\\0' * 32, 32",
        "open_by_handle_at": "304, 3, b'\\0' * 16, 0",
    }  # fmt: skip
    for name, arguments in calls.items():
        assert box.run(f"{_SYSCALL}\nresult = sc({arguments})") == EPERM, name
    lab.rig.end(box)


@pytest.mark.root
def test_df_and_the_environment_say_nothing_of_where_it_is(lab: Lab) -> None:
    box = lab.box()
    assert str(lab.share) not in box.run("import subprocess; result = subprocess.run(['df', '-a'], capture_output=True, text=True).stdout + open('/proc/mounts').read()")
    assert box.run("import os; result = os.path.realpath('/mnt/data')") == "/mnt/data"
    lab.rig.end(box)


@pytest.mark.root
def test_a_fresh_worker_has_it_too(lab: Lab) -> None:
    box = lab.box()
    box.run("open('/mnt/data/before', 'w').write('x')")
    lab.rig.link.reset(box.id)
    box.detach()
    _, _, fds, pid = lab.rig.wait("worker_reset", box.id)
    box.attach(fds, pid)
    assert box.run("result = open('/mnt/data/before').read()") == "x"
    box.run("open('/mnt/data/after', 'w').write('x')")
    lab.rig.end(box)


@pytest.mark.root
def test_an_image_has_it_too(lab: Lab) -> None:
    root = lab.rig.code("image", {})
    for name in ("proc", "dev", "tmp", "mnt", "etc"):
        (root / name).mkdir(exist_ok=True)
    for name in ("hosts", "resolv.conf"):
        (root / "etc" / name).touch()
    box = lab.box(code_dir=str(root), image=True)
    assert sorted(box.run("import os; result = os.listdir('/')")) == ["dev", "etc", "mnt", "proc", "tmp"]
    box.run("open('/mnt/data/of the image', 'w').write('x'); os.mkdir('/mnt/data/i'); os.rename('/mnt/data/of the image', '/mnt/data/i/f')")
    assert (lab.share / "i" / "f").stat().st_uid == OWNER
    for place in ("/f", "/mnt/f", "/etc/f"):
        with pytest.raises(Failed):
            box.run(f"open({place!r}, 'w')")
    lab.rig.end(box)
    (root / "mnt").rmdir()
    (root / "mnt").symlink_to("/tmp")
    _refused(lab, "the image has no directory /mnt", code_dir=str(root), image=True, step="mount the image")


@pytest.mark.root
def test_another_user_may_be_named(lab: Lab) -> None:
    box = lab.box(OTHERS)
    with pytest.raises(Failed) as e:
        box.run("open('/mnt/data/f', 'w')")
    assert e.value.errno == EACCES
    place = lab.share / "others"
    place.mkdir()
    os.chown(place, 77, 78)
    box.run("open('/mnt/data/others/f', 'w').close()")
    assert ((place / "f").stat().st_uid, (place / "f").stat().st_gid) == (77, 78)
    lab.rig.end(box)


def _refused(
    lab: Lab, text: str, arn: str = SHARED, place: str = "/mnt/data", *, step: str = "mount the file system", own: EfsPlace | None = None, **spec: Any
) -> None:
    box = lab.rig.make()
    spec.setdefault("code_dir", str(lab.rig.code("empty", {})))
    lab.rig.link.specialise(box.id, SpecialiseSpec(file_system=(arn, place, own), **spec))
    event = lab.rig.wait("holder_failed", box.id)
    assert event[2] == step
    assert text in event[3]
    lab.rig.wait("holder_gone", box.id)
    lab.rig.boxes.remove(box)
    box.close()


@pytest.mark.root
@pytest.mark.parametrize("arn, place, text", [
    (ROOTS, "/mnt/data", "belongs to root"),
    (GONE, "/mnt/data", "No such file or directory"),
    (LINKED, "/mnt/data", "Too many levels of symbolic links"),
    (EFS.format(9), "/mnt/data", "there is no file system"),
    (SHARED, "/mnt/..", "there is no file system"),
    (SHARED, "/mnt/a/b", "there is no file system"),
    (SHARED, "/etc", "there is no file system"),
])  # fmt: skip
def test_what_cannot_be_mounted_is_said(lab: Lab, arn: str, place: str, text: str) -> None:
    _refused(lab, text, arn, place)


@pytest.mark.root
def test_a_file_system_of_efs_is_kept_in_the_data_directory(lab: Lab) -> None:
    whole = EfsPlace("fs-01234567", "/", 0, 0, None)
    one = lab.box(EFS.format(5), own=whole)
    one.run("import os; os.mkdir('/mnt/data/teams'); os.symlink('/etc', '/mnt/data/etc')")
    mine = EfsPlace("fs-01234567", "/teams/blue", 77, 78, (77, 78, 0o2750))
    blue = lab.box(EFS.format(6), own=mine)
    blue.run("open('/mnt/data/f', 'w').write('x')")
    assert one.run("result = [os.listdir('/mnt/data/teams'), oct(os.stat('/mnt/data/teams/blue').st_mode)]") == [["blue"], "0o40750"]
    # It belongs to another user of the file system.
    with pytest.raises(Failed) as e:
        one.run("open('/mnt/data/teams/blue/f')")
    assert e.value.errno == EACCES
    place = lab.rig.settings.data_dir / "file-systems"
    assert place.stat().st_mode & 0o777 == 0o700
    made = place / "fs-01234567/teams/blue/f"
    assert ((made.stat().st_uid, made.stat().st_gid), made.read_text()) == ((77, 78), "x")
    for box in (one, blue):
        lab.rig.end(box)
    for path, text in {"/gone": "No such file", "/etc": "symbolic links", "/../../code": "is no place", "/teams/blue/f": "Not a directory"}.items():
        _refused(lab, text, EFS.format(7), own=whole._replace(path=path))
    _refused(lab, "is no place", EFS.format(7), own=whole._replace(id="../code"))


@pytest.mark.root
def test_nothing_stays_mounted_and_no_descriptor_is_kept(lab: Lab) -> None:
    pid = lab.rig.link.broker_pid

    def held() -> list[str]:
        """Directories, mounts and user namespaces that the broker has open; control groups, networks and sockets come and go by their own clock."""
        found = []
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
                if (target.startswith("/") and "cgroup" not in target and "/net/" not in target) or target.startswith("user:"):
                    found.append(target)
        return sorted(found)

    lab.rig.end(lab.box())
    before = Path(f"/proc/{pid}/mountinfo").read_text(), held()
    for _ in range(3):
        box = lab.box()
        box.run("open('/mnt/data/f', 'w')")
        assert str(lab.share) in Path(f"/proc/{box.pid}/mountinfo").read_text()
        lab.rig.end(box)
    until(lambda: (Path(f"/proc/{pid}/mountinfo").read_text(), held()) == before, "everything is given back")


@pytest.mark.root
def test_the_broker_still_dies_with_its_keeper(tmp_path: Path) -> None:
    """Who acts as another user for a moment loses what ends it with its parent."""
    with _lab("full", tmp_path, OWNER) as lab:
        box = lab.box()
        box.run("open('/mnt/data/f', 'w')")
        broker = lab.rig.link.broker_pid
        assert broker is not None
        keeper = int(next(line.split()[1] for line in Path(f"/proc/{broker}/status").read_text().splitlines() if line.startswith("PPid:")))
        os.kill(keeper, signal.SIGKILL)
        until(lambda: not alive(broker), "the broker is dead")
        until(lambda: not alive(box.pid), "the worker is dead")


def test_without_root_functions_write_as_the_engines_user(unprivileged: Lab) -> None:
    lab = unprivileged
    one, two = lab.box(), lab.box(place="/mnt/two")
    one.run("open('/mnt/data/f', 'w').write('hi')")
    assert two.run("import os; result = [open('/mnt/two/f').read(), os.listdir('/mnt')]") == ["hi", ["two"]]
    assert (lab.share / "f").stat().st_uid == os.getuid()
    for box in (one, two):
        lab.rig.end(box)


def test_without_namespaces_the_place_must_be_the_hosts_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    with _lab("process", tmp_path_factory.mktemp("process"), os.getuid()) as lab:
        _refused(lab, "is not")
