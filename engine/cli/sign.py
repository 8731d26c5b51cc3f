"""``sign``: put a signature into a package, for functions with a code signing configuration."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.output import CliError, say

DAY_S = 24 * 3600


def sign(
    package: Annotated[Path, typer.Argument(metavar="ZIP", help="The package of a function or layer.")],
    key: Annotated[Path, typer.Option(help="Private key in PEM: Ed25519, P-256 or RSA.")],
    profile: Annotated[str, typer.Option(metavar="ARN", help="The signing profile version whose public key the engine knows.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write; the package itself by default.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="How long the signature is good; without it, for ever.")] = None,
) -> None:
    """Sign a package: lambda-engine sign f.zip --key key.pem --profile arn:aws:signer:...:/signing-profiles/team/1"""
    from engine.control.signatures import sign as make
    from engine.errors import ConfigurationError

    parts = profile.split(":")
    if len(parts) < 6 or parts[2] != "signer":
        raise CliError(f"{profile!r} is not the ARN of a signing profile version", 2)
    job = f"arn:aws:signer:{parts[3]}:{parts[4]}:/signing-jobs/{uuid.uuid4()}"
    valid_s = None if days is None else days * DAY_S
    try:
        signed = make(package.read_bytes(), key.read_bytes(), profile, int(time.time()), valid_s=valid_s, job=job)
        (output or package).write_bytes(signed)
    except (ConfigurationError, OSError, ValueError, TypeError) as e:
        raise CliError(f"cannot sign {package}: {e}") from e
    say(f"signed {output or package} as {profile}")
