"""JWT authorizers: what a token must be, and what a function is told of it. Pure: signatures are checked elsewhere.

Source: docs.aws.amazon.com/apigateway/latest/developerguide/http-api-jwt-authorizer.html.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.protocol.gateway.definition import Authorizer


class TokenRefused(Exception):
    """``status`` is 401 for a token that is not good, 403 for a good one without the scope. ``challenge``: WWW-Authenticate's value."""

    def __init__(self, status: int, reason: str, scopes: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.status = status
        error = "invalid_token" if status == 401 else "insufficient_scope"
        named = f'scope="{" ".join(scopes)}" '
        self.challenge = f'Bearer {named}error="{error}" error_description="{reason}"' if reason else "Bearer"


def bearer(value: str) -> str:
    """The token in an identity source's value, with or without the word Bearer."""
    scheme, space, token = value.partition(" ")
    return token.strip() if space and scheme.lower() == "bearer" else value


def check_claims(claims: Mapping[str, Any], authorizer: Authorizer, scopes: Sequence[str], now_epoch_s: float) -> None:
    """Raises TokenRefused unless issuer, audience and times are right and one of the ``scopes`` is there, if any are asked for."""
    if claims.get("iss") != authorizer.issuer:
        raise TokenRefused(401, "invalid issuer", scopes)
    audience = claims.get("aud")
    if audience is None:
        audience = claims.get("client_id")
    named = audience if isinstance(audience, list) else [audience]
    if not any(a in authorizer.audience for a in named):
        raise TokenRefused(401, "invalid audience", scopes)
    _check_times(claims, scopes, now_epoch_s)
    if scopes and not set(scopes) & set(scopes_of(claims)):
        raise TokenRefused(403, "the token does not have the scope", scopes)


def pool_issuer(token: str, pools: Sequence[str]) -> str | None:
    """The issuer of a user pool's token, if it is one of the ``pools`` (ARNs). Nothing of the token has been proved yet."""
    try:
        body = token.split(".")[1]
        issuer = str(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["iss"])
    except (ValueError, LookupError, TypeError):
        return None
    regions = (arn.split(":") for arn in pools)
    known = {f"https://cognito-idp.{parts[3]}.amazonaws.com/{parts[5].partition('/')[2]}" for parts in regions if len(parts) == 6}
    return issuer if issuer in known else None


def check_pool_claims(claims: Mapping[str, Any], issuer: str, scopes: Sequence[str], now_epoch_s: float) -> None:
    """Raises TokenRefused unless a token of a user pool is of the right kind and time and has one of the ``scopes``, if any are asked for."""
    if claims.get("iss") != issuer or claims.get("token_use") != ("access" if scopes else "id"):
        raise TokenRefused(401, "not a token of this kind", scopes)
    _check_times(claims, scopes, now_epoch_s)
    if scopes and not set(scopes) & set(scopes_of(claims)):
        raise TokenRefused(401, "the token does not have the scope", scopes)


def _check_times(claims: Mapping[str, Any], scopes: Sequence[str], now_epoch_s: float) -> None:
    expires, begins, issued = (_time(claims.get(name)) for name in ("exp", "nbf", "iat"))
    if expires is None:
        raise TokenRefused(401, "the token has no expiration", scopes)
    if expires <= now_epoch_s:
        raise TokenRefused(401, "the token has expired", scopes)
    if (begins is not None and begins > now_epoch_s) or (issued is not None and issued > now_epoch_s):
        raise TokenRefused(401, "the token is not valid yet", scopes)


def _time(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def scopes_of(claims: Mapping[str, Any]) -> list[str]:
    """What ``scope`` or ``scp`` names, as text of words or as a list."""
    value = claims.get("scope", claims.get("scp"))
    if isinstance(value, str):
        return value.split()
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def described(claims: Mapping[str, Any], scopes: Sequence[str]) -> dict[str, Any]:
    """``{"claims": …, "scopes": …}`` as events have it; every claim is text."""
    return {"claims": {k: _text(v) for k, v in claims.items()}, "scopes": scopes_of(claims) if scopes else None}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{' '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{k}:{_text(v)}' for k, v in sorted(value.items()))}]"
    return "" if value is None else str(value)
