"""Callers that mean another region than the engine's. They are served as if they meant this one; the log says so once."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from engine.auth.sigv4 import claimed_region

# More regions than this are somebody's random text.
MOST = 16
_REGION = re.compile(r"[a-z]{2,8}(-[a-z]{2,12}){1,3}-[0-9]{1,2}")
_log = logging.getLogger(__name__)


class Regions:
    """``own`` is the engine's region."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._known = {own, ""}

    def met(self, headers: Mapping[str, str], query: str) -> None:
        """Look at the region a request was signed for."""
        region = claimed_region(headers, query)
        if region in self._known or len(self._known) > MOST or _REGION.fullmatch(region) is None:
            return
        self._known.add(region)
        _log.warning(
            "a client signs for region %s: it is answered in %s, as are ARNs and the functions' AWS_REGION; --region %s changes that",
            region, self._own, region,
        )  # fmt: skip
