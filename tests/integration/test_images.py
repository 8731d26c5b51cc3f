"""Functions that are container images: AWS's own Python client in an image put together from this machine's files."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.framework import images
from tests.framework.control import ControlServer, refused
from tests.framework.engine import ROLE, Engine, engine
from tests.framework.images import Layer

REPOSITORY = "000000000000.dkr.ecr.us-east-1.amazonaws.com/app"
URI = f"{REPOSITORY}:1"
LOOKS = """
import os
def attempt(path):
    try:
        open(path, "w").close()
    except OSError as e:
        return e.strerror
def handler(event, context):
    return {
        "env": dict(os.environ), "cwd": os.getcwd(), "root": sorted(os.listdir("/")), "uid": os.getuid(), "pid1": os.path.exists("/proc/1"),
        "written": {path: attempt(path) for path in ("/tmp/x", "/x", "/function/x", "/etc/hosts", "/dev/null", "/dev/shm/x")},
        "hosts": open("/etc/hosts").read(), "mounts": open("/proc/self/mounts").read(),
    }
"""


def command(*words: str, data_dir: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "engine.cli.main", "image", *words, "--data-dir", str(data_dir)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)


def build(folder: Path, looks: str = LOOKS) -> str:
    """Lay an image out in a directory; its digest."""
    layers, config = images.python_layers()
    return images.oci(folder, [*layers, Layer().add("function/looks.py", looks).bytes()], config, URI)


def create(client: Any, name: str, **members: Any) -> dict[str, Any]:
    given = {"FunctionName": name, "Role": ROLE, "PackageType": "Image", "Code": {"ImageUri": URI}, "Timeout": 30, "MemorySize": 256, **members}
    answer = client.create_function(**given)
    client.get_waiter("function_active_v2").wait(FunctionName=name)
    return dict(answer)


def invoke(client: Any, name: str, event: Any = None, **options: Any) -> tuple[Any, str | None, str]:
    answer = client.invoke(FunctionName=name, Payload=json.dumps(event), LogType="Tail", **options)
    return json.loads(answer["Payload"].read()), answer.get("FunctionError"), base64.b64decode(answer["LogResult"]).decode()


@pytest.fixture(scope="module")
def imported(shared: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, str]]:
    """The shared engine with the image in it, and the image's digest."""
    if shared.state()["sandbox"]["level"] == "process":
        pytest.skip("not root")
    folder = tmp_path_factory.mktemp("image")
    digest = build(folder)
    done = command("import", str(folder), data_dir=shared.data_dir)
    assert (done.returncode, done.stdout) == (0, f"{URI}\n"), done.stderr
    yield shared, digest
    assert command("remove", URI, data_dir=shared.data_dir).returncode == 0


def test_what_the_api_shows(imported: tuple[Engine, str]) -> None:
    running, digest = imported
    client = running.client()
    settings = {"EntryPoint": ["/x"], "Command": ["a", "b"], "WorkingDirectory": "/tmp"}
    answer = create(client, "shown", ImageConfig=settings, Publish=True)
    assert (answer["PackageType"], answer["CodeSize"], answer["CodeSha256"]) == ("Image", 0, digest)
    assert answer["ImageConfigResponse"] == {"ImageConfig": settings}
    assert not {"Runtime", "Handler", "RuntimeVersionConfig", "_ImageUri"} & answer.keys()
    found = client.get_function(FunctionName="shown", Qualifier="1")
    assert found["Code"] == {"RepositoryType": "ECR", "ImageUri": URI, "ResolvedImageUri": f"{REPOSITORY}@sha256:{digest}"}
    client.update_function_configuration(FunctionName="shown", ImageConfig={})
    assert "ImageConfigResponse" not in client.get_function_configuration(FunctionName="shown")
    by_digest = client.update_function_code(FunctionName="shown", ImageUri=f"{REPOSITORY}@sha256:{digest}")
    assert by_digest["CodeSha256"] == digest
    pages = client.get_paginator("list_functions").paginate()
    listed = [f for page in pages for f in page["Functions"] if f["FunctionName"] == "shown"]
    assert listed[0]["CodeSha256"] == digest
    client.delete_function(FunctionName="shown")


def test_the_official_client_in_an_image(imported: tuple[Engine, str]) -> None:
    client = imported[0].client()
    create(client, "official")
    event = {"op": "echo", "text": "é", "n": [1, None]}
    payload, error, tail = invoke(client, "official", event)
    assert (payload, error) == (event, None)
    assert tail.startswith("START RequestId: ")
    assert "handling echo" in tail
    payload, error, _ = invoke(client, "official", {"op": "error"})
    assert (payload["errorMessage"], payload["errorType"], error) == ("boom", "ValueError", "Unhandled")
    payload, error, _ = invoke(client, "official", {"op": "exit"})
    assert (payload["errorType"], error) == ("Runtime.ExitError", "Unhandled")
    # In the same sandbox, whose root is the image's by now.
    assert invoke(client, "official", event)[0] == event
    big = {"op": "echo", "x": "y" * 3_000_000}
    assert invoke(client, "official", big)[0] == big
    client.delete_function(FunctionName="official")


def test_what_is_around_it(imported: tuple[Engine, str]) -> None:
    running, _ = imported
    client = running.client()
    create(client, "around", ImageConfig={"Command": ["looks.handler"]}, Environment={"Variables": {"MINE": "1"}}, EphemeralStorage={"Size": 600})
    seen, error, _ = invoke(client, "around")
    assert error is None, seen
    env = seen["env"]
    assert (env["GREETING"], env["MINE"], env["AWS_LAMBDA_FUNCTION_NAME"]) == ("from the image", "1", "around")
    assert not {"_HANDLER", "AWS_EXECUTION_ENV", "PYTHONPATH"} & env.keys()
    assert env["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert (seen["cwd"], seen["pid1"]) == ("/function", True)
    assert seen["uid"] != 0
    assert {"function", "proc", "dev", "tmp"} <= set(seen["root"])
    # mnt is there for what a function's FileSystemConfigs may name.
    assert not {"var", "opt", "srv", "home"} & set(seen["root"])
    assert {path for path, refusal in seen["written"].items() if refusal is None} == {"/tmp/x", "/dev/null"}
    assert "127.0.0.1 localhost" in seen["hosts"]
    # The old root is gone, not just covered.
    assert str(running.data_dir) not in seen["mounts"]
    assert not [line for line in seen["mounts"].splitlines() if line.split()[1].startswith(("/mnt", "/var", "/usr"))]
    client.delete_function(FunctionName="around")


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"EntryPoint": ["/no/such"]}, "Runtime.InvalidEntrypoint", "fork/exec /no/such: no such file or directory"),
        ({"EntryPoint": ["nosuch"]}, "Runtime.InvalidEntrypoint", 'exec: "nosuch": executable file not found in $PATH'),
        ({"EntryPoint": ["/function/client.py"]}, "Runtime.InvalidEntrypoint", "fork/exec /function/client.py: permission denied"),
        ({"WorkingDirectory": "/no/where"}, "Runtime.InvalidWorkingDir", "chdir /no/where: no such file or directory"),
    ],
)
def test_images_that_cannot_be_started(imported: tuple[Engine, str], settings: dict[str, Any], kind: str, message: str) -> None:
    client = imported[0].client()
    create(client, "unstartable", ImageConfig=settings)
    payload, error, tail = invoke(client, "unstartable")
    assert (payload["errorType"], error) == (kind, "Unhandled")
    assert payload["errorMessage"].endswith(f"Error: {message}")
    assert f"IMAGE\tLaunch error: {message}\tEntrypoint: [" in tail
    client.delete_function(FunctionName="unstartable")


def test_another_image_under_the_same_address(imported: tuple[Engine, str], tmp_path: Path) -> None:
    running, first = imported
    client = running.client()
    create(client, "moved", ImageConfig={"Command": ["looks.handler"]}, Publish=True)
    other = "def handler(event, context):\n    return 'another'\n"
    digest = build(tmp_path, other)
    assert command("import", str(tmp_path), "--name", f"{REPOSITORY}:2", data_dir=running.data_dir).returncode == 0
    assert client.update_function_code(FunctionName="moved", ImageUri=f"{REPOSITORY}:2", DryRun=True)["CodeSha256"] == digest
    assert client.update_function_code(FunctionName="moved", ImageUri=f"{REPOSITORY}:2")["CodeSha256"] == digest
    assert invoke(client, "moved")[0] == "another"
    assert "env" in invoke(client, "moved", Qualifier="1")[0]
    shown = command("list", data_dir=running.data_dir).stdout
    assert f"{REPOSITORY}:2  {digest[:12]}" in shown
    assert first[:12] in shown
    # A name that is gone takes nothing from a function that runs.
    assert command("remove", f"{REPOSITORY}:2", data_dir=running.data_dir).returncode == 0
    assert invoke(client, "moved")[0] == "another"
    with pytest.raises(ClientError, match=f"Source image {REPOSITORY}:2 does not exist. Provide a valid source image."):
        create(client, "late", Code={"ImageUri": f"{REPOSITORY}:2"})
    done = command("remove", f"{REPOSITORY}:2", data_dir=running.data_dir)
    assert (done.returncode, done.stderr) == (1, f"error: there is no image called {REPOSITORY}:2\n")
    client.delete_function(FunctionName="moved")


def test_what_is_refused(imported: tuple[Engine, str], tmp_path: Path) -> None:
    running, _ = imported
    client = running.client()
    only = "Please don't provide Handler or Runtime or Layer when the intended function PackageType is Image."

    def creating(**members: Any) -> str:
        status, code, message = refused(client.create_function, **{"FunctionName": "no", "Role": ROLE, "PackageType": "Image", "Code": {"ImageUri": URI}, **members})
        assert (status, code) == (400, "InvalidParameterValueException")
        return message

    assert creating(Handler="m.f") == only
    assert creating(Runtime="python3.12") == only
    assert creating(Code={"ZipFile": b"x"}) == "Please provide ImageUri when creating a function with packageType Image."
    assert "Please don't provide ZipFile" in creating(Code={"ImageUri": URI, "ZipFile": b"x"})
    assert "don't provide ImageUri" in creating(PackageType="Zip")
    assert creating(SnapStart={"ApplyOn": "PublishedVersions"}) == "Image is not supported for SnapStart enabled functions."
    create(client, "refusing")
    _, _, message = refused(client.update_function_code, FunctionName="refusing", ZipFile=b"x")
    assert message == "Please provide ImageUri when updating a function with packageType Image."
    assert refused(client.update_function_configuration, FunctionName="refusing", Handler="m.f")[2] == only
    client.delete_function(FunctionName="refusing")
    assert running.get("/_engine/images")[0] == 403
    junk = tmp_path / "junk.tar"
    junk.write_bytes(b"no tar")
    done = command("import", str(junk), "--name", "x", data_dir=running.data_dir)
    assert done.returncode == 1
    assert "not a tar archive of an image" in done.stderr


def test_where_none_can_run_the_reason_is_given(tmp_path: Path) -> None:
    with ControlServer(tmp_path, no_images="container images need a file system of the sandbox's own") as control:
        status, code, message = refused(control.create, "f", PackageType="Image", Code={"ImageUri": "a"}, Runtime=None, Handler=None)
    assert (status, code) == (501, "NotImplementedException")
    assert "container images need a file system of the sandbox's own" in message


@pytest.mark.slow
def test_an_image_at_level_user_and_after_a_restart(tmp_path: Path) -> None:
    build(tmp_path)
    with engine(sandbox="user", pool_size=1) as running:
        assert command("import", str(tmp_path), data_dir=running.data_dir).returncode == 0
        create(running.client(), "f", ImageConfig={"Command": ["looks.handler"]})
        seen, error, _ = invoke(running.client(), "f")
        assert (error, seen["cwd"], seen["env"]["GREETING"]) == (None, "/function", "from the image")
        assert {path for path, refusal in seen["written"].items() if refusal is None} == {"/tmp/x", "/dev/null"}
        running.stop()
        running.start()
        assert invoke(running.client(), "f")[0]["cwd"] == "/function"
        assert json.loads(command("list", "--json", data_dir=running.data_dir).stdout)[0]["name"] == URI
