"""What hosts other than this one are told about the level they cannot have."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli import doctor
from engine.sandbox import hints


def host(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def test_ubuntus_restriction_is_named_with_a_profile_for_this_interpreter(tmp_path: Path) -> None:
    root = host(tmp_path, {"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n", "proc/sys/user/max_user_namespaces": "95000\n"})
    text = hints.fix("user", root)
    assert "AppArmor" in text
    assert "apparmor_parser -r /etc/apparmor.d/lambda-engine" in text
    assert "flags=(unconfined) { userns, }" in text
    assert "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" in text
    assert "max_user_namespaces" not in text


def test_the_profile_names_the_real_interpreter(tmp_path: Path) -> None:
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to("real")
    assert f"profile lambda-engine {tmp_path}/real flags" in hints.apparmor_profile(str(tmp_path / "link"))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"proc/sys/user/max_user_namespaces": "0"}, ["sysctl -w user.max_user_namespaces=15000"]),
        ({"proc/sys/kernel/unprivileged_userns_clone": "0"}, ["sysctl -w kernel.unprivileged_userns_clone=1"]),
        ({".dockerenv": ""}, ["Docker container", "seccomp=unconfined", "systempaths=unconfined"]),
        ({"run/.containerenv": ""}, ["Podman container"]),
        ({"proc/1/environ": "PATH=/bin\0container=lxc\0"}, ["lxc container"]),
        ({"proc/self/mountinfo": "1 2 0:5 / /proc/acpi ro - tmpfs tmpfs ro\n"}, ["unmask /proc", "/proc/acpi"]),
        ({"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "0", "proc/1/environ": "A=b"}, ["allow unprivileged user namespaces"]),
        ({}, ["Linux 5.12"]),
    ],
)
def test_each_obstacle_has_its_fix(tmp_path: Path, files: dict[str, str], words: list[str]) -> None:
    text = hints.fix("user", host(tmp_path, files))
    assert all(word in text for word in words), text


def test_doctor_sees_ubuntus_restriction_and_names_the_fix(tmp_path: Path) -> None:
    root = host(tmp_path, {"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n", "proc/sys/user/max_user_namespaces": "95000\n"})
    found = doctor.namespaces(root)
    assert found.verdict is doctor.Verdict.NOTE
    assert "kernel.apparmor_restrict_unprivileged_userns=1" in found.text
    assert f"by putting '{hints.apparmor_profile()}' into /etc/apparmor.d/lambda-engine" in found.text


def test_doctor_has_nothing_to_say_where_nothing_is_in_the_way(tmp_path: Path) -> None:
    found = doctor.namespaces(host(tmp_path, {"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "0\n"}))
    assert found.verdict is doctor.Verdict.OK
    assert "for level user" not in found.text


def test_full_in_a_container_wants_privileged(tmp_path: Path) -> None:
    assert "--privileged" not in hints.fix("full", host(tmp_path / "bare", {}))
    assert "--privileged" in hints.fix("full", host(tmp_path / "docker", {".dockerenv": ""}))
