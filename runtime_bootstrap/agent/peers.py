"""Who is at the other end of a loopback connection, where the network is shared with strangers.

A port on the host's loopback can be reached by every process of the host, and the published clients cannot send a secret with their
requests (they take the API's address apart into host and port). The kernel knows better: the connecting socket's inode is in
/proc/net/tcp, and only our own processes may hold it.
"""

from __future__ import annotations

import os
import socket


def is_ours(sock: socket.socket, pids: "list[int]") -> bool:
    """Whether the peer's end of a connection on 127.0.0.1 is held by one of ``pids``."""
    host, port = sock.getpeername()[:2]
    if host != "127.0.0.1":
        return False
    own_port = sock.getsockname()[1]
    inode = _inode("0100007F:%04X" % port, "0100007F:%04X" % own_port)
    return bool(inode) and any(_holds(pid, "socket:[%s]" % inode) for pid in pids)


def _inode(local: str, remote: str) -> str:
    with open("/proc/net/tcp") as table:
        for line in table:
            fields = line.split()
            if fields[1] == local and fields[2] == remote:
                return fields[9]
    return ""


def _holds(pid: int, name: str) -> bool:
    directory = "/proc/%d/fd" % pid
    try:
        for fd in os.listdir(directory):
            try:
                if os.readlink("%s/%s" % (directory, fd)) == name:
                    return True
            except OSError:
                continue
    except OSError:
        pass
    return False


def descendants(root: int) -> "list[int]":
    """Live descendants of a process, by parent numbers."""
    parents: "dict[int, list[int]]" = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/stat" % name, "rb") as f:
                    parents.setdefault(int(f.read().rsplit(b")", 1)[1].split()[1]), []).append(int(name))
            except (OSError, ValueError, IndexError):
                continue
    found: "list[int]" = []
    wave = [root]
    while wave:
        wave = [child for pid in wave for child in parents.get(pid, ())]
        found += wave
    return found
