"""Listings an item at a time: SDKs' paginators meet what one request gives, in its order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.framework.control import ControlServer, refused
from tests.framework.engine import zip_of

FUNCTION = "paged-b"
PROFILE = "arn:aws:signer:us-east-1:000000000000:/signing-profiles/paged/abcdefghij"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    with ControlServer(tmp_path_factory.mktemp("pages")) as control:
        client = control.client()
        for letter in "abc":
            control.create(f"paged-{letter}")
            client.publish_layer_version(LayerName=f"layer-{letter}", Content={"ZipFile": zip_of({"a.txt": letter})})
            client.publish_layer_version(LayerName="layer-b", Content={"ZipFile": zip_of({"b.txt": letter})})
            client.create_code_signing_config(AllowedPublishers={"SigningProfileVersionArns": [PROFILE]})
        for letter in "xyz":
            client.update_function_configuration(FunctionName=FUNCTION, Description=letter)
            version = client.publish_version(FunctionName=FUNCTION)["Version"]
            client.put_provisioned_concurrency_config(FunctionName=FUNCTION, Qualifier=version, ProvisionedConcurrentExecutions=1)
            client.create_alias(FunctionName=FUNCTION, Name=letter, FunctionVersion=version)
            client.put_function_event_invoke_config(FunctionName=FUNCTION, Qualifier=letter, MaximumRetryAttempts=0)
            client.create_function_url_config(FunctionName=FUNCTION, Qualifier=letter, AuthType="NONE")
        signing = client.list_code_signing_configs()["CodeSigningConfigs"][0]["CodeSigningConfigArn"]
        for letter in "abc":
            client.put_function_code_signing_config(FunctionName=f"paged-{letter}", CodeSigningConfigArn=signing)
        yield control


@pytest.mark.parametrize(
    ("operation", "key", "count"),
    [
        ("list_functions", "Functions", 3),
        ("list_versions_by_function", "Versions", 4),
        ("list_aliases", "Aliases", 3),
        ("list_layers", "Layers", 3),
        ("list_layer_versions", "LayerVersions", 4),
        ("list_function_event_invoke_configs", "FunctionEventInvokeConfigs", 3),
        ("list_function_url_configs", "FunctionUrlConfigs", 3),
        ("list_provisioned_concurrency_configs", "ProvisionedConcurrencyConfigs", 3),
        ("list_code_signing_configs", "CodeSigningConfigs", 3),
        ("list_functions_by_code_signing_config", "FunctionArns", 3),
    ],
)
def test_pages_of_one_item_are_the_list(filled: ControlServer, operation: str, key: str, count: int) -> None:
    client = filled.client()
    named = set(client.meta.service_model.operation_model(client.meta.method_to_api_mapping[operation]).input_shape.members)
    signing = client.list_code_signing_configs()["CodeSigningConfigs"][0]["CodeSigningConfigArn"]
    known = {"FunctionName": FUNCTION, "LayerName": "layer-b", "CodeSigningConfigArn": signing}
    wanted = {member: value for member, value in known.items() if member in named}
    whole = getattr(client, operation)(**wanted)[key]
    pages = [page[key] for page in client.get_paginator(operation).paginate(PaginationConfig={"PageSize": 1}, **wanted)]
    assert (len(whole), [item for page in pages for item in page]) == (count, whole)
    assert {len(page) for page in pages} == {1}
    call = getattr(client, operation)
    foreign = client.list_layers(MaxItems=1) if operation != "list_layers" else client.list_functions(MaxItems=1)
    for marker in ("gone", foreign["NextMarker"]):
        assert refused(call, Marker=marker, **wanted)[:2] == (400, "InvalidParameterValueException")
    if "FunctionName" in wanted:
        marker = call(MaxItems=1, **wanted)["NextMarker"]
        assert refused(call, **{**wanted, "FunctionName": "paged-a"}, Marker=marker)[:2] == (400, "InvalidParameterValueException")
    status, code, message = refused(call, MaxItems=0, **wanted)
    assert (status, code) == (400, "ValidationException")
    assert message.startswith("1 validation error detected: Value '0' at 'maxItems' failed to satisfy constraint: Member must have value ")
