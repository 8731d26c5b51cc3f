"""What is asked of a queue before it is polled, with answers of several that speak SQS."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from engine.control.event_source_checks import _visibility_s
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
