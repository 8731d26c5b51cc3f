"""State machines of the embedded Step Functions, which are run: their tasks are asked of the engine. Runs in the embedded AWS's process.

moto keeps executions RUNNING for ever unless it is told to interpret them, and would ask its own services for what tasks want, among which there
are no functions. Tasks act with the engine's own rights: a state machine's role is not looked at. Where policies decide, executions are refused,
since whoever may start one could do with it whatever the engine may.
"""

from __future__ import annotations

import functools
import os
import threading
import uuid
from collections.abc import Callable
from typing import Any

from engine.aws import state_machine_questions
from engine.aws.clients import AwsClients
from engine.aws.embedded import ENFORCE_VARIABLE, KEY_VARIABLE, URL_VARIABLE


def install() -> None:
    """Work so from now on; once per process."""
    from moto.core.config import default_user_config  # noqa: PLC0415 - moto is an extra
    from moto.stepfunctions.parser.asl.utils import boto_client  # noqa: PLC0415
    from moto.stepfunctions.parser.models import StepFunctionsParserBackend  # noqa: PLC0415

    state_machine_questions.install()
    default_user_config["stepfunctions"] = {"execute_state_machine": True}
    if os.environ.get(ENFORCE_VARIABLE):
        StepFunctionsParserBackend.start_execution = StepFunctionsParserBackend.start_sync_execution = _refused
        return
    StepFunctionsParserBackend.start_execution = _named(StepFunctionsParserBackend.start_execution)
    url = os.environ.get(URL_VARIABLE)
    if url:
        boto_client.boto3 = _Engine(url)


def _refused(_backend: Any, *_arguments: Any, **_members: Any) -> Any:
    raise NotImplementedError("with auth=iam no state machine is run: its tasks would act with the engine's rights, not with those of its role")


def _named(method: Callable[..., Any]) -> Callable[..., Any]:
    """moto gives all executions that have no name the same one."""

    @functools.wraps(method)
    def start_execution(self: Any, state_machine_arn: str, name: str | None = None, *args: Any, **named: Any) -> Any:
        return method(self, state_machine_arn, name or str(uuid.uuid4()), *args, **named)

    return start_execution


class _Engine:
    """In the place of boto3 where moto makes clients for tasks."""

    def __init__(self, url: str) -> None:
        self._url = url
        key = os.environ.get(KEY_VARIABLE, "").split(" ")
        self._credentials = (key[0], key[1], key[2] or None) if len(key) == 3 else None
        self._regions: dict[str, AwsClients] = {}
        self._lock = threading.Lock()

    def client(self, *, service_name: str, region_name: str, **_: Any) -> Any:
        # Branches run at once, and boto3 makes one client of a session at a time.
        with self._lock:
            if region_name not in self._regions:
                self._regions[region_name] = AwsClients(self._url, region_name, self._credentials)
            # A task's time is its own matter, and what failed is for its Retry to run again.
            return self._regions[region_name].client(
                service_name, parameter_validation=False, retries={"total_max_attempts": 1}, read_timeout=900, connect_timeout=10
            )
