"""Cross-origin rules of a function URL: what its configuration makes of a request and adds to an answer. Pure.

The configured values win over headers of the same names that the function sets; a preflight never reaches the function.
Source: docs.aws.amazon.com/lambda/latest/dg/urls-configuration.html and fetch.spec.whatwg.org
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_PREFIX = "access-control-"


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser asks if it may send another request."""
    return method == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


def preflight(cors: Mapping[str, Any], headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """The headers of the answer: none when the origin, the method or a header is not allowed."""
    method = headers["access-control-request-method"]
    wanted = [name.strip().lower() for name in headers.get("access-control-request-headers", "").split(",") if name.strip()]
    allowed = [name.lower() for name in cors.get("AllowHeaders") or ()]
    origin = _origin(cors, headers["origin"])
    if not origin or not _has(cors.get("AllowMethods") or (), method) or not ("*" in allowed or all(name in allowed for name in wanted)):
        return []
    answer = [*origin, ("access-control-allow-methods", ",".join(cors["AllowMethods"]))]
    if wanted:
        answer.append(("access-control-allow-headers", ",".join(wanted if "*" in allowed else cors["AllowHeaders"])))
    if cors.get("MaxAge") is not None:
        answer.append(("access-control-max-age", str(cors["MaxAge"])))
    return answer


def apply(cors: Mapping[str, Any], origin: str | None, headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """An answer's headers under the configuration; ``origin`` is the request's, None when it is not cross-origin."""
    kept = [(name, value) for name, value in headers if not name.lower().startswith(_PREFIX)]
    if origin is None:
        return kept
    added = _origin(cors, origin)
    if added and cors.get("ExposeHeaders"):
        added.append(("access-control-expose-headers", ",".join(cors["ExposeHeaders"])))
    return kept + added


def _origin(cors: Mapping[str, Any], origin: str) -> list[tuple[str, str]]:
    """The headers that let ``origin`` in; none when it is kept out."""
    allowed = cors.get("AllowOrigins") or ()
    credentials = bool(cors.get("AllowCredentials"))
    if "*" in allowed and not credentials:
        return [("access-control-allow-origin", "*")]
    if "*" not in allowed and origin not in allowed:
        return []
    answer = [("access-control-allow-origin", origin), ("vary", "Origin")]
    if credentials:
        answer.append(("access-control-allow-credentials", "true"))
    return answer


def _has(allowed: Sequence[str], method: str) -> bool:
    return "*" in allowed or method in allowed
