"""How a command finds the engine and talks to it: endpoint, credentials, and AWS errors turned into sentences."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from engine.cli.output import CliError

if TYPE_CHECKING:
    from engine.config import Settings

ENDPOINT_VARIABLE = "LAMBDA_ENGINE_ENDPOINT"
DEFAULT_ENDPOINT = "http://127.0.0.1:4566"
DUMMY_KEY_ID = "test"
DUMMY_SECRET = "test"  # noqa: S105 - while auth is off any secret will do


def endpoint_of(flag: str | None) -> str:
    """The engine's URL: the flag, LAMBDA_ENGINE_ENDPOINT, or the default port on this host.

    Raises CliError (status 2) when it is not an http or https URL.
    """
    url = flag or os.environ.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT
    if not url.startswith(("http://", "https://")):
        raise CliError(f"{url!r} is not a URL: write it as {DEFAULT_ENDPOINT}", 2)
    return url.rstrip("/")


def settings_of(**flags: Any) -> Settings:
    """The settings from flags, environment and file; CliError (status 2) names each that is wrong."""
    from engine.config import load
    from engine.errors import ConfigurationError

    try:
        return load(**flags)
    except ConfigurationError as e:
        raise CliError(str(e), 2) from e


def aws_environment(endpoint: str, region: str) -> dict[str, str]:
    """The variables that point AWS clients at the engine.

    Credentials of the caller's own environment stay: they decide the account, and sign where signatures are verified.
    """
    env = {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": region, "AWS_DEFAULT_REGION": region}
    if not os.environ.get("AWS_ACCESS_KEY_ID") and not os.environ.get("AWS_PROFILE"):
        env |= {"AWS_ACCESS_KEY_ID": DUMMY_KEY_ID, "AWS_SECRET_ACCESS_KEY": DUMMY_SECRET}
    return env


class Session:
    """boto3 against one engine."""

    def __init__(self, endpoint: str | None = None) -> None:
        from engine.aws.clients import AwsClients

        self.endpoint = endpoint_of(endpoint)
        self.region = settings_of().region
        self._clients = AwsClients(self.endpoint, self.region)

    def client(self, service: str = "lambda", **config: Any) -> Any:
        return self._clients.client(service, **config)

    @contextlib.contextmanager
    def talking(self) -> Iterator[None]:
        """Turn what botocore raises inside into a CliError that says what happened and what to do."""
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            HTTPClientError,
        )
        from botocore.exceptions import (
            ConnectionError as BotoConnectionError,
        )

        try:
            yield
        except ClientError as e:
            error = e.response["Error"]
            raise CliError(f"{error['Code']}: {error['Message']}") from e
        except (BotoConnectionError, HTTPClientError) as e:
            raise CliError(no_engine(self.endpoint)) from e
        except BotoCoreError as e:
            raise CliError(str(e), 2) from e

    def missing(self, function_name: str) -> bool:
        """Whether the engine has no such function."""
        client = self.client()
        with self.talking():
            try:
                client.get_function_configuration(FunctionName=function_name)
            except client.exceptions.ResourceNotFoundException:
                return True
        return False


def no_engine(endpoint: str) -> str:
    """What to say when nothing answers."""
    return (
        f"no engine answers at {endpoint}. Start one with 'lambda-engine serve', "
        f"or name another with --endpoint or {ENDPOINT_VARIABLE}."
    )
