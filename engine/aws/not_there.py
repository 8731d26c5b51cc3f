"""Operations that the embedded AWS does not have: 501, named, in place of a page that says nothing and that clients ask for again and again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape

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


_XML = frozenset(
    {"autoscaling", "cloudformation", "cloudfront", "cloudwatch", "ec2", "elasticache", "elasticbeanstalk", "elb", "elbv2", "iam", "rds", "redshift",
     "route53", "s3", "ses", "sns", "sqs", "sts"}
)  # fmt: skip
