"""Functions of images that are not here yet: fetched from a registry that the operator has named, as Lambda fetches them from its own."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError, WaiterError

from tests.framework import host, images
from tests.framework.control import refused
from tests.framework.engine import ROLE, Engine, engine
from tests.framework.images import Layer
from tests.framework.registry import registry

HOST = "000000000000.dkr.ecr.us-east-1.amazonaws.com"
APP = f"{HOST}/team/app"
ACCESS = "Lambda does not have permission to access the ECR image. Check the ECR permissions."


class Rig(NamedTuple):
    """An engine, the registry it asks, and the digests of two versions of an image there."""

    engine: Engine
    registry: Any
    digests: list[str]

    def create(self, name: str, tag: str) -> dict[str, Any]:
        given = {"FunctionName": name, "Role": ROLE, "PackageType": "Image", "Code": {"ImageUri": f"{APP}:{tag}"}, "Timeout": 30}
        return dict(self.engine.client().create_function(**given, MemorySize=256))

    def invoke(self, name: str) -> Any:
        return json.loads(self.engine.client().invoke(FunctionName=name, Payload=b'{"op":"echo"}')["Payload"].read())


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    host.require("not root")
    layers, config = images.python_layers()
    first, one = images.blobs_of(layers, config)
    second, two = images.blobs_of([*layers, Layer().add("function/client.py", "def handler(event, context):\n    return 2\n").bytes()], config)
    with registry({**first, **second}, {"1": one, "moving": one, "2": two}) as server, engine(image_registries={HOST: server.url}) as running:
        yield Rig(running, server, [one[7:], two[7:]])


def test_a_function_is_pending_while_its_image_comes(rig: Rig) -> None:
    client = rig.engine.client()
    # One that was never here before, also when this runs a second time.
    name = f"fetched-{uuid.uuid4().hex[:8]}"
    layers, config = images.python_layers()
    blobs, digest = images.blobs_of([*layers, Layer().add(f"function/{name}", "").bytes()], config)
    rig.registry.blobs.update(blobs)
    rig.registry.tags.update({name: digest, f"{name}-too": digest})
    rig.registry.gate.clear()
    try:
        answer = rig.create(name, name)
        assert (answer["State"], answer["StateReasonCode"], answer["CodeSha256"]) == ("Pending", "Creating", digest[7:])
        shown = client.get_function_configuration(FunctionName=name)
        assert (shown["State"], shown["StateReason"], shown["StateReasonCode"]) == ("Pending", "The function is being created.", "Creating")
        assert "LastUpdateStatus" not in shown
        status, code, message = refused(client.invoke, FunctionName=name)
        assert (status, code) == (409, "ResourceConflictException")
        assert message.endswith("The function is currently in the following state: Pending")
    finally:
        rig.registry.gate.set()
    client.get_waiter("function_active_v2").wait(FunctionName=name)
    assert rig.invoke(name) == {"op": "echo"}
    found = client.get_function(FunctionName=name)
    assert found["Code"]["ResolvedImageUri"] == f"{APP}@{digest}"
    # Once here it is not fetched again.
    came = len([path for path, _ in rig.registry.came if path.startswith("/elsewhere/")])
    rig.create(f"{name}-too", f"{name}-too")
    client.get_waiter("function_active_v2").wait(FunctionName=f"{name}-too")
    assert len([path for path, _ in rig.registry.came if path.startswith("/elsewhere/")]) == came


def test_a_tag_is_looked_up_at_every_update(rig: Rig) -> None:
    client = rig.engine.client()
    rig.create("moved", "moving")
    client.get_waiter("function_active_v2").wait(FunctionName="moved")
    rig.registry.tags["moving"] = rig.registry.tags["2"]
    assert client.update_function_code(FunctionName="moved", ImageUri=f"{APP}:moving")["CodeSha256"] == rig.digests[1]
    assert rig.invoke("moved") == 2


def test_what_a_registry_does_not_have_or_show_is_said_at_once(rig: Rig) -> None:
    with pytest.raises(ClientError, match=f"Source image {APP}:none does not exist. Provide a valid source image."):
        rig.create("none", "none")
    rig.registry.refused["manifests"] = 403
    try:
        with pytest.raises(ClientError, match=ACCESS):
            rig.create("not-shown", "1")
    finally:
        rig.registry.refused.clear()
    with pytest.raises(ClientError, match="does not exist"):
        rig.engine.client().create_function(
            FunctionName="other", Role=ROLE, PackageType="Image", Code={"ImageUri": "other.example.com/team/app:1"}
        )


@pytest.mark.parametrize(("fault", "code"), [("damaged", "InvalidImage"), ("denied", "ImageAccessDenied")])
def test_an_image_that_does_not_come_makes_the_function_failed(rig: Rig, fault: str, code: str) -> None:
    client = rig.engine.client()
    blobs, digest = images.blobs_of([Layer().add(f"function/{fault}.py", "").bytes()], {"Cmd": ["/x"]})
    rig.registry.blobs.update(blobs)
    rig.registry.tags[fault] = digest
    layer = json.loads(blobs[digest])["layers"][0]["digest"]
    if fault == "damaged":
        rig.registry.blobs[layer] = blobs[layer][:-1] + b"?"
    else:
        rig.registry.refused["blobs"] = 403
    try:
        rig.create(fault, fault)
        with pytest.raises(WaiterError, match="Failed"):
            client.get_waiter("function_active_v2").wait(FunctionName=fault)
    finally:
        rig.registry.refused.clear()
    shown = client.get_function_configuration(FunctionName=fault)
    assert (shown["State"], shown["StateReasonCode"]) == ("Failed", code)
    assert ("came damaged" in shown["StateReason"]) == (fault == "damaged")
    assert refused(client.invoke, FunctionName=fault)[2].endswith("state: Failed")
    # Uploaded whole it is fetched again.
    rig.registry.blobs.update(blobs)
    client.update_function_code(FunctionName=fault, ImageUri=f"{APP}:{fault}")
    assert client.get_function_configuration(FunctionName=fault)["State"] == "Active"
