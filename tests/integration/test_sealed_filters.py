"""Filter criteria behind a KMS key: nowhere in clear on the disk, obeyed by whoever polls, shown to nobody without the key."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import pytest

from tests.framework import wait
from tests.framework.control import refused
from tests.framework.engine import Engine

CODE = {"m.py": "import json\ndef f(e, c):\n    print('GOT', json.dumps([r['body'] for r in e['Records']]))\n"}
MARKER = "sought-by-a-filter-51c09e"
CRITERIA = {"Filters": [{"Pattern": json.dumps({"body": {"kind": [MARKER]}})}]}
QUEUES = "arn:aws:sqs:us-east-1:000000000000:"
MISSING = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-4000-8000-000000000000"


def new_key(running: Engine) -> str:
    return str(running.client("kms").create_key()["KeyMetadata"]["Arn"])


def settled(client: Any, mapping: str, state: str) -> None:
    wait.until(lambda: client.get_event_source_mapping(UUID=mapping)["State"] == state, f"mapping {state}", 90)


def bodies(running: Engine, name: str) -> list[str]:
    log = running.data_dir / "logs" / "000000000000" / f"{name}.log"
    text = log.read_text() if log.exists() else ""
    return [body for line in re.findall(r"GOT (\[.*\])", text) for body in json.loads(line)]


def stored(running: Engine) -> bytes:
    return b"".join(path.read_bytes() for path in running.data_dir.glob("engine.db*"))


@pytest.fixture
def name(shared: Engine) -> str:
    """A function and a queue of this name."""
    made = f"sealed-filter-{uuid.uuid4().hex[:8]}"
    shared.client("sqs").create_queue(QueueName=made)
    shared.deploy(made, CODE, Publish=True)
    return made


def test_filters_are_encrypted_at_rest_and_obeyed(shared: Engine, name: str) -> None:
    key, client, sqs = new_key(shared), shared.client(), shared.client("sqs")
    sought = uuid.uuid4().hex
    criteria = {"Filters": [{"Pattern": json.dumps({"body": {"kind": [sought]}})}]}
    url, arn = sqs.get_queue_url(QueueName=name)["QueueUrl"], QUEUES + name
    made = client.create_event_source_mapping(EventSourceArn=arn, FunctionName=name, FilterCriteria=criteria, KMSKeyArn=key)
    assert (made["KMSKeyArn"], made["FilterCriteria"]) == (key, criteria)
    mapping = made["UUID"]
    try:
        settled(client, mapping, "Enabled")
        for kind in ("other", sought):
            sqs.send_message(QueueUrl=url, MessageBody=json.dumps({"kind": kind}))
        found = wait.until(lambda: bodies(shared, name), "the message sought", 60)
        assert found == [json.dumps({"kind": sought})]

        got = client.get_event_source_mapping(UUID=mapping)
        assert (got["KMSKeyArn"], got["FilterCriteria"]) == (key, criteria)
        (listed,) = client.list_event_source_mappings(EventSourceArn=arn)["EventSourceMappings"]
        assert listed["KMSKeyArn"] == key
        assert "FilterCriteria" not in listed
        assert name.encode() in stored(shared)
        assert sought.encode() not in stored(shared)
    finally:
        client.delete_event_source_mapping(UUID=mapping)


def test_updates_keep_replace_and_open_them(shared: Engine, name: str) -> None:
    key, client = new_key(shared), shared.client()
    source = {"EventSourceArn": QUEUES + name, "Enabled": False}
    mapping = client.create_event_source_mapping(**source, FunctionName=name, FilterCriteria=CRITERIA, KMSKeyArn=key)["UUID"]
    # Of two filters of the greatest size, several pieces for KMS.
    much = {"Filters": [{"Pattern": json.dumps({"body": {"kind": [f"{MARKER}{letter * 3900}"]}})} for letter in "ab"]}
    try:
        settled(client, mapping, "Disabled")
        other = new_key(shared)
        for members, criteria, with_key in (
            ({"BatchSize": 5}, CRITERIA, key),
            ({"KMSKeyArn": other}, CRITERIA, other),
            # What the filters are encrypted for changes with the function.
            ({"FunctionName": f"{name}:1"}, CRITERIA, other),
            ({"FilterCriteria": much}, much, other),
            ({"FilterCriteria": {}}, None, other),
            ({"FilterCriteria": CRITERIA}, CRITERIA, other),
        ):
            answer = client.update_event_source_mapping(UUID=mapping, **members)
            assert (answer.get("FilterCriteria"), answer["KMSKeyArn"]) == (criteria, with_key), members
            settled(client, mapping, "Disabled")
            got = client.get_event_source_mapping(UUID=mapping)
            assert (got.get("FilterCriteria"), got["KMSKeyArn"]) == (criteria, with_key), members
        assert MARKER.encode() not in stored(shared)
        refusal = refused(client.update_event_source_mapping, UUID=mapping, KMSKeyArn=MISSING)
        assert refusal[:2] == (400, "InvalidParameterValueException")
        assert "KMS Exception: NotFoundException" in refusal[2]

        key_id = other.rpartition("/")[2]
        shared.client("kms").disable_key(KeyId=key_id)
        shown = client.get_event_source_mapping(UUID=mapping)
        assert shown["FilterCriteriaError"]["ErrorCode"] == "DisabledException"
        assert "FilterCriteria" not in shown
        refusal = refused(client.update_event_source_mapping, UUID=mapping, KMSKeyArn="")
        assert refusal[:2] == (400, "InvalidParameterValueException")
        assert "decrypt the filter criteria because the KMS key used is disabled" in refusal[2]
        shared.client("kms").enable_key(KeyId=key_id)
        opened = client.update_event_source_mapping(UUID=mapping, KMSKeyArn="")
        assert opened["FilterCriteria"] == CRITERIA
        assert "KMSKeyArn" not in opened
        settled(client, mapping, "Disabled")
    finally:
        client.delete_event_source_mapping(UUID=mapping)


def test_a_key_that_cannot_be_used_is_refused_at_once(shared: Engine, name: str) -> None:
    arn = QUEUES + name
    for criteria in ({}, {"FilterCriteria": CRITERIA}):
        refusal = refused(
            shared.client().create_event_source_mapping, EventSourceArn=arn, FunctionName=name, KMSKeyArn=MISSING, **criteria
        )
        assert refusal[:2] == (400, "InvalidParameterValueException")
        assert refusal[2].startswith("Lambda was unable to configure access to your filter criteria because the KMS key is invalid for CreateGrant.")
    assert shared.client().list_event_source_mappings(EventSourceArn=arn)["EventSourceMappings"] == []
