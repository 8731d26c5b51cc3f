"""The managed Ruby runtime: handlers, context, errors, layers and logs, as AWS's own runtime has them.

Where the host's Ruby is one that Lambda never had (Debian 12 has 3.1), it stands in for 3.3: what is tested is the runtime, not the language.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.framework import host
from tests.framework.control import refused
from tests.framework.engine import ROLE, Engine, engine, zip_of
from tests.framework.packages import cache_dir

MAIN = """
require 'json'
require 'logger'
require 'stringio'
$loads = ($loads || 0) + 1
puts 'loading'
def handler(event:, context:)
  puts "handling #{event['op']}"
  case event['op']
  when 'context'
    {
      request_id: context.aws_request_id, arn: context.invoked_function_arn, function: context.function_name, version: context.function_version,
      memory: context.memory_limit_in_mb, group: context.log_group_name, stream: context.log_stream_name, left: context.get_remaining_time_in_millis,
      deadline: context.deadline_ms, custom: context.client_context && context.client_context['custom'], trace: ENV['_X_AMZN_TRACE_ID'],
      execution: ENV['AWS_EXECUTION_ENV'], gems: ENV['GEM_PATH'], lib: ENV['RUBYLIB'], cwd: Dir.pwd, mine: ENV['MINE'], ruby: RUBY_VERSION
    }
  when 'raise' then raise ArgumentError, "wrong \\u00e9"
  when 'name' then no_such_name
  when 'exit' then exit 3
  when 'raw' then StringIO.new('not JSON')
  when 'unmarshallable' then Float::NAN
  when 'log' then Logger.new($stdout).info('from the logger')
  when 'sleep' then sleep 30
  when 'big' then 'x' * event['size']
  else event
  end
end
module Deep
  class Inner
    def self.run(event:, context:)
      ['class method', event]
    end
  end
end
"""


def ruby() -> tuple[str, str]:
    """(runtime, program): the host's Ruby, or a stand-in for 3.3 that is the host's."""
    host.require("no Ruby")
    own = os.path.realpath(str(shutil.which("ruby")))
    version = subprocess.run([own, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    release = ".".join(version.split(".")[:2])
    if release in ("3.2", "3.3", "3.4"):
        return f"ruby{release}", own
    program = cache_dir() / "ruby-stand-in/bin/ruby"
    program.parent.mkdir(parents=True, exist_ok=True)
    text = f'#!/bin/sh\n[ "$1" = --version ] && echo "ruby 3.3.99 (stand-in) [here]" && exit\nexec {own} "$@"\n'
    if not program.exists():
        building = program.with_name(f"ruby.{os.getpid()}")
        building.write_text(text)
        building.chmod(0o755)
        building.rename(program)
    return "ruby3.3", str(program)


@pytest.fixture(scope="module")
def rubies() -> Iterator[tuple[Engine, str]]:
    runtime, program = ruby()
    with engine(runtimes={runtime: program}) as running:
        running.deploy("main", zip_of({"main.rb": MAIN}), "main.handler", Runtime=runtime, Environment={"Variables": {"MINE": "x"}}, Timeout=20)
        yield running, runtime


def invoke(running: Engine, name: str, event: Any = None, **options: Any) -> tuple[Any, str | None, str]:
    """Payload, function error, log."""
    answer = running.client().invoke(FunctionName=name, Payload=json.dumps(event), LogType="Tail", **options)
    body = answer["Payload"].read()
    try:
        payload = json.loads(body)
    except ValueError:
        payload = body
    return payload, answer.get("FunctionError"), base64.b64decode(answer["LogResult"]).decode()


def test_events_and_context(rubies: tuple[Engine, str]) -> None:
    running, runtime = rubies
    event = {"text": "é\U0001f600", "n": [1, 2.5, None, True]}
    assert invoke(running, "main", event)[:2] == (event, None)
    context = base64.b64encode(b'{"custom":{"k":1}}').decode()
    seen, error, log = invoke(running, "main", {"op": "context"}, ClientContext=context)
    assert error is None
    assert "handling context" in log
    assert seen["arn"] == "arn:aws:lambda:us-east-1:000000000000:function:main"
    assert re.search(rf"START RequestId: {seen['request_id']} ", log)
    assert (seen["function"], seen["version"], seen["memory"], seen["group"]) == ("main", "$LATEST", "128", "/aws/lambda/main")
    assert 10_000 < seen["left"] <= 20_000
    assert (seen["custom"], seen["mine"], seen["cwd"]) == ({"k": 1}, "x", "/var/task")
    assert seen["trace"].startswith("Root=1-")
    assert seen["execution"] == f"AWS_Lambda_{runtime}"
    release = f"{runtime.removeprefix('ruby')}.0"
    assert seen["gems"] == f"/var/task/vendor/bundle/ruby/{release}:/opt/ruby/gems/{release}"
    big = {"x": "y" * 3_000_000}
    assert invoke(running, "main", big)[0] == big


def test_a_tenant_is_in_the_context_and_has_memory_of_its_own(rubies: tuple[Engine, str]) -> None:
    running, runtime = rubies
    code = "$seen = []\ndef handler(event:, context:)\n  $seen << context.tenant_id\nend\n"
    running.deploy("tenants", zip_of({"main.rb": code}), "main.handler", Runtime=runtime, Timeout=20, TenancyConfig={"TenantIsolationMode": "PER_TENANT"})
    for tenant in ("blue", "green"):
        seen, error, log = invoke(running, "tenants", TenantId=tenant)
        assert error is None, log
        assert set(seen) == {tenant}


def test_errors_of_a_handler(rubies: tuple[Engine, str]) -> None:
    running, _ = rubies
    payload, error, log = invoke(running, "main", {"op": "raise"})
    assert (payload["errorMessage"], payload["errorType"], error) == ("wrong é", "Function<ArgumentError>", "Unhandled")
    assert re.fullmatch(r"/var/task/main\.rb:\d+:in .*handler'", payload["stackTrace"][0])
    assert len(payload["stackTrace"]) == 1
    assert "Error raised from handler method" in log
    payload, error, log = invoke(running, "main", {"op": "name"})
    assert (payload["errorType"], error) == ("Function<NameError>", "Unhandled")
    assert "Critical exception from handler" in log
    payload, error, _ = invoke(running, "main", {"op": "exit"})
    assert payload["errorType"] == "Runtime.ExitError"
    assert payload["errorMessage"].endswith("Runtime exited with error: exit status 3")
    assert invoke(running, "main", {"op": "again"})[:2] == ({"op": "again"}, None)
    assert invoke(running, "main", {"op": "raw"})[0] == b"not JSON"
    assert invoke(running, "main", {"op": "unmarshallable"})[0]["errorType"] == "Function<JSON::GeneratorError>"
    payload, error, _ = invoke(running, "main", {"op": "big", "size": 6 * 1024 * 1024 + 99})
    assert (payload["errorType"], error) == ("Function.ResponseSizeTooLarge", "Unhandled")


def test_a_timeout_and_what_a_logger_writes(rubies: tuple[Engine, str]) -> None:
    running, runtime = rubies
    running.deploy("slow", zip_of({"main.rb": MAIN}), "main.handler", Runtime=runtime, Timeout=1)
    assert invoke(running, "slow", {"op": "sleep"})[0]["errorType"] == "Sandbox.Timedout"
    _, _, log = invoke(running, "main", {"op": "log"})
    request_id = log.split()[2]
    assert re.search(rf"^I, \[.*\]  INFO {request_id} -- : from the logger$", log, re.MULTILINE)


@pytest.mark.parametrize(
    ("handler", "source", "kind", "message"),
    [
        ("nothere.handler", "", "Init<LoadError>", "cannot load such file -- nothere"),
        ("m.handler", "def handler(", "Init<SyntaxError>", "m.rb"),
        ("m.handler", "raise IOError, 'no'", "Init<IOError>", "no"),
        ("m", "", "Init<ArgumentError>", 'Invalid handler ["m"], must be of form FILENAME.METHOD'),
        ("m.handler", "", "Function<NoMethodError>", "undefined method"),
        ("m.No.handler", "", "Function<NameError>", "uninitialized constant Kernel::No"),
    ],
)
def test_handlers_that_cannot_be_had(rubies: tuple[Engine, str], handler: str, source: str, kind: str, message: str) -> None:
    running, runtime = rubies
    running.deploy("broken", zip_of({"m.rb": source}), handler, Runtime=runtime)
    payload, error, _ = invoke(running, "broken")
    running.client().delete_function(FunctionName="broken")
    assert (payload["errorType"], error) == (kind, "Unhandled")
    assert message in payload["errorMessage"]


LOGS = """
require 'logger'
LOG = Logger.new($stdout, progname: 'mine')
PLAIN = Logger.new($stderr, formatter: ->(_severity, _time, _name, message) { "plain #{message}\\n" })
def handler(event:, context:)
  LOG.debug('unseen')
  LOG.info({ a: 1 })
  PLAIN.warn('as it is')
  begin
    raise ArgumentError, "broken \\xff"
  rescue ArgumentError => e
    LOG.error(e)
  end
  context.aws_request_id
end
"""


def test_loggers_write_json_from_the_level_on(rubies: tuple[Engine, str]) -> None:
    running, runtime = rubies
    json_logs = {"LoggingConfig": {"LogFormat": "JSON", "ApplicationLogLevel": "INFO"}}
    running.deploy("json-logs", zip_of({"main.rb": LOGS}), "main.handler", Runtime=runtime, **json_logs)
    request_id, error, log = invoke(running, "json-logs", {})
    assert error is None
    lines = [json.loads(line) for line in log.splitlines() if '"level"' in line]
    assert [(line["level"], line["message"], line["logger"], line["requestId"]) for line in lines] == [
        ("INFO", "{:a=>1}" if "{:a=>1}" in log else "{a: 1}", "mine", request_id), ("ERROR", "broken \ufffd", "mine", request_id),
    ]  # fmt: skip
    assert (lines[1]["errorType"], lines[1]["location"].split(":")[1:]) == ("ArgumentError", ["handler", "10"])
    assert "plain as it is" in log


def test_a_function_may_read_and_write_otherwise_and_fail_badly(rubies: tuple[Engine, str]) -> None:
    running, runtime = rubies
    source = """
class AwsLambda::Marshaller
  class << self
    def marshall_request(raw) = [raw['Content-Type'], raw.body]
    def marshall_response(result) = ["<#{result}>", 'text/plain']
  end
end
def handler(event:, context:)
  return deep(0) if event[1] == '"deep"'
  raise NotImplementedError if event[1] == '"not yet"'
  event.join(' ')
end
def deep(n) = deep(n + 1) + 1
"""
    running.deploy("marshaller", zip_of({"main.rb": source}), "main.handler", Runtime=runtime)
    client = running.client()
    assert client.invoke(FunctionName="marshaller", Payload=b"[1]")["Payload"].read() == b"<application/json [1]>"
    for event, kind in ((b'"deep"', "SystemStackError"), (b'"not yet"', "NotImplementedError")):
        assert json.loads(client.invoke(FunctionName="marshaller", Payload=event)["Payload"].read())["errorType"] == f"Function<{kind}>"


def test_methods_of_classes_and_files_of_layers(rubies: tuple[Engine, str]) -> None:
    running, runtime = rubies
    release = f"{runtime.removeprefix('ruby')}.0"
    spec = "Gem::Specification.new { |s| s.name = 'tiny'; s.version = '1.2.3'; s.summary = 's'; s.authors = ['a']; s.files = ['lib/tiny.rb'] }"
    layer = {
        f"ruby/gems/{release}/gems/tiny-1.2.3/lib/tiny.rb": "TINY = 'from a gem'",
        f"ruby/gems/{release}/specifications/tiny-1.2.3.gemspec": spec,
        "ruby/lib/shared.rb": "SHARED = 'from the layer'",
    }
    arn = running.client().publish_layer_version(LayerName="rubies", Content={"ZipFile": zip_of(layer)})["LayerVersionArn"]
    # A class of the file that a dot leads to, in a module of another.
    source = "require 'tiny'\nrequire 'shared'\nclass Run\n  def self.it(event:, context:) = [TINY, SHARED, event]\nend\n"
    running.deploy("classes", zip_of({"app.rb": source}), "app.Run.it", Runtime=runtime, Layers=[arn])
    assert invoke(running, "classes", 1)[0] == ["from a gem", "from the layer", 1]
    running.deploy("nested", zip_of({"main.rb": MAIN}), "main.Deep::Inner.run", Runtime=runtime)
    assert invoke(running, "nested", {})[0] == ["class method", {}]


def test_only_what_is_installed_can_be_chosen(rubies: tuple[Engine, str], tmp_path: Path) -> None:
    running, runtime = rubies
    client = running.client()
    other = next(r for r in ("ruby3.2", "ruby3.4") if r != runtime)
    given = {"FunctionName": "other", "Role": ROLE, "Handler": "m.f", "Code": {"ZipFile": zip_of({"m.rb": ""})}}
    status, code, message = refused(client.create_function, Runtime=other, **given)
    assert (status, code) == (400, "InvalidParameterValueException")
    assert message.startswith(f"Runtime {other} is not installed on this host. Installed: ")
    assert runtime in message
    assert "no longer supported for creating or updating" in refused(client.create_function, Runtime="ruby2.7", **given)[2]
