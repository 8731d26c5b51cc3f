"""The file system of a runtime: a small read-only root that holds the interpreter and nothing of the host's own.

Built once per zygote, in a mount namespace of its own; every sandbox copies that namespace and adds ``/proc`` and ``/tmp``,
later ``/var/task`` and ``/opt``. Only what is named here can be seen from inside.
Python 3.9, standard library.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from engine.sandbox import kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

WORKER_USER = "sbx_user1051"
WORKER_UID = 993
WORKER_GID = 990

_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
# Trust anchors and the links of the alternatives system; the rest of /etc is written or copied, never shown.
_ETC_SHOWN = ("ssl/certs", "pki/tls/certs", "pki/ca-trust/extracted", "ca-certificates/extracted", "alternatives")
_ETC_COPIED = (
    "ld.so.cache", "ld.so.conf", "ssl/openssl.cnf", "pki/tls/openssl.cnf", "protocols", "services", "mime.types",
    "os-release", "resolv.conf", "gai.conf", "host.conf",
)  # fmt: skip
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9)}
# An interpreter installed right here, or in what a sandbox mounts over, cannot be shown without showing far too much or nothing.
_TOO_WIDE = frozenset({"/", "/boot", "/dev", "/etc", "/home", "/media", "/mnt", "/opt", "/proc", "/root", "/run", "/srv", "/sys", "/tmp", "/var"})
_COVERED = ("/dev/", "/proc/", "/sys/", "/tmp/", "/var/task/", "/var/runtime/")
DEVICES = "/dev"
# As node_sdk calls it, which zygotes of older Pythons cannot import.
_SDK = "nodejs-sdk"
_EMPTY = ("var/task", "opt", "proc", "mnt", "run", "home", "srv")


def enter(
    mountpoint: str, prefixes: Sequence[str], runtime_dir: str, share_network: bool, share_proc: bool, resolver: str = "", language: str = ""
) -> None:
    """Move this process into a new root file system. Never returns to the old one.

    ``mountpoint``: an empty directory to build on. ``prefixes``: interpreter installations, shown at their own paths.
    ``runtime_dir`` appears as /var/runtime. ``language``: the runtime's program, first on a function's PATH by the names in /var/lang/bin. ``share_network``: the host's name resolution applies inside.
    ``resolver``: address of the name server inside, where it is not the host's.
    ``share_proc``: show the host's /proc beneath instead of mounting one (inside a user namespace only that is allowed).
    Raises OSError naming the step.
    """
    refuse_wide(prefixes, mountpoint)
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    os.umask(0o022)
    kernel.mount("root", mountpoint, "tmpfs", kernel.MS_NOSUID, "size=4m,nr_inodes=4096,mode=755")
    _show_system(mountpoint)
    for prefix in prefixes:
        if not prefix.startswith("/usr/") and prefix != "/usr":
            _show(prefix, mountpoint + prefix)
    for name in _EMPTY:
        os.makedirs(os.path.join(mountpoint, name), exist_ok=True)
    os.mkdir(os.path.join(mountpoint, "tmp"))
    os.chmod(os.path.join(mountpoint, "tmp"), 0o1777)
    os.makedirs(os.path.join(mountpoint, "root"), exist_ok=True)
    _show(runtime_dir, os.path.join(mountpoint, "var/runtime"))
    _show_sdk(runtime_dir, os.path.join(mountpoint, "var/runtime"))
    if language:
        _name_language(language, os.path.join(mountpoint, "var/lang/bin"))
    _make_etc(os.path.join(mountpoint, "etc"), share_network, resolver)
    _make_dev(os.path.join(mountpoint, "dev"))
    proc = os.path.join(mountpoint, "proc")
    if share_proc:
        kernel.bind("/proc", proc, 0)
    else:
        kernel.mount("proc", proc, "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    os.chdir(mountpoint)
    kernel.pivot_here()
    kernel.set_mount("/", kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID, recursive=False)


def _name_language(language: str, folder: str) -> None:
    """Have the runtime's program in ``folder``, unless an interpreter that is installed there, as in AWS's images, is shown with its own names."""
    if os.path.isdir(folder):
        return
    os.makedirs(folder)
    for name in names_of(language):
        os.symlink(language, os.path.join(folder, name))


def names_of(program: str) -> list[str]:
    """What people call a program: ``python3.12`` is ``python3`` and ``python`` too."""
    name = os.path.basename(program)
    return list(dict.fromkeys((name, name.partition(".")[0], name.rstrip("0123456789."))))


def refuse_wide(prefixes: Sequence[str], mountpoint: str) -> None:
    """Raise OSError for an interpreter prefix that would show the host, the engine's own data, or be hidden inside."""
    for prefix in prefixes:
        if not prefix.startswith("/") or prefix in _TOO_WIDE or (mountpoint + "/").startswith(prefix + "/"):
            raise OSError(f"an interpreter with the prefix {prefix} cannot be shown in a sandbox without showing the host")
        if (prefix + "/").startswith(_COVERED):
            raise OSError(f"an interpreter under {prefix} would be hidden by the sandbox's own mounts")


def _show(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w"):
            pass
    kernel.bind(source, target)


def _show_sdk(runtime_dir: str, shown: str) -> None:
    """What is installed of the AWS SDK for Node.js, beside all versions of the runtime, in the place that each has for it."""
    source, target = os.path.join(os.path.dirname(os.path.dirname(runtime_dir)), _SDK), os.path.join(shown, _SDK)
    if os.path.isdir(source) and os.path.isdir(target):
        kernel.bind(source, target)


def _show_system(mountpoint: str) -> None:
    """/usr and its relatives, which are links into /usr on merged systems and directories on others."""
    for name in _SYSTEM:
        source, target = "/" + name, os.path.join(mountpoint, name)
        if os.path.islink(source):
            os.symlink(os.readlink(source), target)
        elif os.path.isdir(source):
            _show(source, target)


def _make_etc(etc: str, share_network: bool, resolver: str) -> None:
    os.mkdir(etc)
    # A JDK keeps its security settings here.
    java = sorted(name for name in os.listdir("/etc") if name.startswith("java"))
    for name in (*_ETC_SHOWN, *java):
        if os.path.isdir(os.path.join("/etc", name)):
            _show(os.path.join("/etc", name), os.path.join(etc, name))
    for name in _ETC_COPIED:
        if name != "resolv.conf" or share_network:
            _copy(os.path.join("/etc", name), os.path.join(etc, name))
    hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"
    if share_network:
        with contextlib.suppress(OSError, UnicodeDecodeError), open("/etc/hosts") as f:
            hosts = f.read()
    # Where extensions listen for telemetry, by AWS's name for it.
    hosts += "127.0.0.1 sandbox.localdomain sandbox\n"
    home = f"/home/{WORKER_USER}"
    texts = {
        "hosts": hosts,
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "passwd": f"root:x:0:0:root:/root:/bin/sh\n{WORKER_USER}:x:{WORKER_UID}:{WORKER_GID}::{home}:/sbin/nologin\n",
        "group": f"root:x:0:\n{WORKER_USER}:x:{WORKER_GID}:\n",
    }
    if resolver:
        texts["resolv.conf"] = f"nameserver {resolver}\n"
    for name, text in texts.items():
        with open(os.path.join(etc, name), "w") as f:
            f.write(text)
    os.symlink("/usr/share/zoneinfo/UTC", os.path.join(etc, "localtime"))
    os.symlink("/proc/self/mounts", os.path.join(etc, "mtab"))


def _copy(source: str, target: str) -> None:
    try:
        with open(source, "rb") as f:
            data = f.read(1 << 20)
    except OSError:
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as f:
        f.write(data)


def _make_dev(dev: str) -> None:
    os.mkdir(dev)
    kernel.mount("dev", dev, "tmpfs", kernel.MS_NOSUID | kernel.MS_NOEXEC, "size=64k,nr_inodes=64,mode=755")
    for name, (major, minor) in _DEVICES.items():
        path = os.path.join(dev, name)
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
            os.chmod(path, 0o666)
        except PermissionError:  # only real root may make devices: show the host's
            with open(path, "w"):
                pass
            kernel.bind("/dev/" + name, path, kernel.MOUNT_ATTR_NOSUID)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink("/proc/self/fd" + target, os.path.join(dev, name))
    kernel.set_mount(dev, kernel.MOUNT_ATTR_RDONLY, recursive=False)
