"""Every AWS error exists in the service model, with the status the model gives it."""

from __future__ import annotations

from typing import Any

import botocore.session
import pytest

from engine import errors
from engine.errors import AwsError, EngineError, Fault


def _all(root: type[AwsError]) -> list[type[AwsError]]:
    found: list[type[AwsError]] = []
    for kind in root.__subclasses__():
        found += [kind, *_all(kind)]
    return [k for k in found if not k.__name__.startswith("_")]


KINDS: list[type[AwsError]] = [AwsError, *_all(AwsError)]
MODEL: Any = botocore.session.get_session().get_service_model("lambda")
# Common to every AWS service and therefore not in Lambda's model (docs.aws.amazon.com/lambda/latest/api/CommonErrors.html).
COMMON = {
    "ValidationException",
    "AccessDeniedException",
    "InvalidSignatureException",
    "UnrecognizedClientException",
    "MissingAuthenticationTokenException",
    "ExpiredTokenException",
    "IncompleteSignatureException",
    "UnknownOperationException",
    "SerializationException",
    "NotImplementedException",
    # What Lambda answers to a body over the limit; the model's RequestTooLargeException is not what is sent.
    "RequestEntityTooLargeException",
}


@pytest.mark.parametrize("kind", KINDS)
def test_code_and_status_are_the_models(kind):
    if kind.code in COMMON:
        assert kind.code not in MODEL.shape_names
        return
    shape = MODEL.shape_for(kind.code)
    assert shape.metadata["error"]["httpStatusCode"] == kind.status


@pytest.mark.parametrize("kind", [k for k in KINDS if k.code not in COMMON])
def test_message_member_is_cased_as_the_models(kind):
    assert kind.message_key in MODEL.shape_for(kind.code).members


@pytest.mark.parametrize("kind", KINDS)
def test_status_tells_whose_fault_it_is(kind):
    client = 400 <= kind.status < 500 or kind.status == 501
    assert (kind.fault is Fault.CLIENT) is client


def test_body_holds_fields_type_and_message_in_aws_order():
    error = errors.TooManyRequests("Rate Exceeded.", fields={"Reason": "ReservedFunctionConcurrentInvocationLimitExceeded"})
    assert list(error.body().items()) == [
        ("Reason", "ReservedFunctionConcurrentInvocationLimitExceeded"),
        ("Type", "User"),
        ("message", "Rate Exceeded."),
    ]
    assert error.retryable


def test_body_without_type():
    assert errors.ValidationError("1 validation error detected").body() == {"message": "1 validation error detected"}


def test_message_may_be_null():
    assert errors.AccessDenied(None).body() == {"Message": None}


def test_fields_and_headers_are_copies():
    given = {"Reason": "x"}
    error = errors.TooManyRequests("m", fields=given, headers=given)
    given["Reason"] = "y"
    assert error.fields == {"Reason": "x"} == error.headers


def test_everything_raised_on_purpose_has_one_root():
    kinds: list[type[Exception]] = [*KINDS, errors.ConfigurationError, errors.WireError, errors.SandboxUnavailable]
    assert all(issubclass(kind, EngineError) for kind in kinds)
