"""The resources of a template that are not Lambda's: they are made by the CloudFormation of whatever plays AWS beside the engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engine.cli.output import CliError
from engine.cli.stack.state import State

CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]
WAIT = {"Delay": 1, "MaxAttempts": 120}


class Companion:
    """One stack of that CloudFormation, named like ours."""

    def __init__(self, client: Any, state: State) -> None:
        self._client = client
        self._state = state

    def deploy(self, resources: Mapping[str, Any], wanted: set[tuple[str, str | None]]) -> dict[tuple[str, str | None], str]:
        """Make the resources; the values of what is ``wanted`` of them: (logical id, attribute or None for Ref).

        Raises CliError naming each resource of a type that is not supported there.
        """
        names = {f"Value{number}": key for number, key in enumerate(sorted(wanted, key=str))}
        outputs = {
            name: {"Value": {"Ref": logical} if attribute is None else {"Fn::GetAtt": [logical, attribute]}}
            for name, (logical, attribute) in names.items()
        }
        body: dict[str, Any] = {"AWSTemplateFormatVersion": "2010-09-09", "Resources": dict(resources)}
        if outputs:
            body["Outputs"] = outputs
        existed = self._state.companion
        self._send(json.dumps(body))
        self._state.companion = True
        self._check(resources, existed=existed)
        found = self._client.describe_stacks(StackName=self._state.name)["Stacks"][0].get("Outputs") or []
        return {names[o["OutputKey"]]: o["OutputValue"] for o in found if o["OutputKey"] in names}

    def _send(self, body: str) -> None:
        from botocore.exceptions import ClientError, WaiterError

        arguments = {"StackName": self._state.name, "TemplateBody": body, "Capabilities": CAPABILITIES}
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
                self._client.get_waiter("stack_exists").wait(StackName=self._state.name)
            else:
                self._client.create_stack(**arguments)
                self._client.get_waiter("stack_create_complete").wait(StackName=self._state.name, WaiterConfig=WAIT)
        except WaiterError as e:
            raise CliError(f"the resources beside Lambda could not be made: {e}") from e
        status = self._client.describe_stacks(StackName=self._state.name)["Stacks"][0]["StackStatus"]
        if "ROLLBACK" in status or "FAILED" in status:
            raise CliError(f"the resources beside Lambda could not be made: CloudFormation says {status}")

    def _check(self, resources: Mapping[str, Any], *, existed: bool) -> None:
        described = self._client.describe_stack_resources(StackName=self._state.name)["StackResources"]
        made = {r.get("LogicalResourceId") for r in described}
        missing = [f"{name} ({about['Type']})" for name, about in resources.items() if name not in made]
        if missing:
            if not existed:
                self.delete()
            raise CliError(f"nothing here makes {', '.join(sorted(missing))}: the CloudFormation beside the engine does not know the type", 2)

    def delete(self) -> None:
        """Delete the resources. Idempotent."""
        if self._state.companion:
            self._client.delete_stack(StackName=self._state.name)
            self._state.companion = False
