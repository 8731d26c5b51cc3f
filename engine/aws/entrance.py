"""What the embedded AWS goes by once the supervisor has verified a request: one signature, in one place and spelled in one way. Pure.

Theory of operation. A signature may be spelled in many ways (parts in any order, spaces, in the query instead of a header), and whoever reads it
takes another one for absent: moto then guesses the service, and the check of permissions, which asks for the same service, has nothing to ask
about. So each request is read by what verified it, and goes on with the usual header, whatever it had. Names of services in other letters,
which moto knows all the same, are refused, and so are regions that are none. What moto offers beside AWS's services (its state, its reset, metadata of instances) is its operator's.
"""

from __future__ import annotations

import re
from typing import Any

from engine.auth.claims import ALGORITHM, Claim, read_authorization, read_presigned, split_presigned
from engine.errors import AwsError

CALLER = "HTTP_X_LAMBDA_ENGINE_CALLER"
_OPERATORS = frozenset({"root", "engine"})
_BESIDE = ("/moto-api", "/latest/meta-data/", "/latest/api/", "/_lambda-engine/")
_SERVICE = re.compile(rb"[a-z][a-z0-9-]*")
_REGION = re.compile(rb"[a-z]{2,8}(-[a-z]+)+-[0-9]{1,2}")
# Their requests are answered elsewhere, and go by other policies: the engine's own API, and those that it serves.
_ELSEWHERE = frozenset({b"lambda", b"execute-api"})
# It was verified with its date; what is read again here needs none.
_DATED = {b"x-amz-date": b""}


def settle(environ: dict[str, Any]) -> str | None:
    """Have a client's WSGI request carry its verified signature in the usual header; why it is refused, or None."""
    path = str(environ.get("PATH_INFO", ""))
    if path.startswith(_BESIDE) and environ.get(CALLER) not in _OPERATORS:
        return f"{path} is for the owner of one of the engine's configured keys only."
    try:
        claim, signature = _signature(environ)
    except AwsError as e:
        return str(e)
    if _SERVICE.fullmatch(claim.service) is None:
        return "Credential should be scoped to a valid service."
    # moto makes a host name of it, and finds the service by that.
    if _REGION.fullmatch(claim.region) is None:
        return "Credential should be scoped to a valid region."
    if claim.service in _ELSEWHERE:
        return f"There is no such request to {claim.service.decode()}."
    parts = (claim.access_key, claim.scope.decode("latin-1"), claim.signed.raw.decode("latin-1"), signature.decode("latin-1"))
    environ["HTTP_AUTHORIZATION"] = "{} Credential={}/{}, SignedHeaders={}, Signature={}".format(ALGORITHM.decode(), *parts)
    return None


def _signature(environ: dict[str, Any]) -> tuple[Claim, bytes]:
    """As ``engine.auth.sigv4.Verifier`` finds it. Raises AwsError."""
    header = environ.get("HTTP_AUTHORIZATION")
    if header is not None:
        claim, signature, _ = read_authorization(str(header).encode("latin-1", "replace"), _DATED)
        return claim, signature
    given, _rest = split_presigned(str(environ.get("QUERY_STRING", "")))
    claim, signature, _valid_s = read_presigned(given)
    return claim, signature
