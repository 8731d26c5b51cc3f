"""``vpc``: private servers in the subnets that functions are in."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.options import Json
from engine.cli.output import CliError, data, document, table
from engine.cli.session import settings_of

PATH = "/_engine/vpc"
TIMEOUT_S = 60.0

app = typer.Typer(no_args_is_help=True, help="Attach private servers to subnets, so that functions with a VpcConfig reach them.")
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="The running engine's data directory, when it is not the configured one.")]


class _Socket(http.client.HTTPConnection):
    """HTTP over the engine's own Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("engine", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


def _ask(data_dir: Path | None, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The engine's answer. Raises CliError with its reason, or when there is no engine."""
    settings = settings_of(data_dir=data_dir)
    connection = _Socket(settings.run_dir() / "http.sock")
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        found: dict[str, Any] = json.loads(answer.read())
    except PermissionError as e:
        raise CliError(f"only the user who runs the engine of {settings.data_dir} may do this") from e
    except (OSError, ValueError, http.client.HTTPException) as e:
        raise CliError(f"no engine runs on {settings.data_dir}: name its directory with --data-dir ({e})") from e
    finally:
        connection.close()
    if answer.status != 200:
        raise CliError(str(found.get("message", found)))
    return found


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
