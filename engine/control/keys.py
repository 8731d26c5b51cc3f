"""KMS keys that guard what is stored: encrypting before it is written, decrypting for who may see or needs it.

The configured KMS is asked as the engine, in the account of the resource. Not everybody who plays KMS looks at the state of a key when it
is used, so that is looked at first. Source: docs.aws.amazon.com/lambda/latest/dg/security-encryption-at-rest.html.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from engine.control.link import Hello
from engine.control.sources import Sources
from engine.errors import KmsRefused, ServiceError

# KMS encrypts no more than 4,096 bytes at once.
PIECE = 4_096
SERVER_FAULT = 500
_STATES = {"Disabled": "DisabledException", "Enabled": ""}
_REASONS = {
    "NotFoundException": ("KMSNotFoundException", "the KMS key was not found."),
    "DisabledException": ("KMSDisabledException", "the KMS key used is disabled."),
    "KMSInvalidStateException": ("KMSInvalidStateException", "the KMS key used is in an invalid state for Decrypt."),
}


T = TypeVar("T")


class Keys:
    """Blocks: call it in a thread. ``guarded`` names what is kept, ``owner`` whose settings are to be looked at, in refusals."""

    def __init__(self, sources: Sources, guarded: str, owner: str) -> None:
        self._sources = sources
        self._guarded = guarded
        self._owner = owner

    def encrypt(self, key: str, plain: bytes, context: Mapping[str, str], account: str, hello: Hello) -> list[str]:
        """Ciphertexts, in base64, of ``plain`` piece by piece. Raises KmsRefused, ServiceError when KMS cannot be asked."""

        def use(kms: Any) -> list[str]:
            pieces = [plain[at : at + PIECE] for at in range(0, len(plain), PIECE)]
            answers = (kms.encrypt(KeyId=key, Plaintext=piece, EncryptionContext=dict(context)) for piece in pieces)
            return [base64.b64encode(answer["CiphertextBlob"]).decode() for answer in answers]

        return self._ask(key, account, hello, use)

    def decrypt(self, key: str, texts: list[str], context: Mapping[str, str], account: str, hello: Hello) -> bytes:
        """What ``encrypt`` was given. Raises as it does."""

        def use(kms: Any) -> bytes:
            blobs = map(base64.b64decode, texts)
            return b"".join(kms.decrypt(CiphertextBlob=blob, KeyId=key, EncryptionContext=dict(context))["Plaintext"] for blob in blobs)

        return self._ask(key, account, hello, use)

    def data_key(self, key: str, context: Mapping[str, str], account: str, hello: Hello) -> tuple[bytes, str]:
        """A new key for AES-256 and its ciphertext in base64, for ``decrypt``. Raises as ``encrypt``."""

        def use(kms: Any) -> tuple[bytes, str]:
            answer = kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=dict(context))
            return answer["Plaintext"], base64.b64encode(answer["CiphertextBlob"]).decode()

        return self._ask(key, account, hello, use)

    def _ask(self, key: str, account: str, hello: Hello, use: Callable[[Any], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - a third of a second that few starts need

        kms = self._sources.aws(account, hello).client("kms")
        try:
            state = kms.describe_key(KeyId=key)["KeyMetadata"].get("KeyState", "Enabled")
            if problem := _STATES.get(state, "KMSInvalidStateException"):
                raise self._refused(problem, f"{key} is {state[0].lower()}{state[1:]}.")
            return use(kms)
        except ClientError as e:
            error = e.response.get("Error", {})
            if e.response["ResponseMetadata"]["HTTPStatusCode"] >= SERVER_FAULT:
                raise ServiceError(f"KMS failed over {key}: {error.get('Message')}") from e
            raise self._refused(str(error.get("Code")), str(error.get("Message"))) from e
        except BotoCoreError as e:
            raise ServiceError(f"KMS could not be asked about {key}: {e}") from e

    def _refused(self, code: str, message: str) -> KmsRefused:
        name, why = _REASONS.get(code, ("KMSAccessDeniedException", "KMS access was denied."))
        text = (
            f"Lambda was unable to decrypt the {self._guarded} because {why} Please check the {self._owner}'s KMS key settings. "
            f"KMS Exception: {code} KMS Message: {message}"
        )
        return KmsRefused(text, name, code, message)
