"""``deploy``: make a package of a directory and create or update the function with it."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.options import Endpoint, Json
from engine.cli.output import CliError, data, document, progress, say
from engine.cli.session import Session, settings_of
from engine.cli.stacks import deploy_template, is_template, pairs_of

# Lambda takes 50 MB in the request itself; more has to come from S3.
MAX_DIRECT = 50 * 1024 * 1024
BUCKET = "lambda-engine-deployments"
WAIT = {"Delay": 0.2, "MaxAttempts": 600}


@dataclass
class Wishes:
    """What the command line asks of a function; None leaves it as it is, or at Lambda's default."""

    runtime: str | None = None
    handler: str | None = None
    memory: int | None = None
    timeout: int | None = None
    role: str | None = None
    env: dict[str, str] | None = None

    def configuration(self) -> dict[str, Any]:
        """The members of CreateFunction and UpdateFunctionConfiguration that were asked for."""
        wanted: dict[str, Any] = {
            "Runtime": self.runtime,
            "Handler": self.handler,
            "MemorySize": self.memory,
            "Timeout": self.timeout,
            "Role": self.role,
            "Environment": None if self.env is None else {"Variables": self.env},
        }
        return {k: v for k, v in wanted.items() if v is not None}


@dataclass
class Outcome:
    """What a deployment did, and how long each step of it took."""

    action: str
    configuration: dict[str, Any]
    size: int
    seconds: dict[str, float] = field(default_factory=dict)
    bytecode: dict[str, int] | None = None

    def saving(self) -> str | None:
        """What having compiled the package once spares each cold start; None when nothing was compiled."""
        made = self.bytecode
        if not made or not made["modules"]:
            return None
        spared_ms = max(0, made["compile_us"] - made["load_us"]) / 1000
        modules = "1 module" if made["modules"] == 1 else f"all {made['modules']} modules"
        return (
            f"bytecode compiled once: importing {modules} takes {made['load_us'] / 1000:.1f} ms of reading instead of "
            f"{made['compile_us'] / 1000:.1f} ms of compiling, {spared_ms:.1f} ms less in a cold start"
        )

    def sentence(self) -> str:
        c = self.configuration
        steps = ", ".join(f"{name} {s:.2f} s" for name, s in self.seconds.items())
        return f"{self.action} {c['FunctionName']} ({c['Runtime']}, {self.size / 1024:.1f} KiB) in {sum(self.seconds.values()):.2f} s: {steps}"


class Deployment:
    """One run of ``deploy``: package, upload, wait."""

    def __init__(self, session: Session, name: str, source: Path, wishes: Wishes) -> None:
        self._session = session
        self._name = name
        self._source = source
        self._wishes = wishes
        self._seconds: dict[str, float] = {}

    def run(self) -> Outcome:
        """Do it. Raises CliError with the reason when any step fails."""
        existing = self._existing()
        started = time.monotonic()
        runtime = self._wishes.runtime or (existing or {}).get("Runtime") or _default_runtime()
        with progress(f"packaging {self._source}"):
            package = self._package(runtime)
        self._lap("package", started)
        with progress(f"deploying {self._name}"), self._session.talking():
            if existing is None:
                self._wishes.runtime = runtime
                action, configuration = "created", self._create(package)
            else:
                action, configuration = self._update(package, existing)
        return Outcome(action, configuration, len(package), self._seconds, self._bytecode(configuration))

    def _bytecode(self, configuration: dict[str, Any]) -> dict[str, int] | None:
        """What the engine measured when it compiled the package; None from one that does not tell."""
        digest = base64.b64decode(configuration["CodeSha256"]).hex()
        url = f"{self._session.endpoint}/_engine/bytecode/{digest}/{configuration['Runtime']}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - endpoint_of lets only http and https pass
                found: dict[str, int] = json.load(answer)
        except (OSError, ValueError):
            return None
        return found

    def _lap(self, step: str, since: float) -> None:
        self._seconds[step] = self._seconds.get(step, 0.0) + time.monotonic() - since

    def _existing(self) -> dict[str, Any] | None:
        client = self._session.client()
        with self._session.talking():
            try:
                found: dict[str, Any] = client.get_function_configuration(FunctionName=self._name)
            except client.exceptions.ResourceNotFoundException:
                return None
        return found

    def _package(self, runtime: str) -> bytes:
        from engine.cli.package import detect_handler, of_directory

        if self._source.is_file():
            return self._source.read_bytes()
        if self._wishes.handler is None:
            self._wishes.handler = detect_handler(self._source)
        return of_directory(self._source, runtime)

    def _create(self, package: bytes) -> dict[str, Any]:
        wishes = self._wishes
        if wishes.handler is None:
            raise CliError(f"a new function from a zip needs --handler module.function ({self._source})", 2)
        if wishes.role is None:
            wishes.role = f"arn:aws:iam::{settings_of().account_id}:role/lambda-engine"
        started = time.monotonic()
        self._session.client().create_function(FunctionName=self._name, Code=self._code(package), **wishes.configuration())
        self._lap("upload", started)
        return self._wait("function_active_v2")

    def _update(self, package: bytes, existing: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        client = self._session.client()
        action, configuration = "unchanged", existing
        digest = base64.b64encode(hashlib.sha256(package).digest()).decode()
        if digest != existing["CodeSha256"]:
            started = time.monotonic()
            client.update_function_code(FunctionName=self._name, **self._code(package))
            self._lap("upload", started)
            action, configuration = "updated", self._wait("function_updated_v2")
        changes = {k: v for k, v in self._wishes.configuration().items() if existing.get(k) != v}
        if changes:
            started = time.monotonic()
            client.update_function_configuration(FunctionName=self._name, **changes)
            self._lap("configure", started)
            action, configuration = "updated", self._wait("function_updated_v2")
        return action, configuration

    def _code(self, package: bytes) -> dict[str, Any]:
        if len(package) <= MAX_DIRECT:
            return {"ZipFile": package}
        s3 = self._session.client("s3")
        key = f"{self._name}/{hashlib.sha256(package).hexdigest()}.zip"
        s3.create_bucket(Bucket=BUCKET)
        s3.put_object(Bucket=BUCKET, Key=key, Body=package)
        return {"S3Bucket": BUCKET, "S3Key": key}

    def _wait(self, waiter: str) -> dict[str, Any]:
        from botocore.exceptions import WaiterError

        started = time.monotonic()
        client = self._session.client()
        try:
            client.get_waiter(waiter).wait(FunctionName=self._name, WaiterConfig=WAIT)
        except WaiterError as e:
            state = client.get_function_configuration(FunctionName=self._name)
            reason = state.get("StateReason") or state.get("LastUpdateStatusReason") or str(e)
            raise CliError(f"{self._name} did not become ready: {reason}") from e
        self._lap("active", started)
        configuration: dict[str, Any] = client.get_function_configuration(FunctionName=self._name)
        return configuration


def _default_runtime() -> str:
    from engine.cli.interpreters import own_runtime

    return own_runtime()




def deploy(
    source: Annotated[Path, typer.Argument(
        metavar="DIR|ZIP|TEMPLATE", exists=True, help="A function's directory, a finished zip, or a CloudFormation, SAM or CDK template.")],
    name: Annotated[str | None, typer.Option("--name", help="Function name. Default: the directory's.")] = None,
    runtime: Annotated[str | None, typer.Option(help="python3.9 to python3.14. Default: what it has, else this Python's.")] = None,
    handler: Annotated[str | None, typer.Option(help="module.function. Default: found in the directory.")] = None,
    memory: Annotated[int | None, typer.Option(help="Memory in MB.")] = None,
    timeout: Annotated[int | None, typer.Option(help="Timeout in seconds.")] = None,
    role: Annotated[str | None, typer.Option(help="Execution role ARN.")] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Environment variable; repeatable.")] = None,
    stack: Annotated[str | None, typer.Option("--stack", help="Of a template: the stack's name. Default: the template's.")] = None,
    parameter: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of a template: a parameter; repeatable.")] = None,
    endpoint: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Create or update a function from a directory or a zip (requirements.txt is installed into the package), or a template's stack."""
    if is_template(source):
        deploy_template(source, stack, parameter or [], endpoint, as_json)
        return
    wishes = Wishes(runtime, handler, memory, timeout, role, pairs_of("--env", env) if env else None)
    outcome = Deployment(Session(endpoint), name or source.absolute().stem, source, wishes).run()
    say(outcome.sentence())
    if outcome.action != "unchanged" and (saving := outcome.saving()) is not None:
        say(saving)
    if as_json:
        shown = {"action": outcome.action, "seconds": outcome.seconds, "bytecode": outcome.bytecode}
        document({**shown, "configuration": outcome.configuration})
    else:
        data(outcome.configuration["FunctionArn"])
