"""Templates as values: reading them, and CloudFormation's functions. Pure.

Source: docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/intrinsic-function-reference.html.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from engine.aws.template_references import references
from engine.cli.output import CliError

__all__ = ["Evaluator", "parameters_of", "read", "references"]
NO_VALUE = object()
_SUB = re.compile(r"\$\{(!?)([^}]+)\}")
# Functions whose short YAML form is another word than their name after Fn::.
_SHORT = {"Ref": "Ref", "Condition": "Condition"}
# Of a resource: (logical id, attribute or None for Ref) -> its value, or the function itself when it is for somebody else to know.
Lookup = Callable[[str, str | None], Any]


def read(text: str, where: str) -> dict[str, Any]:
    """A template in JSON or YAML. Raises CliError naming the file."""
    try:
        document = json.loads(text) if text.lstrip().startswith("{") else _yaml(text)
    except ValueError as e:
        raise CliError(f"{where}: {e}", 2) from e
    if not isinstance(document, dict) or not isinstance(document.get("Resources"), dict):
        raise CliError(f"{where} is not a CloudFormation template: it has no Resources", 2)
    return document


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise CliError("YAML templates need the extra 'sam': run pip install 'lambda-engine[sam]'", 2) from None

    class Loader(yaml.SafeLoader):
        """Knows the short forms (``!Ref x``) and leaves dates as text."""

    def short(loader: Any, suffix: str, node: Any) -> Any:
        if isinstance(node, yaml.ScalarNode):
            value: Any = loader.construct_scalar(node)
        elif isinstance(node, yaml.SequenceNode):
            value = loader.construct_sequence(node, deep=True)
        else:
            value = loader.construct_mapping(node, deep=True)
        if suffix == "GetAtt" and isinstance(value, str):
            value = value.split(".", 1)
        return {_SHORT.get(suffix, f"Fn::{suffix}"): value}

    Loader.add_multi_constructor("!", short)
    def plain(loader: Any, node: Any) -> Any:
        return loader.construct_scalar(node)

    Loader.add_constructor("tag:yaml.org,2002:timestamp", plain)
    try:
        return yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as e:
        raise ValueError(str(e)) from e


class Evaluator:
    """Replaces parameters, pseudo parameters, mappings, conditions and functions. What ``lookup`` leaves open stays a function."""

    def __init__(self, template: Mapping[str, Any], parameters: Mapping[str, Any], pseudo: Mapping[str, str], lookup: Lookup) -> None:
        self._template = template
        self._mappings = template.get("Mappings") or {}
        self._conditions = template.get("Conditions") or {}
        self._known: dict[str, Any] = {**parameters, **pseudo, "AWS::NoValue": NO_VALUE}
        self._lookup = lookup

    def asking(self, lookup: Lookup) -> Evaluator:
        """The same, with somebody else to ask for resources."""
        return Evaluator(self._template, self._known, {}, lookup)

    def value(self, node: Any) -> Any:
        """``node`` with everything that can be known replaced. Raises CliError for a function that is not there."""
        if isinstance(node, list):
            return [v for v in map(self.value, node) if v is not NO_VALUE]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (name, argument), = node.items()
            if name == "Ref":
                return self._ref(str(argument), None)
            if name == "Condition" and isinstance(argument, str) and argument in self._conditions:
                return self.condition(argument)
            if isinstance(name, str) and name.startswith("Fn::"):
                return self._function(name, argument)
        values = ((k, self.value(v)) for k, v in node.items())
        return {k: v for k, v in values if v is not NO_VALUE}

    def condition(self, name: str) -> bool:
        """Whether a condition of the template holds."""
        if name not in self._conditions:
            raise CliError(f"the template has no condition {name}", 2)
        return bool(self.value(self._conditions[name]))

    def _ref(self, name: str, attribute: str | None) -> Any:
        if attribute is None and name in self._known:
            return self._known[name]
        return self._lookup(name, attribute)

    def _function(self, name: str, argument: Any) -> Any:
        if name == "Fn::If":
            return self.value(argument[1] if self.condition(argument[0]) else argument[2])
        if name == "Fn::GetAtt":
            logical, attribute = argument if isinstance(argument, list) else argument.split(".", 1)
            return self._ref(str(logical), str(self.value(attribute)))
        if name == "Fn::Sub":
            return self._sub(argument)
        function = _FUNCTIONS.get(name)
        if function is None:
            raise CliError(f"{name} is not supported in templates here", 2)
        values = self.value(argument)
        if name != "Fn::Join" and _open(values):
            return {name: values}
        return function(self, values)

    def _sub(self, argument: Any) -> Any:
        text, names = argument if isinstance(argument, list) else (argument, {})
        parts: list[Any] = []
        at = 0
        for match in _SUB.finditer(text):
            parts.append(text[at : match.start()])
            at = match.end()
            if match[1]:
                parts.append("${" + match[2] + "}")
            elif match[2] in names:
                parts.append(self.value(names[match[2]]))
            else:
                logical, _, attribute = match[2].strip().partition(".")
                parts.append(self._ref(logical, attribute or None))
        return self.join(["", [*parts, text[at:]]])

    def join(self, values: Any) -> Any:
        """Fn::Join; stays one while a part is open."""
        separator, parts = values
        if _open(parts):
            return {"Fn::Join": [separator, parts]}
        return separator.join(_text(p) for p in parts)

    def find_in_map(self, values: Any) -> Any:
        """Fn::FindInMap."""
        try:
            return self._mappings[values[0]][values[1]][values[2]]
        except KeyError as e:
            raise CliError(f"Fn::FindInMap {values}: the template's mappings have no {e}", 2) from None


def _open(value: Any) -> bool:
    """Whether a function is left somewhere in a value."""
    if isinstance(value, list):
        return any(map(_open, value))
    if isinstance(value, dict):
        return any(k == "Ref" or str(k).startswith("Fn::") or _open(v) for k, v in value.items())
    return False


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


_FUNCTIONS: Mapping[str, Callable[[Evaluator, Any], Any]] = {
    "Fn::Join": Evaluator.join,
    "Fn::Select": lambda _, v: v[1][int(v[0])],
    "Fn::Split": lambda _, v: v[1].split(v[0]),
    "Fn::Equals": lambda _, v: _text(v[0]) == _text(v[1]),
    "Fn::And": lambda _, v: all(v),
    "Fn::Or": lambda _, v: any(v),
    "Fn::Not": lambda _, v: not v[0],
    "Fn::Base64": lambda _, v: base64.b64encode(v.encode()).decode(),
    "Fn::FindInMap": Evaluator.find_in_map,
    "Fn::Length": lambda _, v: len(v),
    "Fn::ToJsonString": lambda _, v: json.dumps(v),
}


def parameters_of(template: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """Values of the template's parameters. Raises CliError naming those that are missing or not there."""
    declared = template.get("Parameters") or {}
    strangers = sorted(set(given) - set(declared))
    if strangers:
        raise CliError(f"the template has no parameter {', '.join(strangers)}", 2)
    values: dict[str, Any] = {}
    for name, about in declared.items():
        value = given.get(name, about.get("Default"))
        if value is None:
            raise CliError(f"parameter {name} has no default: give --parameter {name}=VALUE", 2)
        allowed = about.get("AllowedValues")
        if allowed and str(value) not in map(str, allowed):
            raise CliError(f"parameter {name} must be one of {', '.join(map(str, allowed))}, not {value}", 2)
        kind = str(about.get("Type", "String"))
        values[name] = str(value).split(",") if kind.startswith(("List<", "CommaDelimitedList")) else str(value)
    return values
