"""``/_engine/push``: events that the embedded AWS pushes to functions, checked and put into the queue of asynchronous invocations.

Only through the engine's own Unix socket: what came through the port carries the peer's header, which the front sets and nobody can leave out.
A service may invoke what the function's resource policy lets it for that source, as on AWS, whatever ``auth`` is set to.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

import msgspec

from engine.arn import FunctionRef, parse_function_name
from engine.control.access import service_may_invoke
from engine.control.inside import Receive, Send, read_body, refused, reply, reply_json
from engine.core.push import MAX_BATCH, Push, Verdict
from engine.errors import AwsError
from engine.eventing.intake import Intake
from engine.store.api import LATEST, FunctionStore

MAX_BODY = 32 * 1024 * 1024
ACCEPTED = Verdict("", "")
_pushes = msgspec.msgpack.Decoder(list[Push])


class PushRoute:
    """The ASGI callable. ``region`` and ``account`` are the engine's."""

    def __init__(self, store: FunctionStore, intake: Intake, *, region: str, account: str) -> None:
        self._store = store
        self._intake = intake
        self._region = region
        self._account = account

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if await refused(scope, send):
            return
        try:
            pushes = _pushes.decode(await read_body(receive, MAX_BODY))
            if len(pushes) > MAX_BATCH:
                raise ValueError(f"more than {MAX_BATCH} events")
        except (msgspec.DecodeError, ValueError) as e:
            await reply_json(send, 400, {"message": str(e)})
            return
        verdicts = await asyncio.gather(*(self._verdict(push) for push in pushes))
        await reply(send, 200, msgspec.msgpack.encode(verdicts), b"application/msgpack")

    async def _verdict(self, push: Push) -> Verdict:
        try:
            ref = parse_function_name(push.function, account=push.source_account or self._account, region=self._region)
            if ref.qualifier == LATEST:
                ref = replace(ref, qualifier=None)
            if push.principal and not self._allowed(ref, push):
                return Verdict("AccessDeniedException", _not_allowed(ref, push))
            if push.payload is None:
                await self._intake.check(ref)
            else:
                await self._intake.put(ref, push.payload, push.request_id, push.trace)
        except AwsError as e:
            return Verdict(e.code, e.message or "")
        return ACCEPTED

    def _allowed(self, ref: FunctionRef, push: Push) -> bool:
        """A function that is not there is refused for what it is, by the queue."""
        function = self._store.get(ref.account, ref.name)
        if function is None:
            return True
        return any(service_may_invoke(function, ref, one, push.source_arn, push.source_account) for one in push.principal.split())


def _not_allowed(ref: FunctionRef, push: Push) -> str:
    principal = push.principal.split()[0]
    return (
        f"the policy of {ref.arn()} does not let {principal} invoke it for {push.source_arn} of account {push.source_account}: "
        f"aws lambda add-permission --function-name {ref.arn()} --statement-id ID --action lambda:InvokeFunction "
        f"--principal {principal} --source-arn {push.source_arn}"
    )
