"""What the parts of a template refer to, and the order that follows from it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SUB = re.compile(r"\$\{(!?)([^}]+)\}")


def references(node: Any) -> set[str]:
    """Logical ids that a value refers to in any way, parameters included."""
    found: set[str] = set()
    if isinstance(node, list):
        for item in node:
            found |= references(item)
    elif isinstance(node, dict):
        for name, argument in node.items():
            if name == "Ref" and isinstance(argument, str):
                found.add(argument)
            elif name == "Fn::GetAtt":
                found.add(argument[0] if isinstance(argument, list) else str(argument).split(".", 1)[0])
            elif name == "Fn::Sub":
                text = argument[0] if isinstance(argument, list) else argument
                found |= {m[2].strip().partition(".")[0] for m in _SUB.finditer(text) if not m[1]}
            found |= references(argument)
    return found


def order(resources: Mapping[str, Any]) -> list[str]:
    """Logical ids, each after all that it refers to or depends on; else as they are written. In a circle, where it is met first comes last."""
    done: dict[str, None] = {}
    waiting: set[str] = set()

    def place(name: str) -> None:
        if name in done or name in waiting or name not in resources:
            return
        waiting.add(name)
        about = resources[name]
        depends = about.get("DependsOn") or []
        needs = references(about.get("Properties")) | set([depends] if isinstance(depends, str) else depends)
        for other in [r for r in resources if r in needs]:
            place(other)
        done[name] = None

    for name in resources:
        place(name)
    return list(done)
