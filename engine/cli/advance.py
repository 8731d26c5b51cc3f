"""``advance``: put forward the time that schedules and queued events go by."""

from __future__ import annotations

import json
import re
from typing import Annotated

import typer

from engine.cli.output import CliError, data
from engine.cli.own_socket import DataDir, ask

PATH = "/_engine/time"
TIMEOUT_S = 330.0
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def advance(
    by: Annotated[str, typer.Argument(metavar="DURATION", help="How far: 90s, 15m, 6h, 2d.")],
    data_dir: DataDir = None,
) -> None:
    """Let schedules and retries that are due within DURATION happen now, as if the time had passed."""
    found = ask(data_dir, "POST", PATH, json.dumps({"advance_s": seconds(by)}).encode(), timeout_s=TIMEOUT_S)
    data(f"{found['now']}, {found['runs']} scheduled runs")


def seconds(text: str) -> float:
    """``90s``, ``15m``, ``6h``, ``2d``. Raises CliError (status 2) for anything else."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise CliError(f"{text!r} is no duration: write 90s, 15m, 6h or 2d", 2)
    return float(match[1]) * _UNITS_S[match[2]]
