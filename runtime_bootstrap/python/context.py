"""The object that a handler gets as its second argument.

Source: docs.aws.amazon.com/lambda/latest/dg/python-context.html and the published runtime interface client.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Optional

from runtime_bootstrap.python.faults import Fault


class Client:
    """The mobile application that called."""

    # In the order in which they are shown.
    __slots__ = ["installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name"]  # noqa: RUF023

    def __init__(self, fields: "dict[str, Any]") -> None:
        for name in self.__slots__:
            setattr(self, name, fields.get(name))

    def __repr__(self) -> str:
        return _shown(self, self.__slots__)


class ClientContext:
    """What a mobile SDK sent along with the call."""

    __slots__ = ["custom", "env", "client"]  # noqa: RUF023

    def __init__(self, fields: "dict[str, Any]") -> None:
        self.custom = fields.get("custom")
        self.env = fields.get("env")
        client = fields.get("client")
        self.client = None if client is None else Client(client)

    def __repr__(self) -> str:
        return _shown(self, self.__slots__)


class CognitoIdentity:
    """The caller's Cognito identity; both members are None for anybody else."""

    __slots__ = ["cognito_identity_id", "cognito_identity_pool_id"]

    def __init__(self, fields: "dict[str, Any]") -> None:
        self.cognito_identity_id = fields.get("cognitoIdentityId")
        self.cognito_identity_pool_id = fields.get("cognitoIdentityPoolId")

    def __repr__(self) -> str:
        return _shown(self, self.__slots__)


_NO_FIELDS: "dict[str, Any]" = {}
_NOBODY = CognitoIdentity(_NO_FIELDS)


class Function:
    """What stays the same for every invocation of one instance, from INIT."""

    __slots__ = ("log_group_name", "log_stream_name", "memory_limit_in_mb", "name", "version")

    def __init__(self, init: "dict[str, Any]", env: "dict[str, str]") -> None:
        memory = init.get("memory_mb")
        self.name = init.get("function_name", env.get("AWS_LAMBDA_FUNCTION_NAME"))
        self.version = init.get("function_version", env.get("AWS_LAMBDA_FUNCTION_VERSION"))
        # AWS's runtime takes it from the environment, hence the str.
        self.memory_limit_in_mb = env.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE") if memory is None else str(memory)
        self.log_group_name = init.get("log_group", env.get("AWS_LAMBDA_LOG_GROUP_NAME"))
        self.log_stream_name = init.get("log_stream", env.get("AWS_LAMBDA_LOG_STREAM_NAME"))


class LambdaContext:
    """Identity, limits and remaining time of one invocation."""

    def __init__(
        self,
        function: Function,
        request_id: str,
        deadline_ms: int,
        function_arn: str,
        client_context: Optional[str],
        identity: Optional[str],
        tenant_id: Optional[str],
    ) -> None:
        self.aws_request_id = request_id
        self.log_group_name = function.log_group_name
        self.log_stream_name = function.log_stream_name
        self.function_name = function.name
        self.memory_limit_in_mb = function.memory_limit_in_mb
        self.function_version = function.version
        self.invoked_function_arn = function_arn
        self.tenant_id = tenant_id
        self.client_context = None
        if client_context:
            fields = _parsed(client_context, "Client Context")
            self.client_context = None if fields is None else ClientContext(fields)
        self.identity = _NOBODY if not identity else CognitoIdentity(_parsed(identity, "Cognito Identity") or _NO_FIELDS)
        self._epoch_deadline_time_in_ms = deadline_ms

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the invocation times out; never below 0."""
        return max(self._epoch_deadline_time_in_ms - int(time.time() * 1000), 0)

    def log(self, msg: object) -> None:
        """Write ``str(msg)`` to the function's log, as one event."""
        for handler in logging.getLogger().handlers:
            if hasattr(handler, "log_sink"):
                handler.log_sink.log(str(msg))
                return
        sys.stdout.write(str(msg))

    def __repr__(self) -> str:
        names = (
            "aws_request_id", "log_group_name", "log_stream_name", "function_name", "memory_limit_in_mb", "function_version",
            "invoked_function_arn", "client_context", "identity", "tenant_id",
        )  # fmt: skip
        return _shown(self, names)


def _shown(value: object, names: "list[str] | tuple[str, ...]") -> str:
    """As people have it in their logs: ``LambdaContext([aws_request_id=...,log_group_name=...])``."""
    return "%s([%s])" % (type(value).__name__, ",".join("%s=%s" % (n, getattr(value, n)) for n in names))


def _parsed(text: str, what: str) -> "Optional[dict[str, Any]]":
    try:
        return json.loads(text)  # type: ignore[no-any-return]
    except Exception as e:
        raise Fault("Runtime.LambdaContextUnmarshalError", "Unable to parse %s JSON: %s" % (what, e)) from None
