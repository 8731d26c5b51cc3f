"""The AWS SDK that Node.js functions find without bringing it: by require and by import, after the function's own copy and the layers'."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.sandbox import node_sdk
from tests.framework import clients, host
from tests.framework.engine import Engine, engine, zip_of
from tests.framework.packages import cache_dir
from tests.integration.test_nodejs import invoke

S3 = "node_modules/@aws-sdk/client-s3"


def module(says: str, needs: str = "") -> dict[str, str]:
    """A package as the SDK's are: CommonJS, with names that an import finds too."""
    code = f"exports.says = '{says}';" + (f"exports.needs = require('{needs}').says;" if needs else "")
    return {"package.json": json.dumps({"version": "3.0.0", "main": "./dist/index.js"}), "dist/index.js": code}


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def stand_in(cache: Path) -> None:
    """A set as ``node_sdk.install`` leaves it."""
    root = node_sdk.home(cache)
    put(root / "one" / S3, module("sdk", "@smithy/core"))
    put(root / "one/node_modules/@smithy/core", module("core"))
    put(root / "one", {"installed.json": json.dumps({"@aws-sdk/client-s3": "3.0.0"})})
    for path in root.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (root / node_sdk.CURRENT).symlink_to("one")


@pytest.fixture(
    scope="module",
    params=[(22, "auto"), pytest.param((20, "auto"), marks=pytest.mark.slow), pytest.param((22, "process"), marks=pytest.mark.slow)],
    ids=str,
)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, int]]:
    """An engine whose cache is its own, with nothing in it yet."""
    host.require("no Node.js with npm")
    major, level = request.param
    program = str(clients.node_program(major))
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        with engine(runtimes={f"nodejs{major}.x": program}, sandbox=level, pool_size=1) as running:
            deploy((running, major), "before", {"index.js": "exports.handler = async () => require('@aws-sdk/client-s3')"})
            payload, _, log = invoke((running, major), "before")
            assert payload["errorType"] == "MODULE_NOT_FOUND" or "Cannot find module '@aws-sdk/client-s3'" in payload["errorMessage"]
            deploy((running, major), "init", {"index.mjs": "import '@aws-sdk/client-s3'; export const handler = async () => 1"})
            payload, _, log = invoke((running, major), "init")
            assert payload["errorType"] == "Runtime.ImportModuleError"
            assert '"lambda-engine runtimes install nodejs-sdk"' in log
            # What is installed later is there for functions that start then, without a restart.
            stand_in(cache / "lambda-engine")
            yield running, major


def deploy(node: tuple[Engine, int], name: str, files: dict[str, str], layer: dict[str, str] | None = None, **settings: Any) -> None:
    running, major = node
    if layer is not None:
        arn = running.client().publish_layer_version(LayerName=name, Content={"ZipFile": zip_of(layer)})["LayerVersionArn"]
        settings["Layers"] = [arn]
    running.deploy(name, zip_of(files), "index.handler", Runtime=f"nodejs{major}.x", Timeout=30, **settings)


IMPORT = "import * as m from '@aws-sdk/client-s3'; export const handler = async () => [m.says, m.needs ?? null];"
REQUIRE = "const { says, needs } = require('@aws-sdk/client-s3'); exports.handler = async () => [says, needs ?? null];"
DYNAMIC = "exports.handler = async () => { const m = await import('@aws-sdk/client-s3'); return [m.says, m.needs ?? null]; };"
FORMS = {"import": {"index.mjs": IMPORT}, "require": {"index.js": REQUIRE}, "dynamic": {"index.js": DYNAMIC}}


@pytest.mark.parametrize("form", FORMS)
def test_whose_copy_is_found(node: tuple[Engine, int], form: str) -> None:
    own = {f"{S3}/{name}": text for name, text in module("own").items()}
    layer = {f"nodejs/{S3}/{name}": text for name, text in module("layer").items()}
    deploy(node, f"{form}-sdk", FORMS[form])
    assert invoke(node, f"{form}-sdk")[0] == ["sdk", "core"]
    deploy(node, f"{form}-own", {**FORMS[form], **own}, layer)
    assert invoke(node, f"{form}-own")[0] == ["own", None]
    deploy(node, f"{form}-layer", FORMS[form], layer)
    assert invoke(node, f"{form}-layer")[0] == ["layer", None]
    if form == "import":
        versioned = {f"nodejs/node{node[1]}/{S3}/{name}": text for name, text in module("layer of this version").items()}
        deploy(node, "versioned", FORMS[form], {**layer, **versioned})
        assert invoke(node, "versioned")[0] == ["layer of this version", None]


def test_what_is_nowhere_is_missed_by_the_function_as_ever(node: tuple[Engine, int]) -> None:
    deploy(node, "nowhere", {"index.mjs": "import 'nowhere'; export const handler = async () => 1"})
    payload, _, log = invoke(node, "nowhere")
    assert payload["errorType"] == "Runtime.ImportModuleError"
    assert re.match(r"Error( \[ERR_MODULE_NOT_FOUND\])?: Cannot find package 'nowhere' imported from /", payload["errorMessage"])
    assert "lambda-engine runtimes" not in log


def test_what_lambda_turns_off_is_off_until_the_function_turns_it_on(node: tuple[Engine, int]) -> None:
    """require of an ES module, before Node.js 24."""
    files = {"index.js": "exports.handler = async () => require('./m.mjs').x", "m.mjs": "export const x = 'required'"}
    deploy(node, "require-module", files)
    payload, _, _ = invoke(node, "require-module")
    assert payload == "required" if node[1] >= 24 else payload["errorMessage"].startswith("require() of ES Module")
    deploy(node, "require-on", files, Environment={"Variables": {"NODE_OPTIONS": "--experimental-require-module"}})
    assert invoke(node, "require-on")[0] == "required"


def command(*words: str, cache: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "XDG_CACHE_HOME": str(cache), **({} if path is None else {"PATH": path})}
    line = [sys.executable, "-m", "engine.cli.main", "runtimes", *words]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=900, env=env)


def test_what_cannot_be_installed_says_why(tmp_path: Path) -> None:
    done = command("install", "nodejs-sdk", cache=tmp_path, path=str(tmp_path))
    assert (done.returncode, done.stderr) == (1, "error: npm is not on PATH: install Node.js with it\n")
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    npm.chmod(0o755)
    done = command("install", "nodejs-sdk", cache=tmp_path, path=f"{tmp_path}:/usr/bin:/bin")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "error: npm could not fetch the packages: npm error code ENOTFOUND")
    assert list(node_sdk.home(tmp_path / "lambda-engine").iterdir()) == []
    done = command("install", "nodejs-sdk", "left-pad", cache=tmp_path)
    assert "left-pad is not a package of the AWS SDK" in done.stderr
    assert command("install", "ruby-sdk", cache=tmp_path).returncode == 2
    assert "is not installed: lambda-engine runtimes install nodejs-sdk" in command("list", cache=tmp_path).stderr


REAL = """
import { S3Client, PutObjectCommand, GetObjectCommand } from '@aws-sdk/client-s3';
import { DynamoDBClient } from '@aws-sdk/client-dynamodb';
import { DynamoDBDocumentClient, PutCommand, GetCommand } from '@aws-sdk/lib-dynamodb';
const s3 = new S3Client({forcePathStyle: true}), table = DynamoDBDocumentClient.from(new DynamoDBClient({}));
export const handler = async (event) => {
  await s3.send(new PutObjectCommand({Bucket: 'sdk', Key: 'k', Body: event.text}));
  await table.send(new PutCommand({TableName: 'sdk', Item: {id: '1', text: event.text}}));
  const object = await s3.send(new GetObjectCommand({Bucket: 'sdk', Key: 'k'}));
  const item = await table.send(new GetCommand({TableName: 'sdk', Key: {id: '1'}}));
  return [await object.Body.transformToString(), item.Item.text];
};
"""


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_the_real_one_against_the_embedded_s3_and_dynamodb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.require("no Node.js with npm")
    kept = cache_dir() / "node-sdk"
    if not node_sdk.installed(kept / "lambda-engine"):
        done = command("install", "nodejs-sdk", cache=kept)
        assert done.returncode == 0, done.stderr
    shutil.copytree(node_sdk.home(kept / "lambda-engine"), node_sdk.home(tmp_path / "lambda-engine"), symlinks=True)
    assert "@aws-sdk/lib-dynamodb" in command("list", cache=tmp_path).stdout
    program = str(clients.node_program(22))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with engine(runtimes={"nodejs22.x": program}) as running:
        running.client("s3").create_bucket(Bucket="sdk")
        running.client("dynamodb").create_table(
            TableName="sdk", KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}], BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        )  # fmt: skip
        running.deploy("real", zip_of({"index.mjs": REAL}), "index.handler", Runtime="nodejs22.x", MemorySize=512, Timeout=60)
        answer = running.client().invoke(FunctionName="real", Payload=b'{"text":"\xc3\xa9"}')
        assert json.loads(answer["Payload"].read()) == ["é", "é"]
