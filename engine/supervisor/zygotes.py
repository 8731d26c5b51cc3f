"""Which zygote serves which configuration, and what each zygote is.

A key is ``<runtime>[+<preload>...]`` for runtimes whose workers are ours, ``agent[:<runtime>]`` for those that want the HTTP API (with an
interpreter of the host's to be seen inside), and ``<runtime>+late`` for a Node.js that must not be started before its environment is known.
``/mnt`` after it: the same for functions with a file system, whose sandboxes are locked down in another way.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.core.model import VersionConfig
from engine.core.runtimes import Family, compiles, family, speaks_frames
from engine.sandbox.api import ZygoteSpec

AGENT = "agent"
LATE = "late"
FILES = "/mnt"
_AGENT_ENTRY = "runtime_bootstrap.agent.agent"
_NODE_ENTRY = "runtime_bootstrap.nodejs.launch"
# A prepared Node.js is a process of its own with 40 MB that nothing else shares.
_MOST_NODES = 3
# Few functions have a file system, and fewer still the same runtime.
_MOST_WITH_FILES = 2
# Read by the interpreter itself, at the start of the process.
_EARLY = ("NODE_OPTIONS", "AWS_LAMBDA_EXEC_WRAPPER", "NODE_EXTRA_CA_CERTS", "UV_THREADPOOL_SIZE")
# Of the variables that CPython reads then, those that change nothing here: the worker sees to them, or does so anyhow.
_PYTHON_ANYHOW = frozenset(("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE"))

# The client's start is most of a cold start: what shortens it, and no more heap than the function has memory for.
_JAVA_FLAGS = ("-XX:MaxRAMPercentage=85", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
_JAVA_MAIN = "com.amazonaws.services.lambda.runtime.api.client.AWSLambda"
_NODE_FLAGS = ("--expose-gc", "--max-http-header-size=81920")
# What upstream turns on and Lambda turns off, by major version, and since when Node.js knows the word.
_OFF = {20: (("--no-experimental-require-module", (20, 17)),), 22: (("--no-experimental-require-module", (22, 0)), ("--no-experimental-detect-module", (22, 0)))}


@dataclass(frozen=True, slots=True)
class Interpreter:
    """An installed runtime. ``shows``: what its sandboxes must see besides the system's own directories. ``client``: where a runtime that
    is not ours finds its runtime interface client.
    """

    path: str
    version: str
    shows: tuple[str, ...] = ()
    client: str = ""


def has_extensions(config: VersionConfig) -> bool:
    """Whether a layer brings external extensions."""
    return any(os.path.isdir(os.path.join(layer, "extensions")) for layer in config.layers)


def asks_apis(config: VersionConfig) -> bool:
    """Whether its code has Lambda's HTTP APIs to ask: a worker with the agent beside it cannot be copied or run several invocations at once."""
    return bool(config.api) and not config.snap_start and config.max_concurrency == 1


def key(config: VersionConfig, *, behind_agent: bool = False) -> str:
    """Which stock of prepared sandboxes serves this configuration. ``behind_agent``: also a worker of ours has the agent beside it.

    That of a function in a VPC ends in ``@`` and its network.
    """
    zygote = _zygote(config, behind_agent=behind_agent) + (FILES if config.file_system else "")
    return f"{zygote}@{config.network}" if config.network else zygote


def _zygote(config: VersionConfig, *, behind_agent: bool) -> str:
    kind = family(config.runtime)
    if speaks_frames(config.runtime) and (behind_agent or (kind is Family.PYTHON and _starts_late(config.env))):
        return f"{AGENT}:{config.runtime}"
    if kind is Family.NODEJS:
        return f"{config.runtime}+{LATE}" if any(name in config.env for name in _EARLY) else config.runtime
    if speaks_frames(config.runtime):
        return "+".join((config.runtime, *(config.preload if compiles(config.runtime) else ())))
    return AGENT if kind in (Family.PROVIDED, Family.IMAGE) else f"{AGENT}:{config.runtime}"


def _starts_late(env: Mapping[str, str]) -> bool:
    """Whether a Python must be started with the function's own environment."""
    return any(name == "AWS_LAMBDA_EXEC_WRAPPER" or (name.startswith("PYTHON") and name not in _PYTHON_ANYHOW) for name in env)


def places(config: VersionConfig, *, behind_agent: bool) -> int:
    """How many invocations an instance runs at once: more than one only where its worker can, and where no snapshot of it is taken."""
    kind = family(config.runtime)
    able = key(config).startswith("python") if kind is Family.PYTHON else kind in (Family.PROVIDED, Family.JAVA, Family.IMAGE)
    able = able and not behind_agent
    return config.max_concurrency if able and not config.snap_start else 1


def command(config: VersionConfig, runtimes: Mapping[str, Interpreter], zygote_key: str) -> list[str]:
    """What the agent runs; empty where there is no agent, or where the function brings its own program."""
    interpreter = runtimes.get(config.runtime)
    if interpreter is None or not zygote_key.startswith(f"{AGENT}:"):
        return []
    kind = family(config.runtime)
    if kind is Family.PYTHON:
        return [interpreter.path, "-s", "-S", "{runtime}/runtime_bootstrap/python", "--fd", "3", "--path", "{runtime}", "--env", "own"]
    if kind is Family.NODEJS:
        wanted = config.env.get("NODE_OPTIONS", "").split()
        flags = [flag for flag in node_flags(interpreter.version) if flag.replace("--no-", "--", 1) not in wanted]
        return [interpreter.path, *flags, "{runtime}/runtime_bootstrap/nodejs/index.js", LATE]
    if kind is Family.JAVA:
        classes = f"{{task}}:{{task}}/lib/*:{{opt}}/java/lib/*:{interpreter.client}"
        memory = f"-XX:MaxRAM={config.memory_mib}m"
        return [interpreter.path, memory, *_JAVA_FLAGS, "-cp", classes, _JAVA_MAIN, config.handler]
    if kind is Family.RUBY:
        return [interpreter.path, "{runtime}/runtime_bootstrap/ruby/bootstrap.rb"]
    return []


def node_flags(version: str) -> tuple[str, ...]:
    """How Lambda starts a Node.js of this version.

    Source: docs.aws.amazon.com/lambda/latest/dg/lambda-nodejs.html, experimental features.
    """
    release = tuple(int(n) for n in version.split(".")[:2] if n.isdigit())
    return (*_NODE_FLAGS, *(flag for flag, since in _OFF.get(release[0] if release else 0, ()) if release >= since))


def spec(zygote_key: str, runtimes: Mapping[str, Interpreter]) -> ZygoteSpec | str:
    """What to start for a key, or why it cannot be."""
    if zygote_key.endswith(FILES):
        plain = spec(zygote_key.removesuffix(FILES), runtimes)
        return plain if isinstance(plain, str) else replace(plain, key=zygote_key, files=True, most=min(plain.most, _MOST_WITH_FILES))
    runtime, *more = zygote_key.split("+")
    agent, _, served = runtime.partition(":")
    wanted = served or runtime
    own = next((r for k, r in runtimes.items() if k.startswith("python")), None)
    interpreter = own if zygote_key == AGENT else runtimes.get(wanted)
    if own is None or interpreter is None:
        return f"the runtime {wanted} is not installed on this host"
    if agent == AGENT:
        language = interpreter.path if served else ""
        return ZygoteSpec(zygote_key, runtime, own.path, entry=_AGENT_ENTRY, shows=interpreter.shows, language=language)
    if family(runtime) is Family.NODEJS:
        command = (interpreter.path, *node_flags(interpreter.version), *more)
        return ZygoteSpec(
            zygote_key, runtime, own.path, entry=_NODE_ENTRY, shows=interpreter.shows, command=command, most=_MOST_NODES,
            language=interpreter.path,
        )  # fmt: skip
    return ZygoteSpec(zygote_key, runtime, interpreter.path, tuple(more), language=interpreter.path)
