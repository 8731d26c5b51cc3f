"""Who may say what, when: the legal order of messages on each kind of connection, as tables.

Theory of operation. A connection has a *role* (worker channel, client connection, control link), two named ends and one state
that both ends compute alike from the messages that passed, in whichever direction. ``TRANSITIONS`` of a role gives, per
state, the messages that are legal and the state each leads to; ``SENDERS`` says which end may send a message at all. An
``Order`` is one end's view: ``sent`` and ``received`` step it, anything not in the table raises WireError and
changes nothing, and the connection must be closed.

Two rules keep the tables small. A RESPONSE, ERROR, TOO_LARGE or STREAM_END whose ``then_next`` is true is that message
followed by NEXT, so its reader steps twice. And only SHUTDOWN may cross a message on the wire, so only the state after it
accepts whatever the worker had already sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from engine.errors import WireError
from engine.wire import messages as m

# A CATALOGUE message counts as one of these in the order table, chosen by its ``op``.
CATALOGUE_BEGIN: Final = 0x130
CATALOGUE_PUT: Final = 0x131
CATALOGUE_DELETE: Final = 0x132
CATALOGUE_COMMIT: Final = 0x133
CATALOGUE_VPC: Final = 0x134
CATALOGUE_PUTS: Final = 0x135
_OPS: Final = {
    "begin": CATALOGUE_BEGIN,
    "put": CATALOGUE_PUT,
    "delete": CATALOGUE_DELETE,
    "commit": CATALOGUE_COMMIT,
    "vpc": CATALOGUE_VPC,
    "puts": CATALOGUE_PUTS,
}
_NAMES: Final = {**m.NAMES, **{kind: f"CATALOGUE {op}" for op, kind in _OPS.items()}}

SUPERVISOR: Final = "supervisor"
WORKER: Final = "worker"
CLIENT: Final = "client"
CONTROL: Final = "control"


class Role(NamedTuple):
    """One kind of connection. ``note`` maps a state to one sentence about it, for people."""

    name: str
    ends: tuple[str, str]
    start: str
    senders: Mapping[int, str]
    transitions: Mapping[str, Mapping[int, str]]
    note: Mapping[str, str]


_ANSWERS: Final = {m.RESPONSE: "answered", m.ERROR: "answered", m.TOO_LARGE: "answered"}
_LEFTOVERS: Final = (
    m.HELLO,
    m.NEXT,
    m.RESPONSE,
    m.ERROR,
    m.INIT_ERROR,
    m.LOG,
    m.RESTORE_NEXT,
    m.RESTORE_ERROR,
    m.STREAM_START,
    m.STREAM_CHUNK,
    m.STREAM_END,
    m.TOO_LARGE,
    m.IMPORTS,
)

WORKER_CHANNEL: Final = Role(
    name="worker channel",
    ends=(SUPERVISOR, WORKER),
    start="connected",
    senders=MappingProxyType(
        {**dict.fromkeys(_LEFTOVERS, WORKER), **dict.fromkeys((m.INIT, m.INVOKE, m.RESTORE, m.SHUTDOWN), SUPERVISOR)}
    ),
    transitions=MappingProxyType(
        {
            "connected": {m.HELLO: "waiting", m.SHUTDOWN: "closing"},
            "waiting": {m.INIT: "initialising", m.SHUTDOWN: "closing"},
            "initialising": {
                m.NEXT: "idle",
                m.RESTORE_NEXT: "template",
                m.INIT_ERROR: "failed",
                m.LOG: "initialising",
                m.IMPORTS: "failed",
                m.SHUTDOWN: "closing",
            },
            "template": {m.RESTORE: "restoring", m.INIT: "initialising", m.LOG: "template", m.SHUTDOWN: "closing"},
            "restoring": {m.NEXT: "idle", m.RESTORE_ERROR: "failed", m.LOG: "restoring", m.SHUTDOWN: "closing"},
            "idle": {m.INVOKE: "busy", m.LOG: "idle", m.IMPORTS: "idle", m.SHUTDOWN: "closing"},
            "busy": {**_ANSWERS, m.STREAM_START: "streaming", m.LOG: "busy", m.IMPORTS: "busy", m.SHUTDOWN: "closing"},
            "streaming": {
                m.STREAM_CHUNK: "streaming",
                m.STREAM_END: "answered",
                m.LOG: "streaming",
                m.SHUTDOWN: "closing",
            },
            "answered": {m.NEXT: "idle", m.LOG: "answered", m.SHUTDOWN: "closing"},
            "failed": {m.LOG: "failed", m.SHUTDOWN: "closing"},
            "closing": dict.fromkeys(_LEFTOVERS, "closing"),
        }
    ),
    note=MappingProxyType(
        {
            "connected": "the socket exists, the worker has said nothing",
            "waiting": "an empty worker in the pool",
            "initialising": "the function's module is being imported",
            "template": "init is done and the worker waits to be told which copy it is",
            "restoring": "after-restore hooks run in a copy",
            "idle": "ready for an event",
            "busy": "the handler runs",
            "streaming": "the handler is sending a response in pieces",
            "answered": "the answer is given, the worker is not yet ready for another event",
            "failed": "init or restore failed; the worker is about to exit",
            "closing": "SHUTDOWN is on its way; what the worker had already sent is accepted and dropped",
        }
    ),
)

CLIENT_CONNECTION: Final = Role(
    name="client connection",
    ends=(SUPERVISOR, CLIENT),
    start="connected",
    senders=MappingProxyType(
        {m.CLIENT_HELLO: CLIENT, m.CALL: CLIENT, m.TENANT_CALL: CLIENT, m.SERVER_HELLO: SUPERVISOR, m.RESULT: SUPERVISOR}
    ),
    transitions=MappingProxyType(
        {
            "connected": {m.CLIENT_HELLO: "greeted", m.SERVER_HELLO: "challenged"},
            "challenged": {m.CLIENT_HELLO: "greeted"},
            "greeted": {m.SERVER_HELLO: "open"},
            "open": {m.CALL: "open", m.TENANT_CALL: "open", m.RESULT: "open"},
        }
    ),
    note=MappingProxyType(
        {
            "connected": "nothing said; the client speaks first unless the server wants proof of a key",
            "challenged": "the server has sent its nonce",
            "greeted": "the client has introduced itself",
            "open": "calls and results in any order; a RESULT needs an unanswered CALL of its number",
        }
    ),
)

_LINK: Final = {m.ACK: "open", m.QUERY: "open", m.ANSWER: "open", m.EVENTS: "open", m.ACCEPTED: "open"}
CONTROL_LINK: Final = Role(
    name="control link",
    ends=(SUPERVISOR, CONTROL),
    start="connected",
    senders=MappingProxyType(
        {
            **dict.fromkeys((m.CLIENT_HELLO, m.QUERY, m.ACCEPTED, *_OPS.values()), CONTROL),
            **dict.fromkeys((m.SERVER_HELLO, m.ACK, m.ANSWER, m.EVENTS), SUPERVISOR),
        }
    ),
    transitions=MappingProxyType(
        {
            "connected": {m.CLIENT_HELLO: "greeted"},
            "greeted": {m.SERVER_HELLO: "open"},
            "open": {
                CATALOGUE_BEGIN: "replacing",
                **dict.fromkeys((CATALOGUE_PUT, CATALOGUE_DELETE, CATALOGUE_VPC), "open"),
                **_LINK,
            },
            "replacing": {
                CATALOGUE_PUT: "replacing",
                CATALOGUE_VPC: "replacing",
                CATALOGUE_PUTS: "replacing",
                CATALOGUE_COMMIT: "open",
                CATALOGUE_BEGIN: "replacing",
                **dict.fromkeys(_LINK, "replacing"),
            },
        }
    ),
    note=MappingProxyType(
        {
            "connected": "nothing said",
            "greeted": "the control plane has introduced itself",
            "open": "single catalogue updates, queries and their answers; accepted events",
            "replacing": "a snapshot is being sent; a second begin starts it over",
        }
    ),
)

ROLES: Final = (WORKER_CHANNEL, CLIENT_CONNECTION, CONTROL_LINK)


def catalogue_event(op: str) -> int:
    """The order table's name for a CATALOGUE message of this ``op``. Raises WireError when there is no such op."""
    try:
        return _OPS[op]
    except (KeyError, TypeError):
        raise WireError(f"CATALOGUE has no op {op!r}") from None


class Order:
    """One end's view of one connection; ``state`` is a key of the role's table.

    ``sent`` and ``received`` take a message type and raise WireError, leaving the state alone, when this end (or the other)
    may not send it now.
    """

    __slots__ = ("_ours", "_role", "_theirs", "state")

    def __init__(self, role: Role, me: str) -> None:
        if me not in role.ends:
            raise ValueError(f"{me!r} is not an end of the {role.name}: {role.ends}")
        self._role = role
        self._ours, self._theirs = _split(role, me)
        self.state = role.start

    def sent(self, kind: int) -> None:
        try:
            self.state = self._ours[self.state][kind]
        except KeyError:
            raise self._illegal(kind, "send", self._ours) from None

    def received(self, kind: int) -> None:
        try:
            self.state = self._theirs[self.state][kind]
        except KeyError:
            raise self._illegal(kind, "receive", self._theirs) from None

    def _illegal(self, kind: int, verb: str, table: Mapping[str, Mapping[int, str]]) -> WireError:
        legal = ", ".join(_NAMES[k] for k in sorted(table[self.state])) or "nothing"
        name = _NAMES.get(kind, f"message type {kind:#04x}")
        return WireError(f"{self._role.name} in state {self.state!r}: may not {verb} {name}; legal now: {legal}")


_Table = dict[str, dict[int, str]]


def _split(role: Role, me: str) -> tuple[_Table, _Table]:
    """The role's table cut in two: what ``me`` may send and what it may receive."""
    cut = _CUTS.get((role.name, me))
    if cut is None:
        ours = {s: {k: to for k, to in row.items() if role.senders[k] == me} for s, row in role.transitions.items()}
        theirs = {s: {k: to for k, to in row.items() if role.senders[k] != me} for s, row in role.transitions.items()}
        cut = _CUTS[role.name, me] = (ours, theirs)
    return cut


_CUTS: dict[tuple[str, str], tuple[_Table, _Table]] = {}


def as_text(role: Role) -> str:
    """The role's order as a Markdown table: one line per state; ``>`` marks what the supervisor sends."""
    lines = ["| state | meaning | message → next state |", "|---|---|---|"]
    for state, row in role.transitions.items():
        moves: dict[str, list[str]] = {}
        for kind, to in row.items():
            mark = ">" if role.senders[kind] == SUPERVISOR else "<"
            moves.setdefault(to, []).append(f"{mark} {_NAMES[kind]}")
        cell = "; ".join(f"{', '.join(names)} → `{to}`" for to, names in moves.items())
        lines.append(f"| `{state}` | {role.note[state]} | {cell} |")
    return "\n".join(lines) + "\n"
