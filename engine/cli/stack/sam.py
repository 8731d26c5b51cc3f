"""SAM templates: local code found, then AWS's own translator makes plain CloudFormation of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.aws.managed_policies import AwsPolicies
from engine.cli.output import CliError
from engine.cli.package import zipped

TRANSFORM = "AWS::Serverless-2016-10-31"
# Stands in for local paths while the translator works, which takes nothing but S3.
BUCKET = "lambda-engine-local"
_CODE = {"AWS::Serverless::Function": "CodeUri", "AWS::Serverless::LayerVersion": "ContentUri"}


def is_sam(template: Mapping[str, Any]) -> bool:
    """Whether the template asks for the SAM transform."""
    transforms = template.get("Transform") or []
    return TRANSFORM in (transforms if isinstance(transforms, list) else [transforms])


def translate(template: dict[str, Any], parameters: Mapping[str, Any], folder: Path, region: str) -> tuple[dict[str, Any], dict[str, Path]]:
    """(plain template, local paths by the S3 key that stands for them). Raises CliError with the translator's words."""
    try:
        from samtranslator.public.exceptions import InvalidDocumentException
        from samtranslator.public.translator import ManagedPolicyLoader
        from samtranslator.translator.transform import transform
    except ImportError:
        raise CliError("SAM templates need the extra 'sam': run pip install 'lambda-engine[sam]'", 2) from None
    local = _find_code(template, folder)
    # The translator asks boto3 for the region and nothing else.
    os.environ.setdefault("AWS_DEFAULT_REGION", region)
    try:
        plain = transform(template, dict(parameters), ManagedPolicyLoader(AwsPolicies()))
    except InvalidDocumentException as e:
        causes = "; ".join(str(c.message) for c in e.causes) or str(e)
        raise CliError(f"the SAM template is not valid: {causes}", 2) from e
    return plain, local


def _find_code(template: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Replace local code by stand-ins, in place; the paths by stand-in."""
    local: dict[str, Path] = {}
    shared = ((template.get("Globals") or {}).get("Function") or {}).get("CodeUri")
    for logical, resource in template["Resources"].items():
        member = _CODE.get(resource.get("Type", ""))
        if member is None:
            continue
        properties = resource.setdefault("Properties", {})
        uri = properties.get(member, shared if member == "CodeUri" else None)
        if uri is None and not properties.get("InlineCode") and not properties.get("ImageUri"):
            uri = "."
        if isinstance(uri, str) and not uri.startswith("s3://"):
            path = (folder / uri).resolve()
            if not path.exists():
                raise CliError(f"{logical}: {member} {uri} is not there", 2)
            # By content, as an upload names it: the translator publishes a new version when this changes.
            data = path.read_bytes() if path.is_file() else zipped(path)
            key = f"{logical}/{hashlib.sha256(data).hexdigest()}"
            local[key] = path
            properties[member] = f"s3://{BUCKET}/{key}"
    return local
