"""GetAccountSettings: the account's limits and what it uses of them.

Source: docs.aws.amazon.com/lambda/latest/api/API_GetAccountSettings.html and recorded replies.
"""

from __future__ import annotations

import asyncio
from typing import Any

from engine.control import rules, sources
from engine.control.api import Caller, Registrar
from engine.control.concurrency import reserved_by_others
from engine.control.plane import Plane


class AccountOperations:
    """Handler of the operation on the account."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def register(self, registry: Registrar) -> None:
        registry.add("GetAccountSettings", self.get)

    async def get(self, caller: Caller, _params: dict[str, Any]) -> dict[str, Any]:
        plane, limit = self._plane, self._plane.account_concurrency
        return {
            "AccountLimit": {
                "TotalCodeSize": rules.MAX_STORED_BYTES,
                "CodeSizeUnzipped": sources.MAX_UNZIPPED,
                "CodeSizeZipped": sources.MAX_ZIPPED,
                "ConcurrentExecutions": limit,
                "UnreservedConcurrentExecutions": limit - reserved_by_others(plane, caller.account),
            },
            "AccountUsage": {
                "TotalCodeSize": await asyncio.to_thread(plane.store.stored_bytes, caller.account),
                "FunctionCount": plane.store.count(caller.account),
            },
        }
