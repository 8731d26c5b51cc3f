"""Extensions API 2020-01-01: who registered, what each waits for, and the gates that they are.

Theory of operation. External extensions are the programs in /opt/extensions, started before the runtime; the runtime starts when all of
them have registered. Others, registered from within the runtime's process, are internal. Registration closes at the runtime's first
``next``; init is over when every extension has asked for its first event, an invocation when every one that hears of invocations has asked
for the next. What goes wrong with one of them is fatal to the instance: the first such error is the one that is told.
Source: docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html
"""

from __future__ import annotations

import json
import os
import re
import uuid
from typing import Any, Optional

from runtime_bootstrap.agent.http import Exchange
from runtime_bootstrap.agent.link import Invoke
from runtime_bootstrap.agent.processes import Process
from runtime_bootstrap.agent.runtime import OK, fault

BASE = b"/2020-01-01/extension/"
MOST = 10
EVENTS = ("INVOKE", "SHUTDOWN")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ID = b"lambda-extension-identifier"
_TYPE = b"lambda-extension-function-error-type"
_TYPE_NAME = "Lambda-Extension-Function-Error-Type"
# Not for extensions, besides every name that begins with an underscore.
_WITHHELD = frozenset(
    (
        "AWS_EXECUTION_ENV", "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_XRAY_CONTEXT_MISSING",
        "AWS_XRAY_DAEMON_ADDRESS", "LAMBDA_RUNTIME_DIR", "LAMBDA_TASK_ROOT",
    )
)  # fmt: skip


def environment_of(env: "dict[str, str]") -> "dict[str, str]":
    """What an extension sees of the function's environment."""
    return {k: v for k, v in env.items() if k not in _WITHHELD and not k.startswith("_")}


def programs(opt_root: str) -> "list[str]":
    """Paths of the external extensions, in order of their names."""
    folder = os.path.join(opt_root, "extensions")
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [os.path.join(folder, name) for name in names if not os.path.isdir(os.path.join(folder, name))]


class Extension:
    """One extension. ``process`` is None for an internal one. ``busy``: it has an event and has not asked for the next."""

    def __init__(self, name: str, process: Optional[Process]) -> None:
        self.name = name
        self.process = process
        self.id = str(uuid.uuid4())
        self.state = "Started"
        self.events: "tuple[str, ...]" = ()
        self.busy = False
        self.poll: Optional[Exchange] = None
        self.waiting: "list[bytes]" = []


class Told:
    """What the agent is told."""

    def extension_registered(self, extension: Extension) -> None:
        """One more has registered."""

    def extension_ready(self, extension: Extension, first: bool) -> None:
        """It has asked for an event."""

    def extension_failed(self, extension: Extension, error_type: str, text: str) -> None:
        """It reported an error, or ended."""


class Extensions:
    """All of one instance."""

    def __init__(self, init: "dict[str, Any]", told: Told) -> None:
        self._init = init
        self._told = told
        self.all: "dict[str, Extension]" = {}
        self.closed = False

    @property
    def registered(self) -> "list[Extension]":
        return [e for e in self.all.values() if e.state != "Started"]

    @property
    def external(self) -> bool:
        """Whether any is a process of its own."""
        return any(e.process is not None for e in self.all.values())

    def launched(self, name: str) -> Extension:
        """An external one is about to be started."""
        extension = self.all[name] = Extension(name, None)
        return extension

    def missing(self) -> bool:
        """Whether an external one has not registered yet."""
        return any(e.process is not None and e.state == "Started" for e in self.all.values())

    def settled(self) -> bool:
        """Whether every one has asked for its first event."""
        return all(e.state not in ("Started", "Registered") for e in self.all.values())

    def idle(self) -> bool:
        """Whether none is still at work on the last invocation."""
        return not any(e.busy for e in self.all.values())

    # Calls

    def serve(self, exchange: Exchange, body: bytes) -> bool:
        """Answer a call of this API; False for a path that is none."""
        call, method = exchange.path[len(BASE) :], exchange.method
        if call == b"register" and method == b"POST":
            self._register(exchange, body)
        elif call == b"event/next" and method == b"GET":
            self._next(exchange)
        elif call in (b"init/error", b"exit/error") and method == b"POST":
            self._error(exchange, call)
        else:
            return False
        return True

    def _register(self, exchange: Exchange, body: bytes) -> None:
        name = exchange.header(b"lambda-extension-name")
        if not name:
            exchange.reply(403, fault("Extension.InvalidExtensionName", "Empty extension name"))
            return
        if self.closed:
            exchange.reply(403, fault("Extension.RegistrationClosed", "Extension registration closed already"))
            return
        try:
            wanted = json.loads(body)
            events = wanted.get("events") or []
            if "configurationKeys" in wanted or not isinstance(events, list):
                raise ValueError("configurationKeys are deprecated; please remove it from the request")
        except (ValueError, AttributeError) as e:
            exchange.reply(403, fault("InvalidRequestFormat", str(e)))
            return
        extension = self.all.get(name)
        if extension is not None and extension.state != "Started":
            exchange.reply(403, fault("Extension.InvalidExtensionState", "Extension with this name already registered"))
            return
        for event in events:
            reason = self._unfit(event, extension)
            if reason:
                exchange.reply(403, fault("Extension.InvalidEventType", "%s: %s" % (event, reason)))
                return
        if extension is None:
            if len(self.all) >= MOST:
                exchange.reply(403, fault("Extension.TooManyExtensions", "Extension limit (10) reached"))
                return
            extension = self.all[name] = Extension(name, None)
        extension.state = "Registered"
        extension.events = tuple(dict.fromkeys(events))
        answer = {
            "functionName": self._init.get("function_name"),
            "functionVersion": self._init.get("function_version"),
            "handler": self._init.get("handler"),
        }
        if "accountId" in exchange.header(b"lambda-extension-accept-feature").replace(" ", "").split(","):
            answer["accountId"] = self._init.get("account_id")
        more = b"Lambda-Extension-Identifier: %b\r\n" % extension.id.encode()
        exchange.reply(200, json.dumps(answer, separators=(",", ":")).encode(), more=more)
        self._told.extension_registered(extension)

    @staticmethod
    def _unfit(event: Any, extension: Optional[Extension]) -> str:
        if event not in EVENTS:
            return "ErrorInvalidEventType"
        if event == "SHUTDOWN" and extension is None:
            return "ShutdownEventNotSupportedForInternalExtension"
        return ""

    def caller(self, exchange: Exchange) -> Optional[Extension]:
        """The extension that calls; None when it has been refused."""
        given = exchange.header(_ID)
        if not given:
            exchange.reply(403, fault("Extension.MissingExtensionIdentifier", "Missing Lambda-Extension-Identifier header"))
        elif not _UUID.fullmatch(given):
            exchange.reply(403, fault("Extension.InvalidExtensionIdentifier", "Invalid Lambda-Extension-Identifier"))
        else:
            for extension in self.all.values():
                if extension.id == given.lower() and extension.state != "Started":
                    return extension
            exchange.reply(403, fault("Extension.UnknownExtensionIdentifier", "Unknown extension %s" % given))
        return None

    def _refuse(self, exchange: Exchange, extension: Extension, wanted: str) -> None:
        text = "State transition from %s to %s failed for extension %s. Error: State transition is not allowed"
        exchange.reply(403, fault("Extension.InvalidExtensionState", text % (extension.state, wanted, extension.name)))

    def _next(self, exchange: Exchange) -> None:
        extension = self.caller(exchange)
        if extension is None:
            return
        if extension.state not in ("Registered", "Ready", "Running"):
            self._refuse(exchange, extension, "Ready")
            return
        first = extension.state == "Registered"
        extension.state = "Ready"
        extension.busy = False
        extension.poll = exchange
        if extension.waiting:
            self._deliver(extension, extension.waiting.pop(0))
        self._told.extension_ready(extension, first)

    def _error(self, exchange: Exchange, call: bytes) -> None:
        extension = self.caller(exchange)
        if extension is None:
            return
        error_type = exchange.header(_TYPE)
        if not error_type:
            exchange.reply(403, fault("Extension.MissingHeader", "%s not found" % _TYPE_NAME))
            return
        wanted, kind = ("InitError", "Extension.InitError") if call == b"init/error" else ("ExitError", "Extension.ExitError")
        fits = extension.state == "Registered" if wanted == "InitError" else extension.state not in ("InitError", "ExitError", "Exited")
        if not fits:
            self._refuse(exchange, extension, wanted)
            return
        extension.state = wanted
        exchange.reply(202, OK)
        self._told.extension_failed(extension, kind, error_type)

    # Events

    def _deliver(self, extension: Extension, event: bytes) -> None:
        poll, extension.poll = extension.poll, None
        if poll is None or poll.connection.closed:
            extension.waiting.append(event)
            return
        extension.state = "Running"
        poll.reply(200, event, more=b"Lambda-Extension-Event-Identifier: %b\r\n" % str(uuid.uuid4()).encode())

    def invoke(self, invoke: Invoke) -> None:
        """Tell those that want to hear of invocations."""
        document = {
            "eventType": "INVOKE",
            "deadlineMs": invoke.deadline_ms,
            "requestId": invoke.request_id,
            "invokedFunctionArn": invoke.arn,
            "tracing": {"type": "X-Amzn-Trace-Id", "value": invoke.trace_id or ""},
        }
        event = json.dumps(document, separators=(",", ":")).encode()
        for extension in self.all.values():
            if "INVOKE" in extension.events:
                extension.busy = True
                self._deliver(extension, event)

    def shut_down(self, reason: str, deadline_ms: int) -> None:
        """Tell those that want to hear of the end, and end the others at once."""
        document = {"eventType": "SHUTDOWN", "shutdownReason": reason.upper(), "deadlineMs": deadline_ms}
        event = json.dumps(document, separators=(",", ":")).encode()
        for extension in self.all.values():
            if extension.process is None:
                continue
            if "SHUTDOWN" in extension.events and extension.process.status is None:
                self._deliver(extension, event)
            else:
                extension.process.signal(9)

    def ended(self, name: str) -> Extension:
        """The process of an external one has ended."""
        extension = self.all[name]
        if extension.state not in ("InitError", "ExitError"):
            extension.state = "Exited"
        extension.busy = False
        return extension

    def alive(self) -> bool:
        """Whether the process of any is still there."""
        return any(e.process is not None and e.process.status is None for e in self.all.values())
