"""Application load balancers with functions behind them: made with boto3, called with plain HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.framework import stacks, wait
from tests.framework.apis import Answer, call, function_arn, let_in
from tests.framework.engine import Engine, zip_of

ECHO = zip_of(
    {
        "m.py": (
            "import json\n"
            "def f(e, c):\n"
            "    if e['httpMethod'] == 'PUT': return json.loads(e['body'])\n"
            "    kind = {'content-type': 'application/json'}\n"
            "    many = {'multiValueHeaders': {'content-type': ['application/json'], 'set-cookie': ['a=1', 'b=2']}}\n"
            "    return {'statusCode': 200, 'body': json.dumps(e), **(many if 'multiValueHeaders' in e else {'headers': kind})}\n"
        )
    }
)
PAGE = b"<html>\r\n<head><title>%b</title></head>\r\n<body>\r\n<center><h1>%b</h1></center>\r\n</body>\r\n</html>\r\n"


class Balancer:
    """A load balancer with listeners whose default is the first target group."""

    def __init__(self, target: Engine, name: str) -> None:
        self.engine = target
        self.name = name
        self.elb = target.client("elbv2")
        subnets = [s["SubnetId"] for s in target.client("ec2").describe_subnets()["Subnets"][:2]]
        made = self.elb.create_load_balancer(Name=name, Subnets=subnets)["LoadBalancers"][0]
        self.arn, self.label = made["LoadBalancerArn"], made["DNSName"].partition(".")[0]
        self.host = f"{self.label}.us-east-1.elb.localhost"

    def group(self, name: str, function: str | None, *, multi: bool = False) -> str:
        arn = str(self.elb.create_target_group(Name=name, TargetType="lambda")["TargetGroups"][0]["TargetGroupArn"])
        if multi:
            self.elb.modify_target_group_attributes(
                TargetGroupArn=arn, Attributes=[{"Key": "lambda.multi_value_headers.enabled", "Value": "true"}]
            )
        if function is not None:
            let_in(self.engine, function, arn, "elasticloadbalancing.amazonaws.com", sid=name)
            self.elb.register_targets(TargetGroupArn=arn, Targets=[{"Id": function_arn(function)}])
        return arn

    def listener(self, group: str, port: int = 80) -> str:
        action = {"Type": "forward", "TargetGroupArn": group}
        made = self.elb.create_listener(LoadBalancerArn=self.arn, Protocol="HTTP", Port=port, DefaultActions=[action])
        return str(made["Listeners"][0]["ListenerArn"])

    def rule(self, listener: str, priority: int, action: dict[str, Any], *conditions: dict[str, Any]) -> None:
        self.elb.create_rule(ListenerArn=listener, Priority=priority, Conditions=list(conditions), Actions=[action])

    def call(self, path: str = "/", method: str = "GET", body: bytes | str | None = None, **headers: Any) -> Answer:
        return call(self.engine, self.host, path, method, body, **headers)


@pytest.fixture(scope="module")
def gate(shared: Engine) -> Engine:
    shared.deploy("alb-echo", ECHO)
    return shared


def test_a_request_becomes_awss_event(gate: Engine) -> None:
    balancer = Balancer(gate, "events")
    single, several = balancer.group("single", "alb-echo"), balancer.group("several", "alb-echo", multi=True)
    balancer.listener(single)
    balancer.listener(several, 8080)
    answer = balancer.call("/a%20b?x=1&x=2&y=%26", "POST", "{}", Content_Type="application/json", X_Mine=["one", "two"])
    assert (answer.status, answer.headers["server"]) == (200, "awselb/2.0")
    event = answer.json()
    assert event["headers"].pop("x-amzn-trace-id").startswith("Root=1-")
    port = gate.url.rpartition(":")[2]
    assert event == {
        "requestContext": {"elb": {"targetGroupArn": single}},
        "httpMethod": "POST",
        "path": "/a%20b",
        "queryStringParameters": {"x": "2", "y": "%26"},
        "headers": {
            "host": f"{balancer.host}:{port}", "content-type": "application/json", "content-length": "2", "x-mine": "two",
            "x-forwarded-for": "127.0.0.1", "x-forwarded-port": "80", "x-forwarded-proto": "http",
        },
        "body": "{}",
        "isBase64Encoded": False,
    }  # fmt: skip
    many = call(gate, "", "/_alb/events:8080/p?x=1&x=2", X_Mine=["one", "two"])
    event = many.json()
    assert (event["multiValueQueryStringParameters"], event["multiValueHeaders"]["x-mine"]) == ({"x": ["1", "2"]}, ["one", "two"])
    assert (event["multiValueHeaders"]["x-forwarded-port"], event["body"]) == (["8080"], "")
    assert not event.keys() & {"headers", "queryStringParameters"}
    assert [v for k, v in many.pairs if k == "set-cookie"] == ["a=1", "b=2"]
    binary = balancer.call("/", "POST", b"\xff", Content_Type="image/png").json()
    assert (binary["body"], binary["isBase64Encoded"]) == ("/w==", True)


def test_rules_are_asked_in_order_and_change_at_once(gate: Engine) -> None:
    balancer = Balancer(gate, "rules")
    listener = balancer.listener(balancer.group("ruled", "alb-echo"))
    assert balancer.call("/fixed/1").status == 200

    def fixed(text: str) -> dict[str, Any]:
        return {"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "404", "ContentType": "text/plain", "MessageBody": text}}

    balancer.rule(listener, 20, fixed("path"), {"Field": "path-pattern", "Values": ["/fixed/*"]})
    assert balancer.call("/fixed/1").body == b"path", "a rule made after the first request"
    header = {"Field": "http-header", "HttpHeaderConfig": {"HttpHeaderName": "X-Mine", "Values": ["y?s"]}}
    balancer.rule(listener, 10, fixed("header"), header, {"Field": "path-pattern", "Values": ["/fixed/*"]})
    balancer.rule(listener, 30, fixed("host"), {"Field": "host-header", "Values": ["*.example.com"]})
    balancer.rule(listener, 40, fixed("query"), {"Field": "query-string", "QueryStringConfig": {"Values": [{"Key": "q", "Value": "1*"}]}})
    redirect = {"Type": "redirect", "RedirectConfig": {"Protocol": "HTTPS", "Port": "443", "StatusCode": "HTTP_301", "Path": "/new/#{path}"}}
    balancer.rule(listener, 50, redirect, {"Field": "path-pattern", "Values": ["/old"]})
    balancer.rule(listener, 60, fixed("method"), {"Field": "http-request-method", "HttpRequestMethodConfig": {"Values": ["DELETE"]}})
    assert [balancer.call("/fixed/1", **h).body for h in ({"X_Mine": "yes"}, {"X_Mine": "no"})] == [b"header", b"path"]
    assert call(gate, "a.example.com", "/_alb/rules/").body == b"host"
    assert balancer.call("/?q=12").body == b"query"
    assert balancer.call("/", "DELETE").body == b"method"
    moved = balancer.call("/old?x=1")
    assert (moved.status, moved.headers["location"]) == (301, f"https://{balancer.host}:443/new/old?x=1")


def test_failures_have_the_load_balancers_pages(gate: Engine) -> None:
    balancer = Balancer(gate, "failures")
    group = balancer.group("failing", "alb-echo")
    listener = balancer.listener(group)
    empty = balancer.group("empty", None)
    balancer.rule(listener, 1, {"Type": "forward", "TargetGroupArn": empty}, {"Field": "path-pattern", "Values": ["/empty"]})
    gateway = PAGE % (b"502 Bad Gateway", b"502 Bad Gateway")
    for answer in ('"text"', "{}", '{"statusCode": "x"}', '{"statusCode": 200, "body": 5}', "raise", '{"statusCode": 200, "headers": ["x"]}'):
        failed = balancer.call("/", "PUT", answer, Content_Type="application/json")
        assert (failed.status, failed.body) == (502, gateway), answer
    described = {"statusCode": 418, "statusDescription": "418 Teapot", "body": "aGk=", "isBase64Encoded": True}
    assert balancer.call("/", "PUT", json.dumps(described), Content_Type="application/json").body == b"hi"
    assert balancer.call("/empty").status == 503
    assert balancer.call("/", "PUT", b"x" * (1024 * 1024 + 1)).status == 413
    gate.client().remove_permission(FunctionName="alb-echo", StatementId="failing")
    assert balancer.call("/").status == 502
    nowhere = call(gate, "", "/_alb/nobody/")
    assert (nowhere.status, b"nobody" in nowhere.body) == (404, True)


def test_a_stacks_target_group_has_its_targets(gate: Engine) -> None:
    formation, name = gate.client("cloudformation"), "balanced"
    subnets = [s["SubnetId"] for s in gate.client("ec2").describe_subnets()["Subnets"][:2]]
    gate.client().add_permission(
        FunctionName="alb-echo", StatementId=name, Action="lambda:InvokeFunction", Principal="elasticloadbalancing.amazonaws.com"
    )

    def template(many: str) -> str:
        kind = "AWS::ElasticLoadBalancingV2::"
        attributes = [{"Key": "lambda.multi_value_headers.enabled", "Value": many}]
        group = {"TargetType": "lambda", "Targets": [{"Id": function_arn("alb-echo")}], "TargetGroupAttributes": attributes}
        action = {"Type": "forward", "TargetGroupArn": {"Ref": "Group"}}
        listener = {"LoadBalancerArn": {"Ref": "Balancer"}, "Protocol": "HTTP", "Port": 80, "DefaultActions": [action]}
        resources = {
            "Balancer": {"Type": f"{kind}LoadBalancer", "Properties": {"Subnets": subnets}},
            "Group": {"Type": f"{kind}TargetGroup", "Properties": group},
            "Listener": {"Type": f"{kind}Listener", "Properties": listener},
        }
        return json.dumps({"Resources": resources, "Outputs": {"Name": {"Value": {"Fn::GetAtt": ["Balancer", "DNSName"]}}}})

    try:
        formation.create_stack(StackName=name, TemplateBody=template("false"))
        stacks.finished(formation, name, "create")
        host = f"{stacks.outputs(formation, name)['Name'].partition('.')[0]}.us-east-1.elb.localhost"
        assert "headers" in call(gate, host, "/x").json()
        formation.update_stack(StackName=name, TemplateBody=template("true"))
        stacks.finished(formation, name, "update")
        wait.until(lambda: "multiValueHeaders" in call(gate, host, "/x").json(), "the attribute is another", 60)
    finally:
        formation.delete_stack(StackName=name)
        stacks.finished(formation, name, "delete")
        gate.client().remove_permission(FunctionName="alb-echo", StatementId=name)
