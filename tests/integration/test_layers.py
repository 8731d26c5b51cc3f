"""Functions that live off their layers: modules, programs, shared libraries and data from /opt, on a real engine."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.framework import host
from tests.framework.engine import ROLE, Engine, engine, zip_of
from tests.framework.packages import package_of

TAG = f"python{sys.version_info[0]}.{sys.version_info[1]}"
LOOK = """
import os, subprocess, sys
def f(e, c):
    import first, both
    return {"first": first.X, "both": both.X, "tool": subprocess.check_output(["tool"], text=True), "data": open("/opt/data.txt").read(),
            "path": [p for p in sys.path if p.startswith(("/var/task", "/opt"))], "pid": os.getpid()}
"""


def layer_of(files: dict[str, tuple[str | bytes, int]]) -> bytes:
    """A zip whose entries have modes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (content, mode) in files.items():
            info = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return out.getvalue()


def publish(target: Engine, name: str, content: bytes, **members: Any) -> str:
    return str(target.client().publish_layer_version(LayerName=name, Content={"ZipFile": content}, **members)["LayerVersionArn"])


def call(target: Engine, name: str, event: Any = None) -> Any:
    answer = target.client().invoke(FunctionName=name, Payload=json.dumps(event))
    payload = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, payload
    return payload


def test_layers_are_merged_in_order_and_searched_as_on_aws(shared: Engine) -> None:
    lower = publish(
        shared,
        "lower",
        layer_of(
            {
                "python/first.py": ("X = 'lower'", 0o644),
                f"python/lib/{TAG}/site-packages/both.py": ("X = 'site-packages'", 0o644),
                "bin/tool": ("#!/bin/sh\necho lower tool\n", 0o755),
                "data.txt": ("lower", 0o644),
            }
        ),
        CompatibleRuntimes=[TAG],
    )
    upper = publish(shared, "upper", layer_of({"python/both.py": ("X = 'python'", 0o644), "data.txt": ("upper", 0o644)}))
    shared.deploy("layered", {"m.py": LOOK}, Layers=[lower, upper])
    seen = call(shared, "layered")
    assert seen["first"] == "lower"
    assert seen["both"] == "site-packages", "it comes before /opt/python"
    assert seen["tool"] == "lower tool\n"
    assert seen["data"] == "upper", "a later layer covers an earlier one"
    assert seen["path"][:3] == ["/var/task", f"/opt/python/lib/{TAG}/site-packages", "/opt/python"]

    client = shared.client()
    client.update_function_configuration(FunctionName="layered", Layers=[upper, lower])
    turned = call(shared, "layered")
    assert turned["data"] == "lower"
    client.publish_version(FunctionName="layered")
    client.update_function_configuration(FunctionName="layered", Layers=[])
    answer = client.invoke(FunctionName="layered", Payload=b"{}")
    assert json.loads(answer["Payload"].read())["errorType"] == "ModuleNotFoundError"
    versioned = client.invoke(FunctionName="layered", Qualifier="1", Payload=b"{}")
    assert json.loads(versioned["Payload"].read())["data"] == "lower", "a published version keeps its layers"
    client.delete_layer_version(LayerName="lower", VersionNumber=1)
    assert json.loads(client.invoke(FunctionName="layered", Qualifier="1", Payload=b"{}")["Payload"].read())["data"] == "lower"


def test_a_functions_dependencies_can_come_from_a_layer(shared: Engine) -> None:
    package = zipfile.ZipFile(io.BytesIO(package_of("markdown_page")))
    names = [i.filename for i in package.infolist() if not i.is_dir()]
    code = {n: package.read(n) for n in names if n == "m.py"}
    dependencies = {f"python/{n}": package.read(n) for n in names if n not in code}
    layer = publish(shared, "markdown", zip_of(dependencies))
    shared.deploy("markdown-layered", code, Layers=[layer])
    page = call(shared, "markdown-layered", {"text": "# Title\n\n*x*"})
    assert page["headings"] == ["Title"]
    assert "<em>x</em>" in page["html"]


def test_shared_libraries_of_a_layer_are_found(shared: Engine, tmp_path: Path) -> None:
    host.require("no C compiler")
    source = tmp_path / "answer.c"
    source.write_text("int answer(void) { return 42; }\n")
    library = tmp_path / "libanswer.so"
    compiler = shutil.which("gcc") or shutil.which("cc")
    subprocess.run([str(compiler), "-shared", "-fPIC", "-o", str(library), str(source)], check=True, timeout=60)
    layer = publish(shared, "native", layer_of({"lib/libanswer.so": (library.read_bytes(), 0o755)}))
    code = "import ctypes\ndef f(e, c): return ctypes.CDLL('libanswer.so').answer()\n"
    shared.deploy("native", {"m.py": code}, Layers=[layer])
    assert call(shared, "native") == 42


def test_five_layers_and_nothing_can_be_written_to_them(shared: Engine) -> None:
    layers = [publish(shared, f"five-{n}", zip_of({f"python/n{n}.py": "", "who": str(n)})) for n in range(5)]
    code = (
        "import n0, n1, n2, n3, n4\n"
        "def f(e, c):\n"
        "    try:\n        open('/opt/mine', 'w')\n        return 'written'\n"
        "    except OSError as error:\n        return [open('/opt/who').read(), error.errno]\n"
    )
    shared.deploy("five", {"m.py": code}, Layers=layers)
    assert call(shared, "five") == ["4", 30]  # EROFS


def test_layers_work_where_nothing_can_be_mounted() -> None:
    with engine(sandbox="process", pool_size=1) as running:
        one = publish(running, "one", layer_of({"bin/tool": ("#!/bin/sh\necho one\n", 0o755), "python/lib1.py": ("X = 1", 0o644)}))
        two = publish(running, "two", zip_of({"python/lib2.py": "X = 2"}))
        code = "import subprocess\ndef f(e, c):\n    import lib1, lib2\n    return [lib1.X, lib2.X, subprocess.check_output(['tool'], text=True)]\n"
        running.deploy("f", {"m.py": code}, Layers=[one, two])
        assert call(running, "f") == [1, 2, "one\n"]
        running.deploy("g", {"m.py": code.replace("import lib1, lib2", "import lib1; lib2 = lib1")}, Layers=[one])
        assert call(running, "g") == [1, 1, "one\n"]


def test_the_whole_life_of_a_layer_by_the_command_line(shared: Engine, tmp_path: Path) -> None:
    (tmp_path / "l.zip").write_bytes(zip_of({"python/said.py": "X = 'hello'"}))
    (tmp_path / "f.zip").write_bytes(zip_of({"m.py": "import said\ndef f(e, c): return said.X\n"}))
    aws = [str(Path(sys.executable).with_name("lambda-engine")), "aws", "lambda"]

    def run(*arguments: str) -> Any:
        done = subprocess.run(
            [*aws, *arguments, "--output", "json"],
            env={"PATH": "/usr/bin:/bin", "LAMBDA_ENGINE_ENDPOINT": shared.url, "AWS_DEFAULT_REGION": "us-east-1", "HOME": str(tmp_path)},
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout or "null")

    arn = run("publish-layer-version", "--layer-name", "said", "--zip-file", "fileb://l.zip")["LayerVersionArn"]
    run("create-function", "--function-name", "said", "--runtime", TAG, "--handler", "m.f", "--role", ROLE, "--zip-file", "fileb://f.zip", "--layers", arn)
    assert call(shared, "said") == "hello"
    assert run("list-layers")["Layers"]
    run("delete-layer-version", "--layer-name", "said", "--version-number", "1")
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        shared.client().get_layer_version_by_arn(Arn=arn)


BOOTSTRAP = """#!/bin/sh
base="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation"
while true; do
  id=$(curl -sS -D - -o /tmp/event "$base/next" | tr -d '\\r' | sed -n 's/^[Ll]ambda-[Rr]untime-[Aa]ws-[Rr]equest-[Ii]d: //p')
  curl -sS -o /dev/null --data "\\"$(cat /var/task/word) $(cat /opt/other)\\"" "$base/$id/response"
done
"""


def test_a_runtime_can_come_from_a_layer(shared: Engine) -> None:
    runtime = publish(shared, "runtime", layer_of({"bootstrap": (BOOTSTRAP, 0o755)}), CompatibleRuntimes=["provided.al2023"])
    other = publish(shared, "other", zip_of({"other": "layer"}))
    shared.deploy("layer-runtime", {"word": "code"}, Runtime="provided.al2023", Layers=[runtime, other])
    assert call(shared, "layer-runtime") == "code layer"
