"""Credentials of instances that start from a snapshot: asked for over HTTP, with a token, instead of being in their environment.

Theory of operation. What the environment of a snapshot says is said to every copy for as long as there are copies; keys would end before
them, and clients made during init would keep the keys of the init. So, as on Lambda, such instances find an address and a token, and AWS's
SDKs ask there as in a container and again before what they were given expires. The address is the engine's own, which instances reach
anyway: nothing listens in the instance, no thread waits there, and a restore costs one more variable. Each copy gets a token of
its own, good until it ends. A template's stays good for its version: code may have read it during init and ask in a copy.
Source: docs.aws.amazon.com/lambda/latest/dg/snapstart-activate.html (Using SnapStart with AWS SDKs) and
docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
"""

from __future__ import annotations

import ipaddress
import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from engine.clock import Clock
from engine.errors import AwsError
from engine.supervisor import replies
from engine.supervisor.role_credentials import Session

if TYPE_CHECKING:
    from engine.supervisor.catalogue import Version
    from engine.supervisor.exchanges import Head
    from engine.supervisor.front import Connection
    from engine.supervisor.instance import Instance
    from engine.supervisor.setting import Setting

PATH = b"/2021-04-23/credentials"
ADDRESS, TOKEN = "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN"
# Keys that do not expire are said to, since SDKs want to know when to ask again.
STATIC_LIFE_S = 6 * 3600.0
_UNKNOWN = b"cannot get credentials for the provided token\n"


class ContainerCredentials:
    """Tokens and what they are good for. ``setting`` knows the engine's address, and the roles if functions have them."""

    def __init__(self, setting: Setting, clock: Clock) -> None:
        self._setting = setting
        self._clock = clock
        self._versions: dict[str, Version] = {}
        self._tokens: dict[Instance, str] = {}

    @property
    def offered(self) -> bool:
        """Whether instances can be told to ask: there must be something to be had, and SDKs ask only where nobody can listen in."""
        setting = self._setting
        return (setting.roles is not None or setting.home.credentials is not None) and _is_loopback(setting.home.lambda_url)

    def variables(self, instance: Instance) -> dict[str, str]:
        """What an instance finds in place of keys, with a new token; its former one is good no longer."""
        self.revoke(instance)
        token = secrets.token_urlsafe(32)
        self._versions[token] = instance.version
        if not instance.template:
            self._tokens[instance] = token
        return {ADDRESS: self._setting.home.lambda_url + PATH.decode(), TOKEN: token}

    def revoke(self, instance: Instance) -> None:
        """The instance runs nothing any more. Idempotent."""
        token = self._tokens.pop(instance, None)
        if token is not None:
            del self._versions[token]

    def forget(self, version: Version) -> None:
        """The version is history: its template's tokens go; instances that still run keep theirs."""
        kept = set(self._tokens.values())
        for token in [t for t, v in self._versions.items() if v is version and t not in kept]:
            del self._versions[token]

    def ask(self, token: str, then: Callable[[bytes | AwsError | None], None]) -> None:
        """Tell ``then`` the document for ``token``, why there is none, or None for a token that is not known."""
        version = self._versions.get(token)
        if version is None:
            then(None)
            return
        setting = self._setting
        if setting.roles is not None:
            setting.roles.fresh(version, lambda found: then(found if isinstance(found, AwsError) else _document(found)))
            return
        now_s = self._clock.epoch_ms() / 1000
        keys = setting.home.credentials
        then(None if keys is None else _document(Session(keys, now_s, now_s + STATIC_LIFE_S)))


class CredentialsPage:
    """``exchanges.Passed``: one request for credentials."""

    def __init__(self, head: Head, client: Connection, credentials: ContainerCredentials) -> None:
        self._head = head
        self._client: Connection | None = client
        self._credentials = credentials

    def body(self, data: bytes) -> None:
        """Nobody asked for one."""

    def end(self) -> None:
        # A connection that stayed open during an init would be one more that no copy can use.
        self._head.keep_alive = False
        self._credentials.ask((self._head.header(b"authorization") or b"").decode("latin-1"), self._answer)

    def _answer(self, found: bytes | AwsError | None) -> None:
        if self._client is None:
            return
        if isinstance(found, AwsError):
            self._client.answer(replies.error(found, keep_alive=False))
        elif found is None:
            self._client.answer(replies.simple(404, b"text/plain; charset=utf-8", _UNKNOWN, keep_alive=False))
        else:
            self._client.answer(replies.simple(200, b"application/json", found, keep_alive=False))

    def abort(self) -> None:
        self._client = None

    def pause(self) -> None:
        """Nothing flows."""

    def resume(self) -> None:
        """Nothing flows."""


def _document(session: Session) -> bytes:
    access_key, secret, token = session.keys
    expires = f"{datetime.fromtimestamp(int(session.expires_s), UTC):%Y-%m-%dT%H:%M:%SZ}"
    return json.dumps({"AccessKeyId": access_key, "SecretAccessKey": secret, "Token": token, "Expiration": expires}).encode()


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
