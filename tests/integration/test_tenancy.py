"""Functions that keep their tenants apart: instances, refusals, logs and every way in, with boto3 on a real engine."""

from __future__ import annotations

import base64
import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engine.client import Client
from engine.client.errors import ApiError
from tests.framework.apis import RestApi, call, let_in
from tests.framework.control import refused
from tests.framework.engine import OWN_RUNTIME, ROLE, Engine, engine
from tests.framework.wait import until

APART: Any = {"TenancyConfig": {"TenantIsolationMode": "PER_TENANT"}}
REMEMBERS = """
import logging, os
seen = []
def f(event, context):
    seen.append(context.tenant_id)
    with open("/tmp/seen", "a") as file:
        file.write(context.tenant_id + "\\n")
    logging.getLogger().error("worked for somebody")
    return [seen, open("/tmp/seen").read().split("\\n")[:-1], context.function_version]
"""
STREAMS = """
def f(event, context):
    return {"statusCode": 200, "body": context.tenant_id}
"""
MISSING = "The invoked function is enabled with tenancy configuration. Add a valid tenant ID in your request and try again."
UNWANTED = "The invoked function is not enabled with tenancy configuration. Remove the tenant ID from your request and try again."


@pytest.fixture(scope="module")
def apart(shared: Engine) -> str:
    """A function that remembers whom it worked for, with JSON logs."""
    answer = shared.deploy("tenants-apart", {"m.py": REMEMBERS}, LoggingConfig={"LogFormat": "JSON"}, **APART)
    assert answer["TenancyConfig"] == APART["TenancyConfig"]
    return str(answer["FunctionName"])


def invoke(target: Engine, name: str, tenant: str | None, **options: Any) -> Any:
    more = {} if tenant is None else {"TenantId": tenant}
    answer = target.client().invoke(FunctionName=name, **more, **options)
    assert "FunctionError" not in answer, answer["Payload"].read()
    return json.loads(answer["Payload"].read())


def test_no_instance_ever_serves_two_tenants(shared: Engine, apart: str) -> None:
    # Letters of every kind that a tenant may have, and one as long as it may be.
    tenants = ["blue", "Green._:/=+-@ 1", "x" * 256]
    for _ in range(3):
        for tenant in tenants:
            memory, disk, _ = invoke(shared, apart, tenant)
            assert set(memory) == {tenant}
            assert set(disk) == {tenant}
    # The others' may have made room by now.
    state = shared.state()
    (found,) = [f for f in state["functions"] if f["name"] == apart]
    shown = found["versions"]["$LATEST"]
    assert tenants[-1] in shown["tenants"]
    assert tenants[-1] in [i["tenant"] for i in state["instances"] if i["function"] == apart]
    assert shown["idle"] == sum(t["idle"] for t in shown["tenants"].values()) > 0


def test_the_configuration_says_so_everywhere_and_does_not_change(shared: Engine, apart: str) -> None:
    client = shared.client()
    wanted = APART["TenancyConfig"]
    assert client.get_function_configuration(FunctionName=apart)["TenancyConfig"] == wanted
    assert client.update_function_configuration(FunctionName=apart, Timeout=7)["TenancyConfig"] == wanted
    published = client.publish_version(FunctionName=apart)
    assert published["TenancyConfig"] == wanted
    pages = client.get_paginator("list_functions").paginate()
    assert [f["TenancyConfig"] for page in pages for f in page["Functions"] if f["FunctionName"] == apart] == [wanted]
    memory, _, version = invoke(shared, apart, "versioned", Qualifier=published["Version"])
    assert (memory, version) == (["versioned"], published["Version"])


def test_a_tenant_is_named_just_where_one_must_be(shared: Engine, apart: str) -> None:
    client = shared.client()
    shared.deploy("tenants-none", {"m.py": "def f(e, c): return c.tenant_id\n"})
    assert invoke(shared, "tenants-none", None) is None
    kinds: list[dict[str, Any]] = [{}, {"InvocationType": "Event"}, {"InvocationType": "DryRun"}]
    for kind in kinds:
        assert refused(client.invoke, FunctionName=apart, **kind) == (400, "InvalidParameterValueException", MISSING)
        assert refused(client.invoke, FunctionName="tenants-none", TenantId="t", **kind) == (400, "InvalidParameterValueException", UNWANTED)
    assert refused(client.invoke_async, FunctionName=apart, InvokeArgs=b"{}")[1:] == ("InvalidParameterValueException", MISSING)
    assert refused(client.invoke_with_response_stream, FunctionName=apart)[1:] == ("InvalidParameterValueException", MISSING)
    assert client.invoke(FunctionName=apart, TenantId="t", InvocationType="DryRun")["StatusCode"] == 204
    with Client(shared.run_dir() / "engine.sock") as binary:
        assert json.loads(binary.invoke(apart, tenant_id="by frames").payload)[0] == ["by frames"]
        # By now calls like these take the compiled lane, where there is one; those with a tenant do not.
        assert [binary.invoke("tenants-none").payload for _ in range(3)] == [b"null"] * 3
        for function, tenant, message in ((apart, None, MISSING), ("tenants-none", "t", UNWANTED), (apart, "t\n", "at 'tenantId'")):
            with pytest.raises(ApiError, match=message.partition(".")[0]):
                binary.invoke(function, tenant_id=tenant)


def test_what_lambda_excludes_is_refused(shared: Engine, apart: str) -> None:
    client = shared.client()
    ends = "is not supported for functions enabled with tenancy configuration"
    url = refused(client.create_function_url_config, FunctionName=apart, AuthType="NONE")
    assert url == (400, "InvalidParameterValueException", f"Function URL {ends}")
    version = client.publish_version(FunctionName=apart)["Version"]
    provisioned = refused(client.put_provisioned_concurrency_config, FunctionName=apart, Qualifier=version, ProvisionedConcurrentExecutions=1)
    assert provisioned[1:] == ("InvalidParameterValueException", f"Provisioned concurrency {ends}")
    queue = "arn:aws:sqs:us-east-1:000000000000:tenants"
    source = refused(client.create_event_source_mapping, FunctionName=apart, EventSourceArn=queue)
    assert source[1:] == ("InvalidParameterValueException", f"An event source mapping {ends}")
    snap = {"SnapStart": {"ApplyOn": "PublishedVersions"}}
    assert refused(client.update_function_configuration, FunctionName=apart, **snap)[1:] == ("InvalidParameterValueException", f"SnapStart {ends}")


def test_logs_say_whom_an_invocation_was_for(shared: Engine, apart: str) -> None:
    answer = shared.client().invoke(FunctionName=apart, TenantId="logged", LogType="Tail")
    lines = [json.loads(line) for line in base64.b64decode(answer["LogResult"]).splitlines()]
    platform = {line["type"]: line["record"] for line in lines if "type" in line}
    assert platform["platform.start"]["tenantId"] == platform["platform.report"]["tenantId"] == "logged"
    assert [line["tenantId"] for line in lines if line.get("message") == "worked for somebody"] == ["logged"]


def test_asynchronous_invocations_and_streams_carry_the_tenant(shared: Engine, apart: str) -> None:
    accepted = shared.client().invoke(FunctionName=apart, TenantId="later", InvocationType="Event")
    assert accepted["StatusCode"] == 202
    request_id = accepted["ResponseMetadata"]["RequestId"]
    logs = shared.client("logs")

    def told() -> Any:
        events = logs.filter_log_events(logGroupName=f"/aws/lambda/{apart}", filterPattern=f'"{request_id}"')["events"]
        records = [json.loads(e["message"]) for e in events]
        return next((r["record"]["tenantId"] for r in records if r.get("type") == "platform.report"), None)

    assert until(told, "the event was run", 120) == "later"
    stream = shared.client().invoke_with_response_stream(FunctionName=apart, TenantId="streamed")["EventStream"]
    payload = b"".join(e["PayloadChunk"]["Payload"] for e in stream if "PayloadChunk" in e)
    assert json.loads(payload)[0] == ["streamed"]


def test_a_rest_api_maps_the_tenant_of_a_request(shared: Engine) -> None:
    shared.deploy("tenants-api", {"m.py": STREAMS}, **APART)
    let_in(shared, "tenants-api", "*/*")
    api = RestApi(shared, "tenants")
    header, claim = "integration.request.header.X-Amz-Tenant-Id", "method.request.querystring.whose"
    api.method("GET", "/mapped", "tenants-api", {"requestParameters": {header: claim}}, requestParameters={claim: False})
    api.method("GET", "/fixed", "tenants-api", {"requestParameters": {header: "'always'"}})
    api.method("GET", "/plain", "tenants-api")
    api.deploy()
    assert (call(shared, api.host, "/prod/mapped?whose=blue").body, call(shared, api.host, "/prod/fixed").body) == (b"blue", b"always")
    for path in ("/prod/mapped", "/prod/plain"):
        answer = call(shared, api.host, path, X_Amz_Tenant_Id="sneaked in")
        assert (answer.status, answer.json()) == (400, {"message": MISSING})
    assert call(shared, api.host, "/prod/mapped?whose=%23").status == 400


def test_a_template_makes_one_and_another_mode_replaces_it(shared: Engine) -> None:
    cloudformation = shared.client("cloudformation")

    def template(apart: dict[str, Any]) -> str:
        code = {"ZipFile": "def f(e, c): return c.tenant_id\n"}
        properties = {"Role": ROLE, "Handler": "index.f", "Runtime": OWN_RUNTIME, "Code": code, **apart}
        return json.dumps({"Resources": {"F": {"Type": "AWS::Lambda::Function", "Properties": properties}}})

    def made() -> str:
        return str(cloudformation.describe_stack_resource(StackName="tenants", LogicalResourceId="F")["StackResourceDetail"]["PhysicalResourceId"])

    cloudformation.create_stack(StackName="tenants", TemplateBody=template(APART))
    cloudformation.get_waiter("stack_create_complete").wait(StackName="tenants", WaiterConfig={"Delay": 1, "MaxAttempts": 120})
    try:
        first = made()
        assert invoke(shared, first, "blue") == "blue"
        cloudformation.update_stack(StackName="tenants", TemplateBody=template({}))
        cloudformation.get_waiter("stack_update_complete").wait(StackName="tenants", WaiterConfig={"Delay": 1, "MaxAttempts": 120})
        assert made() != first
        assert invoke(shared, made(), None) is None
    finally:
        cloudformation.delete_stack(StackName="tenants")
        cloudformation.get_waiter("stack_delete_complete").wait(StackName="tenants", WaiterConfig={"Delay": 1, "MaxAttempts": 120})


CROWDED = """
import os, time
seen = set()
def f(event, context):
    seen.add(context.tenant_id)
    open("/tmp/of-" + context.tenant_id, "w").close()
    if event == "die":
        os._exit(3)
    time.sleep(0.005)
    return [sorted(seen), [name for name in os.listdir("/tmp") if name.startswith("of-")]]
"""


@pytest.mark.slow
@pytest.mark.parametrize("places", ["1", "3"])
def test_no_crowd_crash_or_want_of_room_brings_two_tenants_together(places: str) -> None:
    """More tenants than the host has instances for: they wait, make room for each other, and some crash."""
    with engine(max_instances=6, pool_size=2) as running:
        running.deploy("crowd", {"m.py": CROWDED}, Timeout=60, Tags={"lambda-engine:max-concurrency": places}, **APART)
        client = running.client()

        def one(number: int) -> list[Any] | None:
            chance = random.Random(number)
            tenant = f"t{chance.randrange(12)}"
            event = "die" if chance.random() < 0.03 else "work"
            try:
                answer = client.invoke(FunctionName="crowd", TenantId=tenant, Payload=json.dumps(event))
            except client.exceptions.TooManyRequestsException:
                return None
            payload = json.load(answer["Payload"])
            if "FunctionError" in answer:
                # It crashed, or whom it shared an instance with did.
                return None
            assert payload == [[tenant], [f"of-{tenant}"]]
            return [tenant]

        with ThreadPoolExecutor(16) as pool:
            worked = [tenant for tenant in pool.map(one, range(400)) if tenant is not None]
        assert len({tenant for (tenant,) in worked}) > 6, "there were more tenants than instances"
