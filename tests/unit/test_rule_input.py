"""What targets of rules are given, after AWS's examples of input transformers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.core.rule_input import InvalidInput, at, payload

EVENT: dict[str, Any] = {
    "version": "0", "id": "7bf7", "detail-type": "EC2 Instance State-change Notification", "source": "aws.ec2", "account": "111122223333",
    "time": "2015-11-11T21:29:54Z", "region": "us-east-1", "resources": ["arn:aws:ec2:us-east-1:123456789012:instance/i-abcd1111"],
    "detail": {"instance-id": "i-0123456789", "state": "RUNNING", "n": [1, {"x": 'say "hi"'}], "flag": True},
}  # fmt: skip


def made(template: str, **paths: str) -> str:
    target = {"InputTransformer": {"InputPathsMap": paths, "InputTemplate": template}}
    return payload(target, EVENT, "arn:rule", "rule-name", "2015-11-11T21:29:55Z")


def test_whole_event_part_of_it_and_a_constant():
    assert json.loads(payload({}, EVENT, "", "", "")) == EVENT
    assert payload({"InputPath": "$.detail.n[1].x"}, EVENT, "", "", "") == '"say \\"hi\\""'
    assert payload({"InputPath": "$.nothing"}, EVENT, "", "", "") == "null"
    assert payload({"Input": '{"a": 1}'}, EVENT, "", "", "") == '{"a": 1}'


@pytest.mark.parametrize(
    ("template", "paths", "wanted"),
    [
        ('{"instance": <instance>, "state": <state>}', {"instance": "$.detail.instance-id", "state": "$.detail.state"},
         {"instance": "i-0123456789", "state": "RUNNING"}),
        ('"instance <instance> is in <state>"', {"instance": "$.detail.instance-id", "state": "$.detail.state"}, "instance i-0123456789 is in RUNNING"),
        ('{"all": <n>, "flag": <flag>, "text": "<n> <flag>"}', {"n": "$.detail.n", "flag": "$.detail.flag"},
         {"all": EVENT["detail"]["n"], "flag": True, "text": '[1,{"x":"say \\"hi\\""}] true'}),
        ('{"text": "it did <x>", "escaped": "\\"<x>\\""}', {"x": "$.detail.n[1].x"}, {"text": 'it did say "hi"', "escaped": '"say "hi""'}),
        ('{"gone": <gone>, "text": "[<gone>]", "kept": "<unknown>"}', {"gone": "$.detail.no"}, {"gone": "", "text": "[]", "kept": "<unknown>"}),
        ('{"rule": "<aws.events.rule-name>", "arn": <aws.events.rule-arn>, "at": <aws.events.event.ingestion-time>}', {},
         {"rule": "rule-name", "arn": "arn:rule", "at": "2015-11-11T21:29:55Z"}),
        ("<aws.events.event.json>", {}, EVENT),
        ("<aws.events.event>", {}, {k: v for k, v in EVENT.items() if k != "detail"}),
    ],
)  # fmt: skip
def test_templates(template, paths, wanted):
    assert json.loads(made(template, **paths)) == wanted


def test_a_template_must_make_json():
    with pytest.raises(InvalidInput):
        made("plain words")
    with pytest.raises(InvalidInput):
        payload({"Input": "{"}, EVENT, "", "", "")


@pytest.mark.parametrize(
    ("path", "wanted"),
    [("$", EVENT), ("$.detail.n[*].x", ['say "hi"']), ("$.detail.n[*]", [1, {"x": 'say "hi"'}]), ("$.detail.n[1].*", ['say "hi"']), ("$.detail.*.y", None),
     ("$.id[*]", None), ("$.detail['state']", "RUNNING"), ("$.resources[0]", EVENT["resources"][0]), ("$.resources[1]", None), ("$.detail.state.x", None),
     ("detail", None), ("$..detail", None), ("$.resources[x]", None)],
)  # fmt: skip
def test_paths(path, wanted):
    assert at(EVENT, path) == wanted
