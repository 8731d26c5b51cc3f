"""Invocations by alias: who runs is drawn by weight, in the supervisor of a real engine."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from tests.framework.control import refused
from tests.framework.engine import Engine, zip_of

SOURCE = "def f(e, c): return [{n}, c.function_version, c.invoked_function_arn]\n"
ARN = "arn:aws:lambda:us-east-1:000000000000:function:weighted"


def test_an_alias_sends_its_share_to_the_second_version(shared: Engine) -> None:
    client = shared.client()
    shared.deploy("weighted", {"m.py": SOURCE.format(n=1)}, Publish=True)
    client.update_function_code(FunctionName="weighted", ZipFile=zip_of({"m.py": SOURCE.format(n=2)}), Publish=True)
    client.create_alias(FunctionName="weighted", Name="live", FunctionVersion="1")

    def invoke(name: str = "weighted", **more: Any) -> str:
        answer = client.invoke(FunctionName=name, **more)
        number, version, arn = json.loads(answer["Payload"].read())
        assert str(number) == version == answer["ExecutedVersion"]
        assert answer["ResponseMetadata"]["HTTPHeaders"]["x-amz-executed-version"] == version
        assert arn == f"{ARN}:live"
        return version

    assert invoke(Qualifier="live") == "1"
    client.update_alias(FunctionName="weighted", Name="live", RoutingConfig={"AdditionalVersionWeights": {"2": 0.5}})
    # Both sides of a fair coin in 100 throws; that one is missing has a chance of 1 in 10^30.
    seen = Counter(invoke("weighted:live") for _ in range(100))
    assert set(seen) == {"1", "2"}
    client.update_alias(FunctionName="weighted", Name="live", RoutingConfig={"AdditionalVersionWeights": {"2": 1.0}})
    assert {invoke(Qualifier="live") for _ in range(10)} == {"2"}
    client.update_alias(FunctionName="weighted", Name="live", RoutingConfig={"AdditionalVersionWeights": {"2": 0.0}})
    assert {invoke(f"{ARN}:live") for _ in range(10)} == {"1"}
    client.update_alias(FunctionName="weighted", Name="live", FunctionVersion="2", RoutingConfig={})
    assert invoke(Qualifier="live") == "2"
    client.delete_alias(FunctionName="weighted", Name="live")
    gone = refused(client.invoke, FunctionName="weighted", Qualifier="live")
    assert gone == (404, "ResourceNotFoundException", f"Function not found: {ARN}:live")
