"""``list``: the functions of the engine."""

from __future__ import annotations

from typing import Any

from engine.cli.options import Endpoint, Json
from engine.cli.output import document, say, table
from engine.cli.session import Session


def list_functions(endpoint: Endpoint = None, as_json: Json = False) -> None:
    """List the functions the engine holds."""
    session = Session(endpoint)
    functions: list[dict[str, Any]] = []
    with session.talking():
        for page in session.client().get_paginator("list_functions").paginate():
            functions += page["Functions"]
    if as_json:
        document(functions)
    elif not functions:
        say("no functions yet: lambda-engine deploy DIR")
    else:
        table(
            ("NAME", "RUNTIME", "MEMORY", "TIMEOUT", "SIZE", "MODIFIED"),
            [
                (
                    f["FunctionName"],
                    f.get("Runtime", "-"),
                    f"{f['MemorySize']} MB",
                    f"{f['Timeout']} s",
                    size(f["CodeSize"]),
                    f["LastModified"][:19],
                )
                for f in functions
            ],
        )


def size(count: int) -> str:
    """A number of bytes for people."""
    return f"{count} B" if count < 1024 else f"{count / 1024:.1f} KiB" if count < 1 << 20 else f"{count / (1 << 20):.1f} MiB"
