"""Packets with descriptors, and the peer that never blocks."""

from __future__ import annotations

import contextlib
import os
import resource
import socket

import pytest

from engine.sandbox import packets
from engine.sandbox.peers import Loop, Peer


@pytest.fixture
def ends():
    ours, theirs = packets.pair()
    with ours, theirs:
        yield ours, theirs


class Lent:
    """A descriptor to be sent, and whether nobody has it any more: counting all of the process's would count what other tests have left at work."""

    def __init__(self):
        self._read_end, self.fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def is_back(self):
        """Once; it is closed here too."""
        os.close(self.fd)
        self.fd = -1
        try:
            return os.read(self._read_end, 1) == b""
        except BlockingIOError:
            return False

    def close(self):
        for fd in (self._read_end, self.fd):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def lent():
    one = Lent()
    yield one
    one.close()


def test_a_packet_arrives_whole_with_its_descriptors(ends):
    ours, theirs = ends
    read_end, write_end = os.pipe()
    packets.send(ours, ["make", 7, {"path": "/a\udc80"}], [write_end])
    os.close(write_end)
    packet = packets.receive(theirs)
    assert (packet.kind, packet.args, packet.pid) == ("make", [7, {"path": "/a\udc80"}], 0)
    os.write(packet.fds[0], b"x")
    packet.close()
    assert os.read(read_end, 2) == b"x"
    assert os.read(read_end, 2) == b""
    os.close(read_end)


def test_the_kernel_names_the_sender(ends):
    ours, theirs = ends
    packets.want_credentials(theirs)
    packets.send(ours, ["worker"])
    assert packets.receive(theirs).pid == os.getpid()


def test_the_end_is_none(ends):
    ours, theirs = ends
    ours.close()
    assert packets.receive(theirs) is None


@pytest.mark.parametrize("data", [b"x", b"{}", b"[]", b"[1]", b'"a"', b"\xff", b"[" * 5000, b'["a"'])
def test_anything_else_is_refused_and_its_descriptors_closed(ends, lent, data):
    ours, theirs = ends
    packets.send_raw(ours, data, [lent.fd, lent.fd])
    with pytest.raises(packets.PacketError):
        packets.receive(theirs)
    assert lent.is_back()


def test_too_many_descriptors_are_refused_and_closed(ends, lent):
    ours, theirs = ends
    packets.send(ours, ["a"], [lent.fd] * (packets.MAX_FDS + 20))
    with pytest.raises(packets.PacketError, match="cut"):
        packets.receive(theirs)
    assert lent.is_back()


def test_too_big_a_packet_is_our_own_mistake():
    with pytest.raises(ValueError, match="over"):
        packets.encode(["x" * packets.MAX_PACKET])


@pytest.fixture
def loop():
    made = Loop()
    yield made
    made.close()


def test_a_full_peer_queues_and_keeps_order(ends, loop):
    ours, theirs = ends
    peer = Peer(loop, ours, lambda _packet: None, lambda _reason: None)
    theirs.setblocking(False)
    for n in range(3000):
        peer.send(["n", n], [0] if n % 100 == 0 else [])
    seen: list[int] = []
    while len(seen) < 3000:
        loop.turn(0)
        try:
            packet = packets.receive(theirs)
        except BlockingIOError:
            continue
        seen.append(packet.args[0])
        assert len(packet.fds) == (packet.args[0] % 100 == 0)
        packet.close()
    assert seen == list(range(3000))
    peer.close()


def test_a_peer_with_a_queue_gives_its_descriptors_back_when_lost(ends, loop, lent):
    ours, theirs = ends
    lost: list[str] = []
    peer = Peer(loop, ours, lambda _packet: None, lost.append)
    for n in range(3000):
        peer.send(["n", n], [lent.fd])
    theirs.close()
    while not lost:
        loop.turn(1)
    assert peer.closed
    assert len(lost) == 1
    assert lent.is_back()
    peer.send(["ignored"])


def test_a_peer_that_talks_nonsense_is_lost(ends, loop):
    ours, theirs = ends
    lost: list[str] = []
    Peer(loop, ours, lambda _packet: None, lost.append)
    theirs.send(b"nonsense")
    loop.turn(1)
    assert "not a packet" in lost[0]


def test_descriptors_nobody_takes_are_closed(ends, loop, lent):
    ours, theirs = ends
    seen = []
    peer = Peer(loop, ours, lambda packet: seen.append(packet.kind), lambda _reason: None)
    packets.send(theirs, ["gift"], [lent.fd, lent.fd])
    loop.turn(1)
    assert seen == ["gift"]
    assert lent.is_back()
    peer.close()


def test_timers_run_in_order(loop):
    seen = []
    loop.later(0.002, lambda: seen.append(2))
    loop.later(0.0, lambda: seen.append(1))
    while len(seen) < 2:
        loop.turn(1)
    assert seen == [1, 2]


def test_a_socket_is_not_needed_after_close(ends, loop):
    ours, _ = ends
    peer = Peer(loop, ours, lambda _packet: None, lambda _reason: None)
    peer.close()
    peer.close()
    peer.drain()
    assert ours.fileno() == -1
    assert isinstance(ours, socket.socket)


def test_the_last_words_of_a_peer_that_read_nothing_are_heard(ends):
    ours, theirs = ends
    loop, heard = Loop(), []
    peer = Peer(loop, ours, lambda packet: heard.append(packet.kind), lambda reason: heard.append(f"lost: {reason}"))
    peer.send(["unread"])
    packets.send(theirs, ["failed"])
    theirs.close()
    peer.send(["too late"])
    for _ in range(4):
        loop.turn(0.5)
    assert heard == ["failed", "lost: closed"]
    loop.close()


@contextlib.contextmanager
def room_for(more):
    """This process may have so many descriptors more."""
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("room", [0, 1])
def test_descriptors_that_there_is_no_room_for_are_lost_and_the_words_are_not(ends, lent, room):
    ours, theirs = ends
    packets.send(ours, ["made", 7], [lent.fd, lent.fd])
    with room_for(room), pytest.raises(packets.Cut) as cut:
        packets.receive(theirs)
    assert cut.value.packet == packets.Packet("made", [7], [], 0)
    assert lent.is_back()


def test_a_peer_at_the_limit_hands_over_the_words_and_goes_on(ends, loop, lent):
    ours, theirs = ends
    heard: list[tuple[str, int]] = []
    lost: list[str] = []
    peer = Peer(loop, theirs, lambda p: heard.append((p.kind, len(p.fds))), lost.append, lambda p: heard.append((p.kind, -1)))
    packets.send(ours, ["first"], [lent.fd])
    packets.send(ours, ["second"], [lent.fd])
    with room_for(0):
        loop.turn(1)
    loop.turn(1)
    assert (heard, lost) == ([("first", -1), ("second", 1)], [])
    peer.close()
    assert lent.is_back()


def test_a_peer_that_nobody_told_what_to_do_then_is_lost(ends, loop, lent):
    ours, theirs = ends
    lost: list[str] = []
    Peer(loop, theirs, lambda _packet: None, lost.append)
    packets.send(ours, ["made"], [lent.fd])
    with room_for(0):
        loop.turn(1)
    assert "no more descriptors" in lost[0]
    assert lent.is_back()


def test_a_full_peer_that_cannot_keep_copies_says_so_and_keeps_none(ends, loop, lent):
    ours, theirs = ends
    peer = Peer(loop, ours, lambda _packet: None, lambda _reason: None)
    theirs.setblocking(False)
    n = 0
    while not peer._queue:
        peer.send(["n", n])
        n += 1
    with room_for(1), pytest.raises(OSError, match="Too many open files"):
        peer.send(["never"], [lent.fd, lent.fd])
    peer.send(["last"], [lent.fd])
    said: list[str] = []
    while said[-1:] != ["last"]:
        loop.turn(0)
        with contextlib.suppress(BlockingIOError):
            packet = packets.receive(theirs)
            said.append(packet.kind)
            packet.close()
    assert "never" not in said
    peer.close()
    assert lent.is_back()
