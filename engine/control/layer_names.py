"""Names and ARNs of layers, and who may use a layer version. Pure.

Source: docs.aws.amazon.com/lambda/latest/api/API_GetLayerVersion.html and recorded replies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.arn import fits
from engine.errors import AccessDenied, InvalidParameterValue, ResourceNotFound
from engine.store.api import LayerVersion

ACTION = "lambda:GetLayerVersion"
_NAME = r"(?P<name>[a-zA-Z0-9-_]+)"
_ARN = re.compile(r"arn:(?P<partition>[a-zA-Z0-9-]+):lambda:(?P<region>[a-zA-Z0-9-]+):(?P<account>\d{12}):layer:" + _NAME + r"(?::(?P<version>\d+))?")


@dataclass(frozen=True, slots=True)
class LayerRef:
    """A layer as the caller named it, account and region filled in."""

    account: str
    region: str
    name: str
    partition: str = "aws"

    def arn(self, version: int | None = None) -> str:
        """``arn:aws:lambda:<region>:<account>:layer:<name>[:<version>]``."""
        tail = "" if version is None else f":{version}"
        return f"arn:{self.partition}:lambda:{self.region}:{self.account}:layer:{self.name}{tail}"

    def is_of(self, region: str) -> bool:
        """Whether such a layer can be there for somebody who asks in ``region``."""
        return self.region == region and fits(self.partition, region)


def parse(text: str, account: str, region: str) -> LayerRef:
    """A LayerName: bare or an ARN without a version. The service model's pattern has judged it already."""
    match = _ARN.fullmatch(text)
    return LayerRef(account, region, text) if match is None else _ref(match)


def parse_here(text: str, account: str, region: str) -> LayerRef:
    """As ``parse``. Raises ResourceNotFound for a layer of another region or partition: none of it can be seen or changed here."""
    ref = parse(text, account, region)
    if not ref.is_of(region):
        elsewhere = ref.region if ref.region != region else ref.partition
        raise ResourceNotFound(f"Layers from '{elsewhere}' are not reachable in this region ('{region}')")
    return ref


def parse_version_arn(text: str) -> tuple[LayerRef, int]:
    """The ARN of a layer version. Raises InvalidParameterValue."""
    match = _ARN.fullmatch(text)
    if match is None or match["version"] is None:
        raise InvalidParameterValue(f"Layer version {text} does not exist.")
    return _ref(match), int(match["version"])


def _ref(match: re.Match[str]) -> LayerRef:
    return LayerRef(match["account"], match["region"], match["name"], match["partition"])


def check_version(version: int) -> None:
    """Raises InvalidParameterValue for a number no layer version can have."""
    if version < 1:
        raise InvalidParameterValue("Layer Version Cannot be less than 1")


def not_found() -> ResourceNotFound:
    return ResourceNotFound("The resource you requested does not exist.")


def check_access(ref: LayerRef, version: int, layer: LayerVersion | None, account: str) -> None:
    """Raises AccessDenied unless ``account`` owns the layer or its policy lets it in. What does not exist lets nobody in."""
    if account == ref.account or (layer is not None and any(_allows(statement, account) for statement in layer.policy)):
        return
    arn = ref.arn(version)
    raise AccessDenied(
        f"User: arn:aws:iam::{account}:root is not authorized to perform: {ACTION} on resource: {arn} "
        f"because no resource-based policy allows the {ACTION} action"
    )


def _allows(statement: Mapping[str, Any], account: str) -> bool:
    """A statement with a condition names an organisation, and no account here belongs to one."""
    principal = statement["Principal"]
    return "Condition" not in statement and principal in ("*", {"AWS": f"arn:aws:iam::{account}:root"})
