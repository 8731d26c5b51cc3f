"""The life of an instance (AWS: execution environment) as one table.

Theory of operation. Everything that may happen to an instance is a row of ``TRANSITIONS``; anything else raises
IllegalTransition, so a bug shows at the event that caused it and not later. An instance begins STARTING, when the planner
decided that it shall exist, and waits there for a sandbox. INITIALISING is AWS's init phase. A fault that kills the function's
processes but not its sandbox (timeout, crash, failed init) is a RESET: back to STARTING until a fresh worker stands in the same
sandbox, then IDLE with ``needs_init``, so that the next invocation repeats the init inside its own time ("suppressed init").
RETIRING means that the sandbox has been told to go; only GONE is final, and everything leads there.

``frozen`` is a property of IDLE, not a state: freezing and thawing never changes who may use the instance.
Source: docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html
"""

from __future__ import annotations

from enum import StrEnum

from engine.errors import EngineError


class State(StrEnum):
    STARTING = "starting"
    INITIALISING = "initialising"
    IDLE = "idle"
    BUSY = "busy"
    RETIRING = "retiring"
    GONE = "gone"


class Event(StrEnum):
    WORKER_READY = "worker_ready"
    WORKER_RESET = "worker_reset"
    INITIALISED = "initialised"
    ASSIGN = "assign"
    SETTLE = "settle"
    RESET = "reset"
    RETIRE = "retire"
    GONE = "gone"


class IllegalTransition(EngineError):
    """The engine's own bug: an event that cannot happen in this state. Nobody catches it but the last resort."""


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.STARTING, Event.WORKER_READY): State.INITIALISING,
    (State.STARTING, Event.WORKER_RESET): State.IDLE,
    (State.INITIALISING, Event.INITIALISED): State.IDLE,
    (State.INITIALISING, Event.RESET): State.STARTING,
    (State.IDLE, Event.ASSIGN): State.BUSY,
    (State.BUSY, Event.SETTLE): State.IDLE,
    (State.BUSY, Event.RESET): State.STARTING,
    (State.STARTING, Event.RETIRE): State.RETIRING,
    (State.INITIALISING, Event.RETIRE): State.RETIRING,
    (State.IDLE, Event.RETIRE): State.RETIRING,
    (State.BUSY, Event.RETIRE): State.RETIRING,
    (State.STARTING, Event.GONE): State.GONE,
    (State.INITIALISING, Event.GONE): State.GONE,
    (State.IDLE, Event.GONE): State.GONE,
    (State.BUSY, Event.GONE): State.GONE,
    (State.RETIRING, Event.GONE): State.GONE,
}

LIVE = frozenset((State.STARTING, State.INITIALISING, State.IDLE, State.BUSY))


def transition(state: State, event: Event) -> State:
    """The state after ``event``. Raises IllegalTransition naming both."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"an instance that is {state} cannot {event}") from None


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", "    [*] --> starting"]
    lines += [f"    {a} --> {b}: {e}" for (a, e), b in TRANSITIONS.items()]
    return "\n".join([*lines, "    gone --> [*]"])
