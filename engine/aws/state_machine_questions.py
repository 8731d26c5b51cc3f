"""What Terraform asks the embedded Step Functions and moto does not answer: whether a definition is one, and which versions a state machine has.

Source: docs.aws.amazon.com/step-functions/latest/apireference/API_{ValidateStateMachineDefinition,ListStateMachineVersions}.html.
"""

from __future__ import annotations

import json
from typing import Any

_MOST, _USUAL = 1000, 100


def install() -> None:
    """Have moto answer; once per process."""
    from moto.core.responses import ActionResult  # noqa: PLC0415 - moto is an extra
    from moto.stepfunctions.exceptions import InvalidArn, InvalidToken  # noqa: PLC0415
    from moto.stepfunctions.parser.models import InvalidDefinition, StepFunctionsParserBackend  # noqa: PLC0415
    from moto.stepfunctions.responses import StepFunctionResponse  # noqa: PLC0415

    def validate_state_machine_definition(self: Any) -> Any:
        """As far as CreateStateMachine looks at it; a definition that is none is no error."""
        definition = self._get_param("definition")
        try:
            StepFunctionsParserBackend._validate_definition(definition)  # noqa: SLF001 - moto has no other name for it
        except InvalidDefinition as e:
            found = {"severity": "ERROR", "code": "SCHEMA_VALIDATION_FAILED" if _is_json(definition) else "INVALID_JSON_DESCRIPTION", "message": e.message}
            return ActionResult({"result": "FAIL", "diagnostics": [found], "truncated": False})
        return ActionResult({"result": "OK", "diagnostics": [], "truncated": False})

    def list_state_machine_versions(self: Any) -> Any:
        arn, token = self._get_param("stateMachineArn"), self._get_param("nextToken")
        machine = next((m for m in self.stepfunction_backend.state_machines if m.arn == arn), None)
        if machine is None:
            raise InvalidArn(f"Invalid arn: {arn}")
        if token is not None and not token.isdecimal():
            raise InvalidToken
        # A token is the last number that was told; the newest come first.
        left = [n for n in sorted(machine.versions, reverse=True) if token is None or n < int(token)]
        told = left[: min(self._get_param("maxResults") or _USUAL, _MOST)]
        versions = [{"stateMachineVersionArn": machine.versions[n].arn, "creationDate": machine.versions[n].creation_date} for n in told]
        return ActionResult({"stateMachineVersions": versions, "nextToken": str(told[-1]) if len(told) < len(left) else None})

    StepFunctionResponse.validate_state_machine_definition = validate_state_machine_definition
    StepFunctionResponse.list_state_machine_versions = list_state_machine_versions


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
