"""``vpc``: private servers in the subnets that functions are in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.options import Json
from engine.cli.output import data, document, table
from engine.cli.own_socket import DataDir, ask

PATH = "/_engine/vpc"

app = typer.Typer(no_args_is_help=True, help="Attach private servers to subnets, so that functions with a VpcConfig reach them.")


def _ask(data_dir: Path | None, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    return ask(data_dir, method, path, None if body is None else json.dumps(body).encode())


@app.command("attach")
def attach(
    subnet: Annotated[str, typer.Option(metavar="ID", help="The subnet the server joins.")],
    ip: Annotated[str, typer.Option(metavar="ADDR", help="Its address there.")],
    netns: Annotated[str | None, typer.Option(metavar="NAME", help="The network namespace (ip netns) in which the server runs.")] = None,
    interface: Annotated[
        str | None, typer.Option(metavar="IF", help="Or the interface of this host behind which it is; it leaves the host meanwhile.")
    ] = None,
    security_group: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="A group the server is in (repeatable). Without any it is not filtered.")
    ] = None,
    name: Annotated[str, typer.Option(metavar="HOST", help="A host name under which functions of the VPC find it.")] = "",
    data_dir: DataDir = None,
) -> None:
    """Put a private server into a subnet."""
    server = {"subnet": subnet, "ip": ip, "netns": netns, "interface": interface, "groups": security_group or [], "name": name}
    data(_ask(data_dir, "POST", PATH, server)["id"])


@app.command("detach")
def detach(attachment: Annotated[str, typer.Argument(metavar="ID", help="As attach printed it.")], data_dir: DataDir = None) -> None:
    """Take a server out of its subnet again."""
    _ask(data_dir, "DELETE", f"{PATH}/{attachment}")


@app.command("list")
def show(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the attached servers."""
    found = _ask(data_dir, "GET", PATH)["attachments"]
    if as_json:
        document(found)
        return
    table(
        ("ID", "VPC", "SUBNET", "ADDRESS", "BEHIND", "GROUPS", "NAME"),
        [
            (s["id"], s["vpc"], s["subnet"], s["ip"], s["netns"] or s["interface"], ",".join(s["groups"]) or "-", s["name"] or "-")
            for s in found
        ],
    )
