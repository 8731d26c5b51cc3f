"""What goes together with TenancyConfig, which a function has from its creation or never. Pure.

Source: docs.aws.amazon.com/lambda/latest/dg/tenant-isolation.html, where function URLs, provisioned concurrency, SnapStart and event source
mappings are excluded
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import InvalidParameterValue
from engine.store.api import Function

MEMBER = "TenancyConfig"


def apart(config: Mapping[str, Any]) -> bool:
    """Whether a version with this configuration keeps its tenants apart."""
    return MEMBER in config


def check_snap_start(config: Mapping[str, Any]) -> None:
    """Raises InvalidParameterValue for both in one configuration."""
    if apart(config) and config["SnapStart"]["ApplyOn"] != "None":
        raise _unsupported("SnapStart")


def refuse(function: Function, what: str) -> None:
    """Raises InvalidParameterValue when a function that keeps its tenants apart is to have ``what``."""
    if apart(function.latest.config):
        raise _unsupported(what)


def _unsupported(what: str) -> InvalidParameterValue:
    return InvalidParameterValue(f"{what} is not supported for functions enabled with tenancy configuration")
