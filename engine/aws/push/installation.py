"""Puts the sources in place: each at the first request to its service, since all of them together import most of moto."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from engine.aws.embedded import ENFORCE_VARIABLE, LOGS_VARIABLE, PUSH_VARIABLE
from engine.aws.push.courier import Courier
from engine.aws.push.timekeeper import Timekeeper

# Services whose requests may change what is scheduled.
SCHEDULING = frozenset({"events", "scheduler", "cloudformation"})


def _s3(courier: Courier, _timekeeper: Timekeeper) -> None:
    from engine.aws.push import s3  # noqa: PLC0415 - each imports a part of moto

    s3.install(courier)


def _sns(courier: Courier, _timekeeper: Timekeeper) -> None:
    from engine.aws.push import sns  # noqa: PLC0415

    sns.install(courier)


def _logs(courier: Courier, _timekeeper: Timekeeper) -> None:
    from engine.aws.push import function_logs, logs  # noqa: PLC0415

    root = os.environ.get(LOGS_VARIABLE)
    logs.install(courier, function_logs.install(Path(root), os.environ["AWS_DEFAULT_REGION"]) if root else None)


def _events(courier: Courier, timekeeper: Timekeeper) -> None:
    from engine.aws.push import events  # noqa: PLC0415

    events.install(courier, timekeeper)
    timekeeper.start()


def _scheduler(courier: Courier, timekeeper: Timekeeper, *, enforce: bool) -> None:
    from engine.aws.push import scheduler  # noqa: PLC0415

    scheduler.install(courier, timekeeper, enforce=enforce)
    timekeeper.start()


class Sources:
    """``see`` is called with the service of each request, before it is served; ``done`` after."""

    def __init__(self, courier: Courier, timekeeper: Timekeeper, *, enforce: bool) -> None:
        self._courier = courier
        self.timekeeper = timekeeper
        self._lock = threading.Lock()
        self._left: dict[str, Callable[[Courier, Timekeeper], None]] = {
            "s3": _s3, "sns": _sns, "logs": _logs, "events": _events, "scheduler": functools.partial(_scheduler, enforce=enforce),
        }  # fmt: skip

    def see(self, service: str | None) -> None:
        """Have the sources of a service in place."""
        if not self._left or service is None or (service not in self._left and service != "cloudformation"):
            return
        with self._lock:
            wanted = list(self._left) if service == "cloudformation" else [service] if service in self._left else []
            for name in wanted:
                self._left.pop(name)(self._courier, self.timekeeper)

    def advance(self, seconds: float) -> int:
        """As ``Timekeeper.advance``; what was handed over until then is in the engine's queue afterwards."""
        runs = self.timekeeper.advance(seconds)
        self._courier.flush()
        return runs

    def done(self, service: str | None) -> None:
        """A request was served."""
        if service in SCHEDULING:
            self.timekeeper.wake()


def sources(environment: Mapping[str, str] = os.environ) -> Sources | None:
    """None where the environment does not say where the engine is."""
    path = environment.get(PUSH_VARIABLE)
    return Sources(Courier(path), Timekeeper(), enforce=bool(environment.get(ENFORCE_VARIABLE))) if path else None
