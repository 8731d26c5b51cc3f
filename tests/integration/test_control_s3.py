"""Packages that come from S3: the embedded one is really asked."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from engine.aws import clients, embedded
from engine.config import load
from tests.framework.control import ControlServer
from tests.framework.engine import OWN_RUNTIME, ROLE, zip_of
from tests.integration.test_embedded_aws import free_port, wait_until_open

pytestmark = pytest.mark.skipif(embedded.available() is not None, reason="the extra 'embedded' is not installed")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    settings = load(data_dir=tmp_path_factory.mktemp("aws"))
    port = free_port()
    argv, env = embedded.command(settings, port)
    process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_open(port, process)
        client = clients.for_settings(settings, f"http://127.0.0.1:{port}").client("s3")
        client.create_bucket(Bucket="packages")
        client.put_bucket_versioning(Bucket="packages", VersioningConfiguration={"Status": "Enabled"})
        yield client
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture(scope="module")
def control(s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    with ControlServer(tmp_path_factory.mktemp("control"), endpoint_url=s3.meta.endpoint_url) as running:
        yield running


def source(control: ControlServer, name: str) -> str:
    return (Path(control.entry(name)["versions"]["$LATEST"]["code_dir"]) / "m.py").read_text()


def test_the_newest_or_a_named_version_of_an_object_is_deployed(control: ControlServer, s3: Any) -> None:
    first = s3.put_object(Bucket="packages", Key="f.zip", Body=zip_of({"m.py": "one"}))["VersionId"]
    s3.put_object(Bucket="packages", Key="f.zip", Body=zip_of({"m.py": "two"}))
    control.create("from-s3", Code={"S3Bucket": "packages", "S3Key": "f.zip"})
    assert source(control, "from-s3") == "two"
    control.client().update_function_code(FunctionName="from-s3", S3Bucket="packages", S3Key="f.zip", S3ObjectVersion=first)
    assert source(control, "from-s3") == "one"


@pytest.mark.parametrize(
    ("bucket", "key", "text"),
    [
        ("packages", "missing.zip", "Error occurred while GetObject. S3 Error Code: NoSuchKey. S3 Error Message: The specified key does not exist."),
        ("no-such-bucket", "f.zip", "Error occurred while GetObject. S3 Error Code: NoSuchBucket. S3 Error Message: The specified bucket does not exist"),
    ],
)
def test_what_s3_refuses_is_repeated_in_its_words(control: ControlServer, bucket: str, key: str, text: str) -> None:
    with pytest.raises(ClientError) as caught:
        control.create("refused", Code={"S3Bucket": bucket, "S3Key": key})
    assert caught.value.response["Error"]["Code"] == "InvalidParameterValueException"
    assert caught.value.response["Error"]["Message"] == text


def test_an_s3_that_is_not_there_is_the_engines_fault(tmp_path: Path) -> None:
    with ControlServer(tmp_path, endpoint_url=f"http://127.0.0.1:{free_port()}") as control:
        with pytest.raises(ClientError) as caught:
            control.client().create_function(
                FunctionName="f", Role=ROLE, Runtime=OWN_RUNTIME, Handler="m.f", Code={"S3Bucket": "bucket", "S3Key": "k"}
            )
        assert caught.value.response["Error"]["Code"] == "ServiceException"
        assert "S3 could not be asked for s3://bucket/k" in caught.value.response["Error"]["Message"]
