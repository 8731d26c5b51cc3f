"""Terraform with AWS's provider against an engine, where this host has both.

The provider comes from HashiCorp's registry alone, which tests do not reach. It is taken from where Terraform itself looks without one: the mirrors and
the cache that the user's CLI configuration names, ``TF_PLUGIN_CACHE_DIR``, and the directories of plugins of the user and the system.
``TEST_TERRAFORM_PROVIDER`` names the directory of its program, or one of these, before all others.
Source: developer.hashicorp.com/terraform/cli/config/config-file, "Provider Installation".
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.framework.engine import OWN_RUNTIME, Engine

CONFIGURATIONS = Path(__file__).parents[1] / "tools" / "terraform"
RUN_S = 900.0
_PROGRAM = "terraform-provider-aws*"
_PACKAGES = "registry.terraform.io/hashicorp/aws/*/*"
_NAMED = re.compile(r'^\s*(?:path|plugin_cache_dir|"(?:registry\.terraform\.io/)?hashicorp/aws")\s*=\s*"([^"]+)"', re.MULTILINE)


def _places() -> Iterator[Path]:
    home = Path.home()
    if named := os.environ.get("TEST_TERRAFORM_PROVIDER"):
        yield Path(named)
    configuration = Path(os.environ.get("TF_CLI_CONFIG_FILE") or home / ".terraformrc")
    # Also where the home is not this user's to look into.
    if os.access(configuration, os.R_OK) and configuration.is_file():
        yield from (Path(os.path.expandvars(p)).expanduser() for p in _NAMED.findall(configuration.read_text()))
    if cache := os.environ.get("TF_PLUGIN_CACHE_DIR"):
        yield Path(cache)
    yield home / ".terraform.d" / "plugins"
    yield Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "terraform" / "plugins"
    yield Path("/usr/local/share/terraform/plugins")
    yield Path("/usr/share/terraform/plugins")


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", folder.parent.name))


def provider() -> Path | None:
    """The directory of the provider's program, the newest version's of the first place that has one."""
    for place in _places():
        for folder in [place, *sorted(place.glob(_PACKAGES), key=_version, reverse=True)]:
            if any(os.access(program, os.X_OK) and program.is_file() for program in folder.glob(_PROGRAM)):
                return folder
    return None


def missing() -> bool:
    """Whether this host lacks Terraform or the provider."""
    return shutil.which("terraform") is None or provider() is None


def mirrored(folder: Path) -> Path:
    """A CLI configuration with which ``terraform init`` installs the provider from a mirror of it in ``folder``.

    Whoever uses it must have no ``TF_PLUGIN_CACHE_DIR``: Terraform deletes what it finds there for a link to where it installs from.
    """
    source = provider()
    assert source is not None
    (program,) = sorted(source.glob(_PROGRAM))[:1]
    version = "".join(re.findall(r"_v(\d+\.\d+\.\d+)", program.name)) or source.parent.name
    place = folder / "registry.terraform.io" / "hashicorp" / "aws" / version / _platform()
    place.mkdir(parents=True)
    for file in source.iterdir():
        try:
            os.link(file, place / file.name)
        except OSError:
            # Another file system.
            shutil.copy2(file, place / file.name)
    settings = folder / "terraformrc"
    settings.write_text(f"provider_installation {{\n  filesystem_mirror {{\n    path = {json.dumps(str(folder))}\n  }}\n}}\n")
    return settings


def _platform() -> str:
    """As Terraform calls it, after Go."""
    machine = platform.machine()
    return f"{platform.system().lower()}_{ {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(machine, machine)}"


def environment(engine: Engine) -> dict[str, str]:
    """That of a program which knows the engine and nothing else of AWS."""
    mine = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "TF_"))}
    named = {"AWS_ENDPOINT_URL": engine.url, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    return {**mine, **named, "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}


class Terraform:
    """A copy of one of ``CONFIGURATIONS`` in a directory of its own, with what it has made. ``variables``: the configuration's."""

    def __init__(self, name: str, folder: Path, engine: Engine, **variables: Any) -> None:
        self.folder = folder / name
        shutil.copytree(CONFIGURATIONS / name, self.folder)
        self.variables: dict[str, Any] = variables
        settings = folder / "terraformrc"
        override = f'dev_overrides {{ "hashicorp/aws" = {json.dumps(str(provider()))} }}'
        settings.write_text(f"provider_installation {{\n  {override}\n  direct {{}}\n}}\n")
        own = {"TF_CLI_CONFIG_FILE": str(settings), "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1", "TF_VAR_runtime": OWN_RUNTIME}
        self.environment = environment(engine) | own

    def run(self, *arguments: str, status: int = 0) -> str:
        """Its standard output; AssertionError when it ends otherwise than with ``status``."""
        named = {f"TF_VAR_{k}": str(v) for k, v in self.variables.items()}
        command = ["terraform", *arguments, "-no-color"]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment | named, capture_output=True, text=True, timeout=RUN_S, check=False
        )
        assert done.returncode == status, f"{' '.join(command)}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def apply(self, **variables: Any) -> dict[str, Any]:
        """Apply the configuration with these of its variables changed; nothing is left to do then. The outputs."""
        self.variables |= variables
        self.run("apply", "-auto-approve", "-parallelism=20")
        self.no_changes()
        return {name: output["value"] for name, output in json.loads(self.run("output", "-json")).items()}

    def no_changes(self) -> None:
        """AssertionError when a plan would change anything."""
        self.run("plan", "-detailed-exitcode")

    def adopt(self, address: str, identifier: str) -> None:
        """Forget a resource and import it; nothing is left to do then."""
        self.run("state", "rm", address)
        self.run("import", address, identifier)
        self.no_changes()

    def destroy(self) -> None:
        """Take everything away."""
        self.run("destroy", "-auto-approve", "-parallelism=20")
