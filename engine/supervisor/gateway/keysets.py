"""Signatures of JSON Web Tokens: the issuers' public keys, asked of the control plane and kept for two hours.

A token signed with a key that is not among them has the set fetched again, though not more often than every few seconds. Only the RSA
algorithms count, as on AWS.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from engine.supervisor.ask import Connect, ask
from engine.supervisor.gateway.definitions import PATH

KEEP_S = 7200.0
AGAIN_S = 5.0
MAX_ISSUERS = 256
ALGORITHMS = ("RS256", "RS384", "RS512")
NEEDS_EXTRA = "JWT authorizers need the extra 'gateway' (pyjwt is not installed): run pip install 'lambda-engine[gateway]'"
# Any: the library's own type exists for type checkers only.
_SIGNATURE_ONLY: Any = {f"verify_{name}": False for name in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")}
log = structlog.get_logger("engine")
Claims = Mapping[str, Any]
# Told of a token's claims, or of the reason why it is not to be trusted.
Then = Callable[["Claims | None", str], None]


class KeySets:
    """For the supervisor's loop. ``connect`` reaches the control plane, ``token`` proves who asks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connect: Connect, token: str) -> None:
        self._loop = loop
        self._connect = connect
        self._token = token
        self._sets: dict[str, tuple[float, dict[str, Any]]] = {}
        self._asking: dict[str, asyncio.Task[str]] = {}

    def verify(self, token: str, issuer: str, then: Then) -> None:
        """Whether an issuer has signed a token; ``then`` is called with its claims, which nobody has looked at yet."""
        if importlib.util.find_spec("jwt") is None:
            log.error(NEEDS_EXTRA)
            then(None, NEEDS_EXTRA)
            return
        import jwt  # noqa: PLC0415 - an extra

        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError):
            then(None, "the token is not a JSON Web Token")
            return
        if header.get("alg") not in ALGORITHMS:
            then(None, "the token's algorithm is not supported")
            return
        kid = str(header.get("kid") or "")

        def known(reason: str) -> None:
            key = self._key(issuer, kid)
            if key is None:
                then(None, reason or "no key of the issuer has the token's key id")
                return
            try:
                # Times, issuer and audience are the authorizer's to judge.
                claims = jwt.decode(token, key.key, list(ALGORITHMS), options=_SIGNATURE_ONLY)
            except (jwt.PyJWTError, ValueError):
                then(None, "the token's signature is not valid")
            else:
                then(claims, "")

        asked_s = self._sets.get(issuer, (float("-inf"), {}))[0]
        if self._key(issuer, kid) is not None or self._loop.time() - asked_s < AGAIN_S:
            known("")
        else:
            self._fetch(issuer, known)

    def _key(self, issuer: str, kid: str) -> Any:
        asked_s, keys = self._sets.get(issuer, (float("-inf"), {}))
        return keys.get(kid) if self._loop.time() - asked_s < KEEP_S else None

    def _fetch(self, issuer: str, then: Callable[[str], None]) -> None:
        task = self._asking.get(issuer)
        if task is None:
            task = self._asking[issuer] = self._loop.create_task(self._ask(issuer))
            task.add_done_callback(lambda _: self._asking.pop(issuer, None))
        task.add_done_callback(lambda done: then(done.result()))

    async def _ask(self, issuer: str) -> str:
        """Empty, or why the keys could not be had."""
        import jwt  # noqa: PLC0415 - an extra

        try:
            status, body = await ask(self._connect, b"POST", PATH, self._token, json.dumps({"issuer": issuer}).encode())
            document = json.loads(body)
            if status != 200:
                raise ValueError(str(document.get("message")))
            found: dict[str, Any] = {}
            for entry in document.get("keys") or ():
                try:
                    found[str(entry.get("kid") or "")] = jwt.PyJWK(entry, algorithm=entry.get("alg") or "RS256")
                except (jwt.PyJWTError, ValueError, TypeError, KeyError) as e:
                    log.warning("a key of an issuer cannot be used", issuer=issuer, reason=str(e))
        except (OSError, EOFError, ValueError, AttributeError, asyncio.LimitOverrunError) as e:
            log.warning("the keys of an issuer could not be had", issuer=issuer, reason=str(e) or type(e).__name__)
            return "the issuer's keys could not be had"
        if len(self._sets) >= MAX_ISSUERS:
            self._sets.clear()
        self._sets[issuer] = (self._loop.time(), found)
        return ""


