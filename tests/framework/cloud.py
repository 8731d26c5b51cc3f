"""An engine with IAM enforcement on: its administrator, users, roles and functions, and requests signed in any way."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.framework.engine import OWN_RUNTIME, Engine, zip_of

ROOT = {"aws_access_key_id": "AKIAROOT", "aws_secret_access_key": "root-secret"}
ACCOUNT = "000000000000"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def allow(action: Any, resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


class Cloud:
    """An engine with enforcement on, and its administrator."""

    def __init__(self, running: Engine) -> None:
        self.engine = running
        self.iam = running.client("iam", **ROOT)
        self.admin = running.client(**ROOT)

    def user(self, name: str, *statements: dict[str, Any]) -> dict[str, str]:
        """Keys of a new user with one inline policy."""
        self.iam.create_user(UserName=name)
        if statements:
            self.iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=document(*statements))
        key = self.iam.create_access_key(UserName=name)["AccessKey"]
        return {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}

    def role(self, name: str, *statements: dict[str, Any], trust: Any = TRUST, **more: Any) -> str:
        arn = self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust), **more)["Role"]["Arn"]
        if statements:
            self.iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=document(*statements))
        return str(arn)

    def function(self, name: str, source: str, role: str, client: Any = None, **more: Any) -> None:
        client = client or self.admin
        client.create_function(
            FunctionName=name, Role=role, Handler="m.f", Code={"ZipFile": zip_of({"m.py": source})}, **{"Runtime": OWN_RUNTIME, **more}
        )
        client.get_waiter("function_active_v2").wait(FunctionName=name)


def refused(call: Any, **arguments: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def send(
    cloud: Cloud, keys: dict[str, str], service: str, path: str, body: bytes = b"", *, method: str = "POST", region: str = "us-east-1", **headers: str
) -> tuple[int, str]:
    """Status and body of one request, signed as it is written; ``x_amz_target`` is the header X-Amz-Target."""
    host = urlsplit(cloud.engine.url).netloc
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = AWSRequest(method, cloud.engine.url + path, headers={"Host": host, **named}, data=body)
    credentials = Credentials(keys["aws_access_key_id"], keys["aws_secret_access_key"], keys.get("aws_session_token"))
    SigV4Auth(credentials, service, region).add_auth(request)
    with contextlib.closing(http.client.HTTPConnection(host, timeout=60)) as connection:
        connection.request(method, path, body=body, headers=dict(request.headers.items()))
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
