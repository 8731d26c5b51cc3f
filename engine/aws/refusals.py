"""The refusal of a request to the embedded AWS, in the protocol of the service that was asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

from engine.aws import targets


def refusal(service_name: str, headers: Mapping[str, str], message: str, code: str | None = None) -> Any:
    """The refusal in the service's protocol, as what moto's dispatcher turns into an answer."""
    from werkzeug.exceptions import HTTPException  # noqa: PLC0415 - moto is an extra

    if service_name == "s3":
        from moto.s3.exceptions import S3ClientError  # noqa: PLC0415

        return S3ClientError(code or "AccessDenied", message)
    refused = HTTPException()
    if "X-Amz-Target" in headers or service_name in targets.REST_JSON:
        refused.code = 403 if service_name in targets.REST_JSON else 400
        named = code or ("AccessDenied" if service_name == "sqs" else "AccessDeniedException")
        refused.description = json.dumps({"__type": named, "message": message})
        return refused
    refused.code = 403
    named = code or ("AuthorizationError" if service_name == "sns" else "AccessDenied")
    refused.description = (
        f"<ErrorResponse><Error><Type>Sender</Type><Code>{named}</Code><Message>{escape(message)}</Message></Error></ErrorResponse>"
    )
    return refused
