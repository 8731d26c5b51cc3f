"""Whom queues and topics let in where nothing decides about it."""

from __future__ import annotations

import pytest

from engine.aws.embedded import ENFORCE_VARIABLE
from engine.aws.push import s3


def test_without_enforcement_a_bucket_notifies_wherever_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """moto keeps the buckets of regions in China and GovCloud in other partitions, where nobody looks for whose they are."""
    monkeypatch.delenv(ENFORCE_VARIABLE, raising=False)
    assert s3._lets_in("arn:aws-cn:sqs:cn-north-1:000000000000:q", None)
    monkeypatch.setenv(ENFORCE_VARIABLE, "1")
    assert not s3._lets_in("arn:aws-cn:sqs:cn-north-1:000000000000:q", None)
