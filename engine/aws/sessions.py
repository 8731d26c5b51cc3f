"""What is said when a role is assumed and moto forgets: session policies by their ARNs, session tags, source identities. Runs in the embedded AWS's process.

Source: docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.aws.identities import SESSION_POLICIES, SESSION_TAGS, SOURCE_IDENTITY, managed_policy, tags_of


def note(session: Any, members: Mapping[str, Any]) -> None:
    """Keep with a new session what its request said."""
    arns = [str(p.get("arn")) for p in members.get("PolicyArns") or [] if isinstance(p, Mapping)]
    setattr(session, SESSION_POLICIES, [managed_policy(session.role_arn.split(":")[4], arn) for arn in arns])
    setattr(session, SESSION_TAGS, tags_of(members.get("Tags")))
    setattr(session, SOURCE_IDENTITY, members.get("SourceIdentity"))
