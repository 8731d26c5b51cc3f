"""What a code signing configuration makes of a deployment: let through, let through with a warning, or blocked.

Integrity always blocks; a missing, foreign or expired signature blocks under Enforce and is logged under Warn.
Source: docs.aws.amazon.com/lambda/latest/dg/configuration-codesigning.html
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from engine.control.code_signing import find, lock
from engine.control.kinds import CODE_SIGNING
from engine.control.plane import Plane
from engine.control.signatures import Judgement, Verdict, judge
from engine.errors import CodeVerificationFailed, ConfigurationError, InvalidCodeSignature, ServiceError
from engine.store.api import Function

_INTEGRITY = (
    "The code signature failed the integrity check. If the integrity check fails, then Lambda blocks deployment, even if the code "
    "signing policy is set to WARN. "
)
_log = logging.getLogger(__name__)


def demanded(function: Function) -> str | None:
    """The ARN of the code signing configuration that the function has."""
    document = function.document(CODE_SIGNING)
    return None if document is None else str(document["CodeSigningConfigArn"])


def show(config: dict[str, Any], signed: dict[str, str]) -> None:
    """Let a function's configuration say who signed its code: these, or nobody."""
    for member in ("SigningProfileVersionArn", "SigningJobArn"):
        config.pop(member, None)
    config.update(signed)


@asynccontextmanager
async def kept(plane: Plane, config_arn: str | None) -> AsyncIterator[None]:
    """Keep a configuration from being deleted while the block gives it to a function."""
    if config_arn is None:
        yield
        return
    async with lock(plane, config_arn):
        yield


async def check(plane: Plane, account: str, name: str, config_arn: str | None, data: bytes, layers: Sequence[str] = ()) -> dict[str, str]:
    """Judge a function's package and its layers (by hash); the members that show who signed the package.

    Nothing is judged without a configuration. Raises InvalidCodeSignature, CodeVerificationFailed, CodeSigningConfigNotFound, and
    ServiceError when the engine is not set up to judge.
    """
    if config_arn is None:
        return {}
    return await asyncio.to_thread(_check, plane, account, name, config_arn, data, layers)


async def check_layers(plane: Plane, account: str, name: str, config_arn: str | None, layers: Sequence[str]) -> None:
    """As ``check``, for layers that a function with signed or warned-of code is given."""
    if config_arn is not None and layers:
        await asyncio.to_thread(_check, plane, account, name, config_arn, None, layers)


def _check(plane: Plane, account: str, name: str, config_arn: str, data: bytes | None, layers: Sequence[str]) -> dict[str, str]:
    config = find(plane, account, config_arn).document
    publishers = list(config["AllowedPublishers"]["SigningProfileVersionArns"])
    enforced = config["CodeSigningPolicies"]["UntrustedArtifactOnDeployment"] == "Enforce"
    now_s = plane.clock.epoch_ms() / 1000
    shown: dict[str, str] = {}
    try:
        if data is not None:
            plane.packages.check(data)
            found = judge(data, publishers, plane.profiles, now_s)
            _act(found, name, "package", enforced=enforced)
            if found.verdict is Verdict.TRUSTED and found.profile is not None:
                shown["SigningProfileVersionArn"] = found.profile
                if found.job is not None:
                    shown["SigningJobArn"] = found.job
        for sha256 in layers:
            _act(judge(plane.code.blob(sha256).read_bytes(), publishers, plane.profiles, now_s), name, "layer", enforced=enforced)
    except (ConfigurationError, OSError) as e:
        raise ServiceError(f"The code signature could not be checked: {e}") from e
    return shown


def _act(found: Judgement, name: str, what: str, *, enforced: bool) -> None:
    if found.verdict is Verdict.TRUSTED:
        return
    if found.verdict is Verdict.INTEGRITY:
        raise InvalidCodeSignature(f"{_INTEGRITY}The {what} of {name}: {found.why}.")
    if enforced:
        raise CodeVerificationFailed(
            "Lambda cannot deploy the function. The function or layer might be signed using a signature that the client is not "
            f"configured to accept. Check the provided signature for {name}: its {what}: {found.why}."
        )
    _log.warning("the %s of function %s is deployed though %s (%s)", what, name, found.why, found.verdict)
