"""Functions with real dependencies on the real engine: right cold, right warm, right fifty at a time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.framework.engine import Engine, engine
from tests.framework.packages import package_of
from tests.functions.table import BUCKET, REAL, TABLE, Real

AT_ONCE = 50


@pytest.fixture(scope="module")
def real() -> Iterator[Engine]:
    """An engine with the embedded AWS services, and in them what the functions expect."""
    with engine(pool_size=8) as running:
        running.client("s3").create_bucket(Bucket=BUCKET)
        running.client("dynamodb").create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": "name", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "name", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        yield running


@contextlib.contextmanager
def deployed(real: Engine, function: Real) -> Iterator[str]:
    name = function.name.replace("_", "-")
    real.deploy(name, package_of(function.name), **{"Timeout": 60, **function.settings})
    try:
        yield name
    finally:
        real.client().delete_function(FunctionName=name)


def ask(client: Any, name: str, event: Any) -> Any:
    answer = client.invoke(FunctionName=name, Payload=json.dumps(event))
    payload = json.loads(answer["Payload"].read())
    assert answer["StatusCode"] == 200
    assert "FunctionError" not in answer, payload
    return payload


@pytest.mark.parametrize("function", REAL, ids=lambda f: f.name)
def test_cold_and_warm(real: Engine, function: Real) -> None:
    client = real.client()
    with deployed(real, function) as name:
        for _ in ("cold", "warm"):
            for event, check in function.cases:
                check(ask(client, name, event))


# Fifty times boto3 at once is many seconds of two cores.
@pytest.mark.parametrize("function", [pytest.param(f, marks=pytest.mark.slow) if f.aws else f for f in REAL], ids=[f.name for f in REAL])
def test_many_at_once(real: Engine, function: Real) -> None:
    client = real.client()
    many = [function.cases[n % len(function.cases)] for n in range(AT_ONCE)]
    with deployed(real, function) as name, concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda case: ask(client, name, case[0]), many))
    for (_, check), answer in zip(many, answers, strict=True):
        check(answer)


def test_a_counter_counts_every_invocation_once(real: Engine) -> None:
    function = next(f for f in REAL if f.name == "counter")
    client = real.client()
    with deployed(real, function) as name:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: ask(client, name, {"name": "once"}), range(24)))
        assert ask(client, name, {"name": "once"}) == {"hits": 25}
