"""The resources of a template that are not Lambda's: they are made by the CloudFormation of whatever plays AWS beside the engine."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from engine.cli.output import CliError
from engine.cli.stack.state import State

CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]
WAIT = {"Delay": 0.1, "MaxAttempts": 36_000}
_UNKNOWN = re.compile(r"Unrecognized resource types: \[([^]]*)\]")


class Companion:
    """One stack of that CloudFormation, named like ours."""

    def __init__(self, client: Any, state: State) -> None:
        self._client = client
        self._state = state

    def deploy(self, resources: Mapping[str, Any], wanted: set[tuple[str, str | None]]) -> dict[tuple[str, str | None], str]:
        """Make the resources; the values of what is ``wanted`` of them: (logical id, attribute or None for Ref).

        Raises CliError naming each resource of a type that is not supported there.
        """
        from botocore.exceptions import ClientError

        names = {f"Value{number}": key for number, key in enumerate(sorted(wanted, key=str))}
        outputs = {
            name: {"Value": {"Ref": logical} if attribute is None else {"Fn::GetAtt": [logical, attribute]}}
            for name, (logical, attribute) in names.items()
        }
        body: dict[str, Any] = {"AWSTemplateFormatVersion": "2010-09-09", "Resources": dict(resources)}
        if outputs:
            body["Outputs"] = outputs
        try:
            self._send(json.dumps(body))
        except ClientError as e:
            unknown = _UNKNOWN.search(e.response["Error"]["Message"])
            if unknown is None:
                raise
            types = unknown[1].split(", ")
            missing = sorted(f"{name} ({about['Type']})" for name, about in resources.items() if about["Type"] in types)
            raise CliError(f"nothing here makes {', '.join(missing)}: the CloudFormation beside the engine does not know the type", 2) from e
        self._state.companion = True
        found = self._client.describe_stacks(StackName=self._state.name)["Stacks"][0].get("Outputs") or []
        return {names[o["OutputKey"]]: o["OutputValue"] for o in found if o["OutputKey"] in names}

    def _send(self, body: str) -> None:
        from botocore.exceptions import ClientError, WaiterError

        arguments = {"StackName": self._state.name, "TemplateBody": body, "Capabilities": CAPABILITIES}
        change = "update"
        try:
            if self._state.companion:
                try:
                    self._client.update_stack(**arguments)
                except ClientError as e:
                    text = e.response["Error"]["Message"]
                    if "No updates" in text:
                        return
                    if "does not exist" not in text:
                        raise
                    self._client.create_stack(**arguments)
                    change = "create"
                self._client.get_waiter(f"stack_{change}_complete").wait(StackName=self._state.name, WaiterConfig=WAIT)
            else:
                self._client.create_stack(**arguments)
                self._client.get_waiter("stack_create_complete").wait(StackName=self._state.name, WaiterConfig=WAIT)
        except WaiterError as e:
            raise CliError(f"the resources beside Lambda could not be made: {self._reason() or e}") from e

    def _reason(self) -> str:
        """What went wrong first, the last time."""
        events = self._client.describe_stack_events(StackName=self._state.name)["StackEvents"]
        failed = [e.get("ResourceStatusReason", "") for e in events if e["ResourceStatus"] in ("CREATE_FAILED", "UPDATE_FAILED", "DELETE_FAILED")]
        return failed[-1] if failed else ""

    def delete(self) -> None:
        """Delete the resources. Idempotent."""
        if self._state.companion:
            self._client.delete_stack(StackName=self._state.name)
            self._client.get_waiter("stack_delete_complete").wait(StackName=self._state.name, WaiterConfig=WAIT)
            self._state.companion = False
