"""``serve``: run the engine in the foreground."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.output import CliError
from engine.cli.session import ENDPOINT_VARIABLE, settings_of

if TYPE_CHECKING:
    from engine.config import Settings


def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind; anything but loopback needs --auth sigv4, --auth iam or --insecure.")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port; 0 takes a free one. Default: 4566.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Everything the engine keeps.")] = None,
    region: Annotated[str | None, typer.Option(help="AWS region the engine plays.")] = None,
    account_id: Annotated[str | None, typer.Option(help="AWS account the engine plays.")] = None,
    auth: Annotated[str | None, typer.Option(help="off, sigv4 or iam.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Allow a non-loopback bind without authentication.")] = False,
    sandbox: Annotated[str | None, typer.Option(help="auto, full, user or process; see 'doctor'.")] = None,
    network: Annotated[str | None, typer.Option(help="What functions reach besides the engine: isolated (nothing), nat (the outside), host; auto.")] = None,
    pool_size: Annotated[int | None, typer.Option(help="Prepared empty sandboxes per runtime.")] = None,
    keep_alive_s: Annotated[float | None, typer.Option(help="Retire an instance idle this long.")] = None,
    aws_endpoint: Annotated[str | None, typer.Option(help="Other AWS services: embedded, aws or a URL.")] = None,
    binary_address: Annotated[str | None, typer.Option(help="host:port for the binary protocol over TCP.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="TOML file of settings.")] = None,
    examples: Annotated[bool, typer.Option("--examples", help="Deploy three example functions once the engine is ready.")] = False,
) -> None:
    """Run the engine until Ctrl-C or SIGTERM; a second signal ends it at once.

    Every setting can also come from the environment (LAMBDA_ENGINE_<NAME>) or the TOML file; 'config' shows all of them.
    """
    if config is not None:
        os.environ["LAMBDA_ENGINE_CONFIG"] = str(config)
    flags = {
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "region": region,
        "account_id": account_id,
        "auth": auth,
        "insecure": insecure or None,
        "sandbox": sandbox,
        "network": network,
        "pool_size": pool_size,
        "keep_alive_s": keep_alive_s,
        "aws_endpoint": aws_endpoint,
        "binary_address": binary_address,
        "log_level": log_level,
    }
    settings = settings_of(**flags)
    if examples and settings.port == 0:
        raise CliError("--examples needs to know the port: give one with --port", 2)
    raise SystemExit(run(settings, examples=examples))


def run(settings: Settings, *, examples: bool) -> int:
    """Serve; the exit status. Raises CliError when the engine cannot start."""
    from engine.config import unknown_variables
    from engine.errors import ConfigurationError, SandboxUnavailable
    from engine.start import begun

    for name in unknown_variables():
        typer.echo(f"warning: {name} is no setting of the engine", err=True)
    if examples:
        _deploy_examples(settings)
    try:
        with begun(settings) as parts:
            # What takes long to import is imported while the others start.
            from engine.app import serve as serve_engine
            from engine.telemetry.logs import configure

            configure(settings.log_level)
            return serve_engine(settings, parts)
    except ConfigurationError as e:
        raise CliError(str(e), 2) from e
    except SandboxUnavailable as e:
        raise CliError(f"{e} ('lambda-engine doctor' says what this host allows)") from e


def _deploy_examples(settings: Settings) -> None:
    # A process of its own: what it imports (boto3) and does must not weigh on the data plane, which is this process.
    env = dict(os.environ)
    env[ENDPOINT_VARIABLE] = settings.endpoint_url()
    if settings.access_keys and not env.get("AWS_ACCESS_KEY_ID"):
        key_id, secret = next(iter(settings.access_keys.items()))
        env |= {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret.get_secret_value()}
    settings_for_child = {"region": settings.region, "account_id": settings.account_id, "data_dir": str(settings.data_dir)}
    argv = [sys.executable, "-m", "engine.cli.examples_deployer", str(os.getpid()), json.dumps(settings_for_child)]
    # By way of a shell that ends at once: nobody here has to collect its status, which would take a thread, and with two threads the engine
    # could not give up root's powers.
    subprocess.run(["/bin/sh", "-c", '"$@" &', "sh", *argv], env=env, stdin=subprocess.DEVNULL, check=True)  # noqa: S603 - our own program
