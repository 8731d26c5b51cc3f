"""Reserved concurrency, account settings and tags, asked by boto3 over a socket, with a scripted supervisor behind the control plane."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from engine.control import rules
from tests.framework.control import ControlServer, refused
from tests.framework.engine import OWN_RUNTIME, zip_of

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
NOT_FOUND, INVALID, VALIDATION = "ResourceNotFoundException", "InvalidParameterValueException", "ValidationException"
ONLY_FUNCTIONS = (
    "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. "
    "Please specify either a function name or an unqualified function ARN."
)


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    with ControlServer(tmp_path_factory.mktemp("control")) as running:
        running.create("f", Publish=True)
        yield running


def shown(answer: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in answer.items() if k != "ResponseMetadata"}


def test_a_reservation_is_kept_shown_and_told_to_the_supervisor(control: ControlServer) -> None:
    client = control.client()
    assert shown(client.get_function_concurrency(FunctionName="f")) == {}
    assert control.entry("f").get("reserved") is None
    assert shown(client.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=5)) == {"ReservedConcurrentExecutions": 5}
    assert shown(client.get_function_concurrency(FunctionName=f"{ARN}f")) == {"ReservedConcurrentExecutions": 5}
    assert client.get_function(FunctionName="f")["Concurrency"] == {"ReservedConcurrentExecutions": 5}
    assert "Concurrency" not in client.get_function(FunctionName="f", Qualifier="1")
    assert control.entry("f").get("reserved") == 5
    client.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=0)
    assert control.entry("f").get("reserved") == 0
    assert client.delete_function_concurrency(FunctionName="f")["ResponseMetadata"]["HTTPStatusCode"] == 204
    client.delete_function_concurrency(FunctionName="f")
    assert control.entry("f").get("reserved") is None
    assert "Concurrency" not in client.get_function(FunctionName="f")


def test_a_hundred_executions_stay_unreserved(control: ControlServer) -> None:
    client = control.client()
    control.create("g")
    client.put_function_concurrency(FunctionName="g", ReservedConcurrentExecutions=600)
    floor = "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its minimum value of [100]."
    assert refused(client.put_function_concurrency, FunctionName="f", ReservedConcurrentExecutions=301) == (400, INVALID, floor)
    request = urllib.request.Request(
        f"{control.url}/2017-10-31/functions/f/concurrency", b'{"ReservedConcurrentExecutions": 301}', method="PUT"
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=5)
    assert caught.value.read() == f'{{"message":"{floor}"}}'.encode()
    client.put_function_concurrency(FunctionName="f", ReservedConcurrentExecutions=300)
    client.put_function_concurrency(FunctionName="g", ReservedConcurrentExecutions=500)
    assert client.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"] == 200
    client.delete_function(FunctionName="g")
    assert client.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"] == 700
    client.delete_function_concurrency(FunctionName="f")


def test_reservations_belong_to_functions_that_are_there(control: ControlServer) -> None:
    client = control.client()
    missing = f"Function not found: {ARN}nobody"
    assert refused(client.put_function_concurrency, FunctionName="nobody", ReservedConcurrentExecutions=5000) == (404, NOT_FOUND, f"{missing}:$LATEST")
    assert refused(client.get_function_concurrency, FunctionName="nobody") == (404, NOT_FOUND, missing)
    assert refused(client.delete_function_concurrency, FunctionName="nobody") == (404, NOT_FOUND, missing)
    for name in ("f:1", f"{ARN}f:$LATEST", "f:live"):
        assert refused(client.put_function_concurrency, FunctionName=name, ReservedConcurrentExecutions=1) == (400, INVALID, ONLY_FUNCTIONS)
        assert refused(client.get_function_concurrency, FunctionName=name)[2] == ONLY_FUNCTIONS
        assert refused(client.delete_function_concurrency, FunctionName=name)[2] == ONLY_FUNCTIONS
    low = refused(client.put_function_concurrency, FunctionName="f", ReservedConcurrentExecutions=-1)
    assert low[1:] == (
        VALIDATION,
        "1 validation error detected: Value '-1' at 'reservedConcurrentExecutions' failed to satisfy constraint: "
        "Member must have value greater than or equal to 0",
    )


def test_loops_are_ended_unless_the_function_allows_them(control: ControlServer) -> None:
    client = control.client()
    assert shown(client.get_function_recursion_config(FunctionName="f")) == {"RecursiveLoop": "Terminate"}
    assert not control.entry("f").get("may_loop")
    assert shown(client.put_function_recursion_config(FunctionName="f", RecursiveLoop="Allow")) == {"RecursiveLoop": "Allow"}
    assert client.get_function_recursion_config(FunctionName=f"{ARN}f")["RecursiveLoop"] == "Allow"
    assert control.entry("f").get("may_loop") is True
    assert client.put_function_recursion_config(FunctionName="f", RecursiveLoop="Terminate")["RecursiveLoop"] == "Terminate"
    assert not control.entry("f").get("may_loop")
    assert refused(client.put_function_recursion_config, FunctionName="f", RecursiveLoop="Sometimes") == (
        400,
        VALIDATION,
        "1 validation error detected: Value 'Sometimes' at 'recursiveLoop' failed to satisfy constraint: "
        "Member must satisfy enum value set: [Terminate, Allow]",
    )
    assert refused(client.get_function_recursion_config, FunctionName="f:1")[1] == VALIDATION
    for call, more in ((client.get_function_recursion_config, {}), (client.put_function_recursion_config, {"RecursiveLoop": "Allow"})):
        assert refused(call, FunctionName="nobody", **more) == (404, NOT_FOUND, f"Function not found: {ARN}nobody")


def test_functions_run_on_the_runtime_the_host_has(control: ControlServer) -> None:
    client = control.client()
    auto = {"UpdateRuntimeOn": "Auto"}
    assert shown(client.get_runtime_management_config(FunctionName="f")) == {**auto, "FunctionArn": f"{ARN}f"}
    assert shown(client.get_runtime_management_config(FunctionName="f", Qualifier="1")) == {**auto, "FunctionArn": f"{ARN}f:1"}
    assert shown(client.put_runtime_management_config(FunctionName="f", **auto)) == {**auto, "FunctionArn": f"{ARN}f"}
    version = client.get_function_configuration(FunctionName="f")["RuntimeVersionConfig"]["RuntimeVersionArn"]
    other = version[:-64] + "0" * 64
    for members, code, text in (
        ({"UpdateRuntimeOn": "Manual", "RuntimeVersionArn": other}, INVALID, f"The runtime version {other} is not available: the {OWN_RUNTIME} of this host"),
        ({"UpdateRuntimeOn": "Manual"}, INVALID, "RuntimeVersionArn is required when UpdateRuntimeOn is Manual."),
        ({**auto, "RuntimeVersionArn": version}, INVALID, "RuntimeVersionArn can be given only when UpdateRuntimeOn is Manual."),
        ({**auto, "Qualifier": "7"}, NOT_FOUND, f"Function not found: {ARN}f:7"),
        ({**auto, "FunctionName": "nobody"}, NOT_FOUND, f"Function not found: {ARN}nobody"),
    ):
        answer = refused(client.put_runtime_management_config, **{"FunctionName": "f", **members})
        assert answer[1] == code
        assert text in answer[2]
    assert refused(client.get_runtime_management_config, FunctionName="f", Qualifier="7")[2] == f"Function not found: {ARN}f:7"


def test_account_settings_add_up_every_version(control: ControlServer) -> None:
    mine = control.client("222222222222")
    assert mine.get_account_settings()["AccountUsage"] == {"TotalCodeSize": 0, "FunctionCount": 0}
    package = zip_of({"m.py": "def f(e, c): return 1\n"})
    given = {"Role": "arn:aws:iam::222222222222:role/r", "Runtime": OWN_RUNTIME, "Handler": "m.f", "Code": {"ZipFile": package}}
    mine.create_function(FunctionName="a", Publish=True, **given)
    mine.create_function(FunctionName="b", **given)
    mine.update_function_configuration(FunctionName="a", Timeout=9)
    assert mine.get_account_settings()["AccountUsage"] == {"TotalCodeSize": 3 * len(package), "FunctionCount": 2}
    mine.publish_version(FunctionName="a")
    assert shown(mine.get_account_settings()) == {
        "AccountLimit": {
            "TotalCodeSize": 80530636800,
            "CodeSizeUnzipped": 262144000,
            "CodeSizeZipped": 52428800,
            "ConcurrentExecutions": 1000,
            "UnreservedConcurrentExecutions": 1000,
        },
        "AccountUsage": {"TotalCodeSize": 4 * len(package), "FunctionCount": 2},
    }


def test_code_beyond_the_accounts_storage_is_refused_and_publishing_counts_twice(
    control: ControlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = control.client("333333333333")
    package = zip_of({"m.py": "def f(e, c): return 1\n"})
    monkeypatch.setattr(rules, "MAX_STORED_BYTES", 3 * len(package) + 5)
    given = {"Role": "arn:aws:iam::333333333333:role/r", "Runtime": OWN_RUNTIME, "Handler": "m.f", "Code": {"ZipFile": package}}
    mine.create_function(FunctionName="a", Publish=True, **given)
    exceeded = (400, "CodeStorageExceededException", "Code storage limit exceeded.")
    assert refused(mine.create_function, FunctionName="b", Publish=True, **given) == exceeded
    mine.create_function(FunctionName="b", **given)
    assert refused(mine.publish_version, FunctionName="b") == exceeded
    assert refused(mine.update_function_code, FunctionName="b", ZipFile=package, Publish=True) == exceeded
    mine.update_function_code(FunctionName="b", ZipFile=package)
    assert mine.get_account_settings()["AccountUsage"] == {"TotalCodeSize": 3 * len(package), "FunctionCount": 2}
    mine.delete_function(FunctionName="a", Qualifier="1")
    mine.publish_version(FunctionName="b")


def test_tags_are_added_replaced_and_removed(control: ControlServer) -> None:
    client = control.client()
    assert shown(client.list_tags(Resource=f"{ARN}f")) == {"Tags": {}}
    revision = client.get_function_configuration(FunctionName="f")["RevisionId"]
    assert client.tag_resource(Resource=f"{ARN}f", Tags={"a": "1", "b": "2"})["ResponseMetadata"]["HTTPStatusCode"] == 204
    client.tag_resource(Resource=f"{ARN}f", Tags={"b": "3"})
    assert client.list_tags(Resource=f"{ARN}f")["Tags"] == {"a": "1", "b": "3"}
    assert client.get_function(FunctionName="f")["Tags"] == {"a": "1", "b": "3"}
    assert client.get_function_configuration(FunctionName="f")["RevisionId"] != revision
    assert client.untag_resource(Resource=f"{ARN}f", TagKeys=["a", "unknown"])["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert client.list_tags(Resource=f"{ARN}f")["Tags"] == {"b": "3"}
    client.untag_resource(Resource=f"{ARN}f", TagKeys=["b"])
    assert "Tags" not in client.get_function(FunctionName="f")


def test_what_cannot_be_tagged_is_refused_in_awss_words(control: ControlServer) -> None:
    client = control.client()
    mapping = ARN.replace("function:", "event-source-mapping:") + "01234567-89ab-cdef-0123-456789abcdef"
    signing = ARN.replace("function:", "code-signing-config:csc-0123456789abcdefg")
    provider = ARN.replace("function:", "capacity-provider:") + "p"
    for resource, answer in (
        (f"{ARN}nobody", (404, NOT_FOUND, f"Function not found: {ARN}nobody")),
        (mapping, (404, NOT_FOUND, f"Event source mapping not found: {mapping}")),
        (signing, (404, NOT_FOUND, f"The Lambda code signing configuration {signing} can not be found.")),
        (provider, (404, NOT_FOUND, f"Capacity provider not found: {provider}")),
        (f"{ARN}f:1", (400, INVALID, "Tags on function aliases and versions are not supported. Please specify a function ARN.")),
    ):
        assert refused(client.tag_resource, Resource=resource, Tags={"a": "b"}) == answer
        assert refused(client.untag_resource, Resource=resource, TagKeys=["a"]) == answer
        assert refused(client.list_tags, Resource=resource) == answer
    assert refused(client.tag_resource, Resource=f"{ARN}f", Tags={}) == (400, INVALID, "An error occurred and the request cannot be processed.")
    many = {f"k{n}": "v" for n in range(51)}
    assert refused(client.tag_resource, Resource=f"{ARN}f", Tags=many) == (400, INVALID, "Number of tags exceeds resource tag limit.")
    assert refused(client.untag_resource, Resource=f"{ARN}f", TagKeys=[]) == (
        400, VALIDATION, "1 validation error detected: Value null at 'tagKeys' failed to satisfy constraint: Member must not be null",
    )  # fmt: skip
    assert refused(client.list_tags, Resource="f")[1] == VALIDATION
    assert client.list_tags(Resource=f"{ARN}f")["Tags"] == {}
