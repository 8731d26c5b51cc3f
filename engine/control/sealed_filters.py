"""Filter criteria of mappings with a KMS key: encrypted before they are stored, decrypted for GetEventSourceMapping and for whoever polls.

A key that cannot be used any more ends the polling of its mapping: without its filter nobody knows which records are the function's.
Source: docs.aws.amazon.com/lambda/latest/dg/invocation-eventfiltering.html (encryption of filter criteria).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from engine.control.keys import Keys
from engine.control.plane import Plane
from engine.errors import InvalidParameterValue, KmsRefused

# In a mapping's document, in place of FilterCriteria: KMS's ciphertexts.
SEALED = "_SealedFilters"
KEY, CRITERIA = "KMSKeyArn", "FilterCriteria"


async def opened_for(plane: Plane, account: str, document: Mapping[str, Any], members: Mapping[str, Any]) -> dict[str, Any]:
    """``document`` as an update with these members has to have it: in clear if they change what its filters are encrypted with.

    Raises InvalidParameterValue when the key refuses.
    """
    if SEALED not in document:
        return dict(document)
    if members.get(CRITERIA) is not None:
        return {name: value for name, value in document.items() if name != SEALED}
    if members.get(KEY) is None and not members.get("FunctionName"):
        return dict(document)
    try:
        return await opened(plane, account, document)
    except KmsRefused as e:
        raise InvalidParameterValue(e.message) from e


async def sealed(plane: Plane, account: str, document: dict[str, Any], *, new_key: bool) -> dict[str, Any]:
    """``document`` as it may be stored. A new key is tried out though there is nothing to encrypt. Raises InvalidParameterValue."""
    key = document.get(KEY)
    if key is None or (CRITERIA not in document and not new_key):
        return document
    plain = json.dumps(document.get(CRITERIA, {}), separators=(",", ":")).encode()
    hello = await plane.link.ready()
    try:
        texts = await asyncio.to_thread(_keys(plane).encrypt, key, plain, _context(document), account, hello)
    except KmsRefused as e:
        raise InvalidParameterValue(
            "Lambda was unable to configure access to your filter criteria because the KMS key is invalid for CreateGrant. "
            f"Please check your KMS key settings. KMS Exception: {e.kms_code} KMS Message: {e.kms_message}"
        ) from e
    if CRITERIA not in document:
        return document
    return {**{name: value for name, value in document.items() if name != CRITERIA}, SEALED: texts}


async def opened(plane: Plane, account: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """``document`` with its filters in clear. Raises KmsRefused, ServiceError when KMS cannot be asked."""
    if SEALED not in document:
        return dict(document)
    hello = await plane.link.ready()
    plain = await asyncio.to_thread(_keys(plane).decrypt, document[KEY], document[SEALED], _context(document), account, hello)
    return {**{name: value for name, value in document.items() if name != SEALED}, CRITERIA: json.loads(plain)}


async def revealed(plane: Plane, account: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """As ``opened``, with KMS's reason in the place of filters that it keeps, as Lambda shows it."""
    try:
        return await opened(plane, account, document)
    except KmsRefused as e:
        return {**document, "FilterCriteriaError": {"ErrorCode": e.kms_code, "Message": e.message}}


def _keys(plane: Plane) -> Keys:
    return Keys(plane.sources, "filter criteria", "event source mapping")


def _context(document: Mapping[str, Any]) -> dict[str, str]:
    function = ":".join(str(document["FunctionArn"]).split(":")[:7])
    source = document.get("EventSourceArn")
    return {"aws:lambda:FunctionArn": function, **({"aws:lambda:EventSourceArn": source} if source else {})}
