"""PutFunctionConcurrency, GetFunctionConcurrency and DeleteFunctionConcurrency: reserved concurrency.

A reservation is taken out of the account's limit and must leave a floor for everybody else. The supervisor obeys it from the moment the
answer is sent; 0 lets nothing run.
Source: docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html and recorded replies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from engine.control.api import Caller, Registrar
from engine.control.kinds import CONCURRENCY, PROVISIONED, provisioned_total
from engine.control.plane import ONLY_FUNCTIONS, Plane, locate, not_found
from engine.errors import InvalidParameterValue, UntypedInvalidParameterValue
from engine.store.api import LATEST

MEMBER = "ReservedConcurrentExecutions"
# At least this many concurrent executions stay for functions without a reservation; an account with less has all of it as floor.
FLOOR = 100


def reserved_by_others(plane: Plane, account: str, name: str = "") -> int:
    """What the account's functions but ``name`` have set aside together: reserved, or provisioned without a reservation."""
    reserved = {f: int(d[MEMBER]) for (f, _), d in plane.store.attached(account, CONCURRENCY).items()}
    provisioned = plane.store.attached(account, PROVISIONED).items()
    return sum(n for function, n in reserved.items() if function != name) + sum(
        int(d["ProvisionedConcurrentExecutions"]) for (f, _), d in provisioned if f != name and f not in reserved
    )


class ConcurrencyOperations:
    """Handlers of the operations on reserved concurrency."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def register(self, registry: Registrar) -> None:
        registry.add("PutFunctionConcurrency", self.put)
        registry.add("GetFunctionConcurrency", self.get)
        registry.add("DeleteFunctionConcurrency", self.delete)

    async def put(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate(caller, params["FunctionName"])
        if ref.qualifier is not None:
            raise InvalidParameterValue(ONLY_FUNCTIONS)
        plane, wanted = self._plane, int(params[MEMBER])
        await plane.link.ready()
        async with plane.changes.account_lock(ref.account), plane.changes.lock(ref.account, ref.name):
            function = await plane.find(ref)
            if function is None:
                raise not_found(replace(ref, qualifier=LATEST))
            provisioned = provisioned_total(function)
            if wanted < provisioned:
                raise UntypedInvalidParameterValue(
                    f" ReservedConcurrentExecutions  {wanted} should not be lower than function's total provisioned concurrency "
                    f"[{provisioned}]."
                )
            others = reserved_by_others(plane, ref.account, ref.name)
            check_floor(wanted, others, plane.account_concurrency)
            await plane.changes.apply(function, function.attach(CONCURRENCY, "", {MEMBER: wanted}))
        return {MEMBER: wanted}

    async def get(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate(caller, params["FunctionName"])
        if ref.qualifier is not None:
            raise InvalidParameterValue(ONLY_FUNCTIONS)
        function = self._plane.store.get(ref.account, ref.name)
        if function is None:
            raise not_found(ref)
        return dict(function.document(CONCURRENCY) or {})

    async def delete(self, caller: Caller, params: dict[str, Any]) -> None:
        ref = locate(caller, params["FunctionName"])
        if ref.qualifier is not None:
            raise InvalidParameterValue(ONLY_FUNCTIONS)
        plane = self._plane
        await plane.link.ready()
        async with plane.changes.account_lock(ref.account), plane.changes.lock(ref.account, ref.name):
            function = await plane.read(ref)
            if function.document(CONCURRENCY) is not None:
                await plane.changes.apply(function, function.attach(CONCURRENCY, "", None))


def check_floor(wanted: int, others: int, limit: int) -> None:
    """Raises InvalidParameterValue when ``wanted`` beside what ``others`` have would leave less than the floor of ``limit``."""
    floor = min(FLOOR, limit)
    if wanted and limit - others - wanted < floor:
        raise UntypedInvalidParameterValue(
            "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its "
            f"minimum value of [{floor}]."
        )
