"""Application Load Balancers whose targets are functions: listeners, rules, actions, target groups. Pure values.

Source: docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-listeners.html, listener-rule-condition-types.html.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from engine.protocol.gateway.request import header, parameters

IDLE_S = 60.0
Document = Mapping[str, Any]


class Condition(msgspec.Struct, frozen=True):
    """``field`` as ELB names it. ``name``: of a header. ``values``: patterns; of a query string, ``key=value`` or just a value."""

    field: str
    values: tuple[str, ...]
    name: str = ""


class Action(msgspec.Struct, frozen=True):
    """``kind``: forward, redirect, fixed-response, or one that is not served. ``groups``: ARNs of target groups with their weights."""

    kind: str
    groups: tuple[tuple[str, int], ...] = ()
    settings: dict[str, str] = {}


class Rule(msgspec.Struct, frozen=True):
    """The last action is the one that answers."""

    conditions: tuple[Condition, ...]
    actions: tuple[Action, ...]


class Listener(msgspec.Struct, frozen=True):
    """``rules`` in the order in which they are asked; the last is the default."""

    port: int
    protocol: str
    rules: tuple[Rule, ...]


class TargetGroup(msgspec.Struct, frozen=True):
    """``kind``: lambda or another one. ``functions``: ARNs; a group of functions has at most one."""

    arn: str
    kind: str
    functions: tuple[str, ...] = ()
    multi_value: bool = False


class Balancer(msgspec.Struct, frozen=True):
    """``listeners`` by port, the lowest first."""

    name: str
    account: str
    listeners: tuple[Listener, ...]
    groups: dict[str, TargetGroup]
    idle_s: float = IDLE_S

    def listener(self, port: int | None) -> Listener | None:
        """The listener of a port; None: the first one."""
        return next((one for one in self.listeners if port is None or one.port == port), None)


class Asked(NamedTuple):
    """What rules look at. ``host`` without a port."""

    method: str
    host: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    peer: str


def read(
    account: str,
    balancer: Document,
    listeners: Iterable[tuple[Document, Iterable[Document]]],
    groups: Iterable[tuple[Document, Iterable[str], Mapping[str, str]]],
    attributes: Mapping[str, str],
) -> Balancer:
    """From what ELB's operations answer: listeners with their rules, target groups with their targets and attributes."""
    found = [
        Listener(int(about["Port"]), str(about.get("Protocol") or "HTTP"), tuple(_rule(r) for r in sorted(rules, key=_priority)))
        for about, rules in listeners
    ]
    return Balancer(
        str(balancer["LoadBalancerName"]),
        account,
        tuple(sorted(found, key=lambda one: one.port)),
        {
            str(about["TargetGroupArn"]): TargetGroup(
                str(about["TargetGroupArn"]),
                str(about.get("TargetType") or "instance"),
                tuple(targets),
                settings.get("lambda.multi_value_headers.enabled") == "true",
            )
            for about, targets, settings in groups
        },
        float(attributes.get("idle_timeout.timeout_seconds") or IDLE_S),
    )


def _priority(rule: Document) -> tuple[bool, int]:
    priority = str(rule.get("Priority") or "default")
    return (True, 0) if priority == "default" else (False, int(priority))


def _rule(about: Document) -> Rule:
    actions = sorted(about.get("Actions") or (), key=lambda a: a.get("Order") or 0)
    return Rule(tuple(map(_condition, about.get("Conditions") or ())), tuple(map(_action, actions)))


def _condition(about: Document) -> Condition:
    field = str(about["Field"])
    config: Document = next((v for k, v in about.items() if k.endswith("Config") and v), {})
    values: Iterable[Any] = config.get("Values") or about.get("Values") or ()
    if field == "query-string":
        values = [f"{v['Key']}={v['Value']}" if v.get("Key") else f"={v['Value']}" for v in values]
    return Condition(field, tuple(map(str, values)), str(config.get("HttpHeaderName") or ""))


def _action(about: Document) -> Action:
    kind = str(about["Type"])
    weighted = (about.get("ForwardConfig") or {}).get("TargetGroups") or ()
    groups = [(str(g["TargetGroupArn"]), 1 if g.get("Weight") is None else int(g["Weight"])) for g in weighted]
    if not groups and about.get("TargetGroupArn"):
        groups = [(str(about["TargetGroupArn"]), 1)]
    settings = about.get("RedirectConfig") or about.get("FixedResponseConfig") or {}
    return Action(kind, tuple(groups), {str(k): str(v) for k, v in settings.items() if v is not None})


def choose(listener: Listener, asked: Asked) -> Rule | None:
    """The first rule whose conditions all hold."""
    return next((rule for rule in listener.rules if all(_holds(c, asked) for c in rule.conditions)), None)


def _holds(condition: Condition, asked: Asked) -> bool:
    kind, values = condition.field, condition.values
    if kind == "path-pattern":
        return any(_like(v, asked.path) for v in values)
    if kind == "host-header":
        return any(_like(v.lower(), asked.host.lower()) for v in values)
    if kind == "http-request-method":
        return asked.method in values
    if kind == "http-header":
        value = header(asked.headers, condition.name.lower())
        return value is not None and any(_like(v.lower(), value.lower()) for v in values)
    if kind == "query-string":
        given = [(k.lower(), v.lower()) for k, v in parameters(asked.query)]
        wanted = [v.lower().partition("=") for v in values]
        return any((not key or _like(key, k)) and _like(value, v) for key, _, value in wanted for k, v in given)
    if kind == "source-ip":
        return any(_within(v, asked.peer) for v in values)
    return False


def _within(network: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _like(pattern: str, text: str) -> bool:
    """``*`` is any text, ``?`` any character."""
    expression = "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.fullmatch(expression, text, re.DOTALL) is not None


def redirect(action: Action, asked: Asked, port: str, protocol: str) -> tuple[int, str]:
    """(status, location) of a redirect; ``#{host}`` and the like stand for the request's own."""
    settings = action.settings
    own = {"protocol": protocol.lower(), "host": asked.host, "port": port, "path": asked.path.lstrip("/"), "query": asked.query}

    def filled(text: str) -> str:
        return re.sub(r"#\{(\w+)\}", lambda m: own.get(m[1], ""), text)

    scheme = filled(settings.get("Protocol", "#{protocol}")).lower()
    host, target = filled(settings.get("Host", "#{host}")), filled(settings.get("Path", "/#{path}"))
    number, query = filled(settings.get("Port", "#{port}")), filled(settings.get("Query", "#{query}"))
    location = f"{scheme}://{host}:{number}{target if target.startswith('/') else f'/{target}'}{f'?{query}' if query else ''}"
    return (301 if settings.get("StatusCode") == "HTTP_301" else 302), location
