"""Provisioned concurrency in a real engine: what the API says, what the function sees from inside, what a restart keeps."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.framework.control import refused
from tests.framework.engine import Engine, zip_of
from tests.framework.frame_server import until

SOURCE = """
import json, os, time, urllib.request, uuid
ME = uuid.uuid4().hex
def f(event, context):
    # Runs until its function has the tag "go": held without guessing how long anything takes.
    arn = ":".join(context.invoked_function_arn.split(":")[:7])
    url = os.environ["AWS_ENDPOINT_URL"] + "/2017-03-31/tags/" + arn.replace(":", "%3A")
    while event["hold"] and "go" not in json.load(urllib.request.urlopen(url))["Tags"]:
        time.sleep(0.02)
    return [os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"], ME, context.function_version]
"""
ALLOCATED = ("RequestedProvisionedConcurrentExecutions", "AllocatedProvisionedConcurrentExecutions", "AvailableProvisionedConcurrentExecutions")


def config(client: Any, name: str, qualifier: str) -> tuple[str, list[int]]:
    answer = client.get_provisioned_concurrency_config(FunctionName=name, Qualifier=qualifier)
    return answer["Status"], [answer[member] for member in ALLOCATED]


def wait_ready(client: Any, name: str, qualifier: str) -> None:
    until(lambda: config(client, name, qualifier)[0] == "READY", 60)


def invoke(client: Any, name: str, qualifier: str, hold: bool = False) -> list[str]:
    payload = json.dumps({"hold": hold})
    return list(json.loads(client.invoke(FunctionName=name, Qualifier=qualifier, Payload=payload)["Payload"].read()))


def test_an_alias_never_goes_cold_below_its_capacity_and_spills_over_above(shared: Engine) -> None:
    client = shared.client()
    shared.deploy("pc", {"m.py": SOURCE}, Publish=True, Timeout=100)
    client.create_alias(FunctionName="pc", Name="live", FunctionVersion="1")
    put = client.put_provisioned_concurrency_config(FunctionName="pc", Qualifier="live", ProvisionedConcurrentExecutions=2)
    assert put["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert (put["Status"], [put[name] for name in ALLOCATED]) == ("IN_PROGRESS", [2, 0, 0])
    wait_ready(client, "pc", "live")
    assert config(client, "pc", "live") == ("READY", [2, 2, 2])
    shown = client.list_provisioned_concurrency_configs(FunctionName="pc")["ProvisionedConcurrencyConfigs"]
    assert [s["FunctionArn"].rsplit(":", 1)[1] for s in shown] == ["live"]

    assert {invoke(client, "pc", "live")[0] for _ in range(5)} == {"provisioned-concurrency"}
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(invoke, client, "pc", "live", True) for _ in range(4)]
        try:
            # Each in its own instance: one that still waits for its own would take whichever is free first.
            until(lambda: [i["state"] for i in shared.state()["instances"] if i["function"] == "pc"].count("busy") == 4, 60)
        finally:
            client.tag_resource(Resource="arn:aws:lambda:us-east-1:000000000000:function:pc", Tags={"go": ""})
        seen = [f.result() for f in running]
    assert sorted(kind for kind, _, _ in seen) == ["on-demand"] * 2 + ["provisioned-concurrency"] * 2
    text = shared.get("/metrics")[1].decode()
    assert 'lambda_engine_provisioned_concurrency_invocations_total{function="pc",kind="provisioned"} 7.0' in text
    assert 'lambda_engine_provisioned_concurrency_invocations_total{function="pc",kind="spillover"} 2.0' in text
    assert 'lambda_engine_provisioned_concurrency{function="pc",qualifier="live",state="available"} 2.0' in text

    client.update_function_code(FunctionName="pc", ZipFile=zip_of({"m.py": SOURCE + "# 2\n"}), Publish=True)
    client.update_alias(FunctionName="pc", Name="live", FunctionVersion="2")
    until(lambda: invoke(client, "pc", "live")[2] == "2", 60)
    assert invoke(client, "pc", "live")[0] == "provisioned-concurrency"
    assert config(client, "pc", "live") == ("READY", [2, 2, 2])

    client.delete_provisioned_concurrency_config(FunctionName="pc", Qualifier="live")
    until(lambda: not any(i["kind"] != "on-demand" for i in shared.state()["instances"] if i["function"] == "pc"), 60)
    assert refused(client.get_provisioned_concurrency_config, FunctionName="pc", Qualifier="live") == (
        404,
        "ProvisionedConcurrencyConfigNotFoundException",
        "No Provisioned Concurrency Config found for this function",
    )


def test_init_that_fails_is_said(shared: Engine) -> None:
    client = shared.client()
    shared.deploy("pc-bad", {"m.py": "raise RuntimeError('no')\n"}, Publish=True)
    client.put_provisioned_concurrency_config(FunctionName="pc-bad", Qualifier="1", ProvisionedConcurrentExecutions=1)
    until(lambda: config(client, "pc-bad", "1")[0] == "FAILED", 60)
    answer = client.get_provisioned_concurrency_config(FunctionName="pc-bad", Qualifier="1")
    assert answer["StatusReason"] == "FUNCTION_ERROR_INIT_FAILURE"
    assert answer["AllocatedProvisionedConcurrentExecutions"] == 0
    client.delete_provisioned_concurrency_config(FunctionName="pc-bad", Qualifier="1")


@pytest.fixture(scope="module")
def published(shared: Engine) -> Any:
    """A function with two versions and an alias to the first; the client."""
    client = shared.client(config={"parameter_validation": False})
    shared.deploy("pc-rules", {"m.py": SOURCE}, Publish=True)
    client.update_function_code(FunctionName="pc-rules", ZipFile=zip_of({"m.py": SOURCE + "# 2\n"}), Publish=True)
    client.create_alias(FunctionName="pc-rules", Name="a", FunctionVersion="1")
    client.create_alias(FunctionName="pc-rules", Name="split", FunctionVersion="1", RoutingConfig={"AdditionalVersionWeights": {"2": 0.5}})
    client.create_alias(FunctionName="pc-rules", Name="latest", FunctionVersion="$LATEST")
    return client


BAD = "InvalidParameterValueException"


@pytest.mark.parametrize(
    ("qualifier", "number", "expected"),
    [
        ("$LATEST", 1, (400, BAD, "Provisioned Concurrency Configs cannot be applied to unpublished function versions.")),
        ("latest", 1, (400, BAD, "Provisioned Concurrency Configs cannot be applied to unpublished function versions.")),
        ("split", 1, (400, BAD, "Alias with weights can not be used with Provisioned Concurrency")),
        ("9", 1, (404, "ResourceNotFoundException", "Function not found: arn:aws:lambda:us-east-1:000000000000:function:pc-rules:9")),
        ("nope", 1, (404, "ResourceNotFoundException", "Cannot find alias arn: arn:aws:lambda:us-east-1:000000000000:function:pc-rules:nope")),
        ("1", 1001, (400, BAD, "Specified ConcurrentExecutions for function is greater than account's unreserved concurrency [1000].")),
        (
            "1",
            901,
            (
                400,
                BAD,
                "Specified ConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its minimum value of [100].",
            ),
        ),
        (
            "1",
            0,
            (
                400,
                "ValidationException",
                "1 validation error detected: Value '0' at 'provisionedConcurrentExecutions' failed to satisfy constraint: "
                "Member must have value greater than or equal to 1",
            ),
        ),
    ],
)
def test_what_cannot_be_provisioned(published: Any, qualifier: str, number: int, expected: tuple[int, str, str]) -> None:
    put = published.put_provisioned_concurrency_config
    assert refused(put, FunctionName="pc-rules", Qualifier=qualifier, ProvisionedConcurrentExecutions=number) == expected


def test_conflicts_between_versions_aliases_and_reservations(published: Any) -> None:
    put = published.put_provisioned_concurrency_config
    rules = {"FunctionName": "pc-rules"}
    published.put_function_concurrency(**rules, ReservedConcurrentExecutions=2)
    assert refused(put, **rules, Qualifier="1", ProvisionedConcurrentExecutions=3)[2] == (
        "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function"
    )
    put(**rules, Qualifier="1", ProvisionedConcurrentExecutions=2)
    assert refused(published.put_function_concurrency, **rules, ReservedConcurrentExecutions=1)[2] == (
        " ReservedConcurrentExecutions  1 should not be lower than function's total provisioned concurrency [2]."
    )
    with pytest.raises(ClientError) as untyped:
        published.put_function_concurrency(**rules, ReservedConcurrentExecutions=1)
    assert "Type" not in untyped.value.response
    assert refused(put, **rules, Qualifier="a", ProvisionedConcurrentExecutions=1)[1:] == (
        "ResourceConflictException",
        "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version",
    )
    assert refused(put, **rules, Qualifier="2", ProvisionedConcurrentExecutions=1)[1] == BAD
    published.delete_function_concurrency(**rules)
    assert published.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"] == 998
    published.delete_provisioned_concurrency_config(**rules, Qualifier="1")
    published.delete_provisioned_concurrency_config(**rules, Qualifier="1")
    put(**rules, Qualifier="a", ProvisionedConcurrentExecutions=1)
    assert refused(put, **rules, Qualifier="1", ProvisionedConcurrentExecutions=1)[1:] == (
        "ResourceConflictException",
        "Version is pointed by a Provisioned Concurrency alias",
    )
    assert refused(published.update_alias, **rules, Name="a", FunctionVersion="$LATEST")[1] == BAD
    twice = "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version"
    published.create_alias(**rules, Name="b", FunctionVersion="1")
    assert refused(put, **rules, Qualifier="b", ProvisionedConcurrentExecutions=1)[1:] == ("ResourceConflictException", twice)
    published.update_alias(**rules, Name="b", FunctionVersion="2")
    put(**rules, Qualifier="b", ProvisionedConcurrentExecutions=1)
    assert refused(published.update_alias, **rules, Name="b", FunctionVersion="1")[1:] == ("ResourceConflictException", twice)
    weights = {"AdditionalVersionWeights": {"1": 0.5}}
    assert refused(published.update_alias, **rules, Name="b", RoutingConfig=weights)[1:] == ("ResourceConflictException", twice)
    published.delete_alias(**rules, Name="b")
    published.delete_alias(**rules, Name="a")
    assert published.list_provisioned_concurrency_configs(**rules)["ProvisionedConcurrencyConfigs"] == []
    for call in (published.get_provisioned_concurrency_config, published.delete_provisioned_concurrency_config):
        assert refused(call, **rules, Qualifier="$LATEST") == (
            400,
            BAD,
            "The function resource provided must be an alias or a published version.",
        )
    assert refused(published.list_provisioned_concurrency_configs, FunctionName="pc-none")[0] == 404


@pytest.mark.slow
def test_a_restart_brings_them_back_before_it_is_ready(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "data")
    engine.start()
    try:
        client = engine.client()
        engine.deploy("kept", {"m.py": "import time\ntime.sleep(1)\n" + SOURCE}, Publish=True)
        client.put_provisioned_concurrency_config(FunctionName="kept", Qualifier="1", ProvisionedConcurrentExecutions=3)
        wait_ready(client, "kept", "1")
        engine.stop()
        engine.start()
        client = engine.client()
        assert config(client, "kept", "1") == ("READY", [3, 3, 3])
        assert invoke(client, "kept", "1")[0] == "provisioned-concurrency"
    finally:
        engine.stop()
