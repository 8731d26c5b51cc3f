"""A refused signature in the words and the form of the service that was asked: JSON, or the XML of S3 and of the query services.

Source: docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html and docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html.
"""

from __future__ import annotations

import json
from xml.sax.saxutils import escape

from engine.auth.canonical import MISMATCH
from engine.auth.sigv4 import EXPIRED_SESSION, UNKNOWN_CALLER
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
# In S3's own words, by code of the refusal.
_S3_SAYS = {
    "InvalidAccessKeyId": "The AWS Access Key Id you provided does not exist in our records.",
    "SignatureDoesNotMatch": "The request signature we calculated does not match the signature you provided. Check your key and signing method.",
    "ExpiredToken": "The provided token has expired.",
}
# S3 answers these with 400.
_S3_MALFORMED = frozenset({"AuthorizationHeaderMalformed", "AuthorizationQueryParametersError", "ExpiredToken"})
_LATE, _EARLY = "Signature expired", "Signature not yet current"
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
    form = fields.get(b"content-type", b"").startswith(b"application/x-www-form-urlencoded")
    status = error.status
    # Who names no service is taken for a client of S3, as an unsigned request for an object is.
    if service == "s3" or (service is None and not form and b"x-amz-target" not in fields):
        code, message = _of_s3(error, presigned=b"authorization" not in fields)
        status = 400 if code in _S3_MALFORMED else status
        body = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message><RequestId>{request_id()}</RequestId></Error>"
    elif b"x-amz-target" in fields:
        document = json.dumps({"__type": error.code, "message": error.message}).encode()
        return replies.simple(400, b"application/x-amz-json-1.0", document, keep_alive=keep_alive)
    elif form:
        code = _QUERY.get(error.code, error.code)
        body = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(error.message or '')}</Message></Error>"
            f"<RequestId>{request_id()}</RequestId></ErrorResponse>"
        )
    else:
        return replies.error(error, keep_alive=keep_alive)
    return replies.simple(status, b"text/xml", b'<?xml version="1.0" encoding="UTF-8"?>\n' + body.encode(), keep_alive=keep_alive)


def _of_s3(error: AwsError, *, presigned: bool) -> tuple[str, str]:
    """Code and message. SDKs set their clocks by RequestTimeTooSkewed and try again."""
    message = error.message or ""
    if message.startswith((_LATE, _EARLY)):
        if not presigned:
            return "RequestTimeTooSkewed", f"The difference between the request time and the current time is too large. {message}"
        return "AccessDenied", "Request has expired" if message.startswith(_LATE) else "Request is not valid yet"
    if presigned and error.code == "IncompleteSignatureException":
        return "AuthorizationQueryParametersError", message
    code = _S3.get(error.code, error.code)
    return code, _S3_SAYS.get(code, message) if message in (MISMATCH, UNKNOWN_CALLER, EXPIRED_SESSION) else message
