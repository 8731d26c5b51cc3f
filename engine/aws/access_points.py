"""Access points of the embedded EFS that functions can name. Runs in the embedded AWS's process.

moto's have ids of 8 digits where Lambda demands 17, and its CloudFormation neither refers to them nor tells their ARNs.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any


def install() -> None:
    """Work so from now on; as often as one likes."""
    from moto.efs.models import AccessPoint, FileSystem  # noqa: PLC0415 - moto is an extra

    kind: Any = AccessPoint
    if hasattr(kind, "numbered_by_lambda"):
        return
    kind.numbered_by_lambda = True
    kind.__init__ = _numbered(kind.__init__)
    kind.physical_resource_id = property(lambda self: self.access_point_id)
    _tell(kind, {"AccessPointId": "access_point_id", "Arn": "access_point_arn"})
    _tell(FileSystem, {"FileSystemId": "file_system_id", "Arn": "file_system_arn"})


def _numbered(make: Callable[..., None]) -> Callable[..., None]:
    def made(self: Any, *args: Any, **members: Any) -> None:
        make(self, *args, **members)
        self.access_point_id = f"fsap-{secrets.token_hex(9)[:17]}"
        self.access_point_arn = f"{self.access_point_arn.rpartition('/')[0]}/{self.access_point_id}"

    return made


def _tell(kind: Any, attributes: dict[str, str]) -> None:
    """What Fn::GetAtt finds."""

    def attribute(self: Any, name: str) -> Any:
        from moto.cloudformation.exceptions import UnformattedGetAttTemplateException  # noqa: PLC0415

        if name not in attributes:
            raise UnformattedGetAttTemplateException
        return getattr(self, attributes[name])

    kind.has_cfn_attr = classmethod(lambda _cls, name: name in attributes)
    kind.get_cfn_attribute = attribute
