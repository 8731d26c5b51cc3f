"""Runtime management configs: what a version is held to is obeyed, over restarts, whatever the host has by then."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.framework.control import ControlServer, refused
from tests.framework.engine import OWN_RUNTIME, Engine, zip_of
from tests.framework.wait import until

INVALID = "InvalidParameterValueException"
CODE = zip_of({"m.py": "def f(e, c): return 2\n"})
BEFORE = {OWN_RUNTIME: {"interpreter": sys.executable, "version": "3.11.7"}}
AFTER = {OWN_RUNTIME: {"interpreter": sys.executable, "version": "3.11.9"}}


def arn_of(client: Any, name: str, qualifier: str = "$LATEST") -> str:
    return str(client.get_function_configuration(FunctionName=name, Qualifier=qualifier)["RuntimeVersionConfig"]["RuntimeVersionArn"])


def mode_of(client: Any, name: str, qualifier: str = "$LATEST") -> tuple[str, str | None]:
    answer = client.get_runtime_management_config(FunctionName=name, Qualifier=qualifier)
    return answer["UpdateRuntimeOn"], answer.get("RuntimeVersionArn")


def test_a_version_is_held_to_what_it_was_told_when_the_host_has_another(tmp_path: Path) -> None:
    with ControlServer(tmp_path, runtimes=BEFORE) as control:
        client = control.client()
        for name in ("auto", "update", "manual"):
            control.create(name)
        arn = arn_of(client, "auto")
        manual = client.put_runtime_management_config(FunctionName="manual", UpdateRuntimeOn="Manual", RuntimeVersionArn=arn)
        assert (manual["UpdateRuntimeOn"], manual["RuntimeVersionArn"], manual["FunctionArn"].rpartition(":")[2]) == ("Manual", arn, "manual")
        assert "RuntimeVersionArn" not in client.put_runtime_management_config(FunctionName="update", UpdateRuntimeOn="FunctionUpdate")
        # A version begins as $LATEST is, and goes its own way then.
        for name in ("auto", "update", "manual"):
            assert client.publish_version(FunctionName=name)["Version"] == "1"
        assert [mode_of(client, name, "1") for name in ("auto", "update", "manual")] == [("Auto", None), ("FunctionUpdate", None), ("Manual", arn)]
        client.put_runtime_management_config(FunctionName="manual", Qualifier="1", UpdateRuntimeOn="Auto")
        assert (mode_of(client, "manual"), mode_of(client, "manual", "1")) == (("Manual", arn), ("Auto", None))
        assert all(control.entry(name)["versions"][v]["state"] == "Active" for name in ("auto", "update", "manual") for v in ("$LATEST", "1"))
    with ControlServer(tmp_path, runtimes=AFTER) as control:
        client = control.client()
        now = arn_of(client, "auto")
        assert now != arn
        assert arn_of(client, "auto", "1") == arn_of(client, "manual", "1") == now
        assert (mode_of(client, "update"), mode_of(client, "manual")) == (("FunctionUpdate", None), ("Manual", arn))
        assert control.entry("manual")["versions"]["1"]["state"] == control.entry("auto")["versions"]["$LATEST"]["state"] == "Active"
        for name, version in (("update", "$LATEST"), ("update", "1"), ("manual", "$LATEST")):
            entry = control.entry(name)["versions"][version]
            assert entry["state"] == "Failed"
            assert "version 3.11.7" in entry["refusal"]
            assert "this host has 3.11.9" in entry["refusal"]
            shown = client.get_function_configuration(FunctionName=name, Qualifier=version)
            assert (shown["State"], shown["StateReasonCode"], shown["StateReason"]) == ("Failed", "InvalidRuntime", entry["refusal"])
            assert shown["RuntimeVersionConfig"] == {"RuntimeVersionArn": arn, "Error": {"ErrorCode": "InvalidRuntime", "Message": entry["refusal"]}}
        # An update is what this one waits for; its published version stays what it was.
        client.update_function_code(FunctionName="update", ZipFile=CODE)
        assert (arn_of(client, "update"), arn_of(client, "update", "1"), mode_of(client, "update")) == (now, arn, ("FunctionUpdate", None))
        assert [control.entry("update")["versions"][v]["state"] for v in ("$LATEST", "1")] == ["Active", "Failed"]
        # Not so this one, until it is let go.
        client.update_function_configuration(FunctionName="manual", Timeout=9)
        assert (arn_of(client, "manual"), control.entry("manual")["versions"]["$LATEST"]["state"]) == (arn, "Failed")
        assert refused(client.put_runtime_management_config, FunctionName="manual", UpdateRuntimeOn="Manual", RuntimeVersionArn=arn)[1] == INVALID
        client.put_runtime_management_config(FunctionName="manual", UpdateRuntimeOn="FunctionUpdate")
        assert (arn_of(client, "manual"), mode_of(client, "manual")) == (arn, ("FunctionUpdate", None))
        client.put_runtime_management_config(FunctionName="manual", UpdateRuntimeOn="Auto")
        assert client.get_function_configuration(FunctionName="manual")["State"] == "Active"
        assert (arn_of(client, "manual"), control.entry("manual")["versions"]["$LATEST"]["state"]) == (now, "Active")
        client.delete_function(FunctionName="update", Qualifier="1")
        client.delete_function(FunctionName="update")
        control.create("update")
        assert mode_of(client, "update") == ("Auto", None)


def test_what_is_held_by_hand_keeps_its_runtime(tmp_path: Path) -> None:
    with ControlServer(tmp_path, runtimes={**BEFORE, "python3.9": {"interpreter": sys.executable, "version": "3.9.1"}}) as control:
        client = control.client()
        control.create("kept")
        client.put_runtime_management_config(FunctionName="kept", UpdateRuntimeOn="Manual", RuntimeVersionArn=arn_of(client, "kept"))
        status, code, text = refused(client.update_function_configuration, FunctionName="kept", Runtime="python3.9")
        assert (status, code) == (400, INVALID)
        assert text.startswith("Runtime cannot be changed while UpdateRuntimeOn is Manual")
        client.update_function_configuration(FunctionName="kept", Runtime=OWN_RUNTIME)
        before = arn_of(client, "kept")
        client.put_runtime_management_config(FunctionName="kept", UpdateRuntimeOn="FunctionUpdate")
        client.update_function_configuration(FunctionName="kept", Runtime="python3.9")
        assert arn_of(client, "kept") != before
        assert control.entry("kept")["versions"]["$LATEST"]["state"] == "Active"


def claims(folder: Path, version: str) -> Path:
    """A program that passes for this interpreter in another version; what runs is this one."""
    about = [[*map(int, version.split("."))], "cpython", sys.base_prefix, sys.base_exec_prefix, str(Path(sys.executable).resolve()), "", 0]
    program = folder / f"python-{version}"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(about)}\nEND\n")
    program.chmod(0o755)
    return program


def provisioned(client: Any) -> tuple[str, str]:
    answer = client.get_provisioned_concurrency_config(FunctionName="ready", Qualifier="1")
    return answer["Status"], answer.get("StatusReason", "")


def test_no_environment_is_started_on_a_version_it_is_not_held_to(tmp_path: Path) -> None:
    other = f"3.{sys.version_info.minor}.99"
    running = Engine(tmp_path / "data")
    try:
        running.start()
        client = running.client()
        for name in ("free", "held", "ready"):
            running.deploy(name, {"m.py": "def f(e, c): return 1\n"}, Publish=True)
        arn = arn_of(client, "held")
        client.put_runtime_management_config(FunctionName="held", UpdateRuntimeOn="Manual", RuntimeVersionArn=arn)
        assert client.invoke(FunctionName="held")["Payload"].read() == b"1"
        client.put_runtime_management_config(FunctionName="ready", Qualifier="1", UpdateRuntimeOn="FunctionUpdate")
        client.put_provisioned_concurrency_config(FunctionName="ready", Qualifier="1", ProvisionedConcurrentExecutions=1)
        until(lambda: provisioned(client)[0] == "READY", "its instance stands", 120)
        assert running.stop() == 0
        running.settings["runtimes"] = json.dumps({OWN_RUNTIME: str(claims(tmp_path, other))})
        running.start()
        client = running.client()
        assert client.invoke(FunctionName="free")["Payload"].read() == b"1"
        assert client.invoke(FunctionName="held", Qualifier="1")["Payload"].read() == b"1"
        with pytest.raises(ClientError) as caught:
            client.invoke(FunctionName="held")
        answer = caught.value.response
        assert (answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]) == (502, "InvalidRuntimeException")
        assert f"version {platform.python_version()} ({arn})" in answer["Error"]["Message"]
        assert f"this host has {other}." in answer["Error"]["Message"]
        assert not [i for i in running.state()["instances"] if (i["function"], i["version"]) == ("held", "$LATEST")]
        assert provisioned(client)[0] == "FAILED"
        assert provisioned(client)[1].startswith(f"INVALID_RUNTIME: The function is held to {OWN_RUNTIME} version {platform.python_version()}")
        assert not [i for i in running.state()["instances"] if i["function"] == "ready"]
        for name, qualifier in (("held", "$LATEST"), ("ready", "1")):
            client.put_runtime_management_config(FunctionName=name, Qualifier=qualifier, UpdateRuntimeOn="Auto")
        assert client.invoke(FunctionName="held")["Payload"].read() == b"1"
        until(lambda: provisioned(client)[0] == "READY", "its instance stands", 120)
        assert arn_of(client, "held") == arn_of(client, "free") != arn
    finally:
        running.stop()
