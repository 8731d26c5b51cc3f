"""Stacks of CloudFormation, waited for."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import WaiterError


def finished(formation: Any, stack: str, change: str) -> None:
    """Wait until a stack is made (``create``), changed (``update``) or gone (``delete``). Raises AssertionError with its events when it fails."""
    try:
        formation.get_waiter(f"stack_{change}_complete").wait(StackName=stack, WaiterConfig={"Delay": 0.1, "MaxAttempts": 1000})
    except WaiterError as e:
        events = formation.describe_stack_events(StackName=stack)["StackEvents"]
        raise AssertionError("\n".join(f"{v['LogicalResourceId']} {v['ResourceStatus']} {v.get('ResourceStatusReason', '')}" for v in events)) from e


def outputs(formation: Any, stack: str) -> dict[str, str]:
    """What the stack tells, by name."""
    return {o["OutputKey"]: o["OutputValue"] for o in formation.describe_stacks(StackName=stack)["Stacks"][0].get("Outputs", [])}
