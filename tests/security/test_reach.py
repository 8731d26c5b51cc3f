"""What a function tries to reach: files, processes and memory of the engine, the host and other functions; sockets; the kernel."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from tests.security.siege import SECRETS, Siege, number

pytestmark = pytest.mark.root

HIDDEN = ("ENOENT", "EACCES", "ENOTDIR")


def denied(siege: Siege, source: str, *allowed: str) -> None:
    """Every attempt in ``result`` ended in one of the errors; the invocation is in the log as any other."""
    done = siege.attack(source)
    assert done.error is None, done.error
    results = done.result if isinstance(done.result, list) else [done.result]
    assert results
    assert set(results) <= set(allowed), results
    assert "attempt over" in done.tail
    assert done.report


def test_files_of_the_engine(siege: Siege) -> None:
    data = siege.engine.data_dir
    paths = [data, data / "engine.db", data / "engine.lock", data / "blobs", data / "code", data / "logs", Path(__file__)]
    paths += [Path(p) for p in (os.path.dirname(sys.executable), os.getcwd())]
    source = f"result = [attempt(os.listdir if p.endswith('/') else open, p) for q in {[str(p) for p in paths]!r} for p in (q, q + '/')]"
    denied(siege, source, *HIDDEN)


def test_files_of_the_host(siege: Siege) -> None:
    paths = ["/etc/shadow", "/etc/ssh", "/root/.ssh", "/root/.bashrc", "/boot", "/sys", "/var/log", "/var/lib/dpkg", "/proc/kcore", "/dev/mem", "/dev/kmsg"]
    listing = f"result = [attempt(os.listdir if os.path.isdir(p) else open, p) for p in {paths!r}]"
    done = siege.attack(listing + "\nresult.append([p for d in ('/root', '/home', '/srv', '/mnt', '/run') for p in os.listdir(d)])")
    *results, shown = done.result
    assert set(results) <= {"ENOENT", "EACCES", "EPERM"}, results
    assert len(shown) <= 1, "at most the way to an interpreter that is installed there"


def test_sockets_of_the_engine_by_path(siege: Siege) -> None:
    run = siege.engine.run_dir()
    names = [str(p) for p in run.iterdir() if p.is_socket()]
    assert len(names) >= 3
    denied(siege, f"result = [attempt(socket.socket(socket.AF_UNIX).connect, p) for p in {names!r}]", *HIDDEN)


def test_code_environment_tmp_and_memory_of_another_function(siege: Siege) -> None:
    secrets = list(SECRETS.values())
    source = f"""
import base64
secrets = [base64.b85decode(s) for s in {[__import__("base64").b85encode(s.encode()).decode() for s in secrets]!r}]
found = []
for folder, dirs, files in os.walk('/'):
    if folder.startswith(('/usr', '/proc/sys', '/lib', '/dev', sys.base_prefix)): dirs[:] = []; continue
    dirs[:] = [d for d in dirs if d not in ('fd', 'task')]  # its own pipes would wait for itself
    for name in files:
        path = os.path.join(folder, name)
        try:
            with open(path, 'rb') as f: data = f.read(200000)
        except OSError: continue
        found += [path for s in secrets if s in data]
result = [found, os.listdir('/tmp')]
"""
    assert siege.attack(source, siege.attacker("seeker")).result == [[], []]


def test_other_processes_are_not_there(siege: Siege) -> None:
    # By a function of its own: one that was just stopped and gone on without control groups may see the process that signals it.
    seen = siege.attack("result = sorted(int(p) for p in os.listdir('/proc') if p.isdigit())", siege.attacker("lonely")).result
    assert len(seen) == 2, f"init and the function itself, not {seen}"
    host = [siege.engine.process.pid, *siege.engine.state()["processes"].values()]
    source = f"result = [attempt(open, '/proc/%d/%s' % (p, n)) for p in {host!r} for n in ('environ', 'mem', 'maps', 'cmdline')]"
    assert set(siege.attack(source).result) <= {"ENOENT"}


def test_the_sandboxes_own_init(siege: Siege) -> None:
    source = """
calls = {'root': os.listdir, 'cwd': os.listdir, 'exe': os.readlink}
result = [attempt(calls.get(n, open), '/proc/1/' + n) for n in ('environ', 'mem', 'root', 'cwd', 'exe', 'maps', *('fd/%d' % n for n in range(20)))]
"""
    denied(siege, source, "EACCES", "EPERM", "ENOENT")


def test_memory_by_foreign_process_calls(siege: Siege) -> None:
    source = f"result = [sc({number('process_vm_readv')}, 1, 0, 0, 0, 0, 0), sc({number('process_vm_writev')}, 1, 0, 0, 0, 0, 0), sc({number('process_madvise')}, 0, 0, 0, 0, 0)]"
    denied(siege, source, "EPERM")


def test_ptrace(siege: Siege) -> None:
    denied(siege, f"result = [sc({number('ptrace')}, r, p, 0, 0) for r in (0, 16, 0x4206) for p in (1, os.getppid(), os.getpid())]", "EPERM")


def test_descriptors_of_others(siege: Siege) -> None:
    denied(siege, f"result = [sc({number('pidfd_getfd')}, n, 0, 0) for n in range(6)] + [sc({number('kcmp')}, 1, 1, 0, 0, 0)]", "EPERM")
    done = siege.attack("result = sorted(int(n) for n in os.listdir('/proc/self/fd'))")
    assert done.result == [0, 1, 2, 3, 4], "three standard ones, the channel, and the listing's own"


def test_descriptors_on_their_way_keep_nobody_from_starting(siege: Siege) -> None:
    """The kernel counts them by user, and at level user all functions are one: none of these may need to send any once it is locked down."""
    source = """
import array, builtins
builtins.held = []
try:
    while len(held) < 400:
        held.extend(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
        held[-1].sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0] * 250))])
except OSError as e: result = e.errno == errno.ETOOMANYREFS
"""
    name = siege.attacker("on-their-way")
    assert siege.attack(source, name).result is True
    try:
        for n in range(8):
            assert siege.attack("result = 'started'", siege.attacker(f"on-their-way-{n}")).result == "started"
    finally:
        siege.attack("import builtins\nfor s in getattr(builtins, 'held', ()): s.close()", name)


def test_signals_to_parent_and_host(siege: Siege) -> None:
    host = [siege.engine.process.pid, *siege.engine.state()["processes"].values()]
    done = siege.attack(f"result = [attempt(os.kill, p, s) for p in (1, {', '.join(map(str, host))}) for s in (9, 15, 19)]")
    assert set(done.result[:3]) == {"EPERM"}
    assert set(done.result[3:]) <= {"ESRCH"}


def test_kill_everything(siege: Siege) -> None:
    done = siege.attack("result = attempt(os.kill, -1, 9)")
    # Nobody but itself could be meant: the kernel spares the caller, so nothing is left to signal.
    assert done.result in ("ESRCH", "EPERM", "DONE")


# Theme -> (call, arguments): each of them answers EPERM.
CALLS = {
    "mounts and roots": [
        ("mount", "b'x', b'/tmp', b'tmpfs', 0, 0"), ("umount2", "b'/tmp', 2"), ("pivot_root", "b'.', b'.'"), ("chroot", "b'/tmp'"),
        ("open_tree", "-100, b'/', 1"), ("move_mount", "3, b'', -100, b'/tmp', 4"), ("fsopen", "b'tmpfs', 0"), ("fsmount", "3, 0, 0"),
        ("mount_setattr", "-100, b'/', 0, 0, 0"), ("fspick", "-100, b'/', 0"), ("quotactl", "0, 0, 0, 0"),
    ],
    "namespaces": [("unshare", "0x10000000"), ("unshare", "0x20000"), ("setns", "3, 0"), ("sethostname", "b'x', 1"), ("setdomainname", "b'x', 1")],
    "keys": [("keyctl", "0, 0"), ("add_key", "b'user', b'x', b'y', 1, -3"), ("request_key", "b'user', b'x', 0, -3")],
    "bpf, perf, userfaultfd, io_uring": [
        ("bpf", "0, 0, 0"), ("perf_event_open", "0, 0, 0, 0, 0"), ("userfaultfd", "0"), ("io_uring_setup", "1, 0"),
        ("io_uring_enter", "3, 0, 0, 0, 0"), ("io_uring_register", "3, 0, 0, 0"), ("memfd_secret", "0"), ("fanotify_init", "0, 0"),
    ],
    "modules and kexec": [
        ("kexec_load", "0, 0, 0, 0"), ("kexec_file_load", "3, 3, 0, 0, 0"), ("init_module", "0, 0, b''"), ("finit_module", "3, b'', 0"),
        ("delete_module", "b'x', 0"), ("reboot", "0, 0, 0, 0"), ("swapon", "b'/tmp/x', 0"), ("acct", "b'/tmp/x'"), ("syslog", "3, 0, 0"),
    ],
    "file handles": [("open_by_handle_at", "-100, 0, 0"), ("name_to_handle_at", "-100, b'/', 0, 0, 0")],
    "clocks and personality": [("settimeofday", "0, 0"), ("clock_settime", "0, 0"), ("adjtimex", "0"), ("personality", "8")],
}  # fmt: skip


@pytest.mark.parametrize("theme", CALLS)
def test_calls_that_no_function_needs(siege: Siege, theme: str) -> None:
    denied(siege, "result = [" + ", ".join(f"sc({number(name)}, {arguments})" for name, arguments in CALLS[theme]) + "]", "EPERM")


def test_new_user_namespaces_by_clone(siege: Siege) -> None:
    call = 56 if os.uname().machine == "x86_64" else 220
    denied(siege, f"result = [sc({call}, flag | 17, 0, 0, 0, 0) for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000)]", "EPERM")
    denied(siege, "result = sc(435, 0, 0)", "ENOSYS")


def test_children_of_the_zygote(siege: Siege) -> None:
    """It would have to reap them, by processor time that counts as nobody's."""
    call = 56 if os.uname().machine == "x86_64" else 220
    denied(siege, f"result = [sc({call}, 0x8000 | 17, 0, 0, 0, 0)]", "EPERM")


def test_device_nodes(siege: Siege) -> None:
    source = "result = [attempt(os.mknod, '/tmp/' + n, mode, os.makedev(*dev)) for n, mode, dev in (('mem', 0o20666, (1, 1)), ('disk', 0o60666, (8, 0)), ('kvm', 0o20666, (10, 232)))]"
    denied(siege, source, "EPERM")


def test_setuid_programs_give_nothing(siege: Siege) -> None:
    source = """
found = [p for d in ('/usr/bin', '/bin', '/usr/sbin', '/usr/lib') for p in glob.glob(d + '/*') if os.path.isfile(p) and os.stat(p).st_mode & 0o6000]
os.makedirs('/tmp/b', exist_ok=True)
own = '/tmp/b/python'
with open(sys.executable if os.path.exists(sys.executable) else os.readlink('/proc/self/exe'), 'rb') as f, open(own, 'wb') as g: g.write(f.read())
os.chmod(own, 0o6755)
before = (os.getuid(), os.geteuid(), os.getgid(), os.getegid())
ids = [attempt(os.setuid, 0), attempt(os.setgid, 0), attempt(os.setresuid, 0, 0, 0), attempt(os.setgroups, [0])]
seen = [subprocess.run(['/bin/sh', '-c', 'id -u; id -ru; grep NoNewPrivs /proc/self/status'], capture_output=True, text=True).stdout.split()]
for p in found[:8]:
    r = subprocess.run([p, '--version'], stdin=subprocess.DEVNULL, capture_output=True, timeout=5) if not p.endswith('fusermount3') else None
os.unlink(own)
result = [ids, seen, before == (os.getuid(), os.geteuid(), os.getgid(), os.getegid())]
"""
    done = siege.attack(source)
    ids, seen, same = done.result
    assert set(ids) <= {"EPERM", "EINVAL"}, "EINVAL: there is no such user here"
    assert seen == [["993", "993", "NoNewPrivs:", "1"]]
    assert same


def test_socket_families(siege: Siege) -> None:
    """Packet, vsock (which reaches a virtual machine's host), crypto, key, Bluetooth, TIPC, XDP."""
    families = (17, 40, 38, 15, 31, 30, 44)
    denied(siege, f"result = [attempt(socket.socket, f, t) for f in {families} for t in (1, 2, 3)]", "EAFNOSUPPORT")
    # The kernel makes the sockets of a pair before it finds that the family has none.
    denied(siege, f"result = [attempt(socket.socketpair, f, t) for f in {(*families, 2, 10, 16)} for t in (1, 2, 3)]", "EAFNOSUPPORT")


def test_protocols_that_the_kernel_would_load_a_module_for(siege: Siege) -> None:
    """DCCP, L2TP, SCTP, UDP-Lite, SMC."""
    protocols = (33, 115, 132, 136, 256)
    source = f"result = [attempt(socket.socket, f, t, p) for f in (2, 10) for t in (1, 2, 5) for p in {protocols}]"
    denied(siege, source, "EPROTONOSUPPORT")


def test_raw_sockets_and_netlink(siege: Siege) -> None:
    denied(siege, "result = [attempt(socket.socket, f, socket.SOCK_RAW, 1) for f in (socket.AF_INET, socket.AF_INET6)]", "EPERM")
    denied(siege, "result = [attempt(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, p) for p in (4, 6, 9, 12, 15, 16)]", "EAFNOSUPPORT")


def test_abstract_sockets_of_the_host(siege: Siege) -> None:
    name = f"\0lambda-engine-siege-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(name)
        service.listen()
        denied(siege, f"result = attempt(socket.socket(socket.AF_UNIX).connect, {name!r})", "ECONNREFUSED", "EPERM")


def test_services_on_the_hosts_loopback(siege: Siege) -> None:
    """Also the engine's own port by its number; the AWS endpoint is the one address that answers."""
    engine_port = int(siege.engine.url.rsplit(":", 1)[1])
    with socket.create_server(("127.0.0.1", 0)) as service:
        port = service.getsockname()[1]
        source = f"result = [attempt(socket.create_connection, ('127.0.0.1', p), 2) for p in ({port}, {engine_port}) if p != 4566]"
        denied(siege, source, "ECONNREFUSED")


def test_terminal_injection(siege: Siege) -> None:
    huge = "libc.shmget(1, 2 << 20, 0o5600), libc.memfd_create(b'x', 4), attempt(mmap.mmap, -1, 2 << 20, 0x40022)"
    assert siege.attack(f"result = [{huge}]").result == [-1, -1, "EINVAL"]
    denied(siege, "import fcntl\nresult = [attempt(fcntl.ioctl, 0, r, b'x') for r in (0x5412, 0x541C)]", "EPERM")


def test_what_is_deployed_cannot_be_changed(siege: Siege) -> None:
    source = """
result = []
for p in ('/var/task', '/opt', '/var/runtime', '/etc', '/usr', ''):
    result += [attempt(open, p + '/x', 'w'), attempt(os.mkdir, p + '/y'), attempt(os.symlink, '/etc', p + '/z'), attempt(os.chmod, p or '/', 0o777), attempt(os.rename, p or '/', p + '.old')]
p = '/var/task'
result += [attempt(open, p + '/m.py', 'a'), attempt(os.unlink, p + '/m.py'), attempt(os.link, p + '/m.py', '/tmp/m.py'), attempt(os.utime, p + '/m.py')]
"""
    denied(siege, source, "EROFS", "EACCES", "EPERM", "EXDEV", "EBUSY", "ENOENT")


def test_kernel_settings(siege: Siege) -> None:
    paths = ["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/overcommit_memory", "/proc/sysrq-trigger", "/proc/self/oom_score_adj", "/proc/self/uid_map", "/proc/self/setgroups", "/proc/self/attr/current"]
    source = f"""
def put(p):
    with open(p, 'r+') as f: f.write('1')
result = [attempt(put, p) for p in {paths!r}]
"""
    denied(siege, source, "EACCES", "EPERM", "EROFS", "ENOENT", "EINVAL")


def test_priority_and_affinity_are_no_way_out(siege: Siege) -> None:
    source = """
low = attempt(os.setpriority, os.PRIO_PROCESS, 0, -20)
rt = attempt(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(50))
result = [low, rt, attempt(resource.setrlimit, resource.RLIMIT_NOFILE, (4096, 4096)), attempt(resource.prlimit, 1, resource.RLIMIT_NOFILE, (10, 10))]
"""
    denied(siege, source, "EACCES", "EPERM", "ValueError")


def test_a_core_for_itself_and_pages_shared_with_others(siege: Siege) -> None:
    """As where the kernel has neither."""
    prctl, madvise = (157, 28) if os.uname().machine == "x86_64" else (167, 233)
    source = f"""
m = mmap.mmap(-1, 8192)
at = ctypes.addressof(ctypes.c_char.from_buffer(m))
result = [sc({prctl}, 62, n, 0, 0, 0) for n in (0, 1, 2)] + [sc({madvise}, at, 8192, 12)]
done = sc({madvise}, at, 8192, 4)
assert done == 'DONE', done
"""
    denied(siege, source, "EINVAL")


def test_kernel_memory_that_nobody_counts_and_tables_that_all_share(siege: Siege) -> None:
    """Asynchronous I/O of which the whole host has 65,536; policies of memory that stay in files; huge pages set aside for somebody; keys, labels, groups and filters of sockets; locks
    of open files, and descriptors in common with processes, by which locks outlive whoever took them.
    """
    clone = 56 if os.uname().machine == "x86_64" else 220
    calls = [("io_setup", "100, 0"), ("mbind", "0, 4096, 1, 0, 0, 0"), ("set_mempolicy", "1, 0, 0"), ("set_mempolicy_home_node", "0, 0, 0, 0")]
    refused = ", ".join(f"sc({number(name)}, {arguments})" for name, arguments in calls)
    denied(siege, f"result = [{refused}, sc({clone}, 0x400 | 17, 0, 0, 0, 0)]", "EPERM")
    options = {(0, 1): "(26, 50, 51, 52)", (0, 0): "(35, 39, 42, 46)", (1, 41): "(20, 27, 32, 42, 46)", (0, 6): "(14, 32, 38)"}
    # A host without IPv6 has the other kind of socket only, of which the filter knows nothing either.
    second = "AF_INET6" if os.path.exists("/proc/sys/net/ipv6") else "AF_INET"
    source = f"socks = [socket.create_server(('127.0.0.1', 0)), socket.socket(socket.{second})]\nresult = []\n"
    source += "".join(f"result += [attempt(socks[{which}].setsockopt, {level}, o, bytes(216)) for o in {names}]\n" for (which, level), names in options.items())
    denied(siege, source, "ENOPROTOOPT")
    denied(siege, "import fcntl\nresult = [attempt(fcntl.fcntl, open('/tmp/x', 'w'), c, bytes(32)) for c in (37, 38)]", "EINVAL")


def test_filters_that_the_kernel_compiles(siege: Siege) -> None:
    """It has room for so many of them in all; with none left, no sandbox would get its own."""
    prctl, seccomp = (157, 317) if os.uname().machine == "x86_64" else (167, 277)
    denied(siege, f"result = [sc({prctl}, 22, 2, 0, 0, 0), sc({seccomp}, 1, 0, 0)]", "EINVAL")


def test_identity_of_the_host_is_not_shown(siege: Siege) -> None:
    """What may be seen of the host: its kernel version and the paths of mounts (docs/security.md), not its name or its users."""
    done = siege.attack("result = [socket.gethostname(), [l.split(':')[0] for l in open('/etc/passwd')], os.environ.get('HOME'), os.path.exists('/etc/machine-id')]")
    name, users, _, machine = done.result
    assert name != socket.gethostname()
    assert users == ["root", "sbx_user1051"]
    assert machine is False
