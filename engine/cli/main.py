"""``lambda-engine``: the entry point and the table of commands.

Exit status: 0 done, 1 it failed (the engine, the function or the network said no), 2 the command line or a setting is wrong.
"""

from __future__ import annotations

from typing import Annotated

import typer

from engine import __version__
from engine.cli import (
    advance,
    aws,
    backup,
    cold_starts,
    deploy,
    doctor,
    events,
    image,
    instances,
    invoke,
    listing,
    logs,
    runtimes,
    serve,
    settings,
    sign,
    simulate,
    stacks,
    vpc,
)
from engine.cli.output import CliError, complain

app = typer.Typer(
    name="lambda-engine",
    help="AWS Lambda on your own machine, without Docker.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("deploy")(deploy.deploy)
app.command("delete")(stacks.delete)
app.command("invoke")(invoke.invoke)
app.command("logs")(logs.logs)
app.command("list")(listing.list_functions)
app.command("instances")(instances.instances)
app.command("cold-starts")(cold_starts.cold_starts)
app.add_typer(events.app, name="events")
app.command("advance")(advance.advance)
app.add_typer(vpc.app, name="vpc")
app.add_typer(image.app, name="image")
app.add_typer(runtimes.app, name="runtimes")
app.command("simulate")(simulate.simulate)
app.command("doctor")(doctor.doctor)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("sign")(sign.sign)
app.command("config")(settings.config)
app.command("env")(aws.env)
app.command(
    "aws",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)(aws.aws)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lambda-engine {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """AWS Lambda on your own machine, without Docker."""


def main() -> None:
    """Run the command line and leave with its status."""
    try:
        app()
    except CliError as e:
        complain(str(e))
        raise SystemExit(e.status) from None


if __name__ == "__main__":
    main()
