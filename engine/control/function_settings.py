"""Recursion and runtime management configs.

A recursive loop is ended by the supervisor unless the function allows it. What holding a runtime means is in ``runtime_management``.
Sources: docs.aws.amazon.com/lambda/latest/dg/invocation-recursion.html and runtimes-update.html, and recorded replies.
"""

from __future__ import annotations

from typing import Any

from engine.arn import FunctionRef
from engine.control import runtime_management
from engine.control.api import Caller, Registrar
from engine.control.kinds import RECURSION, RUNTIME_MANAGEMENT, held_runtime, may_loop
from engine.control.plane import Plane, locate, not_found
from engine.store.api import LATEST, Function


class FunctionSettingOperations:
    """Handlers of the operations on both."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    def register(self, registry: Registrar) -> None:
        registry.add("PutFunctionRecursionConfig", self.put_recursion)
        registry.add("GetFunctionRecursionConfig", self.get_recursion)
        registry.add("PutRuntimeManagementConfig", self.put_runtime_management)
        registry.add("GetRuntimeManagementConfig", self.get_runtime_management)

    async def put_recursion(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref, plane = locate(caller, params["FunctionName"]), self._plane
        await plane.link.ready()
        async with plane.changes.lock(ref.account, ref.name):
            function = await plane.read(ref)
            document = {"RecursiveLoop": "Allow"} if params["RecursiveLoop"] == "Allow" else None
            if function.document(RECURSION) != document:
                await plane.changes.apply(function, function.attach(RECURSION, "", document))
        return {"RecursiveLoop": params["RecursiveLoop"]}

    async def get_recursion(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref = locate(caller, params["FunctionName"])
        function = self._plane.store.get(ref.account, ref.name)
        if function is None:
            raise not_found(ref)
        return {"RecursiveLoop": "Allow" if may_loop(function) else "Terminate"}

    async def put_runtime_management(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        plane = self._plane
        ref, _ = self._version(caller, params)
        hello = await plane.link.ready()
        async with plane.changes.lock(ref.account, ref.name):
            ref, function = self._version(caller, params)
            key = ref.qualifier or LATEST
            document = runtime_management.chosen(function, function.versions[key], params, hello.runtimes, ref.region)
            if held_runtime(function, key) != document:
                await plane.changes.apply(function, function.attach(RUNTIME_MANAGEMENT, key, document))
        return runtime_management.answer(document, ref.arn())

    async def get_runtime_management(self, caller: Caller, params: dict[str, Any]) -> dict[str, Any]:
        ref, function = self._version(caller, params)
        return runtime_management.answer(held_runtime(function, ref.qualifier or LATEST), ref.arn())

    def _version(self, caller: Caller, params: dict[str, Any]) -> tuple[FunctionRef, Function]:
        """The version a request names. Raises ResourceNotFound, also for aliases: these run what their versions run."""
        ref = locate(caller, params["FunctionName"], params.get("Qualifier"))
        function = self._plane.store.get(ref.account, ref.name)
        if function is None or (ref.qualifier or LATEST) not in function.versions:
            raise not_found(ref)
        return ref, function
