"""Requests as botocore puts them on the wire and answers as it reads them, without what its clients do around that."""

from __future__ import annotations

import http.client
from typing import Any
from urllib.parse import urlsplit

import botocore.loaders
from botocore.awsrequest import create_request_object, prepare_request_dict
from botocore.model import OperationModel, ServiceModel
from botocore.parsers import create_parser
from botocore.serialize import create_serializer

SERVICE = ServiceModel(botocore.loaders.Loader().load_service_model("lambda", "service-2"), "lambda")
PARSER = create_parser("rest-json")
_SERIALIZER = create_serializer("rest-json", include_validation=False)


def send(name: str, params: dict[str, Any]) -> tuple[str, str, str, dict[str, str], bytes]:
    """(method, raw path, raw query, lower-case headers, body) as botocore puts them on the wire."""
    request = _SERIALIZER.serialize_to_request(params, SERVICE.operation_model(name))
    prepare_request_dict(request, "http://127.0.0.1:4566")
    prepared = create_request_object({**request, "context": {}}).prepare()
    parts = urlsplit(prepared.url)
    headers = {key.lower(): value if isinstance(value, str) else value.decode() for key, value in prepared.headers.items()}
    body = prepared.body or b""
    return prepared.method, parts.path, parts.query, headers, body if isinstance(body, bytes) else body.encode()


class Answer:
    """A parsed answer. ``members`` are the output's, ``code`` and ``message`` the error's (empty when there is none)."""

    def __init__(self, operation: OperationModel, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        shape = operation.output_shape
        raw = bytearray(body) if shape is not None and shape.serialization.get("payload") else body
        read = PARSER.parse({"status_code": status, "headers": headers, "body": raw, "context": {}}, shape)
        read.pop("ResponseMetadata")
        error = read.pop("Error", {})
        self.code: str = error.get("Code", "")
        self.message: str = error.get("Message") or ""
        self.members: dict[str, Any] = read


class RawClient:
    """One connection to a server at ``url``; requests are not signed, but may claim an account."""

    def __init__(self, url: str, account: str | None = None) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        claim = f"AWS4-HMAC-SHA256 Credential={account}/20260101/us-east-1/lambda/aws4_request, SignedHeaders=host, Signature=0"
        self._headers = {} if account is None else {"authorization": claim}

    def call(self, name: str, params: dict[str, Any]) -> Answer:
        method, path, query, headers, body = send(name, params)
        target = f"{path}?{query}" if query else path
        sent = {k: v for k, v in headers.items() if k != "content-length"} | self._headers
        try:
            answer = self._ask(method, target, body, sent)
        except (BrokenPipeError, ConnectionResetError):
            # Idle for longer than the server keeps connections: on a busy machine making a request can take that long.
            self._connection.close()
            answer = self._ask(method, target, body, sent)
        received = answer.read()
        return Answer(SERVICE.operation_model(name), answer.status, {k.lower(): v for k, v in answer.getheaders()}, received)

    def _ask(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> http.client.HTTPResponse:
        self._connection.request(method, target, body, headers)
        return self._connection.getresponse()

    def close(self) -> None:
        self._connection.close()
