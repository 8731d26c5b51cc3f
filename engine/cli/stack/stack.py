"""A stack: made, changed and taken away as its template says.

Theory of operation. The template is evaluated as far as it goes. Names of functions and ARNs of functions and aliases are known before
anything is made; so first the companion (everything that is not Lambda's) is deployed, with those filled in, and then Lambda's resources (and
the few others made here) in the order of their references. What of the companion refers to more of them than that (a role to a WebSocket API, say) is
deployed with it once they stand, before the first that needs it. Each step is written to the state file, so that a deployment that fails half way is continued by the
next one; a stack that fails while it is first made is taken away again. What a new template leaves out goes last.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.aws.beside_resources import BESIDE
from engine.aws.lambda_resources import DIGEST, HANDLERS, IGNORED, Code, Handler, Made, Replace
from engine.cli.output import CliError
from engine.cli.session import Session
from engine.cli.stack import sam
from engine.cli.stack.assets import Assets
from engine.cli.stack.companion import Companion
from engine.cli.stack.state import Standing, State, StateFile
from engine.cli.stack.template import Evaluator, parameters_of, read, references

MAX_NAME = 64
# What names and ARNs are known of before it is made.
_KNOWN_BEFORE = ("AWS::Lambda::Function", "AWS::Lambda::Alias")
_RETAINED = ("Retain", "RetainExceptOnCreate")
Say = Callable[[str], None]


def handler_of(kind: str) -> type[Handler]:
    """Raises CliError for a Lambda resource that is not supported."""
    found = HANDLERS.get(kind) or BESIDE.get(kind)
    if found is None:
        raise CliError(f"Lambda Engine does not deploy resources of type {kind}; it does {', '.join(sorted(HANDLERS))}", 2)
    return found


class Stack:
    """One stack of one engine."""

    def __init__(self, session: Session, account: str, template: Path, name: str, say: Say) -> None:
        self._session = session
        self._path = template
        self._file = StateFile(template, name)
        self._say = say
        self._client = session.client()
        self._account = account
        self._name = name

    # Deploying.

    def deploy(self, parameters: Mapping[str, str]) -> State:
        """Make it what the template says. Raises CliError."""
        template = read(self._path.read_text(), str(self._path))
        values = parameters_of(template, parameters)
        local: dict[str, Path] = {}
        if sam.is_sam(template):
            template, local = sam.translate(template, values, self._path.resolve().parent, self._session.region)
        elif template.get("Transform"):
            raise CliError(f"{self._path}: the transform {template['Transform']} is not supported, only {sam.TRANSFORM} is", 2)
        state = self._file.read()
        fresh = state is None
        if state is None:
            state = State(self._name, secrets.token_hex(6), self._account, self._session.region)
        plan = _Plan(template, values, state, local, self._path)
        try:
            with self._session.talking():
                self._apply(plan, state)
        except CliError:
            if fresh:
                self._say("taking away what was made")
                with self._session.talking():
                    self._take_away(state)
            raise
        return state

    def _apply(self, plan: _Plan, state: State) -> None:
        companion = Companion(self._session.client("cloudformation"), state) if plan.others or state.companion else None
        if companion is not None and plan.others:
            self._say(f"{len(plan.others)} resources beside Lambda")
            self._beside(companion, plan, state)
        code = Code(plan.assets)
        for logical in plan.order:
            if companion is not None and plan.misses(logical):
                self._beside(companion, plan, state)
            self._one(plan, state, logical, handler_of(plan.ours[logical]["Type"])(self._session.client, code))
            self._file.write(state)
        if companion is not None and plan.has_changed():
            self._beside(companion, plan, state)
        for logical in [name for name in reversed(state.resources) if name not in plan.ours]:
            self._drop(state, logical)
        if companion is not None and not plan.others:
            companion.delete()
        state.outputs = plan.outputs()
        self._file.write(state)

    def _beside(self, companion: Companion, plan: _Plan, state: State) -> None:
        """Deploy as much of the companion as can be by now."""
        resources = plan.companion_resources()
        plan.deployed = resources
        if resources:
            plan.found = companion.deploy(resources, {key for key in plan.wanted() if key[0] in resources})
            self._file.write(state)

    def _one(self, plan: _Plan, state: State, logical: str, handler: Handler) -> None:
        about = plan.ours[logical]
        properties = plan.properties(logical)
        standing = state.resources.get(logical)
        retain = about.get("DeletionPolicy") in _RETAINED
        if standing is not None and standing.type == about["Type"]:
            if standing.properties == properties:
                standing.retain = retain
                return
            made = self._change(handler, standing, properties, plan.name(logical))
            self._say(f"updated {logical} ({about['Type']})")
        else:
            made = handler.create(plan.name(logical), properties)
            self._say(f"created {logical} ({about['Type']})")
        state.resources[logical] = Standing(about["Type"], made.physical, made.ref, made.attributes, properties, retain)

    def _change(self, handler: Handler, standing: Standing, properties: dict[str, Any], name: str) -> Made:
        try:
            return handler.update(standing.made(), standing.properties, properties)
        except self._client.exceptions.ResourceNotFoundException:
            # Somebody has deleted it since.
            return handler.create(name, properties)
        except Replace:
            if handler.exclusive:
                handler.delete(standing.made(), standing.properties)
                return handler.create(name, properties)
            made = handler.create(name, properties)
            if not standing.retain:
                handler.delete(standing.made(), standing.properties)
            return made

    def _drop(self, state: State, logical: str) -> None:
        standing = state.resources[logical]
        if not standing.retain:
            handler_of(standing.type)(self._session.client, Code(lambda _bucket, _key: None)).delete(standing.made(), standing.properties)
        del state.resources[logical]
        self._say(f"{'kept' if standing.retain else 'deleted'} {logical} ({standing.type})")
        self._file.write(state)

    # Taking away.

    def delete(self) -> bool:
        """Take the stack away; whether there was one."""
        state = self._file.read()
        if state is None:
            return False
        with self._session.talking():
            self._take_away(state)
        return True

    def _take_away(self, state: State) -> None:
        for logical in list(reversed(state.resources)):
            self._drop(state, logical)
        if state.companion:
            Companion(self._session.client("cloudformation"), state).delete()
        self._file.remove()


class _NotYet(Exception):
    """A resource beside Lambda refers to one that does not stand yet."""


class _Plan:
    """A template, evaluated for one stack. ``found`` are the companion's values once it stands, ``deployed`` its resources as they were then."""

    def __init__(
        self, template: dict[str, Any], parameters: Mapping[str, Any], state: State, local: Mapping[str, Path], path: Path
    ) -> None:
        self._state = state
        self._template = template
        self.found: dict[tuple[str, str | None], str] = {}
        self.deployed: dict[str, Any] = {}
        self._wanted: set[tuple[str, str | None]] = set()
        pseudo = {
            "AWS::Region": state.region,
            "AWS::AccountId": state.account,
            "AWS::Partition": "aws",
            "AWS::URLSuffix": "amazonaws.com",
            "AWS::StackName": state.name,
            "AWS::StackId": f"arn:aws:cloudformation:{state.region}:{state.account}:stack/{state.name}/{state.seed}",
        }
        plain = parameters_of(template, {k: v for k, v in parameters.items() if k in (template.get("Parameters") or {}) and isinstance(v, str)})
        values = {**plain, **parameters}
        self._before = Evaluator(template, values, pseudo, self._known_before)
        self._after = Evaluator(template, values, pseudo, self._known_after)
        active = {k: r for k, r in template["Resources"].items() if self._is_active(r)}
        self.ours = {k: r for k, r in active.items() if r["Type"].startswith("AWS::Lambda::") or r["Type"] in BESIDE}
        self.others = {k: r for k, r in active.items() if k not in self.ours}
        for about in self.ours.values():
            handler_of(about["Type"])
        self.order = _ordered(self.ours, self._through())
        runtimes = {k: str(self._before.value((r.get("Properties") or {}).get("Runtime", ""))) for k, r in self.ours.items()}
        self.assets = Assets(local, {k: v for k, v in runtimes.items() if v.startswith("python")}, path)

    def _is_active(self, resource: Mapping[str, Any]) -> bool:
        if resource.get("Type") in IGNORED:
            return False
        condition = resource.get("Condition")
        return condition is None or self._before.condition(condition)

    def name(self, logical: str) -> str:
        """The generated name of a resource: the stack's, its own, and letters that no other stack has."""
        unique = hashlib.sha256(f"{self._state.seed}{logical}".encode()).hexdigest()[:12].upper()
        room = MAX_NAME - len(unique) - 1
        return f"{f'{self._state.name}-{logical}'[:room]}-{unique}"

    def properties(self, logical: str) -> dict[str, Any]:
        """Everything filled in. Raises CliError for what nobody knows."""
        properties: dict[str, Any] = self._after.value(self.ours[logical].get("Properties") or {})
        for member in ("Code", "Content"):
            code = properties.get(member)
            if isinstance(code, dict) and code.get("S3Bucket"):
                data = self.assets(code["S3Bucket"], code["S3Key"])
                if data is not None:
                    code[DIGEST] = hashlib.sha256(data).hexdigest()
        return properties

    def companion_resources(self) -> dict[str, Any]:
        """The companion's resources with everything of ours filled in, but those that refer to what does not stand yet."""
        made = {}
        for logical, about in self.others.items():
            resource = {k: v for k, v in about.items() if k not in ("Condition", "DependsOn", "Properties")}
            try:
                resource["Properties"] = self._before.value(about.get("Properties") or {})
            except _NotYet:
                continue
            depends = [d for d in _listed(about.get("DependsOn")) if d in self.others]
            if depends:
                resource["DependsOn"] = depends
            made[logical] = resource
        while late := [logical for logical, about in made.items() if _needs(about) & (set(self.others) - set(made))]:
            for logical in late:
                del made[logical]
        return made

    def misses(self, logical: str) -> bool:
        """Whether one of our resources refers to what the companion does not have yet."""
        return bool(_needs(self.ours[logical]) & (set(self.others) - set(self.deployed)))

    def has_changed(self) -> bool:
        """Whether the companion is another, now that all of ours stand."""
        return self.companion_resources() != self.deployed

    def _through(self) -> dict[str, set[str]]:
        """By resource beside Lambda, those of ours that it cannot do without, itself or by others of its kind."""
        met = {
            logical: {one for one in _needs(about) & set(self.ours) if self.ours[one]["Type"] not in _KNOWN_BEFORE} | (_needs(about) & set(self.others))
            for logical, about in self.others.items()
        }
        found: dict[str, set[str]] = {}
        for logical in met:
            seen, left = {logical}, [logical]
            while left:
                further = met.get(left.pop(), set()) - seen
                seen |= further
                left += further
            found[logical] = seen & set(self.ours)
        return found

    def wanted(self) -> set[tuple[str, str | None]]:
        """What our resources and the outputs want of the companion."""
        collected: set[tuple[str, str | None]] = set()

        def note(logical: str, attribute: str | None) -> Any:
            if logical in self.others:
                collected.add((logical, attribute))
            return "?"

        collecting = self._before.asking(note)
        for about in self.ours.values():
            collecting.value(about.get("Properties") or {})
        for about in self._outputs().values():
            collecting.value(about["Value"])
        return collected

    def outputs(self) -> dict[str, str]:
        """The template's outputs."""
        return {name: str(self._after.value(about["Value"])) for name, about in self._outputs().items()}

    def _outputs(self) -> dict[str, Any]:
        declared = self._template.get("Outputs") or {}
        return {k: o for k, o in declared.items() if o.get("Condition") is None or self._before.condition(o["Condition"])}

    def _known_before(self, logical: str, attribute: str | None) -> Any:
        """For the companion: what is known before Lambda's resources stand; its own is left to it."""
        if logical in self.others:
            return {"Ref": logical} if attribute is None else {"Fn::GetAtt": [logical, attribute]}
        if logical not in self.ours:
            raise CliError(f"the template refers to {logical}, which it does not have", 2)
        about = self.ours[logical]
        properties = about.get("Properties") or {}
        if about["Type"] == "AWS::Lambda::Function":
            name = self._before.value(properties.get("FunctionName") or self.name(logical))
            arn = f"arn:aws:lambda:{self._state.region}:{self._state.account}:function:{name}"
            if attribute in (None, "Arn"):
                return name if attribute is None else arn
        if about["Type"] == "AWS::Lambda::Alias" and attribute is None:
            function = str(self._before.value(properties["FunctionName"]))
            if not function.startswith("arn:"):
                function = f"arn:aws:lambda:{self._state.region}:{self._state.account}:function:{function}"
            return f"{function}:{self._before.value(properties['Name'])}"
        standing = self._state.resources.get(logical)
        if standing is None or standing.type != about["Type"]:
            raise _NotYet
        return self._known_after(logical, attribute)

    def _known_after(self, logical: str, attribute: str | None) -> Any:
        if logical in self.others:
            if (logical, attribute) not in self.found:
                raise CliError(f"nobody knows {attribute or 'the name'} of {logical} ({self.others[logical]['Type']})")
            return self.found[logical, attribute]
        standing = self._state.resources.get(logical)
        if standing is None:
            raise CliError(f"the template refers to {logical}, which it does not have", 2)
        if attribute is None:
            return standing.ref
        if attribute not in standing.attributes:
            raise CliError(f"{logical} ({standing.type}) has no attribute {attribute}", 2)
        return standing.attributes[attribute]


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _needs(about: Mapping[str, Any]) -> set[str]:
    """The logical ids that a resource refers to."""
    return references(about.get("Properties") or {}) | set(_listed(about.get("DependsOn")))


def _ordered(resources: Mapping[str, Any], through: Mapping[str, set[str]] | None = None) -> list[str]:
    """Logical ids so that each comes after what it refers to, also by way of resources beside Lambda. Raises CliError for a circle."""
    needs: dict[str, set[str]] = {}
    for logical, about in resources.items():
        named = _needs(about)
        needs[logical] = (named.union(*((through or {}).get(one, set()) for one in named)) & set(resources)) - {logical}
    order: list[str] = []
    while needs:
        ready = [logical for logical, others in needs.items() if not others]
        if not ready:
            raise CliError(f"these resources refer to each other in a circle: {', '.join(sorted(needs))}", 2)
        order += ready
        for logical in ready:
            del needs[logical]
        for others in needs.values():
            others.difference_update(ready)
    return order
