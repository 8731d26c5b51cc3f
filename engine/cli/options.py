"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Endpoint = Annotated[
    str | None,
    typer.Option("--endpoint", metavar="URL", help="The engine's URL. Default: $LAMBDA_ENGINE_ENDPOINT, else http://127.0.0.1:4566."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
