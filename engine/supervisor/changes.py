"""What a request to another AWS service may change of what the supervisor keeps: access keys and policies, definitions of APIs and load balancers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.supervisor.gateway.definitions import CHANGES_APIS, CHANGES_BALANCERS
from engine.supervisor.guard import CHANGES_IAM, Guard

if TYPE_CHECKING:
    from engine.supervisor.exchanges import Head
    from engine.supervisor.gateway.front import Gateways

# What the control plane calls itself when it reads definitions.
READING = b"lambda-engine-reading"


class Changes:
    """Knows who has to forget."""

    def __init__(self, guard: Guard | None, gateways: Gateways) -> None:
        self._guard = guard
        self._definitions = gateways.definitions
        self._balancers = gateways.balancers

    def of(self, service: str | None, head: Head) -> Callable[[], None] | None:
        """To be called when the request is answered, before its answer is passed on; None when nothing has to be forgotten."""
        iam, apis, balancers = service in CHANGES_IAM, service in CHANGES_APIS, service in CHANGES_BALANCERS
        # Reading them, the control plane must not make them stale.
        apis = apis and head.method != b"GET"
        balancers = balancers and READING not in (head.header(b"user-agent") or b"")
        return functools.partial(self.forget, iam=iam, apis=apis, balancers=balancers) if iam or apis or balancers else None

    def forget(self, *, iam: bool = True, apis: bool = True, balancers: bool = True) -> None:
        """All of it may have changed, or what is named."""
        if iam and self._guard is not None:
            self._guard.forget()
        if apis:
            self._definitions.forget()
        if balancers:
            self._balancers.forget()
