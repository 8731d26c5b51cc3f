"""boto3 clients for whichever server plays AWS: the engine's own port, another URL, or the real AWS."""

from __future__ import annotations

import os
from typing import Any

import boto3
from botocore.config import Config

from engine.config import Settings

# Of a request to the embedded STS: the function that a session is for, and whether its environments get it.
SOURCE_HEADER, INSIDE_HEADER = "X-Source-Function-Arn", "X-Source-Function-Inside"
_DUMMY_SECRET = "engine"  # noqa: S105 - the engine accepts any secret while auth is off


class AwsClients:
    """Makes boto3 clients. ``endpoint`` None means the real AWS (or AWS_ENDPOINT_URL) with the ambient credentials.

    ``credentials`` are (access key id, secret, session token or None); without them an endpoint of ours gets dummy ones.
    Clients are cached: they are thread-safe, and making one costs tens of milliseconds.
    """

    def __init__(
        self, endpoint: str | None, region: str, credentials: tuple[str, str, str | None] | None = None
    ) -> None:
        self.endpoint = endpoint
        self.region = region
        # Any: boto3-stubs has one overload per service, and the service here is a variable.
        self._session: Any = boto3.session.Session(region_name=region)
        self._credentials = credentials
        self._cache: dict[str, Any] = {}

    def access(self) -> tuple[str | None, tuple[str, str, str | None] | None]:
        """(endpoint, credentials) as this was made with, for a process that makes its own."""
        return self.endpoint, self._credentials

    def client(self, service: str, **config: Any) -> Any:
        """A client of ``service``; ``config`` are botocore Config members and make a client that is not cached.

        Raises botocore's UnknownServiceError for a name boto3 does not know.
        """
        if not config and service in self._cache:
            return self._cache[service]
        if config:
            return self._make(service, config)
        self._cache[service] = made = self._make(service, {})
        return made

    def _make(self, service: str, config: dict[str, Any]) -> Any:
        arguments: dict[str, Any] = {}
        if self.endpoint is not None:
            # Virtual-host buckets would need a resolver that knows them; a path needs nothing.
            config.setdefault("s3", {"addressing_style": "path"})
            arguments["endpoint_url"] = self.endpoint
        credentials = self._credentials
        if credentials is None and self.endpoint is not None and not _ambient():
            credentials = ("test", _DUMMY_SECRET, None)
        if credentials is not None:
            arguments["aws_access_key_id"], arguments["aws_secret_access_key"], token = credentials
            arguments["aws_session_token"] = token
        return self._session.client(service, config=Config(**config), **arguments)


def _ambient() -> bool:
    # Asked of the environment only: botocore's own chain would go on to files meant for the real AWS and to the network.
    return any(os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"))


def for_settings(settings: Settings, engine_url: str, credentials: tuple[str, str, str | None] | None = None) -> AwsClients:
    """Clients of the AWS the settings name: through the engine's port when embedded, the URL, or the real AWS."""
    where = settings.aws_endpoint
    endpoint = engine_url if where == "embedded" else None if where == "aws" else where
    return AwsClients(endpoint, settings.region, credentials)
