"""The environment variables a function sees, and the INIT message that carries them.

Source: docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html and a recorded environment of python3.14.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.core.model import VersionConfig
from engine.core.runtimes import Family, family
from engine.wire import messages

SNAP_START = "snap-start"
INITIALIZATION_TYPE = "AWS_LAMBDA_INITIALIZATION_TYPE"
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
# Side effects of AWS's start scripts and of CPython, as recorded; custom runtimes see none of it.
_OF_FAMILY: dict[Family | None, dict[str, str]] = {
    Family.PYTHON: {"PYTHONPATH": "/var/runtime", "PWD": "/var/task", "SHLVL": "0", "LC_CTYPE": "C.UTF-8"},
    Family.NODEJS: {"PWD": "/var/task", "SHLVL": "0"},
    Family.JAVA: {"PWD": "/var/task", "SHLVL": "0"},
    Family.RUBY: {"PWD": "/var/task", "SHLVL": "0"},
}
_SEARCH_PATHS = frozenset({"PATH", "LD_LIBRARY_PATH", "NODE_PATH", "GEM_PATH", "RUBYLIB"})
_OF_PACKAGES = {
    "LANG": "en_US.UTF-8",
    "PATH": "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
    "LD_LIBRARY_PATH": "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
}
# Where container engines look for programs if the image does not say.
_OF_IMAGES = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

# Lambda's own; here nobody listens there.
NO_DAEMON = "169.254.100.1:2000"


@dataclass(frozen=True, slots=True)
class Home:
    """Where a function finds the engine. ``endpoint_url`` None leaves the choice to the AWS SDK (the real AWS);
    ``lambda_url`` is then still home. ``credentials``: access key id, secret, session token. ``daemon``: of X-Ray, host and port.
    """

    region: str
    endpoint_url: str | None
    lambda_url: str
    credentials: tuple[str, str, str] | None
    daemon: str = NO_DAEMON


def base_env(config: VersionConfig, home: Home) -> dict[str, str]:
    """Everything but the log stream's name; customer variables win over those that AWS lets them override, and what a container image
    says of its own over what only packages need.
    """
    env = {
        **(_OF_PACKAGES if config.image is None else _OF_IMAGES),
        "TZ": ":UTC",
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        "AWS_XRAY_DAEMON_ADDRESS": home.daemon,
        "_AWS_XRAY_DAEMON_ADDRESS": home.daemon.rpartition(":")[0],
        "_AWS_XRAY_DAEMON_PORT": home.daemon.rpartition(":")[2],
        **_OF_FAMILY.get(family(config.runtime), {}),
    }
    if family(config.runtime) is Family.NODEJS:
        major = config.runtime.removeprefix("nodejs").partition(".")[0]
        env["NODE_PATH"] = f"/opt/nodejs/node{major}/node_modules:/opt/nodejs/node_modules:/var/runtime/node_modules:/var/runtime:/var/task"
    if family(config.runtime) is Family.RUBY:
        release = f"{config.runtime.removeprefix('ruby')}.0"
        env["GEM_PATH"] = f"/var/task/vendor/bundle/ruby/{release}:/opt/ruby/gems/{release}"
        env["RUBYLIB"] = "/var/task:/opt/ruby/lib"
    if home.endpoint_url is not None:
        env["AWS_ENDPOINT_URL"] = home.endpoint_url
    else:
        env["AWS_ENDPOINT_URL_LAMBDA"] = home.lambda_url
    if home.credentials is not None:
        env.update(zip(CREDENTIALS, home.credentials, strict=True))
    if config.image is not None:
        env.update(config.image["env"])
    env.update(config.env)
    if config.image is None:
        env["_HANDLER"] = config.handler
    env.update(
        {
            "AWS_REGION": home.region,
            "AWS_DEFAULT_REGION": home.region,
            "AWS_LAMBDA_FUNCTION_NAME": config.name,
            "AWS_LAMBDA_FUNCTION_VERSION": config.version,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(config.memory_mib),
            "AWS_LAMBDA_LOG_GROUP_NAME": config.log_group,
            "AWS_LAMBDA_RUNTIME_API": "169.254.100.1:9001",
            "LAMBDA_TASK_ROOT": "/var/task",
            "LAMBDA_RUNTIME_DIR": "/var/runtime",
        }
    )
    if family(config.runtime) not in (Family.PROVIDED, Family.IMAGE):
        env["AWS_EXECUTION_ENV"] = f"AWS_Lambda_{config.runtime}"
    if config.log_format == "JSON":
        env["AWS_LAMBDA_LOG_FORMAT"] = "JSON"
        env["AWS_LAMBDA_LOG_LEVEL"] = config.log_level or "INFO"
    return env


def init_message(
    config: VersionConfig,
    env: dict[str, str],
    stream: str,
    kind: str,
    *,
    task_root: str,
    opt_root: str,
    more: dict[str, Any] | None = None,
) -> bytes:
    """A framed INIT for one instance; ``kind`` is its initialization type. Where nothing is mounted, ``opt_root`` stands in for /opt on
    the search paths too. ``more`` is what only some runtimes or some inits have.
    """
    env = {
        **env,
        INITIALIZATION_TYPE: kind,
        "AWS_LAMBDA_LOG_STREAM_NAME": stream,
        "LAMBDA_TASK_ROOT": task_root,
    }
    if kind == SNAP_START:
        # A snapshot is of no one environment, and the variables of a process stay what they were.
        for name in ("AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME"):
            del env[name]
    if opt_root != "/opt":
        for name in _SEARCH_PATHS & env.keys():
            env[name] = ":".join(opt_root + p[4:] if p.startswith("/opt/") else p for p in env[name].split(":"))
        if "GEM_PATH" in env:
            env["GEM_PATH"] = env["GEM_PATH"].replace("/var/task/", f"{task_root}/")
    fields: dict[str, Any] = {
        "handler": config.handler,
        "env": env,
        "task_root": task_root,
        "opt_root": opt_root,
        "function_name": config.name,
        "function_version": config.version,
        "memory_mb": config.memory_mib,
        "log_group": config.log_group,
        "log_stream": stream,
        "init_type": kind,
        "log_format": config.log_format,
        "log_level": config.log_level,
        **(more or {}),
    }
    return messages.pack(messages.INIT, fields)
