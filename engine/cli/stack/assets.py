"""Packages that a template names by S3 object and that lie on this disk: SAM's local code, CDK's assets, Serverless's artifacts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.cli.output import CliError
from engine.cli.package import of_directory, zipped
from engine.cli.stack.sam import BUCKET


class Assets:
    """Bytes by bucket and key. ``runtimes``: the runtime that SAM functions install their requirements for, by logical id."""

    def __init__(self, local: Mapping[str, Path], runtimes: Mapping[str, str], template: Path) -> None:
        self._local = local
        self._runtimes = runtimes
        self._cdk = _cdk_assets(template)
        self._folder = template.resolve().parent
        self._made: dict[Path, bytes] = {}

    def __call__(self, bucket: str, key: str) -> bytes | None:
        """The package, None for an object that is really in S3."""
        if bucket == BUCKET and key in self._local:
            return self._package(self._local[key], self._runtimes.get(key.partition("/")[0]))
        found = self._cdk.get(key) or self._serverless(key)
        return None if found is None else self._package(found, None)

    def _serverless(self, key: str) -> Path | None:
        """What ``serverless package`` left beside its template, called as it will be called in S3."""
        beside = self._folder / key.rpartition("/")[2]
        return beside if self._folder.name == ".serverless" and key.startswith("serverless/") and beside.is_file() else None

    def _package(self, path: Path, runtime: str | None) -> bytes:
        if path not in self._made:
            if path.is_file():
                self._made[path] = path.read_bytes()
            else:
                self._made[path] = zipped(path) if runtime is None else of_directory(path, runtime)
        return self._made[path]


def _cdk_assets(template: Path) -> dict[str, Path]:
    """The file assets of a CDK cloud assembly, by object key, from the manifest beside the template."""
    if not template.name.endswith(".template.json"):
        return {}
    manifest = template.with_name(f"{template.name.removesuffix('.template.json')}.assets.json")
    if not manifest.is_file():
        return {}
    try:
        files: dict[str, Any] = json.loads(manifest.read_text()).get("files") or {}
        return {
            destination["objectKey"]: template.parent / about["source"]["path"]
            for about in files.values()
            for destination in about["destinations"].values()
        }
    except (ValueError, KeyError, AttributeError) as e:
        raise CliError(f"{manifest} is not a CDK asset manifest: {e}", 2) from e
