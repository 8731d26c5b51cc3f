"""Changes that come at the same time happen one after the other: none is lost, none is half of another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.framework.control import ControlServer
from tests.framework.engine import zip_of

AT_ONCE = 8


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    with ControlServer(tmp_path_factory.mktemp("control")) as running:
        yield running


def all_at_once(act: Callable[[Any, int], Any], control: ControlServer) -> list[Any]:
    """What each of several clients got: an answer, or the code of its error."""
    gate = threading.Barrier(AT_ONCE)
    outcomes: list[Any] = [None] * AT_ONCE
    clients = [control.client() for _ in range(AT_ONCE)]

    def one(n: int) -> None:
        gate.wait(30)
        try:
            outcomes[n] = act(clients[n], n)
        except ClientError as e:
            outcomes[n] = e.response["Error"]["Code"]

    threads = [threading.Thread(target=one, args=(n,)) for n in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes


def test_of_updates_made_on_the_same_revision_one_wins(control: ControlServer) -> None:
    control.create("revision")
    known = control.client().get_function_configuration(FunctionName="revision")["RevisionId"]
    outcomes = all_at_once(
        lambda client, n: client.update_function_configuration(FunctionName="revision", Description=str(n), RevisionId=known), control
    )
    winners = [answer for answer in outcomes if isinstance(answer, dict)]
    assert len(winners) == 1
    assert outcomes.count("PreconditionFailedException") == AT_ONCE - 1
    assert control.client().get_function_configuration(FunctionName="revision")["Description"] == winners[0]["Description"]


def test_updates_of_different_members_are_all_kept(control: ControlServer) -> None:
    control.create("members")
    changes: list[dict[str, Any]] = [
        {"Description": "d"}, {"Timeout": 77}, {"MemorySize": 333}, {"Environment": {"Variables": {"AA": "b"}}},
        {"EphemeralStorage": {"Size": 600}}, {"Handler": "x.y"}, {"LoggingConfig": {"LogFormat": "JSON"}}, {"Role": "arn:aws:iam::000000000000:role/other"},
    ]  # fmt: skip
    outcomes = all_at_once(lambda client, n: client.update_function_configuration(FunctionName="members", **changes[n]), control)
    assert all(isinstance(answer, dict) for answer in outcomes), outcomes
    final = control.client().get_function_configuration(FunctionName="members")
    for change in changes[:-2] + changes[-1:]:
        for name, value in change.items():
            assert final[name] == value
    assert final["LoggingConfig"]["LogFormat"] == "JSON"
    assert control.entry("members")["versions"]["$LATEST"]["memory_mb"] == 333


def test_each_publication_gets_a_number_of_its_own(control: ControlServer) -> None:
    control.create("published")
    answers = all_at_once(
        lambda client, n: client.update_function_code(FunctionName="published", ZipFile=zip_of({"m.py": f"def f(e, c): return {n}\n"}), Publish=True),
        control,
    )
    assert sorted(int(answer["Version"]) for answer in answers) == list(range(1, AT_ONCE + 1))
    for answer in answers:
        kept = control.client().get_function_configuration(FunctionName="published", Qualifier=answer["Version"])
        assert kept["CodeSha256"] == answer["CodeSha256"]


def test_layer_versions_and_statements_are_all_kept(control: ControlServer) -> None:
    content = zip_of({"python/l.py": ""})
    answers = all_at_once(lambda client, n: client.publish_layer_version(LayerName="l", Content={"ZipFile": content}), control)
    assert sorted(answer["Version"] for answer in answers) == list(range(1, AT_ONCE + 1))
    all_at_once(
        lambda client, n: client.add_layer_version_permission(
            LayerName="l", VersionNumber=1, StatementId=f"s{n}", Action="lambda:GetLayerVersion", Principal="*"
        ),
        control,
    )
    policy = control.client().get_layer_version_policy(LayerName="l", VersionNumber=1)["Policy"]
    assert all(f'"s{n}"' in policy for n in range(AT_ONCE))
    control.create("f")
    made = all_at_once(lambda client, n: client.create_function_url_config(FunctionName="f", AuthType="NONE"), control)
    assert made.count("ResourceConflictException") == AT_ONCE - 1
