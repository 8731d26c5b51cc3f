"""Active tracing: who is sampled, what becomes of a header, what segments say."""

from __future__ import annotations

import json

import pytest

from engine.clock import ManualClock
from engine.core.tracing import SHARE, Header, Sampler, Told, datagram, read, segments
from engine.errors import ConfigurationError
from engine.supervisor.tracer import Tracer

ROOT = "1-5759e988-bd862e3fe1be46a994272793"


def test_the_first_of_each_second_is_sampled_and_a_share_of_the_others() -> None:
    sampler = Sampler()
    assert [sampler.decide(10, 0.9), sampler.decide(10, 0.9), sampler.decide(10, SHARE / 2), sampler.decide(10, SHARE)] == [True, False, True, False]
    assert [sampler.decide(11, 0.9), sampler.decide(11, 0.9)] == [True, False]


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("", Header()),
        (f"Root={ROOT}", Header(ROOT)),
        (f"Root={ROOT};Parent=53995c3f42cd8ad8;Sampled=1", Header(ROOT, "53995c3f42cd8ad8", True)),
        (f"Self=1-x;Root={ROOT}; Sampled=0;Lineage=1:ab:2;CalledFrom=app", Header(ROOT, "", False, ("Lineage=1:ab:2", "CalledFrom=app"))),
        (f"Sampled=?;Root={ROOT};nonsense", Header(ROOT)),
    ],
)
def test_headers_are_read(text: str, header: Header) -> None:
    assert read(text) == header


def test_what_is_written_is_read() -> None:
    header = Header(ROOT, "53995c3f42cd8ad8", sampled=True, more=("Lineage=1:ab:2",))
    assert header.text() == f"Root={ROOT};Parent=53995c3f42cd8ad8;Sampled=1;Lineage=1:ab:2"
    assert read(header.text()) == header


def told(**changes: object) -> Told:
    members: dict[str, object] = {
        "header": Header(ROOT, "aaaaaaaaaaaaaaaa", sampled=True), "service_id": "bbbbbbbbbbbbbbbb", "caller_id": "", "request_id": "r", "account": "1",
        "name": "f", "function_arn": "arn", "received_s": 1.0, "started_s": 2.0, "ended_s": 3.0, "initialised_s": None, "error_type": None, **changes,
    }  # fmt: skip
    return Told(**members)  # type: ignore[arg-type]


def test_segments_of_a_warm_success_and_of_a_cold_failure() -> None:
    service, function = segments(told())
    assert (service["id"], service["origin"], "parent_id" in service, "fault" in service) == ("bbbbbbbbbbbbbbbb", "AWS::Lambda", False, False)
    assert (function["id"], function["parent_id"], function["origin"]) == ("aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb", "AWS::Lambda::Function")
    assert [s["name"] for s in function["subsegments"]] == ["Invocation"]
    service, function = segments(told(caller_id="cccccccccccccccc", initialised_s=(1.5, 2.0), error_type="ValueError"))
    assert service["parent_id"] == "cccccccccccccccc"
    assert service["fault"] is function["fault"] is True
    init, invocation = function["subsegments"]
    assert (init["name"], init["start_time"], init["end_time"]) == ("Initialization", 1.5, 2.0)
    assert invocation["cause"]["exceptions"][0]["type"] == "ValueError"
    ids = [service["id"], function["id"], init["id"], invocation["id"], invocation["cause"]["exceptions"][0]["id"]]
    assert len(set(ids)) == 5
    assert all(len(one) == 16 for one in ids)


def test_a_datagram_is_a_header_line_and_the_segment() -> None:
    head, _, body = datagram({"id": "x"}).partition(b"\n")
    assert (json.loads(head), json.loads(body)) == ({"format": "json", "version": 1}, {"id": "x"})


def test_whoever_has_decided_is_followed_and_the_others_are_sampled() -> None:
    tracer = Tracer(ManualClock(), "us-east-1", None)
    for given, sampled in ((b"", b"1"), (b"", None), (b"Root=1-a;Parent=b;Sampled=0", b"0"), (b"Root=1-a;Sampled=1", b"1")):
        made = tracer.begin(given)
        assert sampled is None or b";Sampled=" + sampled in made
        assert made.startswith(b"Root=1-a;" if b"Root" in given else b"Root=1-")
        assert b"Parent=b;" not in made
    assert len(tracer.begin(None)) == 74


def test_a_daemon_that_cannot_be_found_is_a_mistake_in_the_configuration() -> None:
    with pytest.raises(ConfigurationError, match="xray_daemon"):
        Tracer(ManualClock(), "us-east-1", "127.0.0.1:99999")
