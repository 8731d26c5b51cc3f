"""Whom an invocation is for, of functions that keep their tenants apart (TenancyConfig PER_TENANT). Pure.

Source: docs.aws.amazon.com/lambda/latest/dg/tenant-isolation-invoke.html and recorded replies
"""

from __future__ import annotations

import re

from engine.errors import InvalidParameterValue, ValidationError

MAX_TENANT = 256
_PATTERN = r"[a-zA-Z0-9\._:\/=+\-@ ]+"
_allowed = re.compile(_PATTERN).fullmatch
MISSING = "The invoked function is enabled with tenancy configuration. Add a valid tenant ID in your request and try again."
UNWANTED = "The invoked function is not enabled with tenancy configuration. Remove the tenant ID from your request and try again."


def read(value: bytes) -> str:
    """The tenant that a header names. Raises ValidationError."""
    tenant = value.decode("latin-1")
    broken = []
    if len(tenant) > MAX_TENANT:
        broken.append(f"Member must have length less than or equal to {MAX_TENANT}")
    if not tenant:
        broken.append("Member must have length greater than or equal to 1")
    if _allowed(tenant) is None:
        broken.append(f"Member must satisfy regular expression pattern: {_PATTERN}")
    if broken:
        count = "1 validation error" if len(broken) == 1 else f"{len(broken)} validation errors"
        raise ValidationError(
            f"{count} detected: " + "; ".join(f"Value '{tenant}' at 'tenantId' failed to satisfy constraint: {what}" for what in broken)
        )
    return tenant


def plain(value: bytes | None) -> str:
    """The tenant that a header names, or an empty one where ``read`` has to say what is wrong with it."""
    tenant = "" if value is None else value.decode("latin-1")
    return tenant if len(tenant) <= MAX_TENANT and _allowed(tenant) is not None else ""


def check(tenants_apart: bool, tenant: str | None) -> None:
    """Raises InvalidParameterValue unless an invocation names a tenant just where it must."""
    if tenants_apart and tenant is None:
        raise InvalidParameterValue(MISSING)
    if tenant is not None and not tenants_apart:
        raise InvalidParameterValue(UNWANTED)
