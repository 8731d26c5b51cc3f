"""Control groups as files: the v2 layout, which this suite's hosts may not have, laid out in a directory; and layers on disk."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from engine.sandbox import cgroups, kernel, layers
from engine.sandbox import unified as v2
from engine.sandbox.cgroups import Groups
from engine.sandbox.freezer import GroupFreezer
from engine.sandbox.group import Group, limits, quota
from engine.sandbox.opened import Files, Shelf

ALL = ("memory", "pids", "cpu", "cpu time", "freeze")


def _v2_files(path):
    for name in (
        "cgroup.subtree_control", "cgroup.freeze", "memory.max", "memory.swap.max", "pids.max", "cpu.weight", "cpu.max", "cpu.stat",
    ):  # fmt: skip
        with open(os.path.join(path, name), "a"):
            pass


@pytest.fixture
def unified(tmp_path, monkeypatch):
    """A directory in place of a v2 hierarchy."""
    (tmp_path / "cgroup.subtree_control").write_text("")
    (tmp_path / "cgroup.procs").write_text("")
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    monkeypatch.setattr(cgroups, "_mounts", lambda: {c: [(2, [str(tmp_path)])] for c in ALL})
    monkeypatch.setattr(v2, "prove_joining", lambda parent: None)
    real = os.makedirs

    def makedirs(path, **options):
        real(path, **options)
        _v2_files(path)

    monkeypatch.setattr(os, "makedirs", makedirs)
    monkeypatch.setattr(os, "rmdir", lambda path: None)
    return tmp_path


def test_v2_controllers_are_handed_down(unified):
    groups = Groups()
    assert groups.mechanisms == dict.fromkeys((*ALL, "cpu quota", "socket memory"), "cgroup v2")
    # The last one written; a plain file keeps the tail of a longer one, the kernel's does not.
    assert (unified / "cgroup.subtree_control").read_text().startswith("+cpu")
    assert (unified / cgroups.own_name() / "cgroup.subtree_control").read_text().startswith("+cpu")


def test_v2_joins_by_one_directory_and_writes_its_own_files(unified):
    groups = Groups()
    group = groups.create()
    (directory,) = group.directories()
    _v2_files(directory)
    fds, into = group.joins()
    assert into
    assert [os.readlink(f"/proc/self/fd/{fd}") for fd in fds] == [directory]
    assert group.joins() == (fds, into), "it stays open"
    group.limit(256 << 20, 100, 1024)

    def text(name: str) -> str:
        with open(os.path.join(directory, name)) as f:
            return f.read()

    assert (text("memory.max"), text("memory.swap.max"), text("pids.max"), text("cpu.weight")) == (str(256 << 20), "0", "100", "39")
    assert text("cpu.max") == "", "init runs at full speed"
    group.cap_cpu(1447)
    assert text("cpu.max") == "1447 20000"
    version, fd = group.freezer()
    freezer = GroupFreezer(version, os.dup(fd))
    freezer.freeze()
    assert text("cgroup.freeze") == "1"
    freezer.thaw()
    assert text("cgroup.freeze") == "0"
    freezer.close()
    freezer.close()
    assert group.cpu_file() == f"{directory}/cpu.stat"


@pytest.mark.parametrize(("shares", "weight"), [(2, "1"), (74, "3"), (1024, "39"), (6144, "235"), (262144, "10000")])
def test_shares_become_weights(shares, weight):
    assert limits("cpu", 2, 0, 0, shares) == [("cpu.weight", weight)]
    assert limits("cpu", 1, 0, 0, shares) == [("cpu.shares", str(shares))]


@pytest.mark.parametrize(
    ("quota_us", "v1", "v2"),
    [(1447, ["20000", "1447"], "1447 20000"), (34007, ["20000", "34007"], "34007 20000"), (10, ["20000", "1000"], "1000 20000")],
)
def test_a_quota_is_time_per_period_and_never_less_than_the_kernel_takes(quota_us, v1, v2):
    assert [text for _, text in quota(1, quota_us)] == v1
    assert quota(2, quota_us) == [("cpu.max", v2)]


def test_a_quota_above_the_containers_own_is_left_to_that(tmp_path):
    group = Group({"cpu quota": (1, str(tmp_path))})
    with pytest.raises(FileNotFoundError):
        group.cap_cpu(1000)
    refused = OSError(errno.EINVAL, "Invalid argument")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "write_file", lambda *_: (_ for _ in ()).throw(refused))
        group.cap_cpu(1000)


def test_what_v1_has_frozen_is_thawed_to_die(tmp_path):
    (tmp_path / "freezer.state").write_text("FROZEN")
    Group({"freeze": (1, str(tmp_path))}).let_die()
    assert (tmp_path / "freezer.state").read_text() == "THAWED"


@pytest.mark.parametrize(("version", "name"), [(1, "memory.oom_control"), (2, "memory.events")])
def test_kills_for_memory_are_counted(tmp_path, version, name):
    group = Group({"memory": (version, str(tmp_path))})
    assert group.oom_kills() == 0
    (tmp_path / name).write_text("low 0\noom 3\noom_kill 2\noom_group_kill 9\n")
    assert group.oom_kills() == 2


@pytest.fixture
def ended(tmp_path):
    """The v1 groups of a sandbox that has ended with nothing left, as files."""
    for name, text in (("cgroup.procs", ""), ("memory.oom_control", "oom_kill 0\n"), ("cpu.stat", "usage_usec 1500000\n"), ("cgroup.freeze", "1")):
        (tmp_path / name).write_text(text)
    for name in ("memory.max_usage_in_bytes", "cpu.cfs_quota_us", "cpu.cfs_period_us"):
        (tmp_path / name).write_text("")
    places = {"memory": 1, "cpu quota": 1, "cpu time": 2, "freeze": 2}
    return Group({name: (version, str(tmp_path)) for name, version in places.items()})


def test_groups_are_renewed_for_the_next_sandbox(ended, tmp_path):
    ended.cap_cpu(5000)
    assert ended.renew()
    assert (tmp_path / "cpu.cfs_quota_us").read_text().startswith("-1")
    assert (tmp_path / "cgroup.freeze").read_text() == "0"
    assert ended.cpu_before_s == 1.5


@pytest.mark.parametrize(
    ("name", "text"),
    [("cgroup.procs", "12\n"), ("memory.oom_control", "oom_kill 1\n"), ("memory.max_usage_in_bytes", "0999999"), ("cpu.stat", "what")],
)
def test_groups_in_which_something_is_left_are_not(ended, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert not ended.renew()


def test_what_counts_without_an_end_is_not_renewed(tmp_path):
    (tmp_path / "cgroup.procs").write_text("")
    assert not Group({"memory": (2, str(tmp_path))}).renew()
    assert not Group({}).renew()


def test_groups_are_kept_while_somebody_takes_them(ended):
    groups = Groups.none("none")
    assert groups.give_back(ended)
    assert groups.unneeded() == []
    assert groups.create() is ended
    assert groups.give_back(ended)
    assert (groups.unneeded(), groups.spare) == ([], 1)
    assert (groups.unneeded(), groups.spare) == ([ended], 0)
    for _ in range(cgroups.SPARE):
        assert groups.give_back(ended)
    assert not groups.give_back(ended)


def test_only_so_many_groups_have_files_open(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    shelf = Shelf(1)
    first, second = Files(shelf), Files(shelf)
    path = str(tmp_path / "a")
    fd = first.descriptor(path, os.O_RDWR)
    assert first.descriptor(path, os.O_RDWR) == fd
    first.write(path, b"c")
    (tmp_path / "b").write_text("new")
    assert (first.read(path), first.read(str(tmp_path / "b"))) == (b"c", b"new")
    with pytest.raises(FileNotFoundError):
        second.read(str(tmp_path / "none"))
    assert not os.path.exists(f"/proc/self/fd/{fd}"), "another group took its place"
    assert first.read(path) == b"c"
    first.close()
    assert not os.path.exists(f"/proc/self/fd/{fd}")


def test_with_swap_is_never_less_than_without(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(kernel, "write_file", lambda path, data: written.append((os.path.basename(path), int(data))))
    group = Group({"memory": (1, str(tmp_path))})
    for memory in (100, 100, 200, 50):
        group.limit(memory, 1, 2)
    limit, swap = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
    assert written == [(limit, 100), (swap, 100), (swap, 200), (limit, 200), (limit, 50), (swap, 50)]


def test_without_groups_there_is_nothing_to_do():
    groups = Groups.none("why")
    assert set(groups.mechanisms.values()) == {"none: why"}
    assert "cpu quota" in groups.mechanisms
    group = groups.create()
    assert group.joins() == ([], False)
    group.limit(1, 1, 2)
    group.cap_cpu(1000)
    group.let_die()
    assert (group.freezer(), group.cpu_file()) == ((0, -1), None)
    assert (group.oom_kills(), group.peak_file(), group.remove()) == (0, None, True)
    groups.close()


def test_a_controller_that_cannot_be_used_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(cgroups, "_mounts", lambda: {"memory": [(1, [str(tmp_path / "none" / "deep")])]})
    (tmp_path / "none").write_text("a file in the way")
    mechanisms = Groups().mechanisms
    assert mechanisms["memory"].startswith("none: Not a directory")
    assert mechanisms["pids"] == "none: not mounted"


def test_our_own_group_comes_before_the_root():
    assert cgroups._candidates("/proc", "/", "/self") == [os.path.normpath("/proc/self"), "/proc"]
    assert cgroups._candidates("/proc", "/docker/x", "/docker/x/self") == ["/proc/self", "/proc"]
    assert cgroups._candidates("/proc", "/", "/nothing-here") == ["/proc"]


def test_a_start_time_names_a_process():
    assert cgroups.start_time(os.getpid()) == cgroups.start_time(os.getpid())
    assert cgroups.start_time(1 << 22) is None
    assert cgroups._OWNED.match(cgroups.own_name())


def test_layers_are_merged_once_and_later_ones_win(tmp_path):
    for n in range(3):
        layer = tmp_path / f"l{n}"
        (layer / "python").mkdir(parents=True)
        (layer / "python" / f"m{n}.py").write_text(str(n))
        (layer / "same").write_text(str(n))
    (tmp_path / "l0" / "link").symlink_to("same")
    names = [str(tmp_path / f"l{n}") for n in range(3)]
    data = str(tmp_path / "data")
    opt = layers.materialise(data, names)
    assert opt == layers.opt_root(data, names)
    assert sorted(os.listdir(opt)) == ["link", "python", "same"]
    assert sorted(os.listdir(os.path.join(opt, "python"))) == ["m0.py", "m1.py", "m2.py"]
    with open(os.path.join(opt, "link")) as f:
        assert f.read() == "2"
    before = os.stat(opt).st_mtime_ns
    assert layers.materialise(data, names) == opt
    assert os.stat(opt).st_mtime_ns == before
    assert (tmp_path / "l0" / "same").read_text() == "0"
    assert layers.opt_root(data, names[:1]) == names[0]
    assert not os.path.exists(layers.opt_root(data, []))
    assert layers.opt_root(data, names) != layers.opt_root(data, names[::-1])


def test_a_group_with_strangers_in_it_is_not_emptied(tmp_path):
    (tmp_path / "cgroup.type").write_text("domain\n")
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")
    with pytest.raises(OSError, match=r"process 1 \(.+\), which is not the engine's, is in the same group") as refused:
        v2.vacate(str(tmp_path), frozenset({os.getpid()}))
    assert refused.value.errno == errno.EBUSY
    assert not (tmp_path / v2.LEAF).exists()
    (tmp_path / "cgroup.procs").write_text("0\n")
    with pytest.raises(OSError, match="a process of another pid namespace"):
        v2.vacate(str(tmp_path), frozenset({os.getpid()}))


def test_what_the_engine_has_started_goes_into_the_leaf_with_it(tmp_path, monkeypatch):
    """As the keeper, which is the broker's parent and the supervisor's child."""
    members = tmp_path / "cgroup.procs"
    (tmp_path / "cgroup.type").write_text("domain\n")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        members.write_text(f"{os.getpid()}\n{child.pid}\n")
        moved = []

        def write_file(path, data):
            assert path == str(tmp_path / v2.LEAF / "cgroup.procs")
            moved.append(int(data))
            members.write_text("".join(f"{pid}\n" for pid in (os.getpid(), child.pid) if pid not in moved))

        monkeypatch.setattr(kernel, "write_file", write_file)
        v2.vacate(str(tmp_path), frozenset({os.getpid()}))
    assert moved == [os.getpid(), child.pid]


def test_the_root_of_the_hierarchy_keeps_its_processes(tmp_path):
    (tmp_path / "cgroup.procs").write_text("1\n")
    v2.vacate(str(tmp_path), frozenset())
    assert not (tmp_path / v2.LEAF).exists()


def test_v2_has_everything_in_one_directory(unified, monkeypatch):
    """A process is in one group of v2: freezing by one and limiting by another would do neither."""
    busy = unified / "session.scope"
    busy.mkdir()
    for name, text in (("cgroup.type", "domain\n"), ("cgroup.procs", "1\n"), ("cgroup.controllers", "cpu memory pids\n"), ("cgroup.subtree_control", "")):
        (busy / name).write_text(text)
    monkeypatch.setattr(cgroups, "_mounts", lambda: {c: [(2, [str(busy), str(unified)])] for c in ALL})
    groups = Groups()
    assert groups.mechanisms == dict.fromkeys((*ALL, "cpu quota", "socket memory"), "cgroup v2")
    assert [os.path.dirname(os.path.dirname(d)) for d in groups.create().directories()] == [str(unified)]
    assert (busy / "cgroup.subtree_control").read_text() == "", "with processes in it, it would hand down groups that nothing can be cloned into"
    # Without the other one it has at least what needs no controller, and says why it has no more.
    monkeypatch.setattr(cgroups, "_mounts", lambda: {c: [(2, [str(busy)])] for c in ALL})
    mechanisms = Groups().mechanisms
    assert (mechanisms["freeze"], mechanisms["cpu time"]) == ("cgroup v2", "cgroup v2")
    assert mechanisms["memory"].startswith("none: process 1 (")


def test_a_hierarchy_that_nobody_can_join_is_none(tmp_path, monkeypatch):
    """A container that shows the host's: its groups can be made and written to, and every sandbox would fail."""
    (tmp_path / "cgroup.procs").write_text("")
    monkeypatch.setattr(cgroups, "_mounts", lambda: {c: [(2, [str(tmp_path)])] for c in ALL})
    # What the kernel says to a clone into a group outside of the namespace.
    monkeypatch.setattr(kernel, "clone3", lambda flags, fd: (_ for _ in ()).throw(FileNotFoundError(errno.ENOENT, "clone3")))
    reason = f"none: outside of this process's namespace of control groups ({tmp_path / cgroups.own_name()})"
    assert Groups().mechanisms == dict.fromkeys((*ALL, "cpu quota", "socket memory"), reason)
    assert os.listdir(tmp_path) == ["cgroup.procs"]


def test_joining_is_proved_by_a_process(tmp_path):
    with pytest.raises(OSError, match="clone3"):
        v2.prove_joining(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_directories_of_v2_are_tried_from_the_own_one(tmp_path):
    own = tmp_path / "user.slice" / "app.slice" / "run.scope"
    (own / v2.LEAF).mkdir(parents=True)
    ways = [own, tmp_path, own.parent, own.parent.parent]
    assert v2.ways(str(own), str(tmp_path)) == list(map(str, ways))
    assert v2.ways(str(own / v2.LEAF), str(tmp_path)) == list(map(str, ways)), "whom an engine has moved already"
    assert v2.ways(str(tmp_path), str(tmp_path)) == [str(tmp_path)]


def test_controllers_are_handed_down_from_above(tmp_path):
    folder = tmp_path / "user.service" / "app.slice"
    folder.mkdir(parents=True)
    for place, controllers in ((tmp_path, "cpu memory"), (folder.parent, "memory"), (folder, "memory")):
        (place / "cgroup.controllers").write_text(controllers)
        (place / "cgroup.subtree_control").write_text("")
    v2.offer(str(folder), "memory")
    assert (tmp_path / "cgroup.subtree_control").read_text() == ""
    v2.offer(str(folder), "cpu")
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu"
    assert (folder.parent / "cgroup.subtree_control").read_text() == "+cpu"
    with pytest.raises(OSError, match="no controller io"):
        v2.offer(str(folder), "io")
