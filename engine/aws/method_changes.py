"""Patches of a REST API's methods and integrations in the embedded API Gateway, which moto does not have. Runs in the embedded AWS's process.

A patch is a list of operations on paths as JSON pointers write them (``/requestParameters/method.request.path.id``, ``~1`` for a slash). Its
values are text always. Paths and operations are those of API Gateway's table of patch operations; anything else is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_text: Callable[[str], Any] = str


def _truth(value: str) -> bool:
    return value.lower() == "true"


# Path to moto's attribute and what makes its value of the text.
_Fields = Mapping[str, tuple[str, Callable[[str], Any]]]
_METHOD: _Fields = {
    "apiKeyRequired": ("api_key_required", _truth), "authorizationType": ("authorization_type", _text), "authorizerId": ("authorizer_id", _text),
    "operationName": ("operation_name", _text), "requestValidatorId": ("request_validator_id", _text),
}  # fmt: skip
_INTEGRATION: _Fields = {
    "cacheNamespace": ("cache_namespace", _text), "connectionType": ("connection_type", _text), "contentHandling": ("content_handling", _text),
    "credentials": ("credentials", _text), "httpMethod": ("http_method", _text), "passthroughBehavior": ("passthrough_behaviour", _text),
    "timeoutInMillis": ("timeout_in_millis", int), "uri": ("uri", _text),
}  # fmt: skip
_METHOD_MAPS: _Fields = {"requestModels": ("request_models", _text), "requestParameters": ("request_parameters", _truth)}
_INTEGRATION_MAPS: _Fields = {
    "requestParameters": ("request_parameters", _text), "requestTemplates": ("request_templates", _text), "tlsConfig": ("tls_config", _truth),
}  # fmt: skip


class PatchRefused(ValueError):
    """An operation that cannot be done; the message is for the client."""


def install() -> None:
    """Have UpdateMethod and UpdateIntegration from now on, and no integration where there is none; once per process."""
    from moto.apigateway import exceptions  # noqa: PLC0415 - moto is an extra
    from moto.apigateway.responses import APIGatewayResponse  # noqa: PLC0415

    def patched(self: Any, patch: Callable[[Any, Sequence[Mapping[str, str]]], None], target: Any) -> str:
        try:
            patch(target, self._get_param("patchOperations") or [])
        except PatchRefused as e:
            raise exceptions.BadRequestException(str(e)) from e
        return json.dumps(target.to_json())

    def method_of(self: Any) -> Any:
        _, _, api, _, resource, _, method = self.path.split("/")[:7]
        return self.backend.get_method(api, resource, method)

    def integration_of(self: Any) -> Any:
        integration = method_of(self).method_integration
        if integration is None:
            raise exceptions.NotFoundException("Invalid Integration identifier specified")
        return integration

    APIGatewayResponse.update_method = lambda self: patched(self, patch_method, method_of(self))
    APIGatewayResponse.update_integration = lambda self: patched(self, patch_integration, integration_of(self))
    APIGatewayResponse.get_integration = lambda self: json.dumps(integration_of(self).to_json())


def patch_method(method: Any, operations: Sequence[Mapping[str, str]]) -> None:
    """Change a method of moto's. Raises PatchRefused, and nothing is changed then."""
    _patch(method, operations, _METHOD, _METHOD_MAPS, {"authorizationScopes": "authorization_scopes"})


def patch_integration(integration: Any, operations: Sequence[Mapping[str, str]]) -> None:
    """The same of an integration."""
    _patch(integration, operations, _INTEGRATION, _INTEGRATION_MAPS, {"cacheKeyParameters": "cache_key_parameters"})


def _patch(target: Any, operations: Sequence[Mapping[str, str]], plain: _Fields, maps: _Fields, lists: Mapping[str, str]) -> None:
    changed: dict[str, Any] = {}

    def now(attribute: str, empty: Any) -> Any:
        if attribute not in changed:
            changed[attribute] = type(empty)(getattr(target, attribute) or empty)
        return changed[attribute]

    for operation in operations:
        op, path, value = operation.get("op", ""), operation.get("path", ""), operation.get("value") or ""
        name, _, key = path.removeprefix("/").partition("/")
        key = key.replace("~1", "/").replace("~0", "~")
        if name in plain and not key and op == "replace":
            attribute, read = plain[name]
            changed[attribute] = _read(read, value, path) if value else None
        elif name in maps and key and op in ("add", "replace", "remove"):
            attribute, read = maps[name]
            if op == "remove":
                now(attribute, {}).pop(key, None)
            else:
                now(attribute, {})[key] = _read(read, value, path)
        elif name in lists and op in ("add", "remove"):
            # A scope is named by the value, a cache key by its path.
            kept, item = now(lists[name], []), key or value
            kept[:] = [i for i in kept if i != item] + [item] * (op == "add")
        else:
            known = ", ".join(f"/{n}" for n in sorted((*plain, *maps, *lists)))
            raise PatchRefused(f"Invalid patch path  '{path}' specified for op '{op}'. Must be one of: [{known}]")
    for attribute, value in changed.items():
        setattr(target, attribute, value)


def _read(read: Callable[[str], Any], value: str, path: str) -> Any:
    try:
        return read(value)
    except ValueError as e:
        raise PatchRefused(f"Invalid value '{value}' specified for '{path}'") from e
