"""Patches of methods and integrations: paths, kinds of values, and that a refused patch changes nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from engine.aws.method_changes import PatchRefused, patch_integration, patch_method


def method() -> SimpleNamespace:
    return SimpleNamespace(
        api_key_required=False, authorization_type="NONE", authorizer_id="a", operation_name=None, request_validator_id=None, request_models=None,
        request_parameters={"method.request.path.id": True}, authorization_scopes=["read"],
    )  # fmt: skip


def integration() -> SimpleNamespace:
    return SimpleNamespace(
        uri="u", timeout_in_millis=29000, request_templates={"application/json": "{}"}, request_parameters=None, cache_key_parameters=["a"],
        cache_namespace="r", connection_type=None, content_handling="CONVERT_TO_TEXT", credentials=None, http_method="POST",
        passthrough_behaviour="WHEN_NO_MATCH", tls_config=None,
    )  # fmt: skip


def patch(op: str, path: str, value: str | None = None) -> dict[str, str]:
    return {"op": op, "path": path} | ({} if value is None else {"value": value})


@pytest.mark.parametrize(
    ("operation", "attribute", "expected"),
    [
        (patch("replace", "/apiKeyRequired", "true"), "api_key_required", True),
        (patch("replace", "/authorizationType", "AWS_IAM"), "authorization_type", "AWS_IAM"),
        (patch("replace", "/authorizerId", ""), "authorizer_id", None),
        (patch("add", "/requestParameters/method.request.querystring.q", "false"), "request_parameters",
         {"method.request.path.id": True, "method.request.querystring.q": False}),
        (patch("remove", "/requestParameters/method.request.path.id"), "request_parameters", {}),
        (patch("add", "/requestModels/application~1json", "Pet"), "request_models", {"application/json": "Pet"}),
        (patch("add", "/authorizationScopes", "write"), "authorization_scopes", ["read", "write"]),
        (patch("remove", "/authorizationScopes", "read"), "authorization_scopes", []),
    ],
)  # fmt: skip
def test_methods(operation: dict[str, str], attribute: str, expected: Any) -> None:
    target = method()
    patch_method(target, [operation])
    assert getattr(target, attribute) == expected


@pytest.mark.parametrize(
    ("operation", "attribute", "expected"),
    [
        (patch("replace", "/uri", "v"), "uri", "v"),
        (patch("replace", "/timeoutInMillis", "5000"), "timeout_in_millis", 5000),
        (patch("replace", "/contentHandling", ""), "content_handling", None),
        (patch("replace", "/requestTemplates/application~1json", "x"), "request_templates", {"application/json": "x"}),
        (patch("replace", "/tlsConfig/insecureSkipVerification", "true"), "tls_config", {"insecureSkipVerification": True}),
        (patch("add", "/cacheKeyParameters/method.request.path.id", ""), "cache_key_parameters", ["a", "method.request.path.id"]),
        (patch("remove", "/cacheKeyParameters/a", ""), "cache_key_parameters", []),
    ],
)
def test_integrations(operation: dict[str, str], attribute: str, expected: Any) -> None:
    target = integration()
    patch_integration(target, [operation])
    assert getattr(target, attribute) == expected


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (patch("replace", "/nothing", "x"), "Invalid patch path  '/nothing' specified for op 'replace'. Must be one of: [/cacheKeyParameters, "),
        (patch("move", "/uri", "x"), "specified for op 'move'"),
        (patch("replace", "/uri/deeper", "x"), "Invalid patch path  '/uri/deeper'"),
        (patch("add", "/requestTemplates", "x"), "Invalid patch path  '/requestTemplates'"),
        (patch("replace", "/timeoutInMillis", "soon"), "Invalid value 'soon' specified for '/timeoutInMillis'"),
    ],
)
def test_a_refused_patch_changes_nothing(operation: dict[str, str], words: str) -> None:
    target = integration()
    with pytest.raises(PatchRefused) as caught:
        patch_integration(target, [patch("replace", "/uri", "v"), patch("add", "/requestTemplates/a", "b"), operation])
    assert words in str(caught.value)
    assert target == integration()
