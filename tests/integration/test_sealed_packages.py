"""Packages behind a KMS key, and those that stay in S3: what is kept of them, and that calls need neither key nor object."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import urllib.error
import urllib.request
import uuid
from typing import Any

import pytest

from tests.framework.control import refused
from tests.framework.engine import OWN_RUNTIME, ROLE, Engine, engine, zip_of

MISSING = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-4000-8000-000000000000"


def package(word: str) -> bytes:
    return zip_of({"m.py": f"def f(e, c): return {word!r}\n"})


def digest(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def new_key(running: Engine) -> str:
    return str(running.client("kms").create_key()["KeyMetadata"]["Arn"])


def invoke(running: Engine, name: str) -> Any:
    return json.load(running.client().invoke(FunctionName=name)["Payload"])


def kept(running: Engine, data: bytes) -> bool:
    """Whether a file among what is kept of uploads holds these bytes."""
    return any(data in path.read_bytes() for path in (running.data_dir / "blobs").iterdir())


def made(running: Engine, data: bytes, key: str) -> str:
    name = f"sealed-package-{uuid.uuid4().hex[:8]}"
    answer = running.client().create_function(
        FunctionName=name, Role=ROLE, Handler="m.f", Runtime=OWN_RUNTIME, Code={"ZipFile": data, "SourceKMSKeyArn": key}
    )
    assert (answer["CodeSha256"], answer["CodeSize"]) == (digest(data), len(data))
    return name


def test_a_package_is_encrypted_at_rest_and_runs(shared: Engine) -> None:
    key, client = new_key(shared), shared.client()
    first, second, third = (package(uuid.uuid4().hex) for _ in range(3))
    name = made(shared, first, key)
    said = invoke(shared, name)
    assert not kept(shared, first)
    code = client.get_function(FunctionName=name)["Code"]
    assert code["SourceKMSKeyArn"] == key
    with urllib.request.urlopen(code["Location"], timeout=30) as answer:
        assert answer.read() == first

    assert client.publish_version(FunctionName=name)["Version"] == "1"
    client.update_function_code(FunctionName=name, ZipFile=first, SourceKMSKeyArn=key)
    assert client.publish_version(FunctionName=name, CodeSha256=digest(first))["Version"] == "1", "the same code under the same key is no change"
    client.update_function_code(FunctionName=name, ZipFile=second, SourceKMSKeyArn=key, DryRun=True)
    assert client.get_function(FunctionName=name)["Configuration"]["CodeSha256"] == digest(first)
    updated = client.update_function_code(FunctionName=name, ZipFile=second, SourceKMSKeyArn=key)
    assert updated["CodeSha256"] == digest(second)
    assert invoke(shared, name) != said
    assert not kept(shared, second)
    client.update_function_code(FunctionName=name, ZipFile=third)
    assert kept(shared, third), "without a key it is kept as it came"
    assert "SourceKMSKeyArn" not in client.get_function(FunctionName=name)["Code"]
    assert client.get_function(FunctionName=name, Qualifier="1")["Code"]["SourceKMSKeyArn"] == key


def test_without_its_key_a_package_runs_and_is_not_given_out(shared: Engine) -> None:
    key, client, kms = new_key(shared), shared.client(), shared.client("kms")
    key_id = key.rpartition("/")[2]
    name = made(shared, package("still here"), key)
    link = client.get_function(FunctionName=name)["Code"]["Location"]
    kms.disable_key(KeyId=key_id)
    code = client.get_function(FunctionName=name)["Code"]
    assert "Location" not in code
    assert (code["Error"]["ErrorCode"], code["SourceKMSKeyArn"]) == ("DisabledException", key)
    assert code["Error"]["Message"].startswith("KMS access is denied. Check your KMS permissions. KMS Exception: DisabledException KMS Message: ")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(link, timeout=30)
    assert caught.value.code == 404
    caught.value.close()
    assert invoke(shared, name) == "still here"
    client.update_function_configuration(FunctionName=name, Timeout=9)
    assert invoke(shared, name) == "still here"
    kms.enable_key(KeyId=key_id)
    assert "Location" in client.get_function(FunctionName=name)["Code"]


def test_a_key_that_cannot_be_used_leaves_no_function(shared: Engine) -> None:
    client = shared.client()
    name = f"sealed-package-{uuid.uuid4().hex[:8]}"
    code = {"ZipFile": package("never"), "SourceKMSKeyArn": MISSING}
    refusal = refused(client.create_function, FunctionName=name, Role=ROLE, Handler="m.f", Runtime=OWN_RUNTIME, Code=code)
    assert refusal[:2] == (400, "InvalidParameterValueException")
    assert "KMS Exception: NotFoundException KMS Message: " in refusal[2]
    assert refused(client.get_function, FunctionName=name)[0] == 404
    forged = b"\x00lambda-engine sealed package 1\n{}\n" + package("forged")
    code = {"ZipFile": forged}
    refusal = refused(client.create_function, FunctionName=name, Role=ROLE, Handler="m.f", Runtime=OWN_RUNTIME, Code=code)
    assert refusal[2] == "Could not unzip uploaded file. Please check your file, then try to upload again."


def test_a_tree_that_is_lost_is_made_again_with_the_key(shared: Engine) -> None:
    key, client = new_key(shared), shared.client()
    word = uuid.uuid4().hex
    name = made(shared, package(word), key)
    (lost,) = (p for p in (shared.data_dir / "code").iterdir() if word in _source(p))
    shutil.rmtree(lost)
    client.update_function_configuration(FunctionName=name, Description="unpacks it again")
    assert invoke(shared, name) == word


def test_a_package_that_stays_in_s3_is_not_kept_and_does_not_count(shared: Engine) -> None:
    client, s3 = shared.client(), shared.client("s3")
    bucket = f"referred-{uuid.uuid4().hex[:8]}"
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    first, second = (package(uuid.uuid4().hex) for _ in range(2))
    one, two = (s3.put_object(Bucket=bucket, Key="code.zip", Body=data)["VersionId"] for data in (first, second))
    place = {"S3Bucket": bucket, "S3Key": "code.zip", "S3ObjectVersion": one}
    name = f"referred-{uuid.uuid4().hex[:8]}"
    before = client.get_account_settings()["AccountUsage"]["TotalCodeSize"]
    made = client.create_function(
        FunctionName=name, Role=ROLE, Handler="m.f", Runtime=OWN_RUNTIME, Code={**place, "S3ObjectStorageMode": "REFERENCE"}
    )
    assert (made["CodeSha256"], made["CodeSize"]) == (digest(first), len(first))
    assert client.get_account_settings()["AccountUsage"]["TotalCodeSize"] == before
    said = invoke(shared, name)
    assert not kept(shared, first)
    code = client.get_function(FunctionName=name)["Code"]
    assert code["ResolvedS3Object"] == place
    with urllib.request.urlopen(code["Location"], timeout=30) as answer:
        assert answer.read() == first

    assert client.publish_version(FunctionName=name)["Version"] == "1"
    client.update_function_code(FunctionName=name, **place, S3ObjectStorageMode="REFERENCE")
    assert client.publish_version(FunctionName=name)["Version"] == "1"
    client.update_function_code(FunctionName=name, **{**place, "S3ObjectVersion": two}, S3ObjectStorageMode="REFERENCE")
    assert invoke(shared, name) != said
    s3.delete_object(Bucket=bucket, Key="code.zip", VersionId=two)
    assert invoke(shared, name) != said, "what is unpacked goes on without the object"
    refusal = refused(client.update_function_code, FunctionName=name, **{**place, "S3ObjectVersion": two}, S3ObjectStorageMode="REFERENCE")
    assert refusal[:2] == (400, "InvalidParameterValueException")
    assert refusal[2].startswith("Error occurred while GetObject. S3 Error Code: NoSuchVersion.")
    client.update_function_code(FunctionName=name, **place)
    assert kept(shared, first), "without a mode it is copied"
    assert "ResolvedS3Object" not in client.get_function(FunctionName=name)["Code"]
    for members in (
        {"ZipFile": first},
        {"S3Bucket": bucket, "S3Key": "code.zip"},
        {**place, "SourceKMSKeyArn": new_key(shared)},
    ):
        refusal = refused(client.update_function_code, FunctionName=name, S3ObjectStorageMode="REFERENCE", **members)
        assert refusal[:2] == (400, "InvalidParameterValueException"), members


def _source(tree: Any) -> str:
    path = tree / "m.py"
    return path.read_text() if path.is_file() else ""


@pytest.mark.slow
def test_a_restart_needs_no_key() -> None:
    with engine() as running:
        name = made(running, package("over a restart"), new_key(running))
        running.stop()
        running.start()
        assert invoke(running, name) == "over a restart"
        assert running.client().get_function(FunctionName=name)["Code"]["Error"]["ErrorCode"] == "NotFoundException"
