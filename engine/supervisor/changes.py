"""What a request to another AWS service may change of what the supervisor keeps: access keys and policies, definitions of APIs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.supervisor.api import account_of
from engine.supervisor.gateway.definitions import CHANGES_APIS
from engine.supervisor.guard import CHANGES_IAM, Guard

if TYPE_CHECKING:
    from engine.supervisor.front import Head
    from engine.supervisor.gateway.definitions import Definitions


class Changes:
    """Knows who has to forget."""

    def __init__(self, guard: Guard | None, definitions: Definitions) -> None:
        self._guard = guard
        self._definitions = definitions

    def of(self, service: str | None, head: Head) -> Callable[[], None] | None:
        """To be called when the request is answered, before its answer is passed on; None when nothing has to be forgotten."""
        iam, apis = service in CHANGES_IAM, service in CHANGES_APIS
        if apis:
            account = account_of(head.header(b"authorization") or b"")
            self._definitions.spoken_to(None if account is None else account.decode())
            # Reading them, the control plane must not make them stale.
            apis = head.method != b"GET"
        return functools.partial(self.forget, iam=iam, apis=apis) if iam or apis else None

    def forget(self, *, iam: bool = True, apis: bool = True) -> None:
        """All of it may have changed, or what is named."""
        if iam and self._guard is not None:
            self._guard.forget()
        if apis:
            self._definitions.forget()
