"""What the processes of a sandbox use together, for where no control group adds it up.

A limit of each process's own memory (``RLIMIT_DATA``) says nothing of its children's, nor of what it shares with them or keeps in files of memory
(``memfd``): one function could fill the host. So it is added up every second. Nearly always the pages that are resident are fewer than
the limit, and that is that; only where they are more is it asked what of them is whose, which takes the kernel a walk through the page tables.

The sum is never more than what is used: pages are counted in parts by how many have them, what is mapped of /tmp is left out, of many
processes only the biggest are asked, and shared memory that nobody has mapped nor open is not seen.
"""

from __future__ import annotations

import contextlib
import os

_PAGE = os.sysconf("SC_PAGE_SIZE")
# Of one sandbox, at a time.
_PROCESSES, _DESCRIPTORS = 64, 4096


def over(init_pid: int, limit: int) -> bool:
    """Whether the sandbox of this init uses more than ``limit`` bytes. Raises OSError when it is gone."""
    root = f"/proc/{init_pid}/root"
    residents = _residents(f"{root}/proc")
    kept = _in_memory_files(f"{root}/proc", list(residents))
    if sum(residents.values()) + kept <= limit:
        return False
    own = shared = 0
    for pid in sorted(residents, key=lambda pid: -residents[pid])[:_PROCESSES]:
        one, other = _parts(f"{root}/proc/{pid}/smaps_rollup")
        own, shared = own + one, shared + other
    files = os.statvfs(f"{root}/tmp")
    in_tmp = (files.f_blocks - files.f_bfree) * files.f_frsize
    return own + max(shared - in_tmp, kept) > limit


def _residents(proc: str) -> dict[str, int]:
    """Resident bytes of each process but the init."""
    found = {}
    for pid in os.listdir(proc):
        if pid.isdigit() and pid != "1":
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"{proc}/{pid}/statm", "rb") as f:
                found[pid] = int(f.read().split()[1]) * _PAGE
    return found


def _in_memory_files(proc: str, pids: list[str]) -> int:
    """Bytes of open files that are in memory and nowhere else."""
    sizes: dict[int, int] = {}
    left = _DESCRIPTORS
    for pid in pids:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"{proc}/{pid}/fd"):
                left -= 1
                if left < 0:
                    return sum(sizes.values())
                with contextlib.suppress(OSError):
                    place = f"{proc}/{pid}/fd/{name}"
                    # By their names: to ask of any other, of a file system that does not answer for one, could take for ever.
                    if os.readlink(place).startswith("/memfd:"):
                        file = os.stat(place)
                        sizes[file.st_ino] = file.st_blocks * 512
    return sum(sizes.values())


def _parts(path: str) -> tuple[int, int]:
    """A process's parts of its own memory and of shared memory, in bytes."""
    found = {b"Pss_Anon:": 0, b"Pss_Shmem:": 0}
    with contextlib.suppress(OSError), open(path, "rb") as f:
        for line in f:
            fields = line.split()
            if fields[0] in found:
                found[fields[0]] = int(fields[1]) << 10
    return found[b"Pss_Anon:"], found[b"Pss_Shmem:"]
