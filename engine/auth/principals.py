"""Who is calling: the keys the engine knows and the identity a request resolves to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.auth.policy import Identity

ACCOUNT_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of one request.

    ``verified`` says whether a signature proved it; without authentication the access key is only what the caller claims,
    and empty when it claimed none. ``identity`` says what it may do; None where that is not asked.
    """

    access_key_id: str
    account: str
    verified: bool
    identity: Identity | None = None


class Credential:
    """An access key with its secret; temporary ones carry a session token and may end at ``expires_epoch_s``."""

    __slots__ = ("access_key_id", "expires_epoch_s", "principal", "secret", "session_token")

    def __init__(
        self,
        access_key_id: str,
        secret: str,
        account: str,
        session_token: str | None = None,
        expires_epoch_s: float | None = None,
        *,
        identity: Identity | None = None,
    ) -> None:
        self.access_key_id = access_key_id
        self.secret = secret
        self.session_token = session_token
        self.expires_epoch_s = expires_epoch_s
        self.principal = Principal(access_key_id, account, verified=True, identity=identity)

    def __repr__(self) -> str:
        return f"Credential({self.access_key_id!r}, account={self.principal.account!r}, secret=********)"


class KeyRing:
    """The credentials requests may be signed with, by access key id."""

    def __init__(self) -> None:
        self._credentials: dict[str, Credential] = {}

    @classmethod
    def of_secrets(
        cls, secrets: Mapping[str, str], default_account: str, identity_of: Callable[[str], Identity] | None = None
    ) -> KeyRing:
        """A ring of long-lived keys (``{access key id: secret}``); a 12-digit access key belongs to the account it names.

        ``identity_of`` gives what the owner of an account's keys is, where policies are enforced.
        """
        ring = cls()
        for access_key_id, secret in secrets.items():
            account = account_of_key(access_key_id) or default_account
            identity = None if identity_of is None else identity_of(account)
            ring.put(Credential(access_key_id, secret, account, identity=identity))
        return ring

    def put(self, credential: Credential) -> None:
        """Add a credential, replacing one with the same access key id."""
        self._credentials[credential.access_key_id] = credential

    def remove(self, access_key_id: str) -> None:
        """Forget a credential; unknown ids are ignored."""
        self._credentials.pop(access_key_id, None)

    def get(self, access_key_id: str) -> Credential | None:
        """The credential with this access key id, or None."""
        return self._credentials.get(access_key_id)


def account_of_key(access_key_id: str) -> str | None:
    """The account a 12-digit access key names, else None."""
    if len(access_key_id) == ACCOUNT_DIGITS and access_key_id.isascii() and access_key_id.isdigit():
        return access_key_id
    return None
