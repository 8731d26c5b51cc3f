"""OpenAPI documents with API Gateway's extensions, as SAM's translator writes them into templates, read as what is to be made. Pure.

Source: docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-swagger-extensions.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ANY = "x-amazon-apigateway-any-method"
_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", ANY})
Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. ``authorizer`` is the name of a security scheme, with its ``scopes``; ``signed``: callers sign (AWS_IAM)."""

    path: str
    method: str
    integration: Document
    authorizer: str | None = None
    scopes: tuple[str, ...] = ()
    signed: bool = False
    key_required: bool = False
    responses: Document = field(default_factory=dict)


def schemes(body: Document) -> dict[str, Document]:
    """Security schemes by name, of either version of OpenAPI."""
    found = body.get("securityDefinitions") or (body.get("components") or {}).get("securitySchemes") or {}
    return {str(name): about for name, about in found.items()}


def authorizers(body: Document) -> dict[str, Document]:
    """``x-amazon-apigateway-authorizer`` by the scheme's name; a token's has the header it comes in as ``identitySource``."""
    found: dict[str, Document] = {}
    for name, about in schemes(body).items():
        described = about.get("x-amazon-apigateway-authorizer")
        if not described:
            continue
        described = dict(described)
        if str(described.get("type")).lower() in ("token", "cognito_user_pools"):
            described.setdefault("identitySource", f"method.request.header.{about.get('name') or 'Authorization'}")
        found[name] = described
    return found


def operations(body: Document) -> list[Operation]:
    """All methods that have an integration. Raises ValueError naming one that has none."""
    known, found = schemes(body), []
    for path, methods in (body.get("paths") or {}).items():
        for name, about in methods.items():
            if name.lower() not in _METHODS:
                continue
            integration = about.get("x-amazon-apigateway-integration")
            if not integration:
                raise ValueError(f"{name.upper()} {path} has no x-amazon-apigateway-integration")
            asked = about.get("security", body.get("security")) or []
            found.append(_operation(str(path), "ANY" if name == ANY else name.upper(), integration, asked, known, about.get("responses") or {}))
    return found


def _operation(path: str, method: str, integration: Document, asked: Any, known: Mapping[str, Document], responses: Document) -> Operation:
    authorizer: str | None = None
    scopes: tuple[str, ...] = ()
    signed = key_required = False
    for requirement in asked:
        for name, wanted in requirement.items():
            scheme = known.get(name) or {}
            if scheme.get("x-amazon-apigateway-authorizer"):
                authorizer, scopes = str(name), tuple(wanted or ())
            elif str(scheme.get("x-amazon-apigateway-authtype") or "").lower() == "awssigv4":
                signed = True
            elif scheme.get("type") == "apiKey" and str(scheme.get("name")).lower() == "x-api-key":
                key_required = True
    return Operation(path, method, integration, authorizer, scopes, signed, key_required, responses)


def cors(body: Document) -> dict[str, Any] | None:
    """``x-amazon-apigateway-cors`` with the names that the API has."""
    described = body.get("x-amazon-apigateway-cors")
    return None if not described else {k[0].upper() + k[1:]: v for k, v in described.items()}
