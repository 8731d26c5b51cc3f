"""A refused signature in the words and the form of the service that was asked: JSON, or the XML of S3 and of the query services.

Source: docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html and docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html.
"""

from __future__ import annotations

import json
from xml.sax.saxutils import escape

from engine.errors import AwsError
from engine.ids import request_id
from engine.supervisor import replies

_S3 = {
    "UnrecognizedClientException": "InvalidAccessKeyId",
    "InvalidSignatureException": "SignatureDoesNotMatch",
    "ExpiredTokenException": "ExpiredToken",
    "MissingAuthenticationTokenException": "AccessDenied",
    "IncompleteSignatureException": "AuthorizationHeaderMalformed",
}
_QUERY = {
    "UnrecognizedClientException": "InvalidClientTokenId",
    "InvalidSignatureException": "SignatureDoesNotMatch",
    "ExpiredTokenException": "ExpiredToken",
    "MissingAuthenticationTokenException": "MissingAuthenticationToken",
    "IncompleteSignatureException": "IncompleteSignature",
}


def refusal(error: AwsError, service: str | None, headers: list[tuple[bytes, bytes]], *, keep_alive: bool) -> bytes:
    """The whole answer."""
    fields = dict(headers)
    if service == "s3":
        code = _S3.get(error.code, error.code)
        body = f"<Error><Code>{code}</Code><Message>{escape(error.message or '')}</Message><RequestId>{request_id()}</RequestId></Error>"
    elif b"x-amz-target" in fields:
        document = json.dumps({"__type": error.code, "message": error.message}).encode()
        return replies.simple(400, b"application/x-amz-json-1.0", document, keep_alive=keep_alive)
    elif fields.get(b"content-type", b"").startswith(b"application/x-www-form-urlencoded"):
        code = _QUERY.get(error.code, error.code)
        body = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(error.message or '')}</Message></Error>"
            f"<RequestId>{request_id()}</RequestId></ErrorResponse>"
        )
    else:
        return replies.error(error, keep_alive=keep_alive)
    return replies.simple(error.status, b"text/xml", b'<?xml version="1.0" encoding="UTF-8"?>\n' + body.encode(), keep_alive=keep_alive)
