"""The context object that a handler gets as its second argument.

Source: docs.aws.amazon.com/lambda/latest/dg/python-context.html
"""

from __future__ import annotations

import json
import time
from typing import Any, Callable, Optional

from runtime_bootstrap.python.errors import Fault


class ClientContext:
    """What a mobile SDK sent along: ``client``, ``custom`` and ``env``."""

    __slots__ = ["client", "custom", "env"]

    def __init__(self, fields: "dict[str, Any]") -> None:
        client = fields.get("client")
        self.client = Client(client) if isinstance(client, dict) else None
        self.custom = fields.get("custom")
        self.env = fields.get("env")

    def __repr__(self) -> str:
        return "ClientContext(custom=%r,env=%r,client=%r)" % (self.custom, self.env, self.client)


class Client:
    """The calling application."""

    __slots__ = ["installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name"]

    def __init__(self, fields: "dict[str, Any]") -> None:
        for name in self.__slots__:
            setattr(self, name, fields.get(name))

    def __repr__(self) -> str:
        return "Client(%s)" % ",".join("%s=%r" % (n, getattr(self, n)) for n in self.__slots__)


class CognitoIdentity:
    """The Cognito identity of the caller; both members are None for anybody else."""

    __slots__ = ["cognito_identity_id", "cognito_identity_pool_id"]

    def __init__(self, fields: "dict[str, Any]") -> None:
        self.cognito_identity_id = fields.get("cognitoIdentityId")
        self.cognito_identity_pool_id = fields.get("cognitoIdentityPoolId")

    def __repr__(self) -> str:
        return "CognitoIdentity(cognito_identity_id=%r,cognito_identity_pool_id=%r)" % (
            self.cognito_identity_id,
            self.cognito_identity_pool_id,
        )


class LambdaContext:
    """Identity, limits and remaining time of one invocation."""

    def __init__(
        self,
        request_id: str,
        deadline_ms: int,
        function_arn: str,
        client_context: Optional[str],
        identity: Optional[str],
        tenant_id: Optional[str],
        environment: "dict[str, str]",
        log: Callable[[str], None],
    ) -> None:
        self.aws_request_id = request_id
        self.log_group_name = environment.get("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = environment.get("AWS_LAMBDA_LOG_STREAM_NAME")
        self.function_name = environment.get("AWS_LAMBDA_FUNCTION_NAME")
        self.memory_limit_in_mb = environment.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        self.function_version = environment.get("AWS_LAMBDA_FUNCTION_VERSION")
        self.invoked_function_arn = function_arn
        self.tenant_id = tenant_id
        self.client_context = None
        if client_context:
            self.client_context = ClientContext(_object(client_context, "Client Context"))
        self.identity = CognitoIdentity(_object(identity, "Cognito Identity") if identity else {})
        self._epoch_deadline_time_in_ms = deadline_ms
        self._log = log

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the invocation times out; never below 0."""
        return max(self._epoch_deadline_time_in_ms - int(time.time() * 1000), 0)

    def log(self, msg: object) -> None:
        """Write ``str(msg)`` to the function's log."""
        self._log(str(msg))

    def __repr__(self) -> str:
        names = (
            "aws_request_id", "log_group_name", "log_stream_name", "function_name", "memory_limit_in_mb", "function_version",
            "invoked_function_arn", "client_context", "identity", "tenant_id",
        )  # fmt: skip
        return "LambdaContext([%s])" % ",".join("%s=%s" % (n, getattr(self, n)) for n in names)


def _object(text: str, what: str) -> "dict[str, Any]":
    try:
        value = json.loads(text)
    except ValueError as e:
        raise Fault("Runtime.LambdaContextUnmarshalError", "Unable to parse %s JSON: %s" % (what, e)) from None
    if not isinstance(value, dict):
        raise Fault("Runtime.LambdaContextUnmarshalError", "Unable to parse %s JSON: not an object" % what)
    return value
