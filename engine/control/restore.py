"""What a control plane does with what it finds: every stored function goes back into the catalogue, its package ready to run."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator

from engine.control.catalogue import Catalogue
from engine.control.kinds import RUNTIME_MANAGEMENT
from engine.control.link import Hello
from engine.control.packages import OPT_ROOT, TASK_ROOT, Packages
from engine.errors import AwsError
from engine.store.api import Function, FunctionStore

_log = logging.getLogger(__name__)


def restore(store: FunctionStore, packages: Packages, catalogue: Catalogue, hello: Hello) -> None:
    """See that what ``catalogue`` was filled with can run: trees that are gone are unpacked again, runtimes that are new are compiled
    for. Blocks.

    A package that cannot be had any more is logged and its versions are Failed; nothing else suffers.
    """
    catalogue.runtimes = hello.runtimes
    for function in _amended(store, packages, hello):
        catalogue.put(function)
    catalogue.loaded = True


def _amended(store: FunctionStore, packages: Packages, hello: Hello) -> Iterator[Function]:
    """The functions of which something had to be made ready."""
    seen: dict[tuple[str, str], bool] = {}
    present = packages.present()
    for function in store.everything():
        # Only now is known whether what it is held to is there.
        amended = any(key.kind == RUNTIME_MANAGEMENT for key in function.attached)
        for version in function.versions.values():
            # A container image has none, and nothing to be made ready.
            runtime = version.config.get("Runtime", "")
            installed = hello.runtimes.get(runtime)
            if installed is None:
                continue
            for sha256, root in ((version.code_sha256, TASK_ROOT), *((layer, OPT_ROOT) for layer in version.layers)):
                if (found := seen.get((sha256, runtime))) is not None:
                    amended |= found
                    continue
                there = sha256 in present and f"{sha256}.{runtime}" in present
                seen[sha256, runtime] = not there
                if there:
                    continue
                amended = True
                try:
                    packages.ensure(sha256, runtime, installed.interpreter, root=root)
                except (OSError, AwsError, zipfile.BadZipFile) as e:
                    _log.error(
                        "the code of %s version %s in account %s is lost: %s", function.name, version.version, function.account, e
                    )
        if amended:
            yield function
