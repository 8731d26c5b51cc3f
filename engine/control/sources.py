"""Where a package comes from: inside the request, or from S3.

Source: docs.aws.amazon.com/lambda/latest/api/API_FunctionCode.html and recorded replies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.auth.principals import KeyRing, Principal
from engine.config import AuthMode, Settings
from engine.control.link import Hello
from engine.errors import AccessDenied, InvalidParameterValue, RequestEntityTooLarge, ServiceError

if TYPE_CHECKING:
    from engine.aws.clients import AwsClients

MAX_ZIPPED = 52_428_800
MAX_UNZIPPED = 262_144_000


class Sources:
    """Fetches packages. Blocks: call it in a thread. ``keys``: the callers', with which their packages are read where policies decide."""

    def __init__(self, settings: Settings, keys: KeyRing | None = None) -> None:
        self._settings = settings
        self._keys = keys
        self._clients: dict[tuple[str, str], AwsClients] = {}

    def fetch(self, code: Mapping[str, Any], account: str, hello: Hello, caller: Principal | None = None) -> bytes:
        """The package a FunctionCode names, as uploaded; read with the rights of ``caller`` if there is one.

        Raises InvalidParameterValue when it names none or S3 refuses, AccessDenied when S3 refuses the caller, RequestEntityTooLarge,
        ServiceError when S3 cannot be reached.
        """
        zip_file: bytes | None = code.get("ZipFile")
        bucket, key = code.get("S3Bucket"), code.get("S3Key")
        if zip_file is not None:
            if bucket or key or code.get("S3ObjectVersion"):
                raise InvalidParameterValue("Please do not provide other FunctionCode parameters when providing a ZipFile.")
            if len(zip_file) > MAX_ZIPPED:
                raise RequestEntityTooLarge(f"Zipped size must be smaller than {MAX_ZIPPED} bytes")
            return zip_file
        if not bucket and not key:
            raise InvalidParameterValue("Please provide a source for function code.")
        if not bucket or not key:
            raise InvalidParameterValue("S3Bucket and S3Key must be given together.")
        clients = self._as_caller(caller, account, hello)
        return self._from_s3(bucket, key, code.get("S3ObjectVersion"), clients)

    def _from_s3(self, bucket: str, key: str, version: str | None, clients: AwsClients) -> bytes:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - a third of a second that few starts need

        arguments = {"Bucket": bucket, "Key": key, **({"VersionId": version} if version else {})}
        try:
            answer = clients.client("s3").get_object(**arguments)
            if answer["ContentLength"] > MAX_UNZIPPED:
                raise InvalidParameterValue(f"Unzipped size must be smaller than {MAX_UNZIPPED} bytes")
            data: bytes = answer["Body"].read()
        except ClientError as e:
            error = e.response.get("Error", {})
            if error.get("Code") == "AccessDenied":
                raise AccessDenied(
                    "Your access has been denied by S3, please make sure your request credentials have permission to GetObject for "
                    f"{bucket}/{key}. S3 Error Code: AccessDenied. S3 Error Message: {error.get('Message')}"
                ) from e
            raise InvalidParameterValue(
                f"Error occurred while GetObject. S3 Error Code: {error.get('Code')}. S3 Error Message: {error.get('Message')}"
            ) from e
        except BotoCoreError as e:
            raise ServiceError(f"S3 could not be asked for s3://{bucket}/{key}: {e}") from e
        return data

    def _as_caller(self, caller: Principal | None, account: str, hello: Hello) -> AwsClients:
        """Clients that may what ``caller`` may, where policies decide; else those of its account."""
        from engine.aws.clients import for_settings  # noqa: PLC0415 - imports boto3

        if caller is None or self._keys is None or self._settings.auth is not AuthMode.IAM:
            return self.aws(account, hello)
        credential = self._keys.get(caller.access_key_id)
        if credential is None:
            raise ServiceError("IAM has changed while the request was answered: try again.")
        keys = (credential.access_key_id, credential.secret, credential.session_token)
        return for_settings(self._settings, hello.endpoint_url, keys)

    def aws(self, account: str, hello: Hello) -> AwsClients:
        """Clients that act in the caller's account: with authentication off an access key of 12 digits names it."""
        from engine.aws.clients import for_settings  # noqa: PLC0415 - imports boto3

        found = self._clients.get((account, hello.endpoint_url))
        if found is None:
            credentials: tuple[str, str, str | None] | None = None
            if self._settings.aws_endpoint == "embedded":
                credentials = hello.function_key if self._settings.auth is not AuthMode.OFF else (account, "engine", None)
            found = self._clients[account, hello.endpoint_url] = for_settings(self._settings, hello.endpoint_url, credentials)
        return found
