"""What functions import: learnt from the first instance of each version, and what importing it ahead would spare the next ones.

Nothing is started for the sake of the report. A version's first instance measures its imports while it initialises and tells after its first
event. With ``learn_imports`` on, what is worth it is imported ahead in a template of the version (``templates``), from which its
instances are copied; each of them still runs the init of the function itself.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from engine.errors import WireError
from engine.supervisor.catalogue import Version

# Less than this is not worth a process.
WORTH_MS = 5.0
PACKAGE, RUNTIME, OWN = "package", "runtime", "own"
_Name = Annotated[str, msgspec.Meta(max_length=200)]
_Microseconds = Annotated[int, msgspec.Meta(ge=0, le=10**10)]


class Document(msgspec.Struct):
    """IMPORTS: ``packages`` are (name, kind, microseconds without what they import in turn); ``refused``: why nothing is imported ahead."""

    took_us: _Microseconds = 0
    packages: Annotated[list[tuple[_Name, Literal["package", "runtime", "own"], _Microseconds]], msgspec.Meta(max_length=2000)] = []
    modules: Annotated[list[_Name], msgspec.Meta(max_length=4000)] = []
    refused: Annotated[str, msgspec.Meta(max_length=1000)] = ""


class Imports:
    """One version's. ``init_ms``: the loading of its handler when it was learnt; ``copied_ms``: the last init of an instance that had
    them imported ahead.
    """

    __slots__ = ("copied_ms", "init_ms", "modules", "packages")

    def __init__(self, document: Document) -> None:
        self.init_ms = document.took_us / 1000
        self.copied_ms: float | None = None
        self.packages = {name: (kind, us / 1000) for name, kind, us in document.packages}
        self.modules = document.modules

    def spare_ms(self) -> float:
        """What importing the packages ahead would take off the init."""
        return sum(ms for kind, ms in self.packages.values() if kind == PACKAGE)


def parse(parts: list[Any]) -> Document:
    """An IMPORTS message of a worker. Raises WireError."""
    if len(parts) != 2 or type(parts[1]) is not bytes:
        raise WireError("IMPORTS has 2 elements")
    try:
        return msgspec.json.decode(parts[1], type=Document)
    except msgspec.DecodeError as e:
        raise WireError(f"IMPORTS: {e}") from None


def figures(account: str, version: Version) -> dict[str, Any] | None:
    """The report on one version; None while nothing is known."""
    imports, template = version.imports, version.template
    if imports is None:
        return None
    learning = template is not None and template.learned
    return {
        "account": account,
        "name": version.config.name,
        "version": version.config.version,
        "init_ms": imports.init_ms,
        "spare_ms": imports.spare_ms(),
        "preloaded_init_ms": imports.copied_ms,
        "preloading": template.stage.value if learning and template is not None else "off",
        "reason": template.reason if learning and template is not None else None,
        "packages": [
            {"name": name, "kind": kind, "ms": ms}
            for name, (kind, ms) in sorted(imports.packages.items(), key=lambda item: -item[1][1])
        ],
    }
