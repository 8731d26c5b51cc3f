"""The server that plays the other AWS services: it answers for the configured account, and it ends when it should."""

from __future__ import annotations

import concurrent.futures
import os
import select
import signal
import socket
import subprocess
import sys
import time

import pytest

from engine.aws import clients, embedded
from engine.config import load

START_S = 40.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_open(port: int, process: subprocess.Popen[bytes] | None = None) -> None:
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process is None or process.poll() is None, "the server ended while starting"
            assert time.monotonic() < deadline_s, "the server did not start"
            time.sleep(0.02)
        else:
            return


@pytest.fixture
def settings(tmp_path):
    return load(data_dir=tmp_path, account_id="111122223333", region="eu-west-1")


@pytest.fixture
def server(settings):
    port = free_port()
    argv, env = embedded.command(settings, port)
    process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until_open(port, process)
    yield process, f"http://127.0.0.1:{port}"
    process.kill()
    process.communicate()


def test_plays_the_configured_account_quietly_and_stops_when_told(settings, server):
    process, url = server
    aws = clients.for_settings(settings, url)
    s3 = aws.client("s3")
    assert aws.client("s3") is s3
    s3.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="bucket", Key="a", Body=b"x")
    assert [b["Name"] for b in s3.list_buckets()["Buckets"]] == ["bucket"]
    assert aws.client("sts").get_caller_identity()["Account"] == "111122223333"
    process.send_signal(signal.SIGINT)
    assert aws.client("sqs").list_queues()["ResponseMetadata"]["HTTPStatusCode"] == 200
    process.terminate()
    assert process.wait(10) == 0
    assert process.stderr.read() == b""


def test_ends_with_its_parent(settings):
    port = free_port()
    parent = (
        "import subprocess, sys, time\nfrom engine.aws import embedded\nfrom engine.config import load\n"
        f"argv, env = embedded.command(load(), {port})\n"
        "print(subprocess.Popen(argv, env=env).pid, flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, cwd=os.getcwd()) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        watch = os.pidfd_open(child)
        try:
            wait_until_open(port, process)
            process.kill()
            assert select.select([watch], [], [], 10)[0], "the server outlived its parent"
        finally:
            os.close(watch)


def test_leaves_at_once_when_its_parent_is_another():
    command = [sys.executable, "-m", "engine.aws.embedded_server", str(free_port()), "1"]
    assert subprocess.run(command, timeout=30, check=False).returncode == 0


def test_wrong_command_line_is_status_2():
    done = subprocess.run([sys.executable, "-m", "engine.aws.embedded_server", "x"], capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stderr[:6]) == (2, b"usage:")


def test_operators_own_aws_settings_do_not_leak_in(settings, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("MOTO_S3_CUSTOM_ENDPOINTS", "http://elsewhere")
    _, env = embedded.command(settings, 1)
    assert "AWS_PROFILE" not in env
    assert "MOTO_S3_CUSTOM_ENDPOINTS" not in env


def test_missing_extra_is_named(monkeypatch):
    assert embedded.available() is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "moto" else object())
    assert embedded.available() == (
        "The embedded AWS needs the extra 'embedded' (moto not installed): run pip install 'lambda-engine[embedded]', "
        "or set LAMBDA_ENGINE_AWS_ENDPOINT to 'aws' or a URL."
    )


@pytest.mark.parametrize(
    ("where", "endpoint"), [("embedded", "http://engine"), ("aws", None), ("http://other:1", "http://other:1")]
)
def test_clients_go_where_the_settings_say(tmp_path, where, endpoint):
    assert clients.for_settings(load(data_dir=tmp_path, aws_endpoint=where), "http://engine").endpoint == endpoint


def test_given_credentials_are_used(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    made = clients.AwsClients("http://127.0.0.1:1", "us-east-1", ("AKIA", "secret", "token")).client("sqs")
    keys = made._request_signer._credentials.get_frozen_credentials()
    assert (keys.access_key, keys.secret_key, keys.token) == ("AKIA", "secret", "token")


def test_of_what_many_add_to_an_item_nothing_is_lost(settings, server):
    client = clients.for_settings(settings, server[1]).client("dynamodb")
    key = {"AttributeName": "id", "KeyType": "HASH"}
    client.create_table(
        TableName="counts", KeySchema=[key], AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}], BillingMode="PAY_PER_REQUEST"
    )

    def add(_: int) -> int:
        answer = client.update_item(
            TableName="counts",
            Key={"id": {"S": "one"}},
            UpdateExpression="ADD hits :one",
            ExpressionAttributeValues={":one": {"N": "1"}},
            ReturnValues="UPDATED_NEW",
        )
        return int(answer["Attributes"]["hits"]["N"])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(add, range(200))) == list(range(1, 201))
