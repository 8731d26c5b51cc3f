"""What is said when a role is assumed and moto forgets: session policies by their ARNs, session tags, source identities. Runs in the embedded AWS's process.

Source: docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.aws.identities import SESSION_POLICIES, SESSION_TAGS, SOURCE_IDENTITY, managed_policy, role_of, tags_of

CHAINED_S = 3600


def note(session: Any, members: Mapping[str, Any]) -> None:
    """Keep with a new session what its request said."""
    arns = [str(p.get("arn")) for p in members.get("PolicyArns") or [] if isinstance(p, Mapping)]
    setattr(session, SESSION_POLICIES, [managed_policy(session.role_arn.split(":")[4], arn) for arn in arns])
    setattr(session, SESSION_TAGS, tags_of(members.get("Tags")))
    setattr(session, SOURCE_IDENTITY, members.get("SourceIdentity"))


def too_long(role_arn: str, duration_s: Any, *, chained: bool) -> str | None:
    """Why a session cannot last as long as is asked, in AWS's words, or None. ``chained``: a session asks for it."""
    wanted = duration_s if isinstance(duration_s, int) else CHAINED_S
    if chained and wanted > CHAINED_S:
        return "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining"
    most = str(getattr(role_of(role_arn), "max_session_duration", None))
    if wanted > (int(most) if most.isdecimal() else CHAINED_S):
        return "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
    return None
