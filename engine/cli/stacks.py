"""``deploy TEMPLATE`` and ``delete TEMPLATE``: stacks on the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.options import Endpoint, Json
from engine.cli.output import CliError, data, document, say
from engine.cli.session import DUMMY_KEY_ID, Session, settings_of

if TYPE_CHECKING:
    from engine.cli.stack.stack import Stack

SUFFIXES = (".yaml", ".yml", ".json", ".template")


def is_template(path: Path) -> bool:
    """Whether a path is meant as a template and not as a package."""
    return path.is_file() and path.suffix in SUFFIXES


def pairs_of(option: str, pairs: list[str]) -> dict[str, str]:
    """NAME=VALUE arguments as a mapping. Raises CliError naming one that is not."""
    for pair in pairs:
        if "=" not in pair:
            raise CliError(f"{option} {pair}: write it as NAME=VALUE", 2)
    return dict(pair.split("=", 1) for pair in pairs)


def stack_of(session: Session, template: Path, name: str | None) -> Stack:
    """The stack of a template: named, or called like its file (or, for ``template.yaml``, its directory)."""
    from engine.auth.principals import account_of_key
    from engine.cli.stack.stack import Stack

    resolved = template.resolve()
    stem = resolved.name.partition(".")[0]
    plain = name or (resolved.parent.name if stem == "template" else stem)
    key = os.environ.get("AWS_ACCESS_KEY_ID") or DUMMY_KEY_ID
    return Stack(session, account_of_key(key) or settings_of().account_id, template, plain.replace("_", "-"), say)


def deploy_template(template: Path, name: str | None, parameters: list[str], endpoint: str | None, as_json: bool) -> None:
    """Make or change a stack, and print its outputs."""
    state = stack_of(Session(endpoint), template, name).deploy(pairs_of("--parameter", parameters))
    say(f"the stack {state.name} stands: {len(state.resources)} resources{' and those that CloudFormation made' if state.companion else ''}")
    for logical, standing in state.resources.items():
        if "Address" in standing.attributes:
            say(f"{logical} serves {standing.attributes['Address']}")
    if as_json:
        document({"stack": state.name, "outputs": state.outputs, "resources": {k: r.physical for k, r in state.resources.items()}})
        return
    for key, value in state.outputs.items():
        data(f"{key}\t{value}")


def delete(
    template: Annotated[Path, typer.Argument(metavar="TEMPLATE", help="The template the stack was deployed from.")],
    stack: Annotated[str | None, typer.Option("--stack", help="Stack name. Default: the template's.")] = None,
    endpoint: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Take away everything that 'deploy TEMPLATE' made."""
    made = stack_of(Session(endpoint), template, stack)
    if not made.delete():
        raise CliError(f"{template} has no stack here: nothing was deployed from it, or its .lambda-engine directory is gone")
    if as_json:
        document({"deleted": True})
