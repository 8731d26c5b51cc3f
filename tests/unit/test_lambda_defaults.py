"""What an update of a stack tells Lambda of properties that a template has, has otherwise and no longer has."""

from __future__ import annotations

import pytest

from engine.aws.lambda_defaults import function_changes, mapping_changes

QUEUE = {"EventSourceArn": "arn:aws:sqs:us-east-1:000000000000:q"}
STREAM = {"EventSourceArn": "arn:aws:kinesis:us-east-1:000000000000:stream/s"}


def test_a_property_that_is_gone_has_its_default_and_one_without_any_is_not_spoken_of() -> None:
    old = {"Timeout": 9, "Environment": {"Variables": {"AA": "1"}}, "Handler": "m.f", "Code": {"ZipFile": "1"}, "MemorySize": 256}
    assert function_changes("f", old, {"MemorySize": 256}, ("Code",)) == {"Timeout": 3, "Environment": {"Variables": {}}}


def test_what_a_property_does_not_say_is_its_default_too() -> None:
    old = {"LoggingConfig": {"LogFormat": "JSON", "SystemLogLevel": "WARN", "LogGroup": "/mine"}, "Environment": {"Variables": {"AA": "1"}}}
    new = {"LoggingConfig": {"LogFormat": "JSON"}, "Environment": {}}
    assert function_changes("f", old, new, ()) == {
        "LoggingConfig": {"LogFormat": "JSON", "ApplicationLogLevel": "INFO", "SystemLogLevel": "INFO", "LogGroup": "/aws/lambda/f"},
        "Environment": {"Variables": {}},
    }
    assert function_changes("f", new, {}, ())["LoggingConfig"] == {"LogFormat": "Text", "LogGroup": "/aws/lambda/f"}


@pytest.mark.parametrize(("source", "size"), [(QUEUE, 10), (STREAM, 100), ({}, 100)])
def test_the_size_of_batches_is_that_of_the_source(source: dict[str, str], size: int) -> None:
    assert mapping_changes({**source, "BatchSize": 7}, source, ()) == {"BatchSize": size}
