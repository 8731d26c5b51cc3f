"""``events``: what waits in the queue of asynchronous invocations."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from engine.cli.options import Json
from engine.cli.output import CliError, data, document, table
from engine.cli.own_socket import DataDir, ask

PATH = "/_engine/events"

app = typer.Typer(no_args_is_help=True, help="Look at and change the queue of asynchronous invocations.")
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Events by their request ids.")]
Function = Annotated[str | None, typer.Option("--function", metavar="NAME", help="Or all events of a function.")]


@app.command("list")
def show_all(
    function: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this function's.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the oldest first.")] = 100,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List events that are not done yet: due, being run, or waiting for their next attempt."""
    query = {"limit": str(limit)} | ({"function": function} if function else {})
    found = ask(data_dir, "GET", f"{PATH}?{urlencode(query)}")
    if as_json:
        document(found["events"])
        return
    rows = found["events"]
    table(
        ("ID", "FUNCTION", "STATE", "ACCEPTED", "DUE", "FAILED", "REFUSED", "BYTES"),
        [(e["id"], e["function"], e["state"], e["accepted"], e["due"], str(e["failures"]), str(e["refusals"]), str(e["bytes"])) for e in rows],
    )
    if found["depth"] > len(rows):
        typer.echo(f"{found['depth']} events in all", err=True)


@app.command("show")
def show(event: Annotated[str, typer.Argument(metavar="ID", help="The request id of the 202.")], data_dir: DataDir = None) -> None:
    """Show one event with its payload, as JSON."""
    document(ask(data_dir, "GET", f"{PATH}/{event}")["event"])


@app.command("retry")
def retry(ids: Ids = None, function: Function = None, data_dir: DataDir = None) -> None:
    """Try events again now instead of when they are due."""
    data(f"{_change(data_dir, 'POST', ids, function)} events are due now")


@app.command("purge")
def purge(ids: Ids = None, function: Function = None, data_dir: DataDir = None) -> None:
    """Forget events: they are not tried again, and no destination is told."""
    data(f"{_change(data_dir, 'DELETE', ids, function)} events are gone")


def _change(data_dir: Any, method: str, ids: list[str] | None, function: str | None) -> int:
    if bool(ids) == bool(function):
        raise CliError("name events by their ids, or a function with --function", 2)
    asked = {"ids": ids} if ids else {"function": function}
    return int(ask(data_dir, method, PATH, json.dumps(asked).encode())["count"])
