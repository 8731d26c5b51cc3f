"""``aws`` and ``env``: AWS's own clients pointed at the engine."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import typer

from engine.cli.options import Endpoint, Json
from engine.cli.output import CliError, data, document
from engine.cli.session import aws_environment, endpoint_of, settings_of


def env(endpoint: Endpoint = None, as_json: Json = False) -> None:
    """Print the shell commands that point AWS clients at the engine: eval "$(lambda-engine env)"."""
    variables = aws_environment(endpoint_of(endpoint), settings_of().region)
    if as_json:
        document(variables)
        return
    for name, value in variables.items():
        data(f"export {name}={shlex.quote(value)}")


def aws(context: typer.Context) -> None:
    """Run the AWS CLI against the engine: lambda-engine aws lambda list-functions."""
    beside = Path(sys.executable).with_name("aws")
    program = str(beside) if os.access(beside, os.X_OK) else shutil.which("aws")
    if program is None:
        raise CliError("the AWS CLI is not installed: pip install awscli, or see docs.aws.amazon.com/cli")
    # A pager would hold the terminal of what people run in loops; theirs stays when they set one.
    variables = {"AWS_PAGER": "", **os.environ, **aws_environment(endpoint_of(None), settings_of().region)}
    # Version 1 gives SQS an address of its own, whatever the environment says, unless it is told one here.
    told = [] if any(a.startswith("--endpoint-url") for a in context.args) else ["--endpoint-url", variables["AWS_ENDPOINT_URL"]]
    os.execve(program, [program, *told, *context.args], variables)
