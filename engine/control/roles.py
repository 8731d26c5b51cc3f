"""Execution roles: whether Lambda may assume one, and the credentials it then gives.

With ``role_credentials`` engine (the default without IAM enforcement) a role is a name: it need not exist, and functions get the engine's
own credentials. Otherwise the configured IAM is asked for its trust policy when a function gets it, and STS for credentials when the
supervisor needs some; both block and run in threads.
Source: docs.aws.amazon.com/lambda/latest/dg/lambda-intro-execution-role.html.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from engine.arn import function_arn
from engine.auth.authorization import context_of
from engine.auth.identity import service
from engine.auth.policy import MalformedPolicy, Request, evaluate, parse
from engine.clock import Clock
from engine.config import AuthMode, Settings
from engine.control.link import Hello
from engine.control.questions import QuestionEndpoint
from engine.control.role_rights import NEEDED, may_reach
from engine.errors import AccessDenied, InvalidParameterValue, ServiceError

if TYPE_CHECKING:
    from engine.aws.clients import AwsClients

CANNOT_ASSUME = "The role defined for the function cannot be assumed by Lambda."
CROSS_ACCOUNT = "Cross-account pass role is not allowed."
PATH = "/_lambda-engine/credentials"
DURATION_S = 3600
MIN_SESSION_NAME, MAX_SESSION_NAME = 2, 64
LAMBDA = service("lambda.amazonaws.com")
# The function that the AssumeRole of this thread is for.
_source = threading.local()


class Roles:
    """Asks IAM and STS. ``hello`` gives what the supervisor said last."""

    def __init__(self, settings: Settings, clock: Clock, hello: Callable[[], Awaitable[Hello]]) -> None:
        self._settings = settings
        self._clock = clock
        self._hello = hello
        self._clients: dict[tuple[str, str], AwsClients] = {}
        self._assumed: dict[tuple[str, str, str], tuple[AwsClients, float]] = {}

    async def check(self, role_arn: str, account: str, function: str) -> None:
        """Raises InvalidParameterValue unless Lambda may assume the role for this function, AccessDenied for one of another account."""
        if not self._settings.assumes_roles():
            return
        if role_arn.split(":")[4] != account:
            raise AccessDenied(CROSS_ACCOUNT)
        hello = await self._hello()
        if not await asyncio.to_thread(self._trusts, role_arn, account, function, hello):
            raise InvalidParameterValue(CANNOT_ASSUME)

    async def check_targets(self, role_arn: str, account: str, targets: Iterable[str], *, dead_letter: bool = False) -> None:
        """Raises InvalidParameterValue unless the role may send to these targets, ServiceError when IAM cannot be asked.

        Only where the embedded IAM decides: of the real one there are policies that nobody here sees.
        """
        if self._settings.auth is not AuthMode.IAM or not self._settings.assumes_roles():
            return
        hello = await self._hello()
        for target in targets:
            if not await asyncio.to_thread(self._may_reach, role_arn, account, target, hello):
                _, called, service = NEEDED[target.split(":")[2]]
                who = "The provided execution role" if dead_letter else "The function's execution role"
                raise InvalidParameterValue(f"{who} does not have permissions to call {called} on {service if dead_letter else target}")

    def _may_reach(self, role_arn: str, account: str, target: str, hello: Hello) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - as in _trusts

        try:
            return may_reach(self._aws(account, hello), role_arn, target, self._clock.epoch_ms() / 1000)
        except (BotoCoreError, ClientError) as e:
            raise ServiceError(f"IAM could not be asked for {role_arn}: {e}") from e

    async def assume(self, role_arn: str, account: str, function: str, *, inside: bool) -> dict[str, Any]:
        """``{"credentials": [key, secret, token], "expires": epoch seconds}`` of a session named like the function. ``inside``: it is for the
        function's environments, so that conditions see ``lambda:SourceFunctionArn``; what Lambda itself does in the role has none.

        Raises AccessDenied when Lambda may not assume the role, ServiceError when STS cannot be asked.
        """
        hello = await self._hello()
        return await asyncio.to_thread(self._assume, role_arn, account, function, hello, inside=inside)

    async def clients(self, role_arn: str, account: str, function: str) -> AwsClients:
        """AWS with the rights of a role where roles are assumed, else with the engine's own.

        Raises AccessDenied and ServiceError as ``assume``.
        """
        from engine.aws.clients import for_settings  # noqa: PLC0415 - imports boto3

        hello = await self._hello()
        if not self._settings.assumes_roles():
            return self._aws(account, hello)
        key = (role_arn, account, function)
        clients, until_s = self._assumed.get(key, (None, 0.0))
        now_s = self._clock.epoch_ms() / 1000
        if clients is None or now_s > until_s - DURATION_S / 4:
            given = await self.assume(role_arn, account, function, inside=False)
            access, secret, token = given["credentials"]
            clients = for_settings(self._settings, hello.endpoint_url, (access, secret, token))
            self._assumed[key] = (clients, float(given["expires"]))
        return clients

    def _trusts(self, role_arn: str, account: str, function: str, hello: Hello) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - a third of a second that few starts need

        try:
            role = self._aws(account, hello).client("iam").get_role(RoleName=role_arn.rpartition("/")[2])["Role"]
        except ClientError as e:
            if e.response["Error"]["Code"] == "NoSuchEntity":
                return False
            raise ServiceError(f"IAM could not be asked for {role_arn}: {e}") from e
        except BotoCoreError as e:
            raise ServiceError(f"IAM could not be asked for {role_arn}: {e}") from e
        document = role["AssumeRolePolicyDocument"]
        if role["Arn"] != role_arn:
            return False
        try:
            trust = parse(unquote(document) if isinstance(document, str) else document)
        except MalformedPolicy:
            return False
        context = context_of(LAMBDA, now_epoch_s=self._clock.epoch_ms() / 1000, region=hello.region)
        context |= {"aws:sourceaccount": account, "aws:sourcearn": function_arn(hello.region, account, function)}
        return evaluate(Request("sts:AssumeRole", role_arn, account, context), LAMBDA, trust).allowed

    def _assume(self, role_arn: str, account: str, function: str, hello: Hello, *, inside: bool) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - as in _trusts

        if not self._trusts(role_arn, account, function, hello):
            raise AccessDenied(CANNOT_ASSUME)
        try:
            given = self._sts(account, function, hello, inside=inside).assume_role(
                RoleArn=role_arn, RoleSessionName=function[:MAX_SESSION_NAME].ljust(MIN_SESSION_NAME, "_"), DurationSeconds=DURATION_S
            )["Credentials"]
        except ClientError as e:
            if e.response["Error"]["Code"].startswith("AccessDenied"):
                raise AccessDenied(CANNOT_ASSUME) from e
            raise ServiceError(f"STS could not be asked for {role_arn}: {e}") from e
        except BotoCoreError as e:
            raise ServiceError(f"STS could not be asked for {role_arn}: {e}") from e
        return {
            "credentials": [given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"]],
            "expires": given["Expiration"].timestamp(),
        }

    def _sts(self, account: str, function: str, hello: Hello, *, inside: bool) -> Any:
        """A client of STS; the embedded one is told whose environments the session is for. Others know the real AWS's Lambda at best."""
        client = self._aws(account, hello).client("sts")
        if self._settings.aws_endpoint == "embedded":
            from engine.aws.clients import INSIDE_HEADER, SOURCE_HEADER  # noqa: PLC0415 - imports boto3

            def tell(params: dict[str, Any], **_: Any) -> None:
                params["headers"].update(_source.headers)

            _source.headers = {SOURCE_HEADER: function_arn(hello.region, account, function), **({INSIDE_HEADER: "true"} if inside else {})}
            client.meta.events.register("before-call.sts.AssumeRole", tell, unique_id="engine-source-function")
        return client

    def _aws(self, account: str, hello: Hello) -> AwsClients:
        from engine.aws.clients import for_settings  # noqa: PLC0415 - imports boto3

        found = self._clients.get((account, hello.endpoint_url))
        if found is None:
            credentials: tuple[str, str, str | None] | None = None
            if self._settings.aws_endpoint == "embedded":
                credentials = hello.function_key if self._settings.auth is not AuthMode.OFF else (account, "engine", None)
            found = self._clients[account, hello.endpoint_url] = for_settings(self._settings, hello.endpoint_url, credentials)
        return found


class CredentialsEndpoint(QuestionEndpoint):
    """Credentials of a role, for the supervisor."""

    def __init__(self, roles: Roles, hello: Callable[[], Awaitable[Hello]]) -> None:
        super().__init__(hello)
        self._roles = roles

    async def answer(self, asked: dict[str, Any], hello: Hello) -> tuple[int, Any]:
        return 200, await self._roles.assume(asked["role"], asked["account"], asked["function"], inside=True)
