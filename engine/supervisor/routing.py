"""Which server a passed-through request is for: the control plane (Lambda and the engine's own pages) or the AWS endpoint.

Pure. An AWS request names its service in the credential scope of its signature (Authorization header or presigned query).
Source: docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import re
from enum import Enum, auto
from urllib.parse import unquote_to_bytes

# Version prefixes under which Lambda's operations live; with the paths below them they cannot be taken for an S3 bucket by mistake.
_LAMBDA_PATH = re.compile(
    rb"/(2014-11-13|2015-03-31|2016-08-19|2017-03-31|2017-10-31|2018-10-31|2019-09-25|2019-09-30|2020-04-22|2020-06-30|2021-07-20|"
    rb"2021-10-31|2021-11-15|2024-08-31|2025-11-30|2025-12-01)/"
    rb"(functions|event-source-mappings|layers|tags|account-settings|code-signing-configs|capacity-providers|durable-)"
)
_SCOPE = re.compile(rb"Credential=\s*[^/,\s]+/\d{8}/[^/,\s]+/([^/,\s]+)/aws4_request")
_QUERY_SCOPE = re.compile(rb".+/\d{8}/[^/]+/([^/]+)/aws4_request", re.DOTALL)
_QUERY_CREDENTIAL = re.compile(rb"(?:^|&)X-Amz-Credential=([^&]*)")


class Target(Enum):
    CONTROL = auto()
    AWS = auto()


def service(url: bytes, headers: list[tuple[bytes, bytes]]) -> str | None:
    """The service a signature names, or None when there is none."""
    for name, value in headers:
        if name == b"authorization":
            match = _SCOPE.search(value)
            if match:
                return match[1].decode("latin-1")
    given = _QUERY_CREDENTIAL.search(url.partition(b"?")[2])
    match = None if given is None else _QUERY_SCOPE.fullmatch(unquote_to_bytes(given[1]))
    return match[1].decode("latin-1") if match else None


def target(url: bytes, headers: list[tuple[bytes, bytes]]) -> Target:
    """Where a request belongs: by the signature's service, else by path."""
    path = url.partition(b"?")[0]
    if path == b"/metrics" or path.startswith(b"/_engine/"):
        return Target.CONTROL
    named = service(url, headers)
    if named is not None:
        return Target.CONTROL if named == "lambda" else Target.AWS
    return Target.CONTROL if _LAMBDA_PATH.match(path) else Target.AWS
