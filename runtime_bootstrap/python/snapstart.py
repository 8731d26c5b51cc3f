"""SnapStart: hooks before a template is copied and after a copy has woken up.

``snapshot_restore_py`` is a module that AWS's runtime brings along; so does this one, unless the function ships it.
Source: docs.aws.amazon.com/lambda/latest/dg/snapstart-runtime-hooks-python.html
"""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from typing import Any, Callable

# Also read by the supervisor, which shows it with the version.
SOCKETS = "SNAPSTART_WARNING %d open sockets at the time of the snapshot: they are at their end in every restored instance"
_NAME = "snapshot_restore_py"
_Hook = "tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]"


def provide() -> None:
    """Make ``import snapshot_restore_py`` work."""
    module = types.ModuleType(_NAME, "Functions to run before a snapshot and after a restore.")
    # Who asks whether the module is there, before importing it, gets an answer.
    module.__spec__ = ModuleSpec(_NAME, None)
    before: "list[Any]" = []
    after: "list[Any]" = []

    def register_before_snapshot(func: "Callable[..., Any]", *args: Any, **kwargs: Any) -> "Callable[..., Any]":
        """Run ``func`` before the snapshot; the last registered runs first. Also a decorator."""
        before.append((func, args, kwargs))
        return func

    def register_after_restore(func: "Callable[..., Any]", *args: Any, **kwargs: Any) -> "Callable[..., Any]":
        """Run ``func`` after a restore, in the order of registration. Also a decorator."""
        after.append((func, args, kwargs))
        return func

    module.register_before_snapshot = register_before_snapshot  # type: ignore[attr-defined]
    module.register_after_restore = register_after_restore  # type: ignore[attr-defined]
    module.get_before_snapshot = lambda: before  # type: ignore[attr-defined]
    module.get_after_restore = lambda: after  # type: ignore[attr-defined]
    sys.modules[_NAME] = module


def run_before_snapshot() -> None:
    """Run the hooks, last registered first; what one raises passes through."""
    hooks = _hooks("get_before_snapshot")
    while hooks:
        function, args, kwargs = hooks.pop()
        function(*args, **kwargs)


def run_after_restore() -> None:
    """Run the hooks in order; what one raises passes through."""
    for function, args, kwargs in _hooks("get_after_restore"):
        function(*args, **kwargs)


def _hooks(getter: str) -> "list[Any]":
    module = sys.modules.get(_NAME)
    return [] if module is None else list(getattr(module, getter)()) if getter == "get_after_restore" else getattr(module, getter)()
