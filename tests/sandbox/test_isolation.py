"""What a function cannot do at level full, tried from inside one."""

from __future__ import annotations

import os
import resource
import socket
import threading

import pytest

from tests.framework.networks import bare
from tests.sandbox.rig import DEADLINE_S, Failed, free_listener

pytestmark = pytest.mark.root

_SYSCALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def sc(number, *args):
    r = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return ctypes.get_errno() if r < 0 else 0
"""
EPERM, ENOENT, EACCES, EROFS, ENOSPC, ENOSYS, EAFNOSUPPORT = 1, 2, 13, 30, 28, 38, 97

# x86_64 number, arguments; the x86_64 names are for the test's id.
_REFUSED = {
    "ptrace": (101, "0, 1, 0, 0"), "mount": (165, "b'x', b'/tmp', b'tmpfs', 0, 0"), "umount2": (166, "b'/tmp', 2"),
    "unshare": (272, "0x10000000"), "setns": (308, "0, 0"), "chroot": (161, "b'/tmp'"), "pivot_root": (155, "b'.', b'.'"),
    "keyctl": (250, "0, 0"), "add_key": (248, "0, 0, 0, 0, 0"), "bpf": (321, "0, 0, 0"), "io_uring_setup": (425, "1, 0"),
    "perf_event_open": (298, "0, 0, 0, 0, 0"), "userfaultfd": (323, "0"), "open_by_handle_at": (304, "0, 0, 0"),
    "process_vm_readv": (310, "1, 0, 0, 0, 0, 0"), "init_module": (175, "0, 0, 0"), "kexec_load": (246, "0, 0, 0, 0"),
    "open_tree": (428, "-100, b'/', 1"), "fsopen": (430, "b'tmpfs', 0"), "pidfd_getfd": (438, "0, 0, 0"),
    "personality": (135, "8"), "reboot": (169, "0, 0, 0, 0"), "sethostname": (170, "b'x', 1"), "syslog": (103, "3, 0, 0"),
    "clone with a user namespace": (56, "0x10000011, 0, 0, 0, 0"), "prlimit of init": (302, "1, 7, 0, 0"),
}  # fmt: skip


def test_sees_only_its_own_root(box, full):
    assert set(box.run("import os; result = os.listdir('/')")) <= {
        "bin", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "mnt", "opt", "proc", "root", "run", "sbin", "srv",
        "tmp", "usr", "var",
    }  # fmt: skip
    assert box.run("result = os.listdir('/home') + os.listdir('/tmp') + os.listdir('/opt') + os.listdir('/mnt')") == []
    for path in ("/etc/shadow", "/etc/ssl/private", "/boot", "/sys/kernel", str(full.settings.data_dir), os.getcwd()):
        assert box.run(f"result = os.path.exists({path!r})") is False, path


def test_knows_its_user_and_nothing_of_the_hosts(box):
    names = box.run("result = [line.split(':')[0] for line in open('/etc/passwd')]")
    assert names == ["root", "sbx_user1051"]
    assert box.run("import os; result = [os.getuid(), os.geteuid(), os.getgid(), os.getgroups()]") == [993, 993, 990, []]


def test_has_no_privilege_left(box):
    status = box.run("result = dict(l.strip('\\n').split(':\\t', 1) for l in open('/proc/self/status') if ':\\t' in l)")
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@pytest.mark.parametrize("name", _REFUSED if os.uname().machine == "x86_64" else ())
def test_refuses_the_call(box, name):
    number, arguments = _REFUSED[name]
    box.run(_SYSCALL)
    assert box.run(f"result = sc({number}, {arguments})") == EPERM


def test_answers_enosys_where_libraries_fall_back(box):
    box.run(_SYSCALL)
    assert box.run("result = [sc(435, 0, 0), sc(9999)]") == [ENOSYS, ENOSYS]


@pytest.mark.parametrize("family", ["AF_VSOCK", "AF_ALG", "AF_PACKET"])
def test_refuses_socket_families(box, family):
    with pytest.raises(Failed) as e:
        box.run(f"import socket; socket.socket(socket.{family}, socket.SOCK_STREAM)")
    assert e.value.errno == EAFNOSUPPORT


def test_cannot_open_raw_sockets(box):
    with pytest.raises(Failed) as e:
        box.run("import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)")
    assert e.value.errno == EPERM


def test_cannot_become_root(box):
    for call in ("os.setuid(0)", "os.setresgid(0, 0, 0)", "os.setgroups([0])"):
        with pytest.raises(Failed) as e:
            box.run(f"import os; {call}")
        assert e.value.errno == EPERM, call


def test_sees_only_its_own_processes(box):
    pids = box.run("import os; result = [int(p) for p in os.listdir('/proc') if p.isdigit()]")
    assert sorted(pids) == sorted([1, box.run("result = os.getpid()")])
    with pytest.raises(Failed) as e:
        box.run(f"os.kill({os.getpid()}, 0)")
    assert e.value.args[0] == "ProcessLookupError"
    with pytest.raises(Failed) as e:
        box.run("os.kill(1, 9)")
    assert e.value.errno == EPERM


def test_cannot_reach_into_its_init(box):
    for path in ("/proc/1/environ", "/proc/1/mem", "/proc/1/fd", "/proc/1/root"):
        with pytest.raises(Failed) as e:
            box.run(f"import os; os.listdir({path!r}) if os.path.isdir({path!r}) else open({path!r}).read(1)")
        assert e.value.errno in (EACCES, EPERM, ENOENT), path


@pytest.mark.parametrize("path", ["/var/task/x", "/opt/x", "/etc/x", "/usr/x", "/x", "/var/runtime/x", "/dev/x", "/proc/x"])
def test_cannot_write_outside_tmp(box, path):
    with pytest.raises(Failed) as e:
        box.run(f"open({path!r}, 'w')")
    assert e.value.errno in (EROFS, EACCES, ENOENT)


def test_mounts_of_the_code_are_safe(box):
    lines = box.run("result = open('/proc/self/mountinfo').read().splitlines()")
    options = {line.split()[4]: line.split()[5].split(",") for line in lines}
    assert {"ro", "nosuid", "nodev"} <= set(options["/var/task"])
    assert {"nosuid", "nodev"} <= set(options["/tmp"])
    assert "ro" in options["/"]
    assert "ro" in options["/usr"]


def test_cannot_write_kernel_settings(box):
    for path in ("/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/self/oom_score_adj"):
        with pytest.raises(Failed) as e:
            box.run(f"open({path!r}, 'w').write('1')")
        assert e.value.errno in (EACCES, EPERM, EROFS, ENOENT), path


def test_tmp_is_limited_in_bytes(full):
    box = full.instance(tmp_mib=600, memory_mib=256)
    assert box.run("import os; s = os.statvfs('/tmp'); result = s.f_blocks * s.f_frsize") == 600 << 20
    full.end(box)
    box = full.instance(tmp_mib=4)
    with pytest.raises(Failed) as e:
        box.run("open('/tmp/big', 'wb').write(b'x' * (5 << 20))")
    assert e.value.errno == ENOSPC
    full.end(box)


def test_tmp_is_limited_in_files(full):
    box = full.instance(tmp_mib=1)
    with pytest.raises(Failed) as e:
        box.run("for n in range(100): open('/tmp/%d' % n, 'w').close()")
    assert e.value.errno == ENOSPC
    full.end(box)


def test_does_not_see_another_instance(full):
    one = full.instance(code_dir=str(full.code("one", {"secret.py": "x"})))
    two = full.instance(code_dir=str(full.code("two", {"other.py": "y"})))
    one.run("open('/tmp/mine', 'w').write('x')")
    assert two.run("import os; result = [os.listdir('/var/task'), os.listdir('/tmp')]") == [["other.py"], []]
    ids = {os.stat(f"/proc/{b.pid}").st_uid for b in (one, two)}
    assert len(ids) == 2
    assert min(ids) > 1 << 30
    full.end(one)
    full.end(two)


def test_network_is_a_lonely_loopback(box):
    with free_listener() as service:
        port = service.getsockname()[1]
        with pytest.raises(Failed) as e:
            box.run(f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)")
        assert e.value.args[0] == "ConnectionRefusedError"
    names = box.run("result = [line.split(':')[0].strip() for line in open('/proc/net/dev')][2:]")
    assert names == bare()
    with pytest.raises(Failed) as e:
        box.run("socket.create_connection(('192.0.2.1', 80), 2)")
    assert e.value.errno == 101


def test_reaches_the_engine_through_the_endpoint(box):
    answers = []

    def accept() -> None:
        box.endpoint.settimeout(DEADLINE_S)
        connection, _ = box.endpoint.accept()
        with connection:
            answers.append(connection.recv(10))
            connection.sendall(b"pong")

    thread = threading.Thread(target=accept)
    thread.start()
    source = "import socket; s = socket.create_connection(('127.0.0.1', 4566), 5); s.sendall(b'ping'); result = s.recv(9).decode()"
    assert box.run(source) == "pong"
    thread.join()
    assert answers == [b"ping"]


def test_cannot_reach_abstract_sockets_of_the_host(box):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as service:
        # A name that the kernel chooses: one of our own, another run on this host may have.
        service.bind("")
        service.listen()
        with pytest.raises(Failed) as e:
            box.run(f"import socket; socket.socket(socket.AF_UNIX).connect({service.getsockname()!r})")
        assert e.value.args[0] in ("ConnectionRefusedError", "PermissionError")


def test_holds_no_other_descriptor(box):
    assert box.run("import os; result = sorted(int(f) for f in os.listdir('/proc/self/fd'))")[:4] == [0, 1, 2, 3]
    # The listing itself uses one.
    assert len(box.run("result = os.listdir('/proc/self/fd')")) == 5


def test_shows_nothing_of_the_engine(box):
    assert box.run("import sys; result = [m for m in sys.modules if m.split('.')[0] == 'engine']") == []
    assert box.run("result = [p for p in sys.path if 'engine' in p or 'site-packages' in p]") == []
    shown = box.run("result = open('/proc/self/cmdline').read() + repr(sys.argv) + repr(getattr(sys, 'orig_argv', ''))")
    assert "engine" not in shown
    assert shown.startswith("/var/lang/bin/python")
    assert box.run("import os; result = sorted(os.environ)") in (["LANG", "LC_ALL", "PATH"], ["LANG", "LC_ALL", "LC_CTYPE", "PATH"])


def test_limits_are_those_of_the_platform(box):
    limits = box.run(
        "import resource; result = {n: resource.getrlimit(getattr(resource, 'RLIMIT_' + n))[1] for n in ('NOFILE', 'CORE', 'MEMLOCK')}"
    )
    _, core = resource.getrlimit(resource.RLIMIT_CORE)
    assert limits == {"NOFILE": 1024, "CORE": 0 if core == 0 else 1, "MEMLOCK": 65536}
    with pytest.raises(Failed):
        box.run("resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 2048))")


def test_runs_at_low_priority_and_dies_first(box):
    assert box.run("import os; result = os.nice(0)") == min(os.nice(0) + 10, 19)
    assert box.run("result = open('/proc/self/oom_score_adj').read().strip()") == "1000"


def apart(seen, mechanisms):
    """Whether a worker's process group, and where nothing else keeps another's threads from its share, its session are its own."""
    group, session, pid = seen
    guarded = not mechanisms["cpu"].startswith("none") and mechanisms["landlock"].startswith("ABI")
    return group == pid and (session == pid or guarded)


def test_signals_and_turns_of_others_are_not_its_own(box, full):
    assert apart(box.run("import os; result = [os.getpgrp(), os.getsid(0), os.getpid()]"), full.report.mechanisms)
    if full.report.mechanisms["landlock"].startswith("ABI") and os.path.exists("/proc/self/autogroup"):
        # It is the zygote's, and with it that of every other worker without control groups.
        with pytest.raises(Failed) as e:
            box.run("open('/proc/self/autogroup', 'w').write('19')")
        assert e.value.args[1] == EACCES


def test_no_two_workers_share_numbers_or_random_state(full):
    boxes = [full.instance() for _ in range(4)]
    pids = [b.run("import os; result = os.getpid()") for b in boxes]
    draws = [b.run("import random, ssl; result = [random.random(), ssl.RAND_bytes(8).hex()]") for b in boxes]
    assert len(set(pids)) == 4
    assert len({d[0] for d in draws}) == len({d[1] for d in draws}) == 4
    for b in boxes:
        full.end(b)


def test_what_ordinary_code_needs_works(box):
    box.run("open('/dev/null', 'w').write('x')")
    box.run("import os; os.mkdir('/tmp/a'); open('/tmp/a/b', 'w').write('x'); os.rename('/tmp/a/b', '/tmp/c')")
    assert box.run("import subprocess; result = subprocess.run(['/bin/sh', '-c', 'echo $((6*7))'], capture_output=True).stdout.decode()") == "42\n"
    assert box.run("import threading; t = threading.Thread(target=lambda: None); t.start(); t.join(); result = os.cpu_count() > 0")
    assert box.run("import socket; a, b = socket.socketpair(); a.send(b'x'); result = b.recv(1).decode()") == "x"
    process = "a, b = m.Pipe(); p = m.get_context('fork').Process(target=b.send, args=(7,)); p.start(); result = [a.recv(), p.join()]"
    assert box.run(f"import multiprocessing as m; {process}") == [7, None]
    assert box.run("import socket; result = socket.getaddrinfo('localhost', 80)[0][4][0]") in ("127.0.0.1", "::1")
    assert box.run("import signal, time; result = [signal.getsignal(signal.SIGINT) is signal.default_int_handler, time.strftime('%Z')]") == [True, "UTC"]
    assert box.run("import ssl; result = len(ssl.create_default_context().get_ca_certs()) >= 0") is True
    box.run("os.write(1, b'out'); os.write(2, b'err')")
    assert box.output() == b"outerr"
