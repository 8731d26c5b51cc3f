"""What a control plane does with what it finds: every stored function goes back into the catalogue, its package ready to run."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator

from engine.control.catalogue import Catalogue
from engine.control.link import Hello
from engine.control.packages import OPT_ROOT, TASK_ROOT, Packages
from engine.errors import AwsError
from engine.store.api import Function, FunctionStore

_log = logging.getLogger(__name__)


def restore(store: FunctionStore, packages: Packages, catalogue: Catalogue, hello: Hello) -> None:
    """Fill ``catalogue`` from ``store``; trees that are gone are unpacked again, runtimes that are new are compiled for. Blocks.

    A package that cannot be had any more is logged and its versions are Failed; nothing else suffers.
    """
    catalogue.load(_ready(store, packages, hello))


def _ready(store: FunctionStore, packages: Packages, hello: Hello) -> Iterator[Function]:
    seen: set[tuple[str, str]] = set()
    present = packages.present()
    for function in store.everything():
        for version in function.versions.values():
            # A container image has none, and nothing to be made ready.
            runtime = version.config.get("Runtime", "")
            installed = hello.runtimes.get(runtime)
            if installed is None:
                continue
            for sha256, root in ((version.code_sha256, TASK_ROOT), *((layer, OPT_ROOT) for layer in version.layers)):
                if (sha256, runtime) in seen:
                    continue
                seen.add((sha256, runtime))
                if sha256 in present and f"{sha256}.{runtime}" in present:
                    continue
                try:
                    packages.ensure(sha256, runtime, installed.interpreter, root=root)
                except (OSError, AwsError, zipfile.BadZipFile) as e:
                    _log.error(
                        "the code of %s version %s in account %s is lost: %s", function.name, version.version, function.account, e
                    )
        yield function
