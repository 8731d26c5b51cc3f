"""The steps in which the embedded CloudFormation makes, changes and deletes a stack's resources, each an event of the stack.

In the order of references and DependsOn, taking away in the reverse one. What is changed is told by comparing properties as they are evaluated now with those of
the last time, so a resource follows what it refers to. What single resources are is left to moto's classes.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any

from moto.cloudformation import parsing
from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.models import Event

from engine.aws.template_references import order

# Says which CDK made a template.
IGNORED = frozenset({"AWS::CDK::Metadata"})
_RETAINED = frozenset({"Retain", "RetainExceptOnCreate"})
Work = Callable[[], None]


def check(template: dict[str, Any]) -> None:
    """Raises ValidationError naming the types of resources that nothing here makes."""
    unknown = {
        about["Type"]
        for about in template["Resources"].values()
        if about["Type"] not in IGNORED | set(parsing.NULL_MODELS) and parsing.resource_class_from_type(about["Type"]) is None
    }
    if unknown:
        raise ValidationError(message=f"Template format error: Unrecognized resource types: [{', '.join(sorted(unknown))}]")


def evaluated(resource_map: Any) -> dict[str, Any]:
    """The properties of each resource as they were evaluated last."""
    found: dict[str, Any] = resource_map.__dict__.setdefault("evaluated", {})
    return found


def standing(stack: Any) -> list[Any]:
    """The resources that exist."""
    return [r for r in list(stack.resource_map._parsed_resources.values()) if getattr(r, "logical_resource_id", None)]  # noqa: SLF001 - where moto has them


def say(stack: Any, status: str, logical: str = "", reason: str | None = None) -> None:
    """Add an event: of a resource, or of the stack itself."""
    if not logical:
        stack.status = status
        stack.status_reason = reason
        stack._add_stack_event(status, resource_status_reason=reason)  # noqa: SLF001 - it tells SNS topics too
        return
    resource_map = stack.resource_map
    made = resource_map._parsed_resources.get(logical)  # noqa: SLF001
    kind = resource_map._resource_json_map.get(logical, {}).get("Type") or getattr(made, "cf_resource_type", "")  # noqa: SLF001
    physical = getattr(made, "physical_resource_id", None) or ""
    stack.events.append(Event(stack.stack_id, stack.name, logical, physical, kind, status, reason, None))


def text_of(error: Exception) -> str:
    return str(getattr(error, "message", None) or getattr(error, "description", None) or error) or type(error).__name__


def _made(resource_map: Any, name: str) -> None:
    made = resource_map[name]
    if isinstance(made, parsing.TaggedEC2Resource):
        resource_map.tags["aws:cloudformation:logical-id"] = name
        backend = parsing.ec2_models.ec2_backends[resource_map._account_id][resource_map._region_name]  # noqa: SLF001
        backend.create_tags([made.physical_resource_id], resource_map.tags)


def _wanted(resource_map: Any, name: str) -> bool:
    """Whether the template has the resource, its condition holds, and it is something that is made."""
    about = resource_map._resource_json_map.get(name)  # noqa: SLF001
    if about is None or about["Type"] in IGNORED or about["Type"] in parsing.NULL_MODELS:
        return False
    condition = about.get("Condition")
    return not condition or bool(resource_map.lazy_condition_map[condition])


def _step(stack: Any, name: str, verb: str, work: Work) -> None:
    """One resource, with its events. Raises what ``work`` raises, naming the resource."""
    say(stack, f"{verb}_IN_PROGRESS", name)
    try:
        work()
    except Exception as e:
        say(stack, f"{verb}_FAILED", name, text_of(e))
        raise ValidationError(message=f"{name}: {text_of(e)}") from e
    say(stack, f"{verb}_COMPLETE", name)


def make(stack: Any, names: Iterable[str]) -> None:
    resource_map = stack.resource_map
    resource_map._template = stack.template_dict  # noqa: SLF001
    resource_map._resource_json_map = stack.template_dict["Resources"]  # noqa: SLF001
    resource_map.tags.update({"aws:cloudformation:stack-name": stack.name, "aws:cloudformation:stack-id": stack.stack_id})
    for name in names:
        if _wanted(resource_map, name):
            _step(stack, name, "CREATE", functools.partial(_made, resource_map, name))


def take_down(stack: Any, resources: Iterable[Any], *, retain: bool) -> list[str]:
    """Delete resources, the last first, going on after one that cannot be; what could not be, with the reasons."""
    resource_map = stack.resource_map
    definitions = {**getattr(stack, "former_definitions", {}), **resource_map._resource_json_map}  # noqa: SLF001
    ranks = {name: rank for rank, name in enumerate(order(definitions))}
    left = []
    for resource in sorted(resources, key=lambda r: ranks.get(r.logical_resource_id, -1), reverse=True):
        name = resource.logical_resource_id
        about = definitions[name]
        if retain and about.get("DeletionPolicy") in _RETAINED:
            say(stack, "DELETE_SKIPPED", name)
        else:
            try:
                _step(stack, name, "DELETE", functools.partial(resource_map._delete_resource, resource, about))  # noqa: SLF001
            except ValidationError as e:
                left.append(text_of(e))
                continue
        resource_map._parsed_resources.pop(name, None)  # noqa: SLF001
        evaluated(resource_map).pop(name, None)
    return left


def change(stack: Any, template: dict[str, Any], parameters: dict[str, Any] | None) -> None:
    """Make the stack's resources those of a template. Raises at the first that cannot be."""
    resource_map = stack.resource_map
    stack.former_definitions = dict(resource_map._resource_json_map)  # noqa: SLF001
    resource_map._template = stack.template_dict = template  # noqa: SLF001
    resource_map._resource_json_map = template["Resources"]  # noqa: SLF001
    if parameters is not None:
        resource_map.input_parameters = stack.parameters = parameters
    resource_map.resolved_parameters = {}
    resource_map.load()
    names = order(template["Resources"])
    for name in names:
        if not _wanted(resource_map, name):
            continue
        if name not in resource_map._parsed_resources:  # noqa: SLF001
            _step(stack, name, "CREATE", functools.partial(_made, resource_map, name))
        elif _differs(resource_map, name):
            _step(stack, name, "UPDATE", functools.partial(_change_one, resource_map, name))
    gone = [r for r in standing(stack) if not _wanted(resource_map, r.logical_resource_id)]
    left = take_down(stack, gone, retain=True)
    if left:
        raise ValidationError(message="; ".join(left))


def _differs(resource_map: Any, name: str) -> bool:
    before = evaluated(resource_map).get(name)
    about = resource_map._resource_json_map[name]  # noqa: SLF001
    return bool(before != parsing.clean_json(copy.deepcopy(about.get("Properties") or {}), resource_map))


def _change_one(resource_map: Any, name: str) -> None:
    about = resource_map._resource_json_map[name]  # noqa: SLF001
    before = evaluated(resource_map).get(name)
    try:
        changed = parsing.parse_and_update_resource(
            name, about, resource_map, account_id=resource_map._account_id, region_name=resource_map._region_name  # noqa: SLF001
        )
        if changed is None:
            raise ValidationError(message=f"the embedded CloudFormation cannot change a resource of type {about['Type']}: give it another logical id")
    except Exception:
        if before is not None:
            evaluated(resource_map)[name] = before
        raise
    resource_map._parsed_resources[name] = changed  # noqa: SLF001
