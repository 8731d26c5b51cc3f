"""What a stack consists of, between two deployments: one JSON file per stack beside the template, as build tools keep theirs."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.aws.lambda_resources import Made
from engine.cli.output import CliError

FOLDER = ".lambda-engine"


@dataclass(slots=True)
class Standing:
    """One resource that was made. ``retain``: it outlives the stack."""

    type: str
    physical: str
    ref: str
    attributes: dict[str, str]
    properties: dict[str, Any]
    retain: bool = False

    def made(self) -> Made:
        return Made(self.physical, self.ref, self.attributes)


@dataclass(slots=True)
class State:
    """A stack. ``companion`` says whether the embedded CloudFormation has a part of it; ``seed`` makes generated names unique."""

    name: str
    seed: str
    account: str
    region: str
    resources: dict[str, Standing] = field(default_factory=dict)
    companion: bool = False
    outputs: dict[str, str] = field(default_factory=dict)


class StateFile:
    """Reads and writes the state of one stack."""

    def __init__(self, template: Path, stack: str) -> None:
        self.path = template.resolve().parent / FOLDER / f"{stack}.json"

    def read(self) -> State | None:
        """The state, None for a stack that is not there. Raises CliError for a file that is not one."""
        try:
            document = json.loads(self.path.read_text())
            standing = {k: Standing(**v) for k, v in document.pop("resources").items()}
            return State(**document, resources=standing)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as e:
            raise CliError(f"{self.path} is not the state of a stack ({e}): remove it to start over", 2) from e

    def write(self, state: State) -> None:
        """Keep the state; it is replaced as a whole or not at all."""
        self.path.parent.mkdir(exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(asdict(state), indent=1) + "\n")
        os.replace(new, self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
