"""Functions on AWS's published runtime clients, built from tests/clients by each language's own tools.

Each is built once per content into the tests' cache and packaged for ``provided.al2023`` with a ``bootstrap`` that starts it.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.framework.packages import cache_dir
from tests.framework.runtime_client import installed

CLIENTS = Path(__file__).resolve().parents[1] / "clients"
BUILD_S = 900.0
_NODE = '#!/bin/sh\nexec node node_modules/aws-lambda-ric/index.mjs "$_HANDLER"\n'
_PYTHON = '#!/bin/sh\nPYTHONPATH=/var/task exec {} -m awslambdaric "$_HANDLER"\n'
_JAVA = (
    "#!/bin/sh\nexec java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto -cp '/var/task:/var/task/lib/*' "
    'com.amazonaws.services.lambda.runtime.api.client.AWSLambda "$_HANDLER"\n'
)


def _sources(name: str) -> dict[str, bytes]:
    folder = CLIENTS / name
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _run(folder: Path, *command: str, **env: str) -> None:
    done = subprocess.run(
        ["nice", "-n", "10", *command], check=False, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, timeout=BUILD_S
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-4000:]}")


def _target(name: str) -> Path:
    stamp = hashlib.sha256(repr((1, sorted(_sources(name).items()))).encode()).hexdigest()[:24]
    return cache_dir() / f"client-{name}-{stamp}"


def _built(name: str, build: Callable[[Path], None]) -> Path:
    """The directory in which ``build`` has left its products."""
    target = _target(name)
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"client-{name}-", dir=target.parent) as scratch:
        building = Path(scratch) / "b"
        shutil.copytree(CLIENTS / name, building)
        build(building)
        try:
            building.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    return target


def _zip(files: dict[str, bytes | Path]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in files.items():
            data = content.read_bytes() if isinstance(content, Path) else content
            info = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            runs = name == "bootstrap" or name.startswith("extensions/") or (isinstance(content, Path) and os.access(content, os.X_OK))
            info.external_attr = (0o755 if runs else 0o644) << 16
            archive.writestr(info, data)
    return out.getvalue()


def _tree(folder: Path, prefix: str = "") -> dict[str, bytes | Path]:
    return {
        prefix + p.relative_to(folder).as_posix(): p
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.is_symlink() and "__pycache__" not in p.parts
    }


@functools.cache
def go() -> bytes:
    """aws-lambda-go."""

    def build(folder: Path) -> None:
        _run(folder, "go", "mod", "download", "all", GOFLAGS="-mod=mod")
        _run(folder, "go", "build", "-p", "1", "-tags", "lambda.norpc", "-o", "bootstrap", ".", CGO_ENABLED="0", GOFLAGS="-mod=mod")

    return _zip({"bootstrap": _built("go", build) / "bootstrap"})


def terraform_calls() -> Path:
    """A program on the AWS SDK for Go that does what Terraform's provider does."""

    def build(folder: Path) -> None:
        _run(folder, "go", "build", "-p", "1", "-o", "calls", ".", CGO_ENABLED="0", GOFLAGS="-mod=readonly", GOTOOLCHAIN="local")

    return _built("terraform-calls", build) / "calls"


@functools.cache
def rust(name: str) -> bytes:
    """The lambda_runtime crate: ``buffered`` or ``streaming``."""
    return _zip({"bootstrap": rust_program(name)})


def rust_program(name: str) -> Path:
    """One of the programs of tests/clients/rust; all are built together."""

    def build(folder: Path) -> None:
        _run(folder, "cargo", "build", "--quiet", "-j", "1")
        for program in ("buffered", "streaming", "watch"):
            shutil.move(folder / "target/debug" / program, folder / program)
        shutil.rmtree(folder / "target")

    return _built("rust", build) / name


@functools.cache
def node() -> bytes:
    """aws-lambda-ric, its native part compiled here.

    Its own installation does the same but for curl, which that compiles from source first, for minutes: here the host's is linked.
    """

    def build(folder: Path) -> None:
        _run(folder, "npm", "install", "--no-audit", "--no-fund", "--ignore-scripts")
        package = folder / "node_modules/aws-lambda-ric"
        library = folder / "cpp"
        library.mkdir()
        _run(library, "tar", "-xJf", str(package / "deps/aws-lambda-cpp.tar.xz"), "--no-same-owner")
        _run(library, "cmake", "-S", ".", "-B", "out", "-DENABLE_LTO=OFF", "-DCMAKE_CXX_FLAGS=-fPIC")
        # By name: the default target would install the library into the system.
        _run(library, "cmake", "--build", "out", "--target", "aws-lambda-runtime")
        _run(
            folder, "c++", "-std=c++17", "-shared", "-fPIC", "-O1", "-DNODE_GYP_MODULE_NAME=rapid_client", "-o", str(package / "rapid-client.node"),
            str(package / "src/native/rapid-client.cc"), "-Icpp/include", "-Inode_modules/node-addon-api", f"-I{_node_headers()}",
            "cpp/out/libaws-lambda-runtime.a", "-lcurl",
        )  # fmt: skip
        shutil.rmtree(library)
        for name in ("deps", "src"):
            shutil.rmtree(package / name)

    folder = _built("node", build)
    ric = _tree(folder / "node_modules/aws-lambda-ric", "node_modules/aws-lambda-ric/")
    return _zip({"bootstrap": _NODE.encode(), "index.mjs": folder / "index.mjs", **ric})


@functools.cache
def express() -> bytes:
    """An Express application for the managed Node.js runtime."""
    folder = _built("express", lambda building: _run(building, "npm", "install", "--no-audit", "--no-fund"))
    return _zip({"index.js": folder / "index.js", **_tree(folder / "node_modules", "node_modules/")})


@functools.cache
def traced_node() -> bytes:
    """A Node.js function with OpenTelemetry's instrumentation."""
    folder = _built("otel-node", lambda building: _run(building, "npm", "install", "--no-audit", "--no-fund", "--legacy-peer-deps"))
    return _zip({"index.js": folder / "index.js", "otel.js": folder / "otel.js", **_tree(folder / "node_modules", "node_modules/")})


@functools.cache
def traced_python() -> bytes:
    """A Python function with OpenTelemetry's instrumentation."""

    def build(folder: Path) -> None:
        _run(folder, sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", "lib", "-r", "requirements.txt")

    folder = _built("otel-python", build)
    return _zip({"m.py": folder / "m.py", **{k: v for k, v in _tree(folder / "lib").items() if not k.startswith("bin/")}})


@functools.cache
def node_program(major: int) -> Path:
    """A Node.js of that major version: the host's, or one from npm."""
    own = shutil.which("node")
    if own and subprocess.run([own, "--version"], capture_output=True, text=True, check=False).stdout.startswith(f"v{major}."):
        return Path(own)
    return _node_from_npm(major) / "bin/node"


def _node_headers() -> Path:
    """Those of Node.js's interface for native parts, which is the same in all versions: the host's may have come without."""
    return _node_from_npm(22) / "include/node"


@functools.cache
def _node_from_npm(major: int) -> Path:
    target = cache_dir() / f"node-{major}"
    if not target.is_dir():
        building = target.with_name(f"{target.name}.{os.getpid()}")
        building.mkdir(parents=True)
        machine = {"x86_64": "x64", "aarch64": "arm64"}[platform.machine()]
        (building / "package.json").write_text(json.dumps({"private": True}))
        _run(building, "npm", "install", "--no-audit", "--no-fund", f"node@npm:node-linux-{machine}@{major}")
        try:
            building.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    return target / "node_modules/node"


@functools.cache
def python(interpreter: str) -> bytes:
    """awslambdaric."""
    client = {k: v for k, v in _tree(installed()).items() if not k.startswith("bin/")}
    return _zip({"bootstrap": _PYTHON.format(interpreter).encode(), "client.py": CLIENTS / "python/client.py", **client})


@functools.cache
def java() -> bytes:
    """aws-lambda-java-runtime-interface-client."""
    folder = java_folder()
    return _zip({"bootstrap": _JAVA.encode(), **_tree(folder / "lib", "lib/"), **_tree(folder / "classes")})


def java_folder() -> Path:
    """Where ``lib`` holds the client's jars and ``classes`` the function's."""

    def build(folder: Path) -> None:
        _run(folder, "mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib")
        (folder / "classes").mkdir()
        _run(folder, "javac", "-cp", "lib/*", "-d", "classes", "src/main/java/client/Handler.java")

    return _built("java", build)
