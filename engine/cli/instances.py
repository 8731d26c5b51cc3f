"""``instances``: what runs in the engine now, once or as a live view."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.listing import size
from engine.cli.options import Endpoint, Json
from engine.cli.output import CliError, document, say, table
from engine.cli.session import endpoint_of, no_engine

if TYPE_CHECKING:
    from rich.table import Table

_HEAD = ("ID", "FUNCTION", "VERSION", "STATE", "KIND", "AGE", "INVOCATIONS", "MEMORY")


def instances(
    function: Annotated[str | None, typer.Argument(help="Only instances of this function.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay and renew the list until interrupted.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks with --watch.")] = 1.0,
    endpoint: Endpoint = None,
    as_json: Json = False,
) -> None:
    """List the instances (execution environments) with state, age, invocations and memory."""
    url = endpoint_of(endpoint)
    if watch:
        _live(url, function, every)
        return
    found = _fetch(url, function)
    if as_json:
        document(found)
    elif not found:
        say("no instances: nothing was invoked lately")
    else:
        table(_HEAD, [_row(i) for i in found])


def _fetch(url: str, function: str | None) -> list[dict[str, Any]]:
    """Newest last. Raises CliError when nothing answers."""
    import json
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"{url}/_engine/state", timeout=10) as answer:  # noqa: S310 - endpoint_of lets only http and https pass
            state = json.load(answer)
    except (OSError, ValueError) as e:
        raise CliError(no_engine(url)) from e
    found = [i for i in state["instances"] if function in (None, i["function"])]
    return sorted(found, key=lambda i: (i["function"], i["version"], -i["age_s"]))


def _row(instance: dict[str, Any]) -> Sequence[str]:
    if instance.get("limit", 1) > 1 and instance["state"] in ("idle", "busy"):
        instance = {**instance, "state": f"{instance['state']} {instance['running']}/{instance['limit']}"}
    state = "frozen" if instance.get("frozen") and instance["state"] == "idle" else instance["state"]
    memory = size(instance["memory_bytes"]) if instance["memory_bytes"] else "-"
    return (
        instance["id"][:12],
        instance["function"] + (f" ({instance['tenant']})" if "tenant" in instance else ""),
        instance["version"],
        state,
        instance["kind"],
        _age(instance["age_s"]),
        str(instance["invocations"]),
        memory,
    )


def _age(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}m" if seconds < 6000 else f"{seconds / 3600:.1f}h"


def _live(url: str, function: str | None, every: float) -> None:
    from rich.live import Live

    with Live(_drawn(_fetch(url, function)), auto_refresh=False) as live:
        try:
            while True:
                time.sleep(every)
                live.update(_drawn(_fetch(url, function)), refresh=True)
        except KeyboardInterrupt:
            return


def _drawn(found: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    busy = sum(i["state"] == "busy" for i in found)
    drawn = Table(*_HEAD, title=f"{len(found)} instances, {busy} busy", box=None, title_justify="left")
    for instance in found:
        drawn.add_row(*_row(instance))
    return drawn
