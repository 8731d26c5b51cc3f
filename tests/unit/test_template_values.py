"""Values of templates in the types of operations."""

from __future__ import annotations

from typing import Any

import botocore.session
import pytest

from engine.aws.template_values import fitting

MODEL = botocore.session.get_session().get_service_model("lambda")


@pytest.mark.parametrize(
    ("operation", "given", "wanted"),
    [
        ("CreateFunction", {"Timeout": "5", "MemorySize": 128, "Publish": "TRUE"}, {"Timeout": 5, "MemorySize": 128, "Publish": True}),
        ("CreateFunction", {"Environment": {"Variables": {"A": 1, "B": True, "C": 0.5, 1: "x"}}},
         {"Environment": {"Variables": {"A": "1", "B": "true", "C": "0.5", "1": "x"}}}),
        ("CreateFunction", {"Timeout": "soon", "Publish": "maybe", "Unknown": 1}, {"Timeout": "soon", "Publish": "maybe", "Unknown": 1}),
        ("CreateFunction", {"Layers": [1, "a"], "VpcConfig": "none", "Tags": [], "Code": None},
         {"Layers": ["1", "a"], "VpcConfig": "none", "Tags": [], "Code": None}),
        ("CreateAlias", {"RoutingConfig": {"AdditionalVersionWeights": {2: "0.1"}}}, {"RoutingConfig": {"AdditionalVersionWeights": {"2": 0.1}}}),
    ],
)  # fmt: skip
def test_values_fit(operation: str, given: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert fitting(given, MODEL.operation_model(operation).input_shape) == wanted
