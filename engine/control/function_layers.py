"""The layers of a function: from the ARNs of a request to content that is ready to be mounted at /opt.

Source: docs.aws.amazon.com/lambda/latest/dg/adding-layers.html and recorded replies. As on AWS, compatible runtimes and architectures
are listed and filtered by, not enforced.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from engine.control import archive, layer_names
from engine.control.layer_names import LayerRef
from engine.control.link import Hello
from engine.control.packages import OPT_ROOT
from engine.control.plane import Plane
from engine.errors import InvalidParameterValue, ServiceError
from engine.store.api import LayerVersion

MAX_LAYERS = 5


@asynccontextmanager
async def resolved(plane: Plane, account: str, region: str, arns: Sequence[str]) -> AsyncIterator[list[LayerVersion]]:
    """The layer versions an account's function names, their content kept while the block runs.

    Raises InvalidParameterValue with AWS's texts, AccessDenied for another account's layer that is not shared.
    """
    if len(arns) > MAX_LAYERS:
        raise InvalidParameterValue(f"Cannot reference more than {MAX_LAYERS} layers.")
    layers = [await asyncio.to_thread(_find, plane, account, region, arn) for arn in arns]
    _check_distinct(layers, region)
    with contextlib.ExitStack() as holds:
        for layer in layers:
            holds.enter_context(plane.code.hold(layer.code_sha256))
        yield layers


def _find(plane: Plane, account: str, region: str, arn: str) -> LayerVersion:
    ref, version = layer_names.parse_version_arn(arn)
    if ref.region != region:
        raise InvalidParameterValue(
            f"Layers are not in the same region as the function. Layers are expected to be in region {region}."
        )
    layer = plane.layers.get(ref.account, ref.name, version) if ref.is_of(region) else None
    layer_names.check_access(ref, version, layer, account)
    if layer is None:
        raise InvalidParameterValue(f"Layer version {arn} does not exist.")
    return layer


def _check_distinct(layers: Sequence[LayerVersion], region: str) -> None:
    seen: dict[tuple[str, str], LayerVersion] = {}
    for layer in layers:
        other = seen.setdefault((layer.account, layer.name), layer)
        if other is not layer:
            raise InvalidParameterValue(
                "Two different versions of the same layer are not allowed to be referenced in the same function. "
                f"{_arn(other, region)} and {_arn(layer, region)} are versions of the same layer."
            )


def _arn(layer: LayerVersion, region: str) -> str:
    return LayerRef(layer.account, region, layer.name).arn(layer.version)


def attach(config: dict[str, Any], layers: Sequence[LayerVersion], region: str) -> None:
    """Show these layers, and no others, in a configuration."""
    config.pop("Layers", None)
    if layers:
        config["Layers"] = [{"Arn": _arn(layer, region), "CodeSize": layer.code_size} for layer in layers]


async def ready(plane: Plane, code: str, layers: Sequence[str], runtime: str, hello: Hello) -> None:
    """See that code and layers, by hash, fit together, and make the layers ready for the runtime if it is installed.

    Raises InvalidParameterValue when they unpack to more than 250 MB, ServiceError when content is lost.
    """
    if layers:
        await asyncio.to_thread(_ready, plane, code, layers, runtime, hello)


def _ready(plane: Plane, code: str, layers: Sequence[str], runtime: str, hello: Hello) -> None:
    try:
        total = sum(plane.packages.unzipped(sha256) for sha256 in (code, *layers))
        if total > archive.MAX_UNZIPPED:
            raise InvalidParameterValue(
                f"Function code combined with layers exceeds the maximum allowed size of {archive.MAX_UNZIPPED} bytes. "
                f"The actual size is {total} bytes."
            )
        installed = hello.runtimes.get(runtime)
        if installed is None:
            return
        for sha256 in layers:
            plane.packages.ensure(sha256, runtime, installed.interpreter, root=OPT_ROOT)
    except FileNotFoundError as e:
        raise ServiceError("The content of the function or of one of its layers is lost: upload it again first.") from e
