"""An API as it is served: its definition, its routes ready for looking up, and what its authorizers have said."""

from __future__ import annotations

import msgspec
import structlog

from engine.protocol.gateway.authorizers import Verdict
from engine.protocol.gateway.definition import Api
from engine.protocol.gateway.routes import Router

log = structlog.get_logger("engine")
_decode = msgspec.json.Decoder(Api | None).decode


class Served:
    """``verdicts`` are by authorizer, stage and identity, with the loop's time until which they hold."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.router = Router(api)
        self.by_key = {route.key: route for route in api.routes}
        self.verdicts: dict[tuple[str, ...], tuple[float, Verdict]] = {}


def served(body: bytes) -> Served | None:
    """What the control plane answered. Raises ValueError for what is no definition."""
    api = _decode(body)
    if api is None:
        return None
    if api.ignored:
        log.warning("settings of an API have no effect here", api=api.api_id, settings=", ".join(api.ignored))
    return Served(api)
