"""Valid requests of every operation served, over a socket: what answers is a modelled answer, in the model's own terms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.protocol.model import Shape, load
from engine.protocol.patterns import compile_pattern
from tests.framework.constraints import baseline, fits
from tests.framework.control import ControlServer
from tests.framework.engine import OWN_RUNTIME, ROLE, zip_of
from tests.framework.raw import SERVICE, Answer, RawClient
from tests.property.test_control_constraints import NAMES

MODEL = load()
ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
LAYER = "arn:aws:lambda:us-east-1:000000000000:layer:"
PACKAGE = zip_of({"m.py": "def f(e, c): return 1\n"})
# Common to all AWS services, or this engine's own (501).
COMMON = {"AccessDeniedException", "NotImplementedException"}
FORMS = ("{}", "function:{}", "000000000000:function:{}", "us-east-1:000000000000:function:{}", ARN + "{}", "000000000000:{}")
THERE, GONE = ("there", "other"), ("nobody", "no-one")
QUALIFIERS = st.sampled_from(["$LATEST", "1", "live", "7", "none"])
NAMED = st.builds(lambda form, name: form.format(name), st.sampled_from(FORMS), st.sampled_from(THERE + GONE))
# Where any string of the right form would nearly always mean nothing.
MEANINGFUL: dict[str, st.SearchStrategy[Any]] = {
    "FunctionName": NAMED | st.builds("{}:{}".format, NAMED, QUALIFIERS),
    "NamespacedFunctionName": NAMED | st.builds("{}:{}".format, NAMED, QUALIFIERS),
    "UnqualifiedFunctionName": NAMED,
    "FunctionUrlFunctionName": NAMED,
    "NumericLatestPublishedOrAliasQualifier": QUALIFIERS,
    "Qualifier": QUALIFIERS,
    "FunctionUrlQualifier": st.sampled_from(["live", "none"]),
    "Alias": st.sampled_from(["live", "new", "none"]),
    "Version": st.sampled_from(["$LATEST", "1", "7"]),
    "VersionWithLatestPublished": st.sampled_from(["$LATEST", "1", "7"]),
    "AdditionalVersion": st.sampled_from(["1", "2", "7"]),
    "RoleArn": st.just(ROLE),
    "Handler": st.just("m.f"),
    "Runtime": st.sampled_from([OWN_RUNTIME, "python2.7", "nodejs22.x"]),
    "Blob": st.sampled_from([PACKAGE, b"no zip", b""]),
    "Timeout": st.integers(1, 900),
    "MemorySize": st.integers(128, 10240),
    "LayerName": st.sampled_from(["l", "none", LAYER + "l"]),
    "LayerVersionNumber": st.integers(-1, 3),
    "LayerVersionArn": st.sampled_from([LAYER + "l:1", LAYER + "l:7", LAYER + "none:1"]),
    "TaggableResource": st.sampled_from([ARN + "there", ARN + "nobody", ARN + "there:1"]),
    "TagKey": st.sampled_from(["a", "team", "x:y"]),
    "TagKeyList": st.lists(st.sampled_from(["a", "team", "x:y"]), min_size=1, max_size=3),
    "TagValue": st.sampled_from(["", "v"]),
    "PolicyResourceArn": st.sampled_from([ARN + "there", ARN + "nobody", ARN + "there:1", ARN + "there:live"]),
    "StatementId": st.sampled_from(["s", "t"]),
    "NamespacedStatementId": st.sampled_from(["s", "t"]),
    "Principal": st.sampled_from(["*", "s3.amazonaws.com", "000000000000", "nobody"]),
    # A key needs the service: test_sealed_environments, test_sealed_filters, test_sealed_packages.
    "KMSKeyArn": st.just(""),
    # Reading packages from S3 needs the service: test_control_s3.
    "S3Bucket": st.nothing(),
}
# Recorded answers that are not as the model says.
RECORDED = {
    "GetFunctionCodeSigningConfig.CodeSigningConfigArn is missing",
    *(
        f"{name}.LastUpdateStatusReasonCode: Creating is not of the enumeration"
        for name in ("UpdateFunctionCode", "UpdateFunctionConfiguration")
    ),
}
NUMBERS = {"integer": 1 << 20, "long": 1 << 40}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawClient]:
    with ControlServer(tmp_path_factory.mktemp("control")) as server:
        for name in THERE:
            server.create(name, Publish=True)
        api = server.client()
        api.create_alias(FunctionName="there", Name="live", FunctionVersion="1")
        api.publish_layer_version(LayerName="l", Content={"ZipFile": PACKAGE})
        made = RawClient(server.url)
        yield made
        made.close()


def values(shape: Shape, inside: tuple[str, ...] = ()) -> st.SearchStrategy[Any]:
    """Values that satisfy every constraint of the shape."""
    known = MEANINGFUL.get(shape.name)
    if known is not None:
        return known
    low, high = shape.minimum or 0, shape.maximum
    if shape.kind == "structure":
        members = {n: values(m, (*inside, shape.name)) for n, m in shape.members.items() if m.name not in inside}
        members = {n: s for n, s in members.items() if not s.is_empty}
        return st.fixed_dictionaries(
            {n: s for n, s in members.items() if n in shape.required}, optional={n: s for n, s in members.items() if n not in shape.required}
        )
    if shape.kind == "list":
        return st.lists(values(shape.item, inside), min_size=int(low), max_size=int(min(3, high if high is not None else 3)))
    if shape.kind == "map":
        return st.dictionaries(values(shape.key, inside), values(shape.value, inside), min_size=int(low), max_size=2)
    return _scalars(shape, low, high)


def _scalars(shape: Shape, low: float, high: float | None) -> st.SearchStrategy[Any]:
    if shape.kind == "string":
        if shape.enum:
            return st.sampled_from(shape.enum)
        if shape.pattern is not None:
            return st.from_regex(compile_pattern(shape.pattern), fullmatch=True).filter(lambda text: fits(shape, text))
        return st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=int(low), max_size=int(min(60, high or 60)))
    if shape.kind == "boolean":
        return st.booleans()
    if shape.kind == "blob":
        return st.binary(max_size=30)
    if shape.kind in NUMBERS:
        return st.integers(int(low), int(high if high is not None else NUMBERS[shape.kind]))
    return st.floats(low, high if high is not None else 1e6)


def faults(shape: Shape, value: Any, path: str) -> list[str]:
    """What in an answer is not as the model says: members that must be there, enumerations, bounds, patterns."""
    if shape.kind == "structure":
        found = [f"{path}.{name} is missing" for name in shape.required if value.get(name) is None]
        return found + [text for name, item in value.items() for text in faults(shape.members[name], item, f"{path}.{name}")]
    if shape.kind == "list":
        return [text for item in value for text in faults(shape.item, item, f"{path}[]")]
    if shape.kind == "map":
        return [text for key, item in value.items() for text in faults(shape.key, key, path) + faults(shape.value, item, f"{path}.{key}")]
    if shape.enum and value not in shape.enum:
        return [f"{path}: {value} is not of the enumeration"]
    # An empty text stands for "none" in several answers (a VpcId, a Description).
    if shape.kind == "string" and value and not fits(shape, value):
        return [f"{path}: {value!r} does not fit {shape.pattern} {shape.minimum}..{shape.maximum}"]
    return []


def check(name: str, answer: Answer, context: object) -> None:
    """The answer is a success as the model describes it, or one of the errors the model allows the operation."""
    assert answer.headers["x-amzn-requestid"], context
    if answer.status < 300:
        assert not answer.code, context
        output = MODEL.operation(name).output
        assert answer.status == (204 if name == "DeleteFunction" else MODEL.operation(name).status), context
        if output is not None:
            assert set(faults(output, answer.members, name)) <= RECORDED, context
        return
    allowed = {shape.name for shape in SERVICE.operation_model(name).error_shapes}
    assert answer.code in allowed | COMMON, context
    assert answer.code != "ServiceException", context
    assert answer.headers["x-amzn-errortype"] == answer.code, context
    if answer.code in allowed:
        assert answer.status == MODEL.error_status(answer.code), context
        assert ("message" if "message" in MODEL.error_members(answer.code) else "Message").encode() in answer.body, context


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_valid_request_has_a_modelled_answer(client: RawClient, name: str, data: st.DataObject) -> None:
    operation = MODEL.operation(name)
    params = {} if operation.input is None else data.draw(values(operation.input))
    answer = client.call(name, params)
    check(name, answer, (name, params, answer.status, answer.body))


NOT_FOUND = (404, "ResourceNotFoundException")
# What the smallest request for something that is not there is answered, where that is not "not found".
ABSENT: dict[str, tuple[int, str]] = {
    "CreateCodeSigningConfig": (201, ""),
    "ListCodeSigningConfigs": (200, ""),
    "GetAccountSettings": (200, ""),
    "CreateFunction": (400, "InvalidParameterValueException"),
    "DeleteAlias": (204, ""),
    "DeleteLayerVersion": (204, ""),
    "ListFunctions": (200, ""),
    "ListLayers": (200, ""),
    "ListLayerVersions": (200, ""),
    "ListEventSourceMappings": (200, ""),
    "CreateEventSourceMapping": (400, "InvalidParameterValueException"),
    # Of two things that are not there, the one that is looked for first.
    "PutFunctionCodeSigningConfig": (404, "CodeSigningConfigNotFoundException"),
    "PutFunctionEventInvokeConfig": (400, "InvalidParameterValueException"),
    "UpdateFunctionEventInvokeConfig": (400, "InvalidParameterValueException"),
    "PublishLayerVersion": (400, "InvalidParameterValueException"),
    "PutResourcePolicy": (400, "InvalidParameterValueException"),
    "TagResource": (400, "InvalidParameterValueException"),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_there_is_answered_so(client: RawClient, name: str) -> None:
    params = baseline(MODEL.operation(name))
    answer = client.call(name, params)
    assert (answer.status, answer.code) == ABSENT.get(name, NOT_FOUND), (params, answer.body)
    check(name, answer, (params, answer.body))


READS = [name for name in NAMES if name.startswith(("Get", "List")) and "FunctionName" in MODEL.operation(name).input.members]


@pytest.mark.parametrize("name", READS)
def test_a_function_is_the_same_by_every_form_of_its_name(client: RawClient, name: str) -> None:
    members = MODEL.operation(name).input.members
    params = baseline(MODEL.operation(name))
    plain = client.call(name, {**params, "FunctionName": "other"})
    for form in FORMS:
        answer = client.call(name, {**params, "FunctionName": form.format("other")})
        assert (answer.status, answer.code, answer.members) == (plain.status, plain.code, plain.members), form
    # ``name:qualifier`` is the name and the qualifier.
    if "Qualifier" not in members or members["FunctionName"].name == "FunctionUrlFunctionName":
        return
    for qualifier in ("1", "$LATEST", "7"):
        apart = client.call(name, {**params, "FunctionName": "other", "Qualifier": qualifier})
        together = {**params, "FunctionName": f"{ARN}other:{qualifier}"}
        if "Qualifier" not in MODEL.operation(name).input.required:
            together.pop("Qualifier", None)
        else:
            together["Qualifier"] = qualifier
        answer = client.call(name, together)
        assert (answer.status, answer.code) == (apart.status, apart.code), qualifier
        assert _without_location(answer.members) == _without_location(apart.members), qualifier
        clash = client.call(name, {**params, "FunctionName": f"other:{qualifier}", "Qualifier": "2"})
        assert clash.message == "The derived qualifier from the function name does not match the specified qualifier."


def _without_location(members: dict[str, Any]) -> dict[str, Any]:
    """Addresses of packages carry the time they were made at."""
    return {key: value for key, value in members.items() if key != "Code"}


def test_a_function_of_another_region_is_not_reachable(client: RawClient) -> None:
    answer = client.call("GetFunction", {"FunctionName": "arn:aws:lambda:eu-west-1:000000000000:function:there"})
    assert (answer.status, answer.code) == NOT_FOUND
    assert answer.message == "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')"
