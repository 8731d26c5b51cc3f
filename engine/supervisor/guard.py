"""Who may come in, at the front door: signatures, the keys they are made with, and what their owners may invoke.

Theory of operation. The key ring holds the configured keys and, beside them, those the embedded IAM was asked for. A request signed with
a key that is not there waits while the embedded IAM is asked, and is then verified once more. What was learnt is forgotten whenever
IAM may have changed: after each answered request to IAM and the services that write to it, when the embedded AWS ends, and after a while
in any case. ``revision`` counts that, and the control plane, which is told it with each request, does the same. A decision about an
invocation is kept with its route, so that a warm one costs one look into a set; decisions that depend on more than who calls (the time,
the address) are not kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from engine.arn import FunctionRef
from engine.auth.authorization import INVOKE, INVOKE_URL, check, context_of
from engine.auth.canonical import Headers
from engine.auth.identity import credential_of, root_of
from engine.auth.policy import Identity, Kind, Policy, Request, evaluate, parse
from engine.auth.principals import KeyRing, Principal
from engine.auth.sigv4 import Repeat, Verifier
from engine.supervisor.ask import Connect, ask

if TYPE_CHECKING:
    from engine.supervisor.catalogue import Catalogue, FunctionUrl

log = structlog.get_logger("engine")

IDENTITY_PATH = b"/_lambda-engine/identity/"
# The services through which the embedded IAM changes.
CHANGES_IAM = frozenset({"iam", "cloudformation", "organizations"})
FORGET_S = 60.0
UNKNOWN_S = 1.0
MAX_UNKNOWN = 4096
ANYBODY = Identity(Kind.ANONYMOUS, "anonymous", "")
Record = dict[str, Any]


class Guard:
    """For the supervisor's loop. ``connect`` opens a connection to the embedded AWS, ``running`` says whether there is one to ask."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        keys: KeyRing,
        *,
        token: str,
        enforce: bool,
        region: str,
        engine_key: str,
    ) -> None:
        self._loop = loop
        self._keys = keys
        self._verifier = Verifier(keys)
        self.token = token
        self._enforce = enforce
        self._region = region
        self._engine_key = engine_key
        self._learnt: dict[str, Record] = {}
        self._unknown: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[Record | None]] = {}
        self._roots: dict[str, Identity] = {}
        self._policies: dict[str, Policy] = {}
        self._forgotten_s = loop.time()
        self.revision = 0
        self.connect: Connect | None = None
        self.running: Callable[[], bool] = lambda: False
        self.on_forget: Callable[[], None] = lambda: None

    def verify(
        self,
        method: str,
        raw_path: str,
        raw_query: str,
        headers: Headers,
        body: bytes,
        now_epoch_s: float,
        service: bytes | None = None,
    ) -> Principal:
        """As ``engine.auth.sigv4.Verifier.verify``. After UnrecognizedClient with an access key, ``learn`` it and try again."""
        self._forget_in_time()
        return self._verifier.verify(method, raw_path, raw_query, headers, body, now_epoch_s, service)

    @property
    def repeat(self) -> Repeat | None:
        """As ``engine.auth.sigv4.Verifier.repeat``."""
        return self._verifier.repeat

    def holds(self, repeat: Repeat, body: bytes, now_epoch_s: float) -> bool:
        """As ``engine.auth.sigv4.Verifier.holds``."""
        self._forget_in_time()
        return self._verifier.holds(repeat, body, now_epoch_s)

    def _forget_in_time(self) -> None:
        if self._learnt and self._loop.time() - self._forgotten_s > FORGET_S:
            self.forget()

    # What the embedded IAM knows.

    def learn(self, access_key: str | None, then: Callable[[], None]) -> bool:
        """Ask for a key and call ``then``; False when there is nobody to ask or nothing to learn."""
        if access_key is None or not self._can_ask(access_key):
            return False
        task = self._loop.create_task(self.record(access_key))
        task.add_done_callback(lambda _: then())
        return True

    def _can_ask(self, access_key: str) -> bool:
        if self.connect is None or not self.running() or not access_key.isalnum() or len(access_key) > 128:
            return False
        asked_s = self._unknown.get(access_key)
        return asked_s is None or self._loop.time() - asked_s > UNKNOWN_S

    async def record(self, access_key: str) -> Record | None:
        """What the embedded IAM says of a key; it is in the ring afterwards. None for one that is unknown. Raises nothing."""
        found = self._learnt.get(access_key)
        if found is not None:
            return found
        if not self._can_ask(access_key):
            return None
        task = self._asking.get(access_key)
        if task is None:
            task = self._asking[access_key] = self._loop.create_task(self._ask(access_key))
            task.add_done_callback(lambda _: self._asking.pop(access_key, None))
        return await asyncio.shield(task)

    async def _ask(self, access_key: str) -> Record | None:
        while True:
            revision = self.revision
            try:
                assert self.connect is not None  # noqa: S101 - _can_ask
                status, body = await ask(self.connect, b"GET", IDENTITY_PATH + access_key.encode(), self.token)
                if status != 200:
                    raise EOFError(f"status {status}")
                record: Record | None = msgspec.json.decode(body)
            except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as e:
                log.warning("the embedded IAM could not be asked for an access key", reason=str(e) or type(e).__name__)
                return None
            if revision == self.revision:
                break
        if record is None:
            if len(self._unknown) >= MAX_UNKNOWN:
                self._unknown.clear()
            self._unknown[access_key] = self._loop.time()
            return None
        self._learnt[access_key] = record
        self._keys.put(credential_of(record, enforce=self._enforce))
        return record

    def forget(self) -> None:
        """IAM may have changed: what was learnt has to be asked for again."""
        for access_key in self._learnt:
            self._keys.remove(access_key)
        self._learnt.clear()
        self._unknown.clear()
        self._forgotten_s = self._loop.time()
        self.revision += 1
        self.on_forget()

    def headers(self, principal: Principal) -> list[tuple[bytes, bytes]]:
        """What the embedded AWS is told of a verified caller."""
        key = principal.access_key_id
        kind = b"engine" if key == self._engine_key else b"iam" if key in self._learnt else b"root"
        return [
            (b"x-lambda-engine-token", self.token.encode()),
            (b"x-lambda-engine-caller", kind),
            (b"x-moto-account-id", principal.account.encode()),
        ]

    # Invocations.

    def authorize(self, principal: Principal, ref: FunctionRef, catalogue: Catalogue, peer: str) -> bool:
        """Whether this caller's right to invoke may be kept. Raises AccessDenied when it has none.

        Without enforcement every caller is its own account's administrator, and other accounts' functions still need their policy.
        """
        identity = self._identity(principal)
        policy = self._policy(ref, catalogue)
        context = context_of(identity, now_epoch_s=time.time(), region=self._region, peer=peer)
        check(Request(INVOKE, ref.arn(), ref.account, context), identity, policy)
        return identity.steady and (policy is None or policy.steady)

    def may_call(self, url: FunctionUrl, caller: Principal | None, catalogue: Catalogue) -> bool:
        """Whether a function URL lets this caller in, None being anybody: it takes the right to call the URL and to invoke through it."""
        identity = ANYBODY if caller is None else self._identity(caller)
        policy = self._policy(url.ref, catalogue)
        context = context_of(identity, now_epoch_s=time.time(), region=self._region)
        context["lambda:functionurlauthtype"] = url.config.auth_type
        context["lambda:invokedviafunctionurl"] = "true"
        asked = (Request(action, url.ref.arn(), url.ref.account, context) for action in (INVOKE_URL, INVOKE))
        return all(evaluate(request, identity, policy).allowed for request in asked)

    def _identity(self, principal: Principal) -> Identity:
        identity = principal.identity or self._roots.get(principal.account)
        if identity is None:
            identity = self._roots[principal.account] = root_of(principal.account)
        return identity

    def _policy(self, ref: FunctionRef, catalogue: Catalogue) -> Policy | None:
        document = catalogue.policy(ref)
        if document is None:
            return None
        policy = self._policies.get(document)
        if policy is None:
            if len(self._policies) > MAX_UNKNOWN:
                self._policies.clear()
            policy = self._policies[document] = parse(document)
        return policy
