"""Routes of the service model: every operation, twins on one path, encoded ARNs, trailing slashes."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from engine.errors import UnknownOperation
from engine.protocol.model import load
from engine.protocol.router import Router, query_pairs

MODEL = load()
ROUTER = Router(MODEL)
ARN = "arn:aws:lambda:us-east-1:000000000000:function:f:1/durable-execution/a/b"


@pytest.mark.parametrize("name", MODEL.operation_names())
@pytest.mark.parametrize("slash", ["", "/"])
def test_every_operation_is_reached_with_an_encoded_arn_in_each_label(name: str, slash: str) -> None:
    method, template, query = MODEL.route(name)
    path = "/".join(quote(ARN, safe="") if s.startswith("{") else s for s in template.split("/"))
    match = ROUTER.match(method, path + slash, "&".join(f"{k}={v}" for k, v in query))
    assert match.operation == name
    labels = [s[1:-1] for s in template.split("/") if s.startswith("{")]
    assert match.uri == dict.fromkeys(labels, ARN)


@pytest.mark.parametrize(
    ("path", "query", "operation"),
    [
        ("/2019-09-30/functions/f/provisioned-concurrency", "Qualifier=1", "GetProvisionedConcurrencyConfig"),
        ("/2019-09-30/functions/f/provisioned-concurrency", "List=ALL&MaxItems=2", "ListProvisionedConcurrencyConfigs"),
        ("/2019-09-30/functions/f/provisioned-concurrency", "MaxItems=2&List=ALL", "ListProvisionedConcurrencyConfigs"),
        ("/2019-09-30/functions/f/provisioned-concurrency", "List=SOME", "GetProvisionedConcurrencyConfig"),
        ("/2018-10-31/layers", "", "ListLayers"),
        ("/2018-10-31/layers", "find=LayerVersion&Arn=a", "GetLayerVersionByArn"),
        ("/2018-10-31/layers", "find=Layer", "ListLayers"),
        ("/2015-03-31/functions/functions", "", "GetFunction"),
        ("/2019-09-25/functions/list/event-invoke-config/list", "", "ListFunctionEventInvokeConfigs"),
    ],
)
def test_twins_on_one_path_are_told_apart_by_their_query(path: str, query: str, operation: str) -> None:
    assert ROUTER.match("GET", path, query).operation == operation


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", ""),
        ("GET", "/2015-03-31"),
        ("PATCH", "/2015-03-31/functions"),
        ("GET", "/2015-03-31/functions/f/nothing"),
        ("GET", "/2015-03-31/functions//configuration"),
        ("GET", "/2015-03-31/functions/f//"),
        ("POST", "/2015-03-31/functions/f"),
        ("GET", "/2099-01-01/functions"),
    ],
)
def test_an_unknown_route_names_itself(method: str, path: str) -> None:
    with pytest.raises(UnknownOperation) as caught:
        ROUTER.match(method, path)
    assert f"{method} {path}" in caught.value.message
    assert caught.value.status == 404


def test_broken_percent_encoding_is_kept_as_it_is() -> None:
    assert ROUTER.match("GET", "/2015-03-31/functions/a%zz%4").uri == {"FunctionName": "a%zz%4"}


def test_query_pairs_keep_order_repeats_and_blanks() -> None:
    assert query_pairs("tagKeys=a%20b&tagKeys=c+d&x&&y=") == [("tagKeys", "a b"), ("tagKeys", "c d"), ("x", ""), ("y", "")]
    assert query_pairs("") == []
