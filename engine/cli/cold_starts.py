"""``cold-starts``: which packages make functions start slowly, and what importing them ahead would spare."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from engine.cli.options import Endpoint, Json
from engine.cli.output import CliError, document, say, table
from engine.cli.session import endpoint_of, no_engine

_HEAD = ("FUNCTION", "VERSION", "PACKAGE", "KIND", "IMPORT", "OF THE INIT")
_MOST = 10


def cold_starts(
    function: Annotated[str | None, typer.Argument(help="Only this function.")] = None,
    endpoint: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Say what Python functions spend their inits on, as their first instances measured it, slowest first."""
    found = [f for f in _fetch(endpoint_of(endpoint)) if function in (None, f["name"])]
    found.sort(key=lambda f: -f["spare_ms"])
    if as_json:
        document(found)
        return
    if not found:
        say("nothing is known yet: the first instance of a Python function measures its imports, and tells after its first invocation")
        return
    table(_HEAD, [row for f in found for row in _rows(f)])
    for f in found:
        say(_sentence(f))


def _fetch(url: str) -> list[dict[str, Any]]:
    """Raises CliError when nothing answers."""
    import json
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"{url}/_engine/cold-starts", timeout=10) as answer:  # noqa: S310 - endpoint_of lets only http and https pass
            found: list[dict[str, Any]] = json.load(answer)
    except (OSError, ValueError) as e:
        raise CliError(no_engine(url)) from e
    return found


def _rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    whole_ms = found["init_ms"] or 1.0
    return [
        (found["name"], found["version"], p["name"], p["kind"], f"{p['ms']:.1f} ms", f"{100 * p['ms'] / whole_ms:.0f} %")
        for p in found["packages"][:_MOST]
    ]


def _sentence(found: dict[str, Any]) -> str:
    """What importing ahead does or would do for one version."""
    name = f"{found['name']}:{found['version']}"
    packages = [p["name"] for p in found["packages"] if p["kind"] == "package"]
    if found["preloaded_init_ms"] is not None:
        return f"{name}: {', '.join(packages)} imported ahead; an init took {found['init_ms']:.1f} ms and takes {found['preloaded_init_ms']:.1f} ms"
    if found["preloading"] == "plain":
        return f"{name}: nothing is imported ahead: {found['reason']}"
    if found["preloading"] != "off":
        return f"{name}: its next instances start with {', '.join(packages)} imported ({found['spare_ms']:.1f} of {found['init_ms']:.1f} ms)"
    if not packages:
        return f"{name}: imports no package that could be imported ahead; its init took {found['init_ms']:.1f} ms"
    return (
        f"{name}: importing {', '.join(packages)} ahead would spare {found['spare_ms']:.1f} of {found['init_ms']:.1f} ms in each cold start "
        "(LAMBDA_ENGINE_LEARN_IMPORTS=true)"
    )
