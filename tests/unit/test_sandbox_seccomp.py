"""The filter, judged by running its instructions as the kernel would."""

from __future__ import annotations

import struct

import pytest

from engine.sandbox import seccomp

ALLOW, KILL, EPERM, ENOSYS, EPROTONOSUPPORT, EAFNOSUPPORT = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026, 0x0005005D, 0x00050061
EINVAL, ENOPROTOOPT = 0x00050016, 0x0005005C
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = list(ARCH)


def verdict(machine: str, number: int, *args: int, arch: int | None = None, may_enter: bool = False) -> int:
    """Run the program over a ``struct seccomp_data``."""
    data = struct.pack("iIQ6Q", number, ARCH[machine] if arch is None else arch, 0, *(*args, 0, 0, 0, 0, 0, 0)[:6])
    program = seccomp.program(machine, may_enter=may_enter)
    at, accumulator = 0, 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("HBBI", program, at * 8)
        at += 1
        if code == 0x06:
            return value
        if code == 0x20:
            accumulator = struct.unpack_from("I", data, value)[0]
            continue
        hit = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
        at += if_true if hit else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_every_number_gets_the_verdict_of_the_lists(machine):
    refused = set(seccomp.refused(machine))
    checked = {"x86_64": {56, 41, 16, 302, 53, 157, 28, 72, 54, 317}, "aarch64": {220, 198, 29, 261, 199, 167, 233, 25, 208, 277}}[machine]
    for number in range(600):
        if number in checked:
            continue
        expected = ENOSYS if number > 462 or number == 435 else EPERM if number in refused else ALLOW
        assert verdict(machine, number) == expected, number


@pytest.mark.parametrize("machine", MACHINES)
def test_other_conventions_are_killed(machine):
    assert verdict(machine, 0, arch=0x40000003) == KILL
    if machine == "x86_64":
        assert verdict(machine, 0x40000000) == KILL
        assert verdict(machine, 0x40000000 | 101) == KILL


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("flag", [0x00008000, 0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000])
def test_clone_makes_children_but_no_siblings_and_no_namespaces(machine, flag):
    clone = {"x86_64": 56, "aarch64": 220}[machine]
    assert verdict(machine, clone, 17) == ALLOW
    assert verdict(machine, clone, 0x3D0F00) == ALLOW  # a thread, as glibc asks
    assert verdict(machine, clone, 17 | flag) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_only_threads_have_descriptors_in_common(machine):
    clone = {"x86_64": 56, "aarch64": 220}[machine]
    assert verdict(machine, clone, 0x400 | 17) == EPERM
    assert {verdict(machine, clone, flags) for flags in (0x4100 | 17, 0x10D00, 0x10500)} == {ALLOW}


@pytest.mark.parametrize("machine", MACHINES)
def test_socket_families(machine):
    socket = {"x86_64": 41, "aarch64": 198}[machine]
    assert [verdict(machine, socket, family, 1, 0) for family in (1, 2, 10)] == [ALLOW] * 3
    assert verdict(machine, socket, 16, 3, 0) == ALLOW
    assert verdict(machine, socket, 16, 3, 12) == EAFNOSUPPORT
    assert {verdict(machine, socket, family, 1, 0) for family in (0, 3, 17, 38, 40, 44)} == {EAFNOSUPPORT}


@pytest.mark.parametrize("machine", MACHINES)
def test_protocols_of_ip(machine):
    """What is none of them could be a module that the kernel loads for whoever asks."""
    socket = {"x86_64": 41, "aarch64": 198}[machine]
    for family in (2, 10):
        assert {verdict(machine, socket, family, kind, number) for kind in (1, 2) for number in (0, 1, 6, 17, 58, 262)} == {ALLOW}
        assert {verdict(machine, socket, family, kind, number) for kind in (1, 2, 5) for number in (33, 115, 132, 136, 256, 255)} == {EPROTONOSUPPORT}


@pytest.mark.parametrize("machine", MACHINES)
def test_pairs_of_sockets_are_of_the_unix_family(machine):
    pair = {"x86_64": 53, "aarch64": 199}[machine]
    assert verdict(machine, pair, 1, 1, 0) == ALLOW
    assert {verdict(machine, pair, family, 1, 0) for family in (0, 2, 10, 16, 30, 40)} == {EAFNOSUPPORT}


@pytest.mark.parametrize("machine", MACHINES)
def test_terminal_injection_and_limits_of_others(machine):
    ioctl, prlimit = {"x86_64": (16, 302), "aarch64": (29, 261)}[machine]
    assert verdict(machine, ioctl, 1, 0x5412) == EPERM
    assert verdict(machine, ioctl, 1, 0x541C) == EPERM
    assert verdict(machine, ioctl, 1, 0x5401) == ALLOW
    assert verdict(machine, prlimit, 0, 7) == ALLOW
    assert verdict(machine, prlimit, 1, 7) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_no_core_for_oneself_and_no_pages_shared_with_strangers(machine):
    prctl, madvise = {"x86_64": (157, 28), "aarch64": (167, 233)}[machine]
    assert {verdict(machine, prctl, option, 1) for option in (62, 67)} == {0x00050016}
    assert verdict(machine, madvise, 0x7F0000000000, 4096, 12) == 0x00050016
    assert {verdict(machine, prctl, option) for option in (1, 4, 15, 21, 38)} == {ALLOW}
    assert {verdict(machine, madvise, 0, 4096, advice) for advice in (3, 4, 8, 14)} == {ALLOW}


@pytest.mark.parametrize("machine", MACHINES)
def test_filters_are_a_template_s_copies_to_install_and_nobody_else_s(machine):
    prctl, seccomp_call = {"x86_64": (157, 317), "aarch64": (167, 277)}[machine]
    assert [verdict(machine, prctl, 22, 2), verdict(machine, seccomp_call, 1)] == [EINVAL] * 2
    assert {verdict(machine, seccomp_call, operation) for operation in (0, 2, 3)} == {ALLOW}
    assert [verdict(machine, prctl, 22, 2, may_enter=True), verdict(machine, seccomp_call, 1, may_enter=True)] == [ALLOW] * 2


@pytest.mark.parametrize("machine", MACHINES)
def test_no_huge_pages_that_were_set_aside_for_somebody(machine):
    mmap, memfd, shmget = {"x86_64": (9, 319, 29), "aarch64": (222, 279, 194)}[machine]
    assert [verdict(machine, mmap, 0, 2 << 20, 3, 0x40022), verdict(machine, memfd, 0, 4), verdict(machine, shmget, 1, 2 << 20, 0o5600)] == [EINVAL] * 3
    assert {verdict(machine, mmap, 0, 4096, 3, 0x20022), verdict(machine, memfd, 0, 3), verdict(machine, shmget, 1, 4096, 0o1600)} == {ALLOW}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_limit_that_keeps_the_hosts_core_handler_away_stays(machine):
    setrlimit, prlimit = {"x86_64": (160, 302), "aarch64": (164, 261)}[machine]
    done = 0x00050000
    assert [verdict(machine, setrlimit, resource, 0x7F0000000000) for resource in (3, 4, 5)] == [ALLOW, done, ALLOW]
    assert [verdict(machine, prlimit, 0, 4, address, 1) for address in (0, 8, 0x7F0000000000, 1 << 32)] == [ALLOW, done, done, done]
    assert [verdict(machine, prlimit, 0, 7, 8), verdict(machine, prlimit, 1, 4, 0)] == [ALLOW, EPERM]


@pytest.mark.parametrize("machine", MACHINES)
def test_locks_are_those_of_processes(machine):
    fcntl = {"x86_64": 72, "aarch64": 25}[machine]
    assert {verdict(machine, fcntl, 5, command) for command in (37, 38)} == {EINVAL}
    assert {verdict(machine, fcntl, 5, command) for command in (0, 1, 2, 3, 4, 5, 6, 7, 36, 1030, 1031, 1033)} == {ALLOW}


@pytest.mark.parametrize("machine", MACHINES)
def test_options_of_sockets_whose_memory_nobody_counts(machine):
    setsockopt = {"x86_64": 54, "aarch64": 208}[machine]
    refused = {(1, 26), (1, 50), (1, 51), (1, 52), (0, 35), (0, 39), (0, 42), (0, 46), (41, 20), (41, 27), (41, 32), (41, 42), (41, 46), (6, 14), (6, 32), (6, 38)}
    for level in (0, 1, 6, 17, 41, 270):
        for option in range(100):
            assert verdict(machine, setsockopt, 5, level, option) == (ENOPROTOOPT if (level, option) in refused else ALLOW), (level, option)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_program_is_one_the_kernel_takes(machine):
    program = seccomp.program(machine)
    assert len(program) % 8 == 0
    assert len(program) // 8 < 4096


def test_unknown_machines_have_none():
    with pytest.raises(KeyError):
        seccomp.program("riscv64")


def test_numbers_agree_with_the_kernels_headers():
    try:
        with open("/usr/include/x86_64-linux-gnu/asm/unistd_64.h") as f:
            lines = [line.split() for line in f if line.startswith("#define __NR_")]
    except OSError:
        return
    known = {line[1].removeprefix("__NR_"): int(line[2]) for line in lines}
    ours = {name: numbers[0] for name, numbers in seccomp._REFUSED_OLD.items()} | dict(seccomp._REFUSED_NEW)
    assert {n: ours[n] for n in ours if n in known} == {n: known[n] for n in ours if n in known}
