"""Every waiter and every paginator that boto3 has for Lambda."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, WaiterError

from tests.framework.engine import Engine

NAME = "surface"
MODEL: Any = boto3.client("lambda", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
WAITERS = MODEL.waiter_names
PAGINATED = sorted(name for name in MODEL.meta.method_to_api_mapping if MODEL.can_paginate(name))
ARGUMENTS: dict[str, Any] = {
    "FunctionName": NAME,
    "LayerName": NAME,
    "CodeSigningConfigArn": "arn:aws:lambda:us-east-1:000000000000:code-signing-config:csc-0123456789abcdef0",
    "CapacityProviderName": NAME,
    "DurableExecutionArn": f"arn:aws:lambda:us-east-1:000000000000:function:{NAME}:1/durable-execution/a/b",
    "CheckpointToken": "t",
}


@pytest.fixture(scope="module")
def client(shared: Engine) -> Iterator[Any]:
    shared.deploy(NAME, {"m.py": "def f(event, context): return event\n"}, Publish=True)
    client = shared.client()
    for n in range(60):
        client.create_alias(FunctionName=NAME, Name=f"a{n:02}", FunctionVersion="1")
    yield client
    client.delete_function(FunctionName=NAME)


@pytest.mark.parametrize("waiter", WAITERS)
def test_waiter(client: Any, waiter: str) -> None:
    qualifier = {"Qualifier": "1"} if waiter == "published_version_active" else {}
    client.get_waiter(waiter).wait(FunctionName=NAME, **qualifier)


@pytest.mark.parametrize("waiter", [w for w in WAITERS if w != "function_exists"])
def test_waiter_on_nothing_fails_at_once(client: Any, waiter: str) -> None:
    with pytest.raises(WaiterError, match="ResourceNotFoundException"):
        client.get_waiter(waiter).wait(FunctionName="surface-nothing", WaiterConfig={"Delay": 1, "MaxAttempts": 2})


@pytest.mark.parametrize("operation", PAGINATED)
def test_paginator(client: Any, operation: str) -> None:
    """It pages to the end, or the engine says by name that it does not have the operation or the thing."""
    shape = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[operation]).input_shape
    arguments = {name: ARGUMENTS[name] for name in shape.required_members}
    try:
        pages = list(client.get_paginator(operation).paginate(**arguments, PaginationConfig={"PageSize": 50}))
    except ClientError as e:
        code, text = e.response["Error"]["Code"], e.response["Error"]["Message"]
        assert code in ("NotImplementedException", "ResourceNotFoundException"), text
        assert client.meta.method_to_api_mapping[operation] in text or "can not be found" in text, text
        assert code != "NotImplementedException" or ": managed instances" in text or ": durable executions" in text, text
        return
    assert all(page["ResponseMetadata"]["HTTPStatusCode"] == 200 for page in pages)


def test_pages_are_cut_where_they_should_be_and_joined_again(client: Any) -> None:
    pages = [page["Aliases"] for page in client.get_paginator("list_aliases").paginate(FunctionName=NAME, PaginationConfig={"PageSize": 25})]
    assert [len(page) for page in pages] == [25, 25, 10]
    assert [a["Name"] for page in pages for a in page] == [f"a{n:02}" for n in range(60)]
    result = client.get_paginator("list_aliases").paginate(FunctionName=NAME, PaginationConfig={"MaxItems": 7, "PageSize": 5}).build_full_result()
    assert len(result["Aliases"]) == 7
    assert result["NextToken"]
