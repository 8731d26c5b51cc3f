"""The pattern language of FilterCriteria, where event source mappings look for it: ``engine.core.patterns``, which rules share."""

from __future__ import annotations

from engine.core.patterns import ABSENT as ABSENT
from engine.core.patterns import MAX_DEPTH as MAX_DEPTH
from engine.core.patterns import MAX_LENGTH as MAX_LENGTH
from engine.core.patterns import InvalidPattern as InvalidPattern
from engine.core.patterns import Number as Number
from engine.core.patterns import Pattern as Pattern
from engine.core.patterns import load as load
from engine.core.patterns import parse as parse
