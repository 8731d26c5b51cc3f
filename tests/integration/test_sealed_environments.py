"""Environment variables behind a KMS key: nowhere in clear on the disk, there for the function, gone with the key."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.framework.engine import ROLE, Engine, engine, zip_of

HANDLER = {"m.py": "import os\nVALUE = os.environ.get('GUARDED')\ndef f(e, c): return [VALUE, os.environ.get('GUARDED')]\n"}
MARKER = "kept-by-a-key-aa93c1"


def invoke(running: Engine, name: str, qualifier: str = "$LATEST") -> Any:
    return json.load(running.client().invoke(FunctionName=name, Qualifier=qualifier, Payload=b"{}")["Payload"])


def refused(call: Any, **arguments: Any) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return dict(caught.value.response)


def new_key(running: Engine) -> str:
    return str(running.client("kms").create_key()["KeyMetadata"]["Arn"])


def stored(running: Engine) -> bytes:
    return b"".join(path.read_bytes() for path in running.data_dir.glob("engine.db*"))


def test_variables_are_encrypted_at_rest_and_there_for_the_function(shared: Engine) -> None:
    key, client = new_key(shared), shared.client()
    created = shared.deploy("sealed", HANDLER, Environment={"Variables": {"GUARDED": MARKER}}, KMSKeyArn=key)
    assert (created["KMSKeyArn"], created["Environment"]) == (key, {"Variables": {"GUARDED": MARKER}})
    assert b"sealed" in stored(shared)
    assert MARKER.encode() not in stored(shared)
    assert b"GUARDED" not in stored(shared)
    assert invoke(shared, "sealed") == [MARKER, MARKER]

    client.update_function_configuration(FunctionName="sealed", Timeout=7)
    shown = client.get_function_configuration(FunctionName="sealed")
    assert (shown["Timeout"], shown["KMSKeyArn"], shown["Environment"]) == (7, key, {"Variables": {"GUARDED": MARKER}})
    assert invoke(shared, "sealed") == [MARKER, MARKER], "a change of something else keeps them"
    versions = client.list_versions_by_function(FunctionName="sealed")["Versions"]
    assert [v["Environment"]["Variables"]["GUARDED"] for v in versions] == [MARKER]
    listed = {f["FunctionName"]: f for page in client.get_paginator("list_functions").paginate() for f in page["Functions"]}
    assert listed["sealed"]["Environment"]["Variables"] == {"GUARDED": MARKER}

    other = new_key(shared)
    client.update_function_configuration(FunctionName="sealed", KMSKeyArn=other)
    assert client.get_function_configuration(FunctionName="sealed")["KMSKeyArn"] == other
    assert invoke(shared, "sealed") == [MARKER, MARKER], "encrypted anew with another key"
    assert MARKER.encode() not in stored(shared)
    client.update_function_configuration(FunctionName="sealed", Environment={"Variables": {"GUARDED": f"{MARKER}-new"}})
    assert invoke(shared, "sealed") == [f"{MARKER}-new"] * 2
    assert MARKER.encode() not in stored(shared)

    cleared = client.update_function_configuration(FunctionName="sealed", KMSKeyArn="")
    assert "KMSKeyArn" not in cleared
    assert cleared["Environment"]["Variables"] == {"GUARDED": f"{MARKER}-new"}
    assert invoke(shared, "sealed") == [f"{MARKER}-new"] * 2


def test_a_key_that_cannot_be_used_is_refused_at_once(shared: Engine) -> None:
    missing = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-4000-8000-000000000000"
    arguments: dict[str, Any] = {"Role": ROLE, "Handler": "m.f", "Code": {"ZipFile": zip_of(HANDLER)}}
    arguments["Runtime"] = shared.deploy("sealed-not", HANDLER)["Runtime"]
    for variables in ({"GUARDED": "x"}, {}):
        answer = refused(
            shared.client().create_function, FunctionName="sealed-never", KMSKeyArn=missing, Environment={"Variables": variables}, **arguments
        )
        assert answer["Error"]["Code"] == "InvalidParameterValueException"
        assert answer["Error"]["Message"].startswith(
            "Lambda was unable to configure access to your environment variables because the KMS key is invalid for CreateGrant. "
            "Please check your KMS key settings. KMS Exception: NotFoundException KMS Message: "
        )
    answer = refused(shared.client().get_function, FunctionName="sealed-never")
    assert answer["Error"]["Code"] == "ResourceNotFoundException"
    answer = refused(shared.client().update_function_configuration, FunctionName="sealed-not", KMSKeyArn=missing)
    assert answer["Error"]["Code"] == "InvalidParameterValueException"


def test_cold_starts_need_the_key(shared: Engine) -> None:
    key, client, kms = new_key(shared), shared.client(), shared.client("kms")
    # The embedded KMS knows keys by ARN when they are used, not when they are changed.
    key_id = key.rpartition("/")[2]
    shared.deploy("sealed-cold", HANDLER, Environment={"Variables": {"GUARDED": MARKER}}, KMSKeyArn=key)
    for number in ("1", "2"):
        client.update_function_configuration(FunctionName="sealed-cold", Description=number)
        assert client.publish_version(FunctionName="sealed-cold")["Version"] == number
    kms.disable_key(KeyId=key_id)
    answer = refused(client.invoke, FunctionName="sealed-cold", Qualifier="1")
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == ("KMSDisabledException", 502)
    assert "because the KMS key used is disabled. Please check the function's KMS key settings." in answer["Message"]
    shown = client.get_function_configuration(FunctionName="sealed-cold")["Environment"]
    assert shown["Error"]["ErrorCode"] == "DisabledException"
    assert "Variables" not in shown
    kms.enable_key(KeyId=key_id)
    assert invoke(shared, "sealed-cold", "1") == [MARKER, MARKER]
    kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    answer = refused(client.invoke, FunctionName="sealed-cold", Qualifier="2")
    assert answer["Error"]["Code"] == "KMSInvalidStateException"
    assert invoke(shared, "sealed-cold", "1") == [MARKER, MARKER], "what runs goes on"


def test_a_key_whose_policy_denies_gives_access_denied_until_it_allows(shared: Engine) -> None:
    key, client, kms = new_key(shared), shared.client(), shared.client("kms")
    allowed = kms.get_key_policy(KeyId=key, PolicyName="default")["Policy"]
    shared.deploy("sealed-denied", HANDLER, Environment={"Variables": {"GUARDED": MARKER}}, KMSKeyArn=key)
    denying = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "kms:*", "Resource": "*"}]}
    kms.put_key_policy(KeyId=key, PolicyName="default", Policy=json.dumps(denying))
    answer = refused(client.invoke, FunctionName="sealed-denied")
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == ("KMSAccessDeniedException", 502)
    assert answer["Message"].startswith("Lambda was unable to decrypt the environment variables because KMS access was denied.")
    assert answer["Type"] == "Service"
    shown = client.get_function(FunctionName="sealed-denied")["Configuration"]["Environment"]
    assert shown["Error"]["ErrorCode"] == "AccessDeniedException"
    kms.put_key_policy(KeyId=key, PolicyName="default", Policy=allowed)
    assert invoke(shared, "sealed-denied") == [MARKER, MARKER]


@pytest.mark.slow
def test_a_restart_needs_no_key_and_a_key_that_went_with_it_is_missed() -> None:
    with engine() as running:
        key, client = new_key(running), running.client()
        running.deploy("sealed-gone", HANDLER, Environment={"Variables": {"GUARDED": MARKER}}, KMSKeyArn=key)
        running.deploy("sealed-plain", HANDLER, Environment={"Variables": {"GUARDED": "p"}})
        assert invoke(running, "sealed-gone") == [MARKER, MARKER]
        running.stop()
        # The embedded KMS forgets its keys when the engine ends.
        running.start()
        client = running.client()
        assert invoke(running, "sealed-plain") == ["p", "p"], "one function's key is no matter for another"
        answer = refused(client.invoke, FunctionName="sealed-gone")
        assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == ("KMSNotFoundException", 502)
        assert "because the KMS key was not found." in answer["Message"]
        shown = client.get_function_configuration(FunctionName="sealed-gone")
        assert shown["Environment"]["Error"]["ErrorCode"] == "NotFoundException"
        assert (shown["State"], shown["KMSKeyArn"]) == ("Active", key)
        answer = refused(client.update_function_configuration, FunctionName="sealed-gone", KMSKeyArn=new_key(running))
        assert answer["Error"]["Code"] == "KMSNotFoundException", "what nobody can read cannot be encrypted anew"
        client.update_function_configuration(FunctionName="sealed-gone", KMSKeyArn=new_key(running), Environment={"Variables": {"GUARDED": "again"}})
        assert invoke(running, "sealed-gone") == ["again", "again"]
