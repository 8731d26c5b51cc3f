"""A broker, and a supervisor, at the limit of file descriptors: what cannot be made is refused, the rest goes on, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Iterator

import pytest

from engine.sandbox.api import NO_ROOM, SpecialiseSpec
from tests.sandbox.rig import Box, Rig, until

pytestmark = pytest.mark.root
# Looks that show the same.
_STILL = 10


def used(pid: int) -> int:
    """Descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def lowest_free(pid: int) -> int:
    """The number of the next descriptor of a process."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return next(n for n in range(len(taken) + 1) if n not in taken)


@contextlib.contextmanager
def limited(pid: int, most: int) -> Iterator[None]:
    """A process that may have no more than these."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def network_process(broker: int) -> int:
    """The child that makes networks."""
    return int(subprocess.run(["pgrep", "-P", str(broker), "-x", "lambda-network"], capture_output=True, text=True, check=True).stdout)


def refused(rig: Rig, holder_id: int) -> str:
    """Why a sandbox was not made; it is gone then."""
    _, _, step, reason = rig.wait("holder_failed", holder_id)
    rig.wait("holder_gone", holder_id)
    assert step == NO_ROOM
    return reason


def settled(rig: Rig) -> int:
    """The broker's descriptors when nothing is being made or taken apart."""
    seen: list[int] = []
    broker = rig.link.broker_pid

    def same() -> bool:
        rig.turn(0.05)
        seen.append(used(broker))
        return len(seen) > _STILL and len(set(seen[-_STILL:])) == 1

    until(same, f"as many as before: {seen[-_STILL:]}")
    return seen[-1]


def given_back(rig: Rig, before: int) -> None:
    """What ended sandboxes leave for others goes when nobody takes it."""
    until(lambda: rig.turn(0.05) or used(rig.link.broker_pid) <= before, f"no more than {before}")


@pytest.mark.parametrize("level", ["full", "user", "process"])
def test_a_broker_at_its_limit_refuses_one_after_the_other_and_goes_on_when_some_have_ended(tmp_path, level):
    with Rig(tmp_path, level) as rig:
        broker = rig.link.broker_pid
        rig.end(rig.instance())
        before = settled(rig)
        with limited(broker, before + 90):
            boxes: list[Box] = []
            while True:
                rig.link.make(rig.next_id(), rig.key)
                until(lambda: rig.turn(0.01) or [e for e in rig.events if e[1] == rig.last_id], "an answer")
                if [e for e in rig.events if e[0] == "holder_failed"]:
                    break
                _, _, fds, pid = rig.wait("holder_ready", rig.last_id)
                boxes.append(Box(rig.last_id, fds, pid))
            assert f"of {before + 90} file descriptors are in use (ulimit -n)" in refused(rig, rig.last_id)
            rig.boxes += boxes
            assert boxes, "some can be made"
            for n, box in enumerate(boxes):
                assert box.run(f"result = {n}", wait=False) == n
            # In the turn in which others end: it waits for them.
            for box in boxes[1:]:
                rig.link.kill(box.id)
            again = rig.make()
            assert again.run("result = 'new'", wait=False) == "new"
            for box in boxes[1:]:
                rig.wait("holder_gone", box.id)
                rig.boxes.remove(box)
                box.close()
            rig.end(again)
            rig.end(boxes[0])
        assert rig.link.broker_pid == broker
        assert not [e for e in rig.events if e[0] in ("broker_lost", "zygote_failed")]
        given_back(rig, before)


@pytest.mark.parametrize(("level", "room"), [("full", 0), ("user", 0), ("user", 1), ("process", 0)])
def test_a_sandbox_whose_descriptors_do_not_fit_into_the_broker_is_ended(tmp_path, level, room):
    """That of its init, and with room for one that of its endpoint."""
    with Rig(tmp_path, level) as rig:
        broker = rig.link.broker_pid
        rig.end(rig.instance())
        before = settled(rig)
        zygote = rig.link.zygote_pids[rig.key]
        with stopped(zygote):
            holder_id = rig.next_id()
            rig.link.make(holder_id, rig.key)
            until(lambda: rig.turn(0.01) or used(broker) > before, "it has been ordered")
            settled(rig)
            with limited(broker, lowest_free(broker) + room), stopped_no_more(zygote):
                assert refused(rig, holder_id) == os.strerror(24)
        assert rig.make().run("result = 1", wait=False) == 1
        rig.end(rig.boxes[-1])
        assert rig.link.broker_pid == broker
        given_back(rig, before)


@contextlib.contextmanager
def stopped_no_more(pid: int) -> Iterator[None]:
    """It goes on."""
    os.kill(pid, signal.SIGCONT)
    yield


@pytest.mark.parametrize("level", ["full", "user"])
def test_copies_that_there_is_no_room_for_are_refused_and_their_template_goes_on(tmp_path, level):
    with Rig(tmp_path, level) as rig:
        template = rig.make(template=True)
        rig.link.specialise(template.id, SpecialiseSpec(str(rig.code("copied", {}))))
        template.run("TEMPLATE = True")
        rig.link.declare_template("t", template.id)
        rig.wait("zygote_ready", "t")
        broker = rig.link.broker_pid
        rig.end(rig.make(key="t"))
        settled(rig)
        with limited(broker, lowest_free(broker) + 30):
            boxes = [rig.make(key="t")]
            while True:
                rig.link.make(rig.next_id(), "t")
                until(lambda: rig.turn(0.01) or [e for e in rig.events if e[1] == rig.last_id], "an answer")
                if [e for e in rig.events if e[0] == "holder_failed"]:
                    break
                _, _, fds, pid = rig.wait("holder_ready", rig.last_id)
                boxes.append(Box(rig.last_id, fds, pid))
                rig.boxes.append(boxes[-1])
            refused(rig, rig.last_id)
            for box in boxes:
                rig.end(box)
            assert rig.make(key="t").run("result = 5", wait=False) == 5
        assert rig.link.broker_pid == broker
        assert not [e for e in rig.events if e[0] in ("broker_lost", "zygote_failed")]


def a_template(rig: Rig) -> tuple[Box, int]:
    """One that copies can be made of, called t, and the process number of its init."""
    template = rig.make(template=True)
    rig.link.specialise(template.id, SpecialiseSpec(str(rig.code("copied", {}))))
    template.run("TEMPLATE = True")
    rig.link.declare_template("t", template.id)
    rig.wait("zygote_ready", "t")
    with open(f"/proc/{template.pid}/stat", "rb") as f:
        return template, int(f.read().rsplit(b")", 1)[1].split()[1])


@pytest.mark.parametrize("level", ["full", "user"])
def test_a_template_whose_copy_does_not_fit_into_the_broker_ends_with_it(tmp_path, level):
    """Of the copy nothing is known then that it could be ended by."""
    with Rig(tmp_path, level) as rig:
        broker = rig.link.broker_pid
        rig.end(rig.make())
        before = settled(rig)
        template, init = a_template(rig)
        ready = settled(rig)
        with stopped(init):
            copy = rig.next_id()
            rig.link.make(copy, "t")
            until(lambda: rig.turn(0.01) or used(broker) > ready, "it has been ordered")
            settled(rig)
            with limited(broker, lowest_free(broker)), stopped_no_more(init):
                for holder_id in (template.id, copy):
                    rig.wait("holder_gone", holder_id)
        rig.boxes.remove(template)
        template.close()
        rig.wait("zygote_failed", "t")
        assert rig.make().run("result = 6", wait=False) == 6
        rig.end(rig.boxes[-1])
        assert rig.link.broker_pid == broker
        given_back(rig, before)


@pytest.mark.parametrize("level", ["full", "user"])
def test_copies_that_ended_with_their_template_are_not_waited_for(tmp_path, level):
    """They were being made; what they would have taken is there for others."""
    with Rig(tmp_path, level) as rig:
        broker = rig.link.broker_pid
        rig.end(rig.make())
        before = settled(rig)
        template, init = a_template(rig)
        ready = settled(rig)
        with stopped(init):
            copies = [rig.next_id() for _ in range(8)]
            for copy in copies:
                rig.link.make(copy, "t")
            until(lambda: rig.turn(0.01) or used(broker) > ready, "they have been ordered")
            settled(rig)
            rig.link.kill(template.id)
            for holder_id in (template.id, *copies):
                rig.wait("holder_gone", holder_id)
        rig.boxes.remove(template)
        template.close()
        given_back(rig, before)
        with limited(broker, before + 90):
            assert rig.make().run("result = 7", wait=False) == 7
            rig.end(rig.boxes[-1])


def test_a_network_that_does_not_fit_into_the_broker_fails_who_waits_for_it(tmp_path):
    with Rig(tmp_path, network="isolated") as rig:
        broker = rig.link.broker_pid
        rig.end(rig.instance())
        before = settled(rig)
        network = network_process(broker)
        first = rig.last_id + 1
        with stopped(network):
            for _ in range(20):
                rig.link.make(rig.next_id(), rig.key)
            # Those that are there are taken; the next one waits.
            until(lambda: rig.turn(0.05) or len([e for e in rig.events if e[0] == "holder_ready"]) >= 8, "the stock is used up")
            settled(rig)
            with limited(broker, lowest_free(broker)), stopped_no_more(network):
                until(lambda: rig.turn(0.01) or [e for e in rig.events if e[0] == "holder_failed"], "some are refused")
        ids = range(first, rig.last_id + 1)
        until(lambda: rig.turn(0.01) or {e[1] for e in rig.events} >= set(ids), "an answer to each")
        for holder_id in ids:
            for event in [e for e in rig.events if e[:2] == ("holder_ready", holder_id)]:
                rig.events.remove(event)
                rig.boxes.append(Box(holder_id, *event[2:]))
                rig.end(rig.boxes[-1])
        rig.events.clear()
        rig.end(rig.instance())
        assert rig.link.broker_pid == broker
        given_back(rig, before)


@pytest.mark.parametrize("room", [0, 2, 6])
def test_a_supervisor_at_its_limit_takes_no_more_sandboxes_and_keeps_its_broker(tmp_path, room):
    """With less room than a sandbox brings descriptors, and with less than is kept then."""
    with Rig(tmp_path) as rig:
        broker, own = rig.link.broker_pid, os.getpid()
        box = rig.instance()
        before = used(own)
        with limited(own, lowest_free(own) + room):
            rig.link.make(rig.next_id(), rig.key)
            assert refused(rig, rig.last_id)
            assert box.run("result = 3") == 3
        assert used(own) <= before
        assert rig.make().run("result = 4", wait=False) == 4
        assert rig.link.broker_pid == broker
