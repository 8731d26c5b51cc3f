"""``config``: every setting, its value and where it came from."""

from __future__ import annotations

from engine.cli.options import Json
from engine.cli.output import document, table
from engine.cli.session import settings_of


def config(as_json: Json = False) -> None:
    """Show every setting with its value and its source (env, file or default); secrets are masked."""
    from engine.config import describe

    rows = describe(settings_of())
    if as_json:
        document({name: {"value": value, "source": source} for name, value, source in rows})
    else:
        table(("SETTING", "VALUE", "SOURCE"), rows)
