"""CloudFormation's functions on values, and how templates are read."""

from __future__ import annotations

import json

import pytest

from engine.cli.output import CliError
from engine.cli.stack.stack import _ordered
from engine.cli.stack.template import Evaluator, parameters_of, read, references

TEMPLATE = {
    "Mappings": {"Sizes": {"us-east-1": {"small": 128}}},
    "Conditions": {
        "IsProd": {"Fn::Equals": [{"Ref": "Stage"}, "prod"]},
        "IsTest": {"Fn::Not": [{"Condition": "IsProd"}]},
        "Both": {"Fn::And": [{"Condition": "IsProd"}, {"Condition": "IsTest"}]},
        "Any": {"Fn::Or": [{"Condition": "IsProd"}, {"Condition": "IsTest"}]},
    },
}


def look_up(logical, attribute):
    if logical == "Open":
        return {"Ref": logical} if attribute is None else {"Fn::GetAtt": [logical, attribute]}
    return f"<{logical}.{attribute}>" if attribute else f"<{logical}>"


EVALUATOR = Evaluator(TEMPLATE, {"Stage": "test", "List": ["a", "b"]}, {"AWS::Region": "us-east-1"}, look_up)


@pytest.mark.parametrize(
    ("node", "value"),
    [
        ({"Ref": "Stage"}, "test"),
        ({"Ref": "AWS::Region"}, "us-east-1"),
        ({"Ref": "Q"}, "<Q>"),
        ({"Fn::GetAtt": ["Q", "Arn"]}, "<Q.Arn>"),
        ({"Fn::GetAtt": "Q.Nested.Arn"}, "<Q.Nested.Arn>"),
        ({"Fn::Join": ["-", ["a", {"Ref": "Stage"}, True, 3]]}, "a-test-true-3"),
        ({"Fn::Join": [",", {"Ref": "List"}]}, "a,b"),
        ({"Fn::Sub": "x-${Stage}-${Q.Arn}-${!Literal}-${AWS::Region}"}, "x-test-<Q.Arn>-${Literal}-us-east-1"),
        ({"Fn::Sub": ["${A}${Stage}", {"A": {"Ref": "Q"}}]}, "<Q>test"),
        ({"Fn::Select": [1, {"Ref": "List"}]}, "b"),
        ({"Fn::Select": ["0", {"Fn::Split": ["/", "a/b"]}]}, "a"),
        ({"Fn::If": ["IsProd", 1, 2]}, 2),
        ({"a": {"Fn::If": ["IsProd", 1, {"Ref": "AWS::NoValue"}]}, "b": 1}, {"b": 1}),
        ([{"Ref": "AWS::NoValue"}, 1], [1]),
        ({"Fn::If": ["Both", 1, 2]}, 2),
        ({"Fn::If": ["Any", 1, 2]}, 1),
        ({"Fn::FindInMap": ["Sizes", {"Ref": "AWS::Region"}, "small"]}, 128),
        ({"Fn::Base64": "abc"}, "YWJj"),
        ({"Fn::Length": [1, 2]}, 2),
        ({"Fn::ToJsonString": {"a": 1}}, '{"a": 1}'),
        # What somebody else has to fill in stays as it is, and so does what depends on it.
        ({"Fn::GetAtt": ["Open", "Arn"]}, {"Fn::GetAtt": ["Open", "Arn"]}),
        ({"Fn::Sub": "a-${Open}-${Stage}"}, {"Fn::Join": ["", ["a-", {"Ref": "Open"}, "-", "test", ""]]}),
        ({"Fn::Select": [0, [{"Ref": "Open"}]]}, {"Fn::Select": [0, [{"Ref": "Open"}]]}),
        ({"x": [{"y": {"Ref": "Open"}}]}, {"x": [{"y": {"Ref": "Open"}}]}),
    ],
)
def test_functions(node, value):
    assert EVALUATOR.value(node) == value


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"Fn::ImportValue": "x"}, "Fn::ImportValue is not supported"),
        ({"Fn::FindInMap": ["Sizes", "nowhere", "small"]}, "have no 'nowhere'"),
        ({"Fn::If": ["Unknown", 1, 2]}, "no condition Unknown"),
    ],
)
def test_what_cannot_be_evaluated_is_named(node, words):
    with pytest.raises(CliError, match=words):
        EVALUATOR.value(node)


def test_references_of_every_form():
    node = {"a": {"Ref": "A"}, "b": [{"Fn::GetAtt": ["B", "Arn"]}, {"Fn::GetAtt": "C.Arn"}], "d": {"Fn::Sub": ["${D.Arn}${!E}", {"F": {"Ref": "F"}}]}}
    assert references(node) == {"A", "B", "C", "D", "F"}


def test_order_follows_references_and_refuses_circles():
    made = {"A": {"Properties": {"x": {"Ref": "B"}}}, "B": {"DependsOn": "C"}, "C": {}}
    assert _ordered(made) == ["C", "B", "A"]
    with pytest.raises(CliError, match="circle: A, B"):
        _ordered({"A": {"DependsOn": ["B"]}, "B": {"Properties": {"x": {"Fn::Sub": "${A.Arn}"}}}})
    # By way of a role that is made elsewhere.
    assert _ordered({"A": {"Properties": {"x": {"Ref": "Role"}}}, "C": {}}, {"Role": {"C"}}) == ["C", "A"]


def test_parameters():
    template = {"Parameters": {"A": {"Default": "1"}, "B": {"Type": "CommaDelimitedList"}, "C": {"AllowedValues": ["x"], "Default": "x"}}}
    assert parameters_of(template, {"B": "1,2"}) == {"A": "1", "B": ["1", "2"], "C": "x"}
    for given, words in (({}, "parameter B has no default"), ({"B": "", "C": "y"}, "C must be one of x"), ({"Z": "1"}, "no parameter Z")):
        with pytest.raises(CliError, match=words):
            parameters_of(template, given)


def test_yaml_with_short_forms_means_what_json_says():
    text = (
        "Resources:\n  F:\n    Properties:\n      A: !Ref B\n      C: !GetAtt D.E.F\n      G: !Sub 'x-${B}'\n      H: !If [I, !Ref J, 2012-10-17]\n"
        "      K: !Join ['', [a, !Select [0, !Split [',', 'b,c']]]]\n"
    )
    assert read(text, "t.yaml")["Resources"]["F"]["Properties"] == {
        "A": {"Ref": "B"},
        "C": {"Fn::GetAtt": ["D", "E.F"]},
        "G": {"Fn::Sub": "x-${B}"},
        "H": {"Fn::If": ["I", {"Ref": "J"}, "2012-10-17"]},
        "K": {"Fn::Join": ["", ["a", {"Fn::Select": [0, {"Fn::Split": [",", "b,c"]}]}]]},
    }
    assert read(json.dumps({"Resources": {}}), "t.json") == {"Resources": {}}


@pytest.mark.parametrize(("text", "words"), [("{", "t: "), ("a: [", "t: "), ("a: 1", "has no Resources"), ("!!python/object:os.system {}", "t: ")])
def test_what_is_not_a_template_is_refused(text, words):
    with pytest.raises(CliError, match=words):
        read(text, "t")
