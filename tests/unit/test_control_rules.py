"""What Lambda refuses, and what this engine refuses: the pure rules."""

from __future__ import annotations

from typing import Any

import pytest

from engine.control import rules
from engine.errors import (
    AccessDenied,
    CodeStorageExceeded,
    InvalidParameterValue,
    NotImplementedHere,
    PreconditionFailed,
    ValidationError,
)

INSTALLED = ("python3.9", "python3.12", "python3.10")


@pytest.mark.parametrize("runtime", INSTALLED)
def test_installed_runtimes_pass(runtime: str) -> None:
    rules.check_runtime(runtime, INSTALLED)


@pytest.mark.parametrize(
    ("runtime", "error", "text"),
    [
        ("python3.11", InvalidParameterValue, "Runtime python3.11 is not installed on this host. Installed: python3.9, python3.10, python3.12."),
        ("python3.8", InvalidParameterValue, "Runtime python3.8 is not installed"),
        ("python3.15", InvalidParameterValue, "Runtime python3.15 is not installed"),
        ("python3.7", InvalidParameterValue, "The runtime parameter of python3.7 is no longer supported for creating or updating"),
        ("provided", InvalidParameterValue, "The runtime parameter of provided is no longer supported"),
        ("dotnet8", NotImplementedHere, "does not run the runtime dotnet8 yet"),
        ("java21", InvalidParameterValue, "Runtime java21 is not installed on this host."),
        ("dotnet10", NotImplementedHere, "does not run the runtime dotnet10 yet"),
        ("ruby4.0", InvalidParameterValue, "Runtime ruby4.0 is not installed on this host"),
        ("cobol", InvalidParameterValue, "Value cobol at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: ["),
        ("", InvalidParameterValue, "or be a valid ARN"),
    ],
)
def test_other_runtimes_are_refused_in_words(runtime: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        rules.check_runtime(runtime, INSTALLED)
    assert text in str(caught.value)


def test_a_host_without_any_runtime_says_so() -> None:
    with pytest.raises(InvalidParameterValue, match=r"Installed: none\."):
        rules.check_runtime("python3.12", ())


def test_the_environment_may_hold_4096_bytes_of_json_and_no_more() -> None:
    room = 4096 - len('{"AB":""}')
    rules.check_environment({"AB": "x" * room})
    with pytest.raises(InvalidParameterValue, match=r"4KB limit\. String measured"):
        rules.check_environment({"AB": "x" * (room + 1)})
    with pytest.raises(InvalidParameterValue, match="4KB"):
        rules.check_environment({"AB": "é" * (room // 2 + 1)})


def test_reserved_variables_are_named_and_predefined_ones_may_be_set() -> None:
    rules.check_environment({"PATH": "x", "TZ": "y", "AWS_XRAY_CONTEXT_MISSING": "z", "PYTHONPATH": "p"})
    with pytest.raises(InvalidParameterValue, match=r"Reserved keys used in this request: AWS_REGION, LAMBDA_TASK_ROOT$"):
        rules.check_environment({"AWS_REGION": "x", "GOOD": "y", "LAMBDA_TASK_ROOT": "z"})


NEUTRAL: list[dict[str, Any]] = [
    {"VpcConfig": {}},
    {"DeadLetterConfig": {}},
    {"DeadLetterConfig": {"TargetArn": ""}},
    {"KMSKeyArn": ""},
    {"Layers": []},
    {"FileSystemConfigs": []},
    {"TracingConfig": {"Mode": "PassThrough"}},
    {"TracingConfig": {}},
    {"SnapStart": {"ApplyOn": "None"}},
    {"ImageConfig": {"Command": []}},
    {"CodeSigningConfigArn": ""},
]


@pytest.mark.parametrize("members", NEUTRAL)
def test_members_that_ask_for_nothing_pass(members: dict[str, Any]) -> None:
    rules.refuse_unsupported("CreateFunction", members)


@pytest.mark.parametrize(
    "members",
    [
        {"DurableConfig": {"ExecutionTimeout": 1}},
        {"CapacityProviderConfig": {"x": {}}},
        {"PublishTo": "LATEST_PUBLISHED"},
        {"SomethingNewOfNextYear": {"A": 1}},
    ],
)
def test_members_nothing_would_obey_are_named(members: dict[str, Any]) -> None:
    name = next(iter(members))
    with pytest.raises(NotImplementedHere, match=f"does not support {name} in CreateFunction"):
        rules.refuse_unsupported("CreateFunction", {"FunctionName": "f", **members})


def test_packages_are_copied_and_only_that_may_be_asked_for() -> None:
    rules.refuse_unsupported("UpdateFunctionCode", {"S3ObjectStorageMode": "COPY"})
    rules.refuse_unsupported("FunctionCode", {"S3ObjectStorageMode": "COPY"})
    with pytest.raises(NotImplementedHere, match="does not support S3ObjectStorageMode in LayerContent: layers are always copied"):
        rules.refuse_unsupported("LayerContent", {"S3ObjectStorageMode": "REFERENCE"})
    assert rules.refused_members("CreateFunction", ["DurableConfig", "Timeout"]) == ["DurableConfig"]
    assert rules.refused_members("ListTags", ["Resource"]) == []


def test_an_operation_obeys_only_its_own_members() -> None:
    rules.refuse_unsupported("UpdateFunctionCode", {"DryRun": True, "Publish": True})
    with pytest.raises(NotImplementedHere, match="Publish"):
        rules.refuse_unsupported("UpdateFunctionConfiguration", {"Publish": True})


def test_limits_name_the_member_and_the_bound() -> None:
    rules.check_limits({"Timeout": 900, "MemorySize": 10240, "EphemeralStorage": {"Size": 10240}})
    rules.check_limits({})
    for members, text in (
        ({"Timeout": 901}, "Value '901' at 'timeout' .* less than or equal to 900$"),
        ({"MemorySize": 32768}, "Value '32768' at 'memorySize' .* less than or equal to 10240$"),
        ({"EphemeralStorage": {"Size": 10241}}, "Value '10241' at 'ephemeralStorage.size' .* less than or equal to 10240$"),
    ):
        with pytest.raises(ValidationError, match=text):
            rules.check_limits(members)


def test_tags_revisions_storage_accounts_and_architectures() -> None:
    rules.check_tags({f"k{n}": "" for n in range(50)})
    with pytest.raises(InvalidParameterValue, match="Number of tags exceeds resource tag limit"):
        rules.check_tags({f"k{n}": "" for n in range(51)})
    with pytest.raises(InvalidParameterValue, match="aws:x is reserved"):
        rules.check_tags({"aws:x": "y"})
    rules.check_revision(None, "a")
    rules.check_revision("a", "a")
    with pytest.raises(PreconditionFailed, match="does not match the latest Revision Id"):
        rules.check_revision("b", "a")
    rules.check_storage(rules.MAX_STORED_BYTES - 5, 5)
    with pytest.raises(CodeStorageExceeded, match=r"Code storage limit exceeded\."):
        rules.check_storage(rules.MAX_STORED_BYTES - 5, 6)
    rules.check_account("1", "2", verified=False)
    rules.check_account("1", "1", verified=True)
    with pytest.raises(AccessDenied):
        rules.check_account("1", "2", verified=True)
    assert rules.check_architectures(None, "arm64") == ["arm64"]
    assert rules.check_architectures(["x86_64"], "x86_64") == ["x86_64"]
    with pytest.raises(NotImplementedHere, match="Architectures arm64 cannot run here: this host is x86_64"):
        rules.check_architectures(["arm64"], "x86_64")
    assert rules.check_architectures(["arm64"], "x86_64", ignored=True) == ["arm64"]
    assert rules.check_architectures(None, "x86_64", ignored=True) == ["x86_64"]
    with pytest.raises(InvalidParameterValue, match="don't provide ImageUri when creating a function with packageType Zip"):
        rules.check_package({"Code": {"ImageUri": "a/b:1"}})
    with pytest.raises(InvalidParameterValue, match="don't provide ImageConfig when the intended function PackageType is Zip"):
        rules.check_package({"Code": {}, "ImageConfig": {"Command": ["x"]}, "Runtime": "python3.12", "Handler": "m.f"})
    with pytest.raises(InvalidParameterValue, match="Runtime and Handler are mandatory"):
        rules.check_package({"Code": {}, "Runtime": "python3.12"})
    rules.check_package({"Code": {}, "Runtime": "python3.12", "Handler": "m.f", "ImageConfig": {}})
