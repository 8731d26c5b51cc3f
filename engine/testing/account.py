"""One test's view of an engine: an account that starts empty, functions from files, and effects that are waited for.

Nothing here sleeps for a fixed time: ``until`` asks again and again, ``settled`` waits for the queue of asynchronous invocations.
"""

from __future__ import annotations

import io
import json
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from engine.aws.clients import AwsClients
from engine.testing.server import Server

T = TypeVar("T")
RUNTIME = f"python3.{sys.version_info.minor}"
TIMEOUT_S = 30.0
POLL_S = 0.01
WAIT = {"Delay": 0.05, "MaxAttempts": 2400}


class Failed(AssertionError):
    """The function failed: what it answered with, and the end of its log."""

    def __init__(self, name: str, kind: str, message: str, log: str) -> None:
        super().__init__(f"{name} failed with {kind}: {message}\n{log}")
        self.kind = kind
        self.message = message
        self.log = log


@dataclass(frozen=True, slots=True)
class Function:
    """A deployed function."""

    account: Account
    name: str
    arn: str
    # Where its log began: a function of the same name may have been there before.
    log_from: int = 0

    def invoke(self, event: Any = None) -> Any:
        """What the handler returned. Raises Failed when it failed."""
        answer = self.account.client("lambda").invoke(FunctionName=self.name, Payload=json.dumps(event), LogType="Tail")
        value = json.loads(answer["Payload"].read() or b"null")
        if "FunctionError" in answer:
            raise Failed(self.name, str(value.get("errorType")), str(value.get("errorMessage")), "\n".join(self.logs()[-20:]))
        return value

    def send(self, event: Any = None) -> str:
        """Invoke asynchronously; the request id. ``account.settled()`` waits for its end, retries included."""
        answer = self.account.client("lambda").invoke(FunctionName=self.name, InvocationType="Event", Payload=json.dumps(event))
        return str(answer["ResponseMetadata"]["RequestId"])

    def logs(self) -> list[str]:
        """What it wrote, with its START, END and REPORT lines. Lines come a moment after they were written: use ``account.until``."""
        path = self.account.log_path(self.name)
        lines = path.read_bytes()[self.log_from :].decode("utf-8", "replace").splitlines() if path.exists() else []
        return [line.split("\t", 2)[2] for line in lines if line.count("\t") >= 2]

    def allow(self, principal: str, source_arn: str) -> None:
        """Let a service (``s3.amazonaws.com``) invoke it for a source."""
        self.account.client("lambda").add_permission(
            FunctionName=self.name, StatementId=f"s{time.time_ns()}", Action="lambda:InvokeFunction", Principal=principal, SourceArn=source_arn
        )


class Account:
    """The account of one test on an engine."""

    def __init__(self, server: Server, region: str = "us-east-1", account_id: str = "000000000000") -> None:
        self.server = server
        self.region = region
        self.account_id = account_id
        self.url = server.url
        self._clients = AwsClients(server.url, region, ("test", "test", None))

    def client(self, service: str) -> Any:
        """boto3's client of a service, on the engine's endpoint."""
        return self._clients.client(service)

    def environment(self) -> dict[str, str]:
        """Variables that point any AWS SDK or tool at this engine; for ``monkeypatch.setenv`` or a subprocess."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }

    def deploy(
        self,
        source: str | Path,
        handler: str | None = None,
        *,
        name: str | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: int = 30,
        **settings: Any,
    ) -> Function:
        """A function from a Python file, or from a directory with all that is in it; it is active when this returns.

        ``handler`` is ``module.function``; for a file ``handler`` of it if not given. ``name``: the file's. ``settings`` are CreateFunction's
        (``MemorySize=512``). Raises FileNotFoundError, ValueError for a directory without a handler, and boto3's errors.
        """
        path = Path(source)
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or directory to deploy")
        if handler is None and path.is_dir():
            raise ValueError(f"{path} is a directory: say which handler, as module.function")
        called = name or path.stem
        log = self.log_path(called)
        log_from = log.stat().st_size if log.exists() else 0
        lambda_ = self.client("lambda")
        made = lambda_.create_function(
            FunctionName=called,
            Runtime=settings.pop("Runtime", RUNTIME),
            Role=settings.pop("Role", f"arn:aws:iam::{self.account_id}:role/test"),
            Handler=handler or f"{path.stem}.handler",
            Code={"ZipFile": _package(path)},
            Environment={"Variables": dict(environment or {})},
            Timeout=timeout,
            **settings,
        )
        lambda_.get_waiter("function_active_v2").wait(FunctionName=called, WaiterConfig=WAIT)
        return Function(self, called, str(made["FunctionArn"]), log_from)

    def log_path(self, name: str) -> Path:
        """The file that has a function's log."""
        return self.server.data_dir / "logs" / self.account_id / f"{name}.log"

    def until(self, condition: Callable[[], T | None], what: str = "the condition", timeout_s: float = TIMEOUT_S) -> T:
        """What ``condition`` gives once that is true. Raises AssertionError naming ``what`` when it is not in time."""
        deadline_s = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > deadline_s:
                raise AssertionError(f"not within {timeout_s:g} s: {what}")
            time.sleep(POLL_S)
        return value

    def settled(self, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until no asynchronous invocation is due or being run, those of buckets, topics and rules included (those that wait for a retry later on
        may stay).
        """
        # What services have handed over is in the queue when this returns.
        self.advance(0)

        def idle() -> bool:
            queued = self.server.ask("GET", "/_engine/events?limit=1000")["events"]
            return all(event["state"] == "waiting" for event in queued)

        self.until(idle, "the end of all asynchronous invocations", timeout_s)

    def advance(self, seconds: float) -> int:
        """Put time forward for schedules and retries; how many scheduled runs that were."""
        return int(self.server.ask("POST", "/_engine/time", {"advance_s": seconds})["runs"])

    def empty(self) -> None:
        """Take everything away: functions, mappings, queued events, layers, and all that the embedded AWS has."""
        lambda_ = self.client("lambda")
        mappings = [m["UUID"] for page in lambda_.get_paginator("list_event_source_mappings").paginate() for m in page["EventSourceMappings"]]
        functions = [f["FunctionName"] for page in lambda_.get_paginator("list_functions").paginate() for f in page["Functions"]]
        for mapping in mappings:
            # One that has just been made or changed is in use for a moment.
            self.until(lambda m=mapping: self._deleted(lambda_, m), f"a mapping that can be deleted: {mapping}", 4 * TIMEOUT_S)  # type: ignore[misc]
        for function in functions:
            lambda_.delete_function(FunctionName=function)
            self.server.ask("DELETE", "/_engine/events", {"function": function, "account": self.account_id})
        for layer in [each for page in lambda_.get_paginator("list_layers").paginate() for each in page["Layers"]]:
            versions = lambda_.list_layer_versions(LayerName=layer["LayerName"])["LayerVersions"]
            for version in versions:
                lambda_.delete_layer_version(LayerName=layer["LayerName"], VersionNumber=version["Version"])
        if mappings:
            # What is being polled is polled to its end, a second at most.
            self.until(lambda: not lambda_.list_event_source_mappings()["EventSourceMappings"], "the end of the mappings", 4 * TIMEOUT_S)
        with urllib.request.urlopen(f"{self.url}/_engine/state", timeout=TIMEOUT_S) as state:  # noqa: S310 - the engine's own URL
            used = "embedded-aws" in json.loads(state.read())["processes"]
        if used:
            request = urllib.request.Request(f"{self.url}/moto-api/reset", method="POST")  # noqa: S310
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310
                pass

    @staticmethod
    def _deleted(lambda_: Any, mapping: str) -> bool:
        try:
            lambda_.delete_event_source_mapping(UUID=mapping)
        except lambda_.exceptions.ResourceInUseException:
            return False
        return True


def _package(path: Path) -> bytes:
    out = io.BytesIO()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    root = path.parent if path.is_file() else path
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            # Dates of no meaning: the same content is the same package, which the engine has then.
            info = zipfile.ZipInfo(str(file.relative_to(root)), (1980, 1, 1, 0, 0, 0))
            info.external_attr = (0o755 if file.stat().st_mode & 0o100 else 0o644) << 16
            archive.writestr(info, file.read_bytes())
    return out.getvalue()
