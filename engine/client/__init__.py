"""Binary client: invoke functions over the frame protocol on a Unix or TCP socket, without HTTP, boto3 or signing costs.

``Client`` blocks and may be shared by threads; ``AsyncClient`` keeps any number of calls in flight on one connection.

    with Client("/var/lib/lambda-engine/run/engine.sock") as client:
        result = client.invoke("greet", b'{"who": "you"}')

Both answer with ``engine.wire.messages.Result`` and raise only ``ClientError`` and its kinds.
"""

from engine.client.aio import AsyncClient
from engine.client.blocking import Client
from engine.client.errors import (
    ApiError,
    BadArgument,
    CallTimeout,
    ClientError,
    ConnectionLost,
    FunctionError,
    ServerRefused,
    raise_for_function_error,
)
from engine.wire.messages import Result

__all__ = [
    "ApiError",
    "AsyncClient",
    "BadArgument",
    "CallTimeout",
    "Client",
    "ClientError",
    "ConnectionLost",
    "FunctionError",
    "Result",
    "ServerRefused",
    "raise_for_function_error",
]
