"""What is asked of a queue or stream before it is polled, with answers of several that speak SQS and Kinesis."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from engine.control.event_source_checks import _check_stream, _visibility_s
from engine.control.event_source_rules import KINESIS
from engine.errors import InvalidParameterValue

QUEUE = "arn:aws:sqs:us-east-1:000000000000:q"


def _aws(**attributes: str) -> Any:
    """Clients of an SQS that answers so."""
    answer = {"Attributes": {"VisibilityTimeout": "30", **attributes}}
    sqs = SimpleNamespace(meta=SimpleNamespace(endpoint_url="http://localhost"), get_queue_attributes=lambda **_: answer)
    return SimpleNamespace(client=lambda _service: sqs)


@pytest.mark.parametrize("attributes", [{"QueueArn": QUEUE}, {"QueueArn": "arn:aws:sqs:us-east-1:queue:q"}, {}])
def test_a_queue_that_names_no_other_account_is_taken(attributes: dict[str, str]) -> None:
    assert _visibility_s(_aws(**attributes), QUEUE) == 30


def test_a_queue_of_another_account_is_not_there() -> None:
    with pytest.raises(InvalidParameterValue, match="The specified queue does not exist"):
        _visibility_s(_aws(QueueArn=QUEUE.replace("000000000000", "111111111111")), QUEUE)


def test_a_stream_is_asked_for_by_its_name_too_where_that_is_wanted() -> None:
    asked: list[dict[str, str]] = []

    def summary(**given: str) -> dict[str, Any]:
        asked.append(given)
        if "StreamName" not in given:
            raise ClientError({"Error": {"Code": "ValidationException", "Message": "streamName: must not be null"}}, "DescribeStreamSummary")
        return {}

    kinesis = SimpleNamespace(describe_stream_summary=summary, exceptions=SimpleNamespace(ClientError=ClientError))
    stream = "arn:aws:kinesis:us-east-1:000000000000:stream/s"
    _check_stream(SimpleNamespace(client=lambda _service: kinesis), KINESIS, stream)
    assert asked == [{"StreamARN": stream}, {"StreamARN": stream, "StreamName": "s"}]
