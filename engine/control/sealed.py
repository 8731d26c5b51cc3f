"""Environment variables of functions with a KMS key: encrypted before they are stored, decrypted when somebody may see or needs them.

What is kept of them in a version's configuration is KMS's ciphertext and, in clear, the names (not the values) of those that an interpreter
reads before it runs anything, because a sandbox is chosen by them. The text in clear is kept nowhere: a start asks for nothing, a cold
start and a reader of the configuration ask KMS. Under the encryption context Lambda uses, a ciphertext is of no use to another function.
Source: docs.aws.amazon.com/lambda/latest/dg/configuration-envvars-encryption.html.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from engine.arn import FunctionRef, function_arn
from engine.control.configuration import SEALED, variables_given
from engine.control.keys import Keys
from engine.control.link import Hello
from engine.control.questions import QuestionEndpoint
from engine.control.sources import Sources
from engine.errors import InvalidParameterValue, KmsRefused, ServiceError
from engine.store.api import FunctionStore

PATH = "/_lambda-engine/environment"
# Read before the function's first line runs, as are those that begin with PYTHON; see ``engine.supervisor.zygotes``.
_EARLY = frozenset({"NODE_OPTIONS", "NODE_EXTRA_CA_CERTS", "UV_THREADPOOL_SIZE", "AWS_LAMBDA_EXEC_WRAPPER"})


class SealedEnvironments:
    """Asks KMS, in threads, in the account of the function. ``hello`` gives what the supervisor said last."""

    def __init__(self, sources: Sources, store: FunctionStore, hello: Callable[[], Awaitable[Hello]]) -> None:
        self._keys = Keys(sources, "environment variables", "function")
        self._store = store
        self._hello = hello

    async def unsealed(self, config: Mapping[str, Any], members: Mapping[str, Any], ref: FunctionRef) -> Mapping[str, Any]:
        """``config`` with its variables in clear if a request with these members gives them another key. Raises KmsRefused."""
        if SEALED not in config or variables_given(members) is not None or members.get("KMSKeyArn") in (None, config["KMSKeyArn"]):
            return config
        clear = {name: value for name, value in config.items() if name != SEALED}
        return {**clear, "Environment": {"Variables": await self.variables(config, ref)}}

    async def sealed(self, config: dict[str, Any], ref: FunctionRef) -> dict[str, Any]:
        """``config`` as it may be stored. Raises InvalidParameterValue when KMS will not have the key used, ServiceError when it cannot be
        asked.
        """
        key, variables = config.get("KMSKeyArn"), config.get("Environment", {}).get("Variables") or {}
        if key is None or (SEALED in config and not variables):
            return config
        hello = await self._hello()
        try:
            text = await asyncio.to_thread(self._encrypt, key, variables, ref, hello)
        except KmsRefused as e:
            raise InvalidParameterValue(
                "Lambda was unable to configure access to your environment variables because the KMS key is invalid for CreateGrant. "
                f"Please check your KMS key settings. KMS Exception: {e.kms_code} KMS Message: {e.kms_message}"
            ) from e
        if not variables:
            return config
        early = sorted(name for name in variables if name in _EARLY or name.startswith("PYTHON"))
        clear = {name: value for name, value in config.items() if name != "Environment"}
        return {**clear, SEALED: {"Text": text, "Early": early}}

    async def variables(self, config: Mapping[str, Any], ref: FunctionRef) -> dict[str, str]:
        """What was sealed. Raises KmsRefused, ServiceError when KMS cannot be asked."""
        hello = await self._hello()
        return await asyncio.to_thread(self._decrypt, config["KMSKeyArn"], config[SEALED]["Text"], ref, hello)

    async def reveal(self, shown: dict[str, Any], config: Mapping[str, Any], ref: FunctionRef) -> dict[str, Any]:
        """A FunctionConfiguration with its variables, or with KMS's reason in their place, as Lambda shows it."""
        if SEALED in config:
            try:
                shown["Environment"] = {"Variables": await self.variables(config, ref)}
            except KmsRefused as e:
                shown["Environment"] = {"Error": {"ErrorCode": e.kms_code, "Message": e.message}}
        return shown

    async def of_version(self, account: str, name: str, version: str, region: str) -> dict[str, str]:
        """The variables of a stored version, for its cold start. Raises as ``variables``."""
        function = self._store.get(account, name)
        found = None if function is None else function.versions.get(version)
        if found is None or SEALED not in found.config:
            raise ServiceError(f"{name}:{version} has no encrypted variables any more.")
        return await self.variables(found.config, FunctionRef(account, region, name))

    def _encrypt(self, key: str, variables: Mapping[str, str], ref: FunctionRef, hello: Hello) -> str:
        plain = json.dumps(variables, separators=(",", ":"), ensure_ascii=False).encode()
        return " ".join(self._keys.encrypt(key, plain, _context(ref), ref.account, hello))

    def _decrypt(self, key: str, text: str, ref: FunctionRef, hello: Hello) -> dict[str, str]:
        variables: dict[str, str] = json.loads(self._keys.decrypt(key, text.split(" "), _context(ref), ref.account, hello))
        return variables


def _context(ref: FunctionRef) -> dict[str, str]:
    return {"aws:lambda:FunctionArn": function_arn(ref.region, ref.account, ref.name)}


class EnvironmentEndpoint(QuestionEndpoint):
    """The variables of a version, for the supervisor."""

    def __init__(self, environments: SealedEnvironments, hello: Callable[[], Awaitable[Hello]]) -> None:
        super().__init__(hello)
        self._environments = environments

    async def answer(self, asked: dict[str, Any], hello: Hello) -> tuple[int, Any]:
        try:
            found = await self._environments.of_version(asked["account"], asked["function"], asked["version"], hello.region)
        except KmsRefused as e:
            return e.status, {"code": e.code, "message": e.message}
        return 200, {"variables": found}
