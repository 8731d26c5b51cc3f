"""APIs in templates: SAM's events on the command line and through CloudFormation, CDK's and plain resources; called over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.aws import embedded
from tests.framework import stacks
from tests.framework.apis import call
from tests.framework.engine import OWN_RUNTIME, ROLE, Engine
from tests.integration.test_stacks import Project

pytestmark = pytest.mark.skipif(embedded.available() is not None, reason="the extra 'embedded' is not installed")

CODE = "import json\ndef f(event, context):\n    return {'statusCode': 200, 'body': json.dumps([NUMBER, event])}\n"
GUARD = (
    "def f(e, c):\n"
    "    token = (e.get('authorizationToken') or e['headers'].get('x-token'))\n"
    "    if e.get('version') == '2.0': return {'isAuthorized': token == 'allow'}\n"
    "    statement = {'Action': 'execute-api:Invoke', 'Effect': 'Allow' if token == 'allow' else 'Deny', 'Resource': e['methodArn']}\n"
    "    return {'principalId': 'ada', 'policyDocument': {'Version': '2012-10-17', 'Statement': [statement]}}\n"
)


def sam(number: int, **events: Any) -> dict[str, Any]:
    """A function with events of every kind, behind implicit APIs and two with authorizers."""
    guard: dict[str, Any] = {"Fn::GetAtt": ["Guard", "Arn"]}
    resources = {
        "Web": {
            "Type": "AWS::Serverless::Api",
            "Properties": {
                "StageName": "live", "Cors": "'*'", "BinaryMediaTypes": ["image~1png"], "Variables": {"colour": "red"},
                "Auth": {"DefaultAuthorizer": "Token", "AddDefaultAuthorizerToCorsPreflight": False, "Authorizers": {"Token": {"FunctionArn": guard}}},
            },
        },
        "Shop": {
            "Type": "AWS::Serverless::HttpApi",
            "Properties": {
                "StageName": "v1", "CorsConfiguration": {"AllowOrigins": ["https://a.example"], "AllowMethods": ["GET"]},
                "Auth": {"DefaultAuthorizer": "Simple", "Authorizers": {"Simple": {
                    "FunctionArn": guard, "AuthorizerPayloadFormatVersion": "2.0", "EnableSimpleResponses": True,
                    "EnableFunctionDefaultPermissions": True, "Identity": {"Headers": ["X-Token"]},
                }}},
            },
        },
        "Guard": {"Type": "AWS::Serverless::Function", "Properties": {"Handler": "index.f", "Runtime": OWN_RUNTIME, "InlineCode": GUARD}},
        "Fn": {
            "Type": "AWS::Serverless::Function",
            "Properties": {
                "Handler": "index.f", "Runtime": OWN_RUNTIME, "InlineCode": CODE.replace("NUMBER", str(number)),
                "Events": {
                    "Rest": {"Type": "Api", "Properties": {"Path": "/a/{id}", "Method": "get"}},
                    "Http": {"Type": "HttpApi", "Properties": {"Path": "/b/{id}", "Method": "any"}},
                    "Web": {"Type": "Api", "Properties": {"Path": "/c", "Method": "any", "RestApiId": {"Ref": "Web"}}},
                    "Shop": {"Type": "HttpApi", "Properties": {"Path": "/d", "Method": "get", "ApiId": {"Ref": "Shop"}}},
                    **events,
                },
            },
        },
    }  # fmt: skip
    ids: dict[str, str] = {"Rest": "ServerlessRestApi", "Http": "ServerlessHttpApi", "Web": "Web", "Shop": "Shop"}
    outputs: dict[str, Any] = {name: {"Value": {"Ref": logical}} for name, logical in ids.items()}
    outputs["Endpoint"] = {"Value": {"Fn::GetAtt": ["ServerlessHttpApi", "ApiEndpoint"]}}
    return {"Transform": "AWS::Serverless-2016-10-31", "Resources": resources, "Outputs": outputs}


def check(target: Engine, outputs: dict[str, str], number: int) -> None:
    """All four APIs of ``sam`` serve."""

    def get(name: str, path: str, method: str = "GET", **headers: str) -> Any:
        return call(target, f"{outputs[name]}.execute-api.us-east-1.localhost", path, method, **headers)

    answered, event = get("Rest", "/Prod/a/7").json()
    assert (answered, event["pathParameters"], event["resource"]) == (number, {"id": "7"}, "/a/{id}")
    answered, event = get("Http", "/b/8", "PUT").json()
    assert (answered, event["version"], event["routeKey"], event["pathParameters"]) == (number, "2.0", "ANY /b/{id}", {"id": "8"})
    assert get("Web", "/live/c").status == 401
    assert get("Web", "/live/c", Authorization="no").status == 403
    event = get("Web", "/live/c", Authorization="allow").json()[1]
    assert (event["requestContext"]["authorizer"]["principalId"], event["stageVariables"]) == ("ada", {"colour": "red"})
    preflight = get("Web", "/live/c", "OPTIONS")
    assert (preflight.status, preflight.headers["access-control-allow-origin"]) == (200, "*")
    assert [get("Shop", "/v1/d", X_Token=token).status for token in ("allow", "no")] == [200, 403]
    preflight = get("Shop", "/v1/d", "OPTIONS", Origin="https://a.example", Access_Control_Request_Method="GET")
    assert preflight.headers["access-control-allow-origin"] == "https://a.example"


def test_a_sam_templates_apis_on_the_command_line(shared: Engine, tmp_path: Path) -> None:
    project = Project(tmp_path, shared, sam(1))
    state = project.deploy()
    assert "serves" not in "".join(project.said)
    check(shared, state.outputs, 1)
    port = shared.url.rpartition(":")[2]
    names = f"{state.outputs['Http']}.execute-api.us-east-1.localhost:{port}", f"127.0.0.1:{port}/_api/{state.outputs['Http']}"
    assert state.outputs["Endpoint"] in {f"http://{name}" for name in names}, "by name where names below localhost lead here"
    before = dict(state.outputs)
    host = f"{before['Http']}.execute-api.us-east-1.localhost"
    assert call(shared, host, "/new").status == 404

    more = {"More": {"Type": "HttpApi", "Properties": {"Path": "/new", "Method": "get"}}, "And": {"Type": "Api", "Properties": {"Path": "/new/{x}", "Method": "get"}}}
    project.write(sam(2, **more))
    after = project.deploy().outputs
    assert after == before, "the APIs keep their ids"
    check(shared, after, 2)
    assert call(shared, host, "/new").json()[0] == 2
    assert call(shared, f"{before['Rest']}.execute-api.us-east-1.localhost", "/Prod/new/9").json()[1]["pathParameters"] == {"x": "9"}

    assert project.stack().delete()
    assert call(shared, host, "/new").status == 403
    assert before["Rest"] not in {a["id"] for a in shared.client("apigateway").get_rest_apis()["items"]}


@pytest.mark.slow
def test_a_sam_templates_apis_through_cloudformation(shared: Engine) -> None:
    formation = shared.client("cloudformation")
    formation.create_stack(StackName="cfn-apis", TemplateBody=json.dumps(sam(1)), Capabilities=["CAPABILITY_AUTO_EXPAND", "CAPABILITY_IAM"])
    stacks.finished(formation, "cfn-apis", "create")
    outputs = stacks.outputs(formation, "cfn-apis")
    check(shared, outputs, 1)
    formation.update_stack(StackName="cfn-apis", TemplateBody=json.dumps(sam(2)), Capabilities=["CAPABILITY_AUTO_EXPAND", "CAPABILITY_IAM"])
    stacks.finished(formation, "cfn-apis", "update")
    check(shared, outputs, 2)
    formation.delete_stack(StackName="cfn-apis")
    stacks.finished(formation, "cfn-apis", "delete")
    assert call(shared, f"{outputs['Http']}.execute-api.us-east-1.localhost", "/b/1").status == 403


def test_apis_written_resource_by_resource(shared: Engine, tmp_path: Path) -> None:
    uri = {"Fn::Sub": "arn:${AWS::Partition}:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/${Fn.Arn}/invocations"}
    rest, http = {"RestApiId": {"Ref": "Rest"}}, {"ApiId": {"Ref": "Http"}}

    def permission(api: str) -> dict[str, Any]:
        source = {"Fn::Sub": f"arn:aws:execute-api:${{AWS::Region}}:${{AWS::AccountId}}:${{{api}}}/*"}
        members = {"FunctionName": {"Ref": "Fn"}, "Action": "lambda:InvokeFunction", "Principal": "apigateway.amazonaws.com", "SourceArn": source}
        return {"Type": "AWS::Lambda::Permission", "Properties": members}

    def resource(kind: str, **properties: Any) -> dict[str, Any]:
        return {"Type": kind, "Properties": properties}

    v1, v2 = "AWS::ApiGateway::", "AWS::ApiGatewayV2::"
    trust = [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]
    may = [{"Effect": "Allow", "Action": "execute-api:ManageConnections", "Resource": {"Fn::Sub": "arn:aws:execute-api:us-east-1:*:${Http}/*"}}]
    integration = {"Type": "AWS_PROXY", "IntegrationHttpMethod": "POST", "Uri": uri}
    resources = {
        # The function needs the role, which needs an API; nothing needs the parameter.
        "Fn": resource(
            "AWS::Lambda::Function", Runtime=OWN_RUNTIME, Handler="index.f", Role={"Fn::GetAtt": ["Role", "Arn"]}, Code={"ZipFile": CODE.replace("NUMBER", "3")}
        ),
        "Role": resource(
            "AWS::IAM::Role", AssumeRolePolicyDocument={"Version": "2012-10-17", "Statement": trust},
            Policies=[{"PolicyName": "p", "PolicyDocument": {"Version": "2012-10-17", "Statement": may}}],
        ),
        "Note": resource("AWS::SSM::Parameter", Name="/plain/route", Type="String", Value={"Ref": "Route"}),
        "RestMay": permission("Rest"), "HttpMay": permission("Http"),
        "Rest": resource(f"{v1}RestApi", Name="plain"),
        "Account": resource(f"{v1}Account", CloudWatchRoleArn=ROLE),
        "Things": resource(f"{v1}Resource", **rest, ParentId={"Fn::GetAtt": ["Rest", "RootResourceId"]}, PathPart="things"),
        "Thing": resource(f"{v1}Resource", **rest, ParentId={"Ref": "Things"}, PathPart="{id}"),
        "Get": resource(
            f"{v1}Method", **rest, ResourceId={"Ref": "Thing"}, HttpMethod="GET", AuthorizationType="NONE", ApiKeyRequired=True, Integration=integration
        ),
        "Deployed": {**resource(f"{v1}Deployment", **rest), "DependsOn": ["Get"]},
        "Stage": resource(f"{v1}Stage", **rest, DeploymentId={"Ref": "Deployed"}, StageName="dev"),
        "Key": resource(f"{v1}ApiKey", Value="k" * 30, Enabled=True),
        "Plan": resource(f"{v1}UsagePlan", ApiStages=[{"ApiId": {"Ref": "Rest"}, "Stage": {"Ref": "Stage"}}]),
        "PlanKey": resource(f"{v1}UsagePlanKey", KeyId={"Ref": "Key"}, KeyType="API_KEY", UsagePlanId={"Ref": "Plan"}),
        "Http": resource(f"{v2}Api", Name="plain", ProtocolType="HTTP"),
        "Into": resource(f"{v2}Integration", **http, IntegrationType="AWS_PROXY", IntegrationUri={"Fn::GetAtt": ["Fn", "Arn"]}, PayloadFormatVersion="2.0"),
        "Route": resource(f"{v2}Route", **http, RouteKey="GET /x", Target={"Fn::Join": ["/", ["integrations", {"Ref": "Into"}]]}),
        "Default": resource(f"{v2}Stage", **http, StageName="$default", AutoDeploy=True),
    }  # fmt: skip
    outputs = {"Rest": {"Value": {"Ref": "Rest"}}, "Http": {"Value": {"Ref": "Http"}}}
    project = Project(tmp_path, shared, {"Resources": resources, "Outputs": outputs}, "plain.json")
    state = project.deploy()
    host = f"{state.outputs['Rest']}.execute-api.us-east-1.localhost"
    assert call(shared, host, "/dev/things/1").status == 403
    assert call(shared, host, "/dev/things/1", x_api_key="k" * 30).json()[1]["pathParameters"] == {"id": "1"}
    assert call(shared, f"{state.outputs['Http']}.execute-api.us-east-1.localhost", "/x").json()[0] == 3
    assert state.resources["Stage"].attributes["Address"].endswith("/dev")
    ssm = shared.client("ssm")
    assert ssm.get_parameter(Name="/plain/route")["Parameter"]["Value"] == state.resources["Route"].ref
    assert project.deploy().outputs == state.outputs
    assert project.stack().delete()
    with pytest.raises(ssm.exceptions.ParameterNotFound):
        ssm.get_parameter(Name="/plain/route")
