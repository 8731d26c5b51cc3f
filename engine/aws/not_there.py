"""Operations that the embedded AWS does not have: 501, named, in place of a page that says nothing and that clients ask for again and again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any
from xml.sax.saxutils import escape

from engine.aws import targets

CODE = "NotImplemented"


def install() -> None:
    """Have all of moto's services answer so."""
    from moto.core.responses import BaseResponse  # noqa: PLC0415 - moto is an extra

    BaseResponse.call_action = _named(BaseResponse.call_action)


def _named(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def call_action(response: Any) -> Any:
        try:
            return call(response)
        except NotImplementedError as e:
            message = f"The embedded AWS has no {response.service_name} {response._get_action()}: {e}"  # noqa: SLF001 - moto has no other name for it
            sys.stderr.write(f"embedded AWS: {message}\n")
            target = response.headers.get("X-Amz-Target") or "json" in response.headers.get("Content-Type", "")
            if target or response.service_name not in _XML:
                return 501, {"x-amzn-errortype": CODE, "Content-Type": "application/json"}, json.dumps({"__type": CODE, "message": message})
            body = f"<ErrorResponse><Error><Type>Sender</Type><Code>{CODE}</Code><Message>{escape(message)}</Message></Error></ErrorResponse>"
            return 501, {"Content-Type": "text/xml"}, body

    return call_action


class Named:
    """A WSGI application whose paths that lead nowhere are named as operations are: moto's server has a page in HTML for them."""

    def __init__(self, application: Any) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        nowhere = False

        def started(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            nonlocal nowhere
            kinds = [v for k, v in headers if k.lower() == "content-type"]
            nowhere = status.startswith("404") and bool(kinds) and kinds[0].startswith("text/html") and _signed(environ)
            return (lambda _: None) if nowhere else start_response(status, headers, *more)

        answer: Iterable[bytes] = self._application(environ, started)
        if not nowhere:
            return answer
        page = b"".join(answer)
        if not page.lower().startswith(b"<!doctype html>"):
            start_response("404 Not Found", [("Content-Type", "text/html"), ("Content-Length", str(len(page)))])
            return [page]
        message = f"The embedded AWS has no {environ.get('REQUEST_METHOD', '')} {environ.get('PATH_INFO', '')}"
        sys.stderr.write(f"embedded AWS: {message}\n")
        body = json.dumps({"__type": CODE, "message": message}).encode()
        start_response("501 Not Implemented", [("Content-Type", "application/json"), ("x-amzn-errortype", CODE), ("Content-Length", str(len(body)))])
        return [body]


def _signed(environ: dict[str, Any]) -> bool:
    """By a client of a service that speaks JSON: objects in buckets may be pages."""
    service = targets.service(environ.get("HTTP_AUTHORIZATION", ""), str(environ.get("QUERY_STRING", "")))
    return service is not None and service not in _XML


_XML = frozenset(
    {"autoscaling", "cloudformation", "cloudfront", "cloudwatch", "ec2", "elasticache", "elasticbeanstalk", "elb", "elbv2", "iam", "rds", "redshift",
     "route53", "s3", "ses", "sns", "sqs", "sts"}
)  # fmt: skip
