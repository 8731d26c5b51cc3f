"""The texts of ValidationException, as recorded from the service."""

from __future__ import annotations

import time
from typing import Any

import pytest

from engine.errors import ValidationError
from engine.protocol.model import Operation, Shape, load
from engine.protocol.patterns import compile_pattern
from engine.protocol.validate import validate

MODEL = load()
CREATE = {"FunctionName": "f", "Role": "arn:aws:iam::000000000000:role/r", "Code": {}}


def complaint(name: str, params: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        validate(MODEL.operation(name), params)
    assert caught.value.status == 400
    assert caught.value.body() == {"message": caught.value.message}
    return caught.value.message


def create(**members: Any) -> str:
    return complaint("CreateFunction", {**CREATE, **members})


def test_good_params_pass() -> None:
    validate(MODEL.operation("CreateFunction"), {**CREATE, "Tags": {"a": "b"}, "Layers": [], "MemorySize": 128})


def test_a_missing_member_prints_null_without_quotes() -> None:
    assert complaint("UntagResource", {"Resource": "arn:aws:lambda:us-east-1:000000000000:function:f"}) == (
        "1 validation error detected: Value null at 'tagKeys' failed to satisfy constraint: Member must not be null"
    )


def test_several_violations_are_counted_and_joined() -> None:
    text = complaint("CreateFunction", {"FunctionName": "f", "Description": "x" * 257})
    assert text.startswith("3 validation errors detected: ")
    parts = set(text.removeprefix("3 validation errors detected: ").split("; "))
    assert parts == {
        "Value null at 'role' failed to satisfy constraint: Member must not be null",
        "Value null at 'code' failed to satisfy constraint: Member must not be null",
        f"Value '{'x' * 257}' at 'description' failed to satisfy constraint: Member must have length less than or equal to 256",
    }


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (
            {"Role": "r"},
            "Value 'r' at 'role' failed to satisfy constraint: Member must satisfy regular expression pattern: "
            r"arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+",
        ),
        (
            {"Timeout": 0},
            "Value '0' at 'timeout' failed to satisfy constraint: Member must have value greater than or equal to 1",
        ),
        (
            {"EphemeralStorage": {"Size": 511}},
            "Value '511' at 'ephemeralStorage.size' failed to satisfy constraint: Member must have value greater than or equal to 512",
        ),
        (
            {"PackageType": "Tar"},
            "Value 'Tar' at 'packageType' failed to satisfy constraint: Member must satisfy enum value set: [Zip, Image]",
        ),
        (
            {"SnapStart": {"ApplyOn": "x"}},
            "Value 'x' at 'snapStart.applyOn' failed to satisfy constraint: Member must satisfy enum value set: [PublishedVersions, None]",
        ),
        (
            {"Architectures": ["x86"]},
            "Value '[x86]' at 'architectures' failed to satisfy constraint: Member must satisfy constraint: "
            "[Member must satisfy enum value set: [x86_64, arm64], Member must not be null]",
        ),
        (
            {"Architectures": ["x86_64", "arm64"]},
            "Value '[x86_64, arm64]' at 'architectures' failed to satisfy constraint: Member must have length less than or equal to 1",
        ),
        (
            {"KMSKeyArn": "k"},
            "Value 'k' at 'kmsKeyArn' failed to satisfy constraint: Member must satisfy regular expression pattern: "
            r"(arn:(aws[a-zA-Z-]*)?:[a-z0-9-.]+:.*)|()",
        ),
        (
            {"FileSystemConfigs": [{"Arn": "x", "LocalMountPath": "/mnt/a"}]},
            "Value 'x' at 'fileSystemConfigs.1.member.arn' failed to satisfy constraint: Member must satisfy regular expression pattern: ",
        ),
        (
            {"VpcConfig": {"SubnetIds": [None]}},
            "Value '[null]' at 'vpcConfig.subnetIds' failed to satisfy constraint: Member must satisfy constraint: ",
        ),
    ],
)
def test_a_violation_names_value_path_and_constraint(members: dict[str, Any], text: str) -> None:
    assert create(**members).startswith(f"1 validation error detected: {text}")


def test_map_values_and_keys_have_constraints_of_their_own() -> None:
    base = {"FunctionName": "f", "Name": "live", "FunctionVersion": "1"}
    values = complaint("CreateAlias", {**base, "RoutingConfig": {"AdditionalVersionWeights": {"2": 2.0}}})
    assert values == (
        "1 validation error detected: Value '{2=2.0}' at 'routingConfig.additionalVersionWeights' failed to satisfy constraint: "
        "Map value must satisfy constraint: [Member must have value less than or equal to 1.0, "
        "Member must have value greater than or equal to 0.0, Member must not be null]"
    )
    keys = complaint("CreateAlias", {**base, "RoutingConfig": {"AdditionalVersionWeights": {"a": 0.5}}})
    assert keys == (
        "1 validation error detected: Value '{a=0.5}' at 'routingConfig.additionalVersionWeights' failed to satisfy constraint: "
        "Map keys must satisfy constraint: [Member must have length less than or equal to 1024, "
        "Member must have length greater than or equal to 1, Member must satisfy regular expression pattern: [0-9]+]"
    )


def test_sensitive_values_are_not_repeated() -> None:
    text = create(Environment={"Variables": {"1": "hunter2"}})
    assert "hunter2" not in text
    assert "Value at 'environment.variables' failed to satisfy constraint: Map keys must satisfy constraint: [" in text


def test_the_runtime_is_judged_by_the_operation() -> None:
    validate(MODEL.operation("CreateFunction"), {**CREATE, "Runtime": "cobol"})
    validate(MODEL.operation("UpdateFunctionConfiguration"), {"FunctionName": "f", "Runtime": "cobol"})
    layer = {"LayerName": "l", "Content": {}, "CompatibleRuntimes": ["cobol"]}
    assert "Value '[cobol]' at 'compatibleRuntimes'" in complaint("PublishLayerVersion", layer)


def test_a_uuid_member_is_lower_case_whole() -> None:
    assert "at 'uuid' failed" in complaint("GetEventSourceMapping", {})


def test_unicode_categories_of_java_patterns_work() -> None:
    pattern = compile_pattern(r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)")
    assert pattern.fullmatch("Größe 漢字 ½ \u3000 a_b.c:d/e=f+g-h@i")
    assert not pattern.fullmatch("a*b")
    assert not pattern.fullmatch("a\nb")


def test_digits_in_patterns_are_ascii() -> None:
    assert not compile_pattern(r"\d{3}").fullmatch("١٢٣")


def shapes(shape: Shape | None, seen: dict[str, Shape]) -> None:
    if shape is None or shape.name in seen:
        return
    seen[shape.name] = shape
    for inner in (*shape.members.values(), shape.item, shape.key, shape.value):
        shapes(inner, seen)


def test_no_pattern_of_the_model_can_be_made_to_run_away() -> None:
    seen: dict[str, Shape] = {}
    for name in MODEL.operation_names():
        operation: Operation = MODEL.operation(name)
        shapes(operation.input, seen)
    patterns = {shape.pattern for shape in seen.values() if shape.pattern}
    assert len(patterns) > 40
    for pattern in patterns:
        compiled = compile_pattern(pattern)
        for attack in ("a" * 5000 + "!", "arn:aws:" * 600 + "!", "1" * 5000 + "\n", "a-" * 2500 + "!", "/" * 5000 + "!"):
            began = time.process_time()
            compiled.fullmatch(attack)
            assert time.process_time() - began < 2, pattern
