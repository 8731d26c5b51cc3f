"""``runtimes``: what managed runtimes bring for functions, on Lambda as part of them, here on request."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli.options import Json
from engine.cli.output import CliError, document, progress, say, table
from engine.cli.session import settings_of

SDK = "nodejs-sdk"

app = typer.Typer(no_args_is_help=True, help="What managed runtimes bring for functions: the AWS SDK for Node.js.")


@app.command("install")
def install(
    what: Annotated[str, typer.Argument(metavar=SDK, help="The AWS SDK for JavaScript, v3, for every Node.js runtime.")],
    packages: Annotated[list[str] | None, typer.Argument(metavar="PACKAGE", help="More of its packages, such as @aws-sdk/client-ecs.")] = None,
) -> None:
    """Fetch the newest AWS SDK with npm. Engines that run have it at once."""
    from engine.sandbox import node_sdk

    if what != SDK:
        raise CliError(f"{what!r} is nothing to install: there is {SDK}", 2)
    try:
        with progress("fetching the AWS SDK with npm"):
            versions = node_sdk.install(settings_of().cache_dir(), packages or ())
    except (node_sdk.SdkError, OSError) as e:
        raise CliError(str(e)) from e
    say(f"{len(versions)} packages, @aws-sdk/client-s3 {versions['@aws-sdk/client-s3']}")


@app.command("list")
def show(as_json: Json = False) -> None:
    """List what is installed."""
    from engine.sandbox import node_sdk

    found = node_sdk.installed(settings_of().cache_dir())
    if as_json:
        document({SDK: found})
    elif found:
        table(("PACKAGE", "VERSION"), sorted(found.items()))
    else:
        say(f"the AWS SDK for Node.js is not installed: {node_sdk.COMMAND}")
