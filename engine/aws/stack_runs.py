"""How the embedded CloudFormation makes, changes and deletes stacks: after the request, in order, with events, and back when it fails.

Theory of operation. A request to create, change or delete a stack checks what can be checked at once and returns; a thread does the work, in the steps of
``stack_steps``. What a new template leaves out goes last. A creation that fails is taken away, a change that fails is changed back. A stack within a stack is done by the thread of the outer one. Outputs and exports are
those of the last time that a stack was complete.

moto does all this within the request, in the order of the template, and leaves what fails as it is; its classes are changed here, and what single resources
are is left to them.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from typing import Any

from moto.cloudformation import parsing
from moto.cloudformation.exceptions import ValidationError
from moto.cloudformation.models import ChangeSet, CloudFormationBackend, Stack, cloudformation_backends

from engine.aws.stack_steps import change, check, evaluated, make, say, standing, take_down, text_of
from engine.aws.template_references import order

_BUSY = "_IN_PROGRESS"
Work = Callable[[], None]


class _Here(threading.local):
    """Of this thread. ``within``: it does a stack already; ``keep``: the request asks that nothing be taken away when it fails."""

    within = False
    keep = False


_here = _Here()


def install() -> None:
    """Have moto's stacks done this way."""
    name_and_parse = parsing.parse_resource_and_generate_name

    @functools.wraps(name_and_parse)
    def remembered(logical_id: str, resource_json: dict[str, Any], resources_map: Any) -> Any:
        # moto adds Properties to what it is given, which would be another template then.
        found = name_and_parse(logical_id, dict(resource_json), resources_map)
        if found:
            evaluated(resources_map)[logical_id] = copy.deepcopy(found[1].get("Properties") or {})
        return found

    parsing.parse_resource_and_generate_name = remembered
    outputs, exports = Stack.outputs.fget, Stack.exports.fget
    Stack.outputs = property(lambda stack: getattr(stack, "made_outputs", None))
    Stack.exports = property(lambda stack: getattr(stack, "made_exports", []))
    Stack.stack_resources = property(standing)
    Stack.stack_parameters = property(_parameters)
    Stack.has_template = lambda stack, other: stack.parse_template(stack.template) == stack.parse_template(other)
    finish = functools.partial(_finish, outputs, exports)
    Stack.create_resources = lambda stack: _create(stack, finish)
    Stack.update = functools.partialmethod(_update, finish)
    Stack.delete = _take_away
    CloudFormationBackend.execute_change_set = functools.partialmethod(_execute, finish)
    CloudFormationBackend.delete_stack = _delete


def keeping(keep: bool) -> None:
    """Whether what the request at hand begins is to be left as it is when it fails."""
    _here.keep = keep


def _parameters(stack: Any) -> dict[str, Any]:
    """The parameters as they were given: of one that names an SSM parameter, the name."""
    slots = stack.template_dict.get("Parameters") or {}
    return {name: (stack.parameters or {}).get(name, about.get("Default")) for name, about in slots.items()}


def _begin(stack: Any, work: Work) -> None:
    """Do it in a thread; within the work on another stack, now and raising what it raises."""
    if _here.within:
        work()
        return

    def run() -> None:
        _here.within = True
        try:
            work()
        except Exception as e:  # noqa: BLE001 - whatever it was, the stack says so, and nobody waits for this thread
            if stack.status.endswith(_BUSY):
                say(stack, f"{stack.status.partition('_')[0]}_FAILED", reason=text_of(e))

    threading.Thread(target=run, name=f"stack {stack.name}", daemon=True).start()


def _finish(outputs: Any, exports: Any, stack: Any) -> None:
    """The stack is complete: what it tells others. Raises ValidationError for a name that another stack exports."""
    backend = cloudformation_backends[stack.account_id][stack.region_name]
    stack.output_map = stack._create_output_map()  # noqa: SLF001 - as moto does
    new = exports(stack)
    former = {e.name for e in getattr(stack, "made_exports", [])}
    for export in new:
        if export.name in backend.exports and export.name not in former:
            owner = backend.exports[export.name].exporting_stack_id.split("/")[-2:-1]
            raise ValidationError(message=f"Export with name {export.name} is already exported by stack {''.join(owner)}")
    for name in former - {e.name for e in new}:
        backend.exports.pop(name, None)
    stack.made_exports = new
    backend.exports.update({e.name: e for e in new})
    stack.made_outputs = outputs(stack)


def _create(stack: Any, finish: Callable[[Any], None]) -> None:
    """``Stack.create_resources``."""
    try:
        check(stack.template_dict)
    except ValidationError:
        cloudformation_backends[stack.account_id][stack.region_name].stacks.pop(stack.stack_id, None)
        raise
    stack.status = "CREATE_IN_PROGRESS"
    _begin(stack, functools.partial(_make_whole, stack, finish, keep=_here.keep))


def _make_whole(stack: Any, finish: Callable[[Any], None], *, keep: bool) -> None:
    """Make everything, or nothing. Raises what went wrong."""
    try:
        make(stack, order(stack.template_dict["Resources"]))
        stack.description = stack.template_dict.get("Description")
        finish(stack)
    except Exception as e:
        if keep:
            say(stack, "CREATE_FAILED", reason=text_of(e))
        else:
            say(stack, "ROLLBACK_IN_PROGRESS", reason=f"{text_of(e)} . Rollback requested by user.")
            left = take_down(stack, standing(stack), retain=False)
            say(stack, "ROLLBACK_FAILED" if left else "ROLLBACK_COMPLETE", reason="; ".join(left) or None)
        raise
    say(stack, "CREATE_COMPLETE")


def _change_whole(stack: Any, finish: Callable[[Any], None], template: dict[str, Any], parameters: dict[str, Any] | None, *, keep: bool) -> None:
    """Change a stack, or change it back. Raises what went wrong."""
    former, given = stack.template_dict, stack.parameters
    try:
        change(stack, template, parameters)
        finish(stack)
    except Exception as e:
        if keep:
            say(stack, "UPDATE_FAILED", reason=text_of(e))
            raise
        say(stack, "UPDATE_ROLLBACK_IN_PROGRESS", reason=text_of(e))
        try:
            change(stack, former, given)
        except Exception as again:  # noqa: BLE001 - it is what the stack says from now on
            say(stack, "UPDATE_ROLLBACK_FAILED", reason=text_of(again))
        else:
            say(stack, "UPDATE_ROLLBACK_COMPLETE")
        raise
    stack.description = template.get("Description")
    say(stack, "UPDATE_COMPLETE")


def _free(stack: Any, what: str = "updated") -> None:
    """Raises ValidationError while something is done to the stack."""
    if stack.status.endswith(_BUSY) and stack.status != "REVIEW_IN_PROGRESS":
        raise ValidationError(message=f"Stack:{stack.stack_id} is in {stack.status} state and can not be {what}.")


def _update(
    stack: Any, finish: Callable[[Any], None], template: str, role_arn: str | None = None, parameters: dict[str, Any] | None = None,
    tags: dict[str, str] | None = None,
) -> None:  # fmt: skip
    """``Stack.update``."""
    _free(stack)
    parsed = _parsed(stack, template, parameters)
    check(parsed)
    say(stack, "UPDATE_IN_PROGRESS", reason="User Initiated")

    def work() -> None:
        former, stack.template = stack.template, template
        try:
            _change_whole(stack, finish, parsed, parameters, keep=keep)
        except Exception:
            stack.template = former
            raise
        stack.role_arn = role_arn
        stack.tags = stack.tags if tags is None else tags

    keep = _here.keep
    _begin(stack, work)


def _parsed(stack: Any, template: str, parameters: dict[str, Any] | None) -> dict[str, Any]:
    """A template as the stack would have it, transformed."""
    trial = copy.copy(stack)
    trial.template = template
    trial.parameters = stack.parameters if parameters is None else parameters
    trial._parse_template()  # noqa: SLF001 - where transforms are done
    found: dict[str, Any] = trial.template_dict
    return found


def change_set_of(backend: Any, name: str, stack_name: str | None) -> ChangeSet | None:
    """A change set by its ARN, or by its name and its stack's."""
    if name in backend.change_sets:
        return backend.change_sets[name]
    for found in reversed(list(backend.change_sets.values())):
        if found.change_set_name == name and stack_name in (None, found.stack_name, found.stack_id):
            return found
    return None


def _execute(backend: Any, finish: Callable[[Any], None], change_set_name: str, stack_name: str | None = None) -> None:
    """``CloudFormationBackend.execute_change_set``."""
    change_set = change_set_of(backend, change_set_name, stack_name)
    if change_set is None:
        raise ValidationError(message=f"ChangeSet [{change_set_name}] does not exist")
    stack = backend.stacks[change_set.stack_id]
    _free(stack)
    if change_set.execution_status != "AVAILABLE":
        raise ValidationError(message=f"ChangeSet [{change_set.change_set_id}] cannot be executed in its current status of [{change_set.status}]")
    check(change_set.template_dict)
    change_set.execution_status = "EXECUTE_IN_PROGRESS"
    creates = change_set.change_set_type == "CREATE"
    say(stack, "CREATE_IN_PROGRESS" if creates else "UPDATE_IN_PROGRESS", reason="User Initiated")
    keep = _here.keep

    def work() -> None:
        former, stack.template = stack.template, change_set.template
        try:
            if creates:
                stack.template_dict, stack.parameters = change_set.template_dict, change_set.parameters
                resource_map = stack.resource_map
                resource_map._template, resource_map._resource_json_map = stack.template_dict, stack.template_dict["Resources"]  # noqa: SLF001
                resource_map.input_parameters = change_set.parameters
                resource_map.load()
                _make_whole(stack, finish, keep=keep)
            else:
                _change_whole(stack, finish, change_set.template_dict, change_set.parameters, keep=keep)
        except Exception:
            change_set.execution_status = "EXECUTE_FAILED"
            if not creates:
                stack.template = former
            raise
        change_set.execution_status = "EXECUTE_COMPLETE"
        if change_set.tags:
            stack.tags = change_set.tags

    _begin(stack, work)


def _take_away(stack: Any) -> None:
    """Delete everything of a stack. Raises ValidationError with what could not be."""
    say(stack, "DELETE_IN_PROGRESS", reason="User Initiated")
    left = take_down(stack, standing(stack), retain=True)
    if left:
        say(stack, "DELETE_FAILED", reason="; ".join(left))
        raise ValidationError(message="; ".join(left))
    say(stack, "DELETE_COMPLETE")


def _delete(backend: Any, name_or_stack_id: str) -> None:
    """``CloudFormationBackend.delete_stack``; one that does not exist is none to be deleted."""
    stack = next((s for s in backend.stacks.values() if name_or_stack_id in (s.name, s.stack_id)), None)
    if stack is None or stack.status == "DELETE_IN_PROGRESS":
        return
    _free(stack, "deleted")
    if stack.enable_termination_protection:
        raise ValidationError(message=f"Stack [{stack.name}] cannot be deleted while TerminationProtection is enabled")
    stack.status = "DELETE_IN_PROGRESS"

    def work() -> None:
        _take_away(stack)
        for export in getattr(stack, "made_exports", []):
            backend.exports.pop(export.name, None)
        backend.deleted_stacks[stack.stack_id] = stack
        backend.stacks.pop(stack.stack_id, None)

    _begin(stack, work)
