"""Network namespaces as hosts of their own: tests send packets only between these."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Self

from engine.sandbox import kernel
from engine.sandbox.netlink import DUMP, REQUEST, Message, Netlink, attributes
from engine.sandbox.nft import NETFILTER

_numbers = itertools.count(1)
_SERVER = """
import socketserver, sys
class Greets(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(("HTTP/1.0 200 OK\\r\\n\\r\\n" + sys.argv[1] + " for " + self.client_address[0]).encode())
        self.request.recv(4096)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
server = Server(("0.0.0.0", int(sys.argv[2])), Greets)
print("listening", flush=True)
server.serve_forever()
"""


def ip(*words: str) -> str:
    """Run the ``ip`` program."""
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True, timeout=60).stdout


class Host:
    """A namespace with a name. Use as a context manager, again too; whatever runs in it ends with it."""

    def __init__(self) -> None:
        self.name = f"le-test-{os.getpid()}-{next(_numbers)}"
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        with self.inside():
            # A new namespace takes over what the first one has at the moment.
            kernel.write_file("/proc/sys/net/ipv4/ip_forward", b"0")
        return self

    def __exit__(self, *_exc: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()
        self._processes.clear()
        ip("netns", "delete", self.name)

    def ip(self, *words: str) -> str:
        """Run ``ip`` in here."""
        return ip("-n", self.name, *words)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread, and what it starts, lives in this namespace meanwhile."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        here = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            kernel.setns(here, kernel.CLONE_NEWNET)
            try:
                yield
            finally:
                kernel.setns(home, kernel.CLONE_NEWNET)
        finally:
            os.close(home)
            os.close(here)

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Run a program in here until the end."""
        process = subprocess.Popen(["ip", "netns", "exec", self.name, *argv], stdout=subprocess.PIPE, text=True)
        self._processes.append(process)
        return process

    def serve(self, greeting: str, port: int) -> None:
        """Answer HTTP on every address with the greeting and the client's address."""
        process = self.start(sys.executable, "-c", _SERVER, greeting, str(port))
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"

    def join(self, other: Host, own: str, others: str) -> None:
        """A cable to another host; the addresses with their prefix length."""
        n = next(_numbers)
        ip("-n", self.name, "link", "add", f"c{n}", "type", "veth", "peer", "name", f"c{n}", "netns", other.name)
        for host, address in ((self, own), (other, others)):
            host.ip("address", "add", address, "dev", f"c{n}")
            host.ip("link", "set", f"c{n}", "up")


def devices() -> set[str]:
    """Names of the interfaces of the namespace the test runs in."""
    with open("/proc/net/dev") as f:
        return {line.partition(":")[0].strip() for line in f if ":" in line}


def bare() -> list[str]:
    """Names of the interfaces of a new namespace that nobody has touched: the loopback, and with some kernels tunnels."""
    words = ["unshare", "-n", "cat", "/proc/net/dev"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True, timeout=110).stdout
    return [line.partition(":")[0].strip() for line in shown.splitlines() if ":" in line]


def filter_tables() -> set[str]:
    """Names of the nftables tables of the namespace the test runs in."""
    netlink = Netlink(NETFILTER)
    try:
        listing = Message("tables", 10 << 8 | 1, REQUEST | DUMP, bytes(4))
        return {dict(attributes(body[4:]))[1][:-1].decode() for body in netlink.dump(listing)}
    finally:
        netlink.close()


def settled(condition: object, what: str, deadline_s: float = 60.0) -> None:
    """Wait for what the kernel does in its own time."""
    until_s = time.monotonic() + deadline_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until_s, f"never happened: {what}"
        time.sleep(0.02)
