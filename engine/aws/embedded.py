"""How to start the embedded AWS: moto's server as a child on loopback. Its state is in memory and ends with it."""

from __future__ import annotations

import importlib.util
import os
import sys

from engine.config import ENV_PREFIX, AuthMode, Settings

URL_VARIABLE = "ENGINE_EMBEDDED_URL"
INSIDE_VARIABLE = "ENGINE_EMBEDDED_INSIDE_URL"
KEY_VARIABLE = "ENGINE_EMBEDDED_KEY"
TOKEN_VARIABLE = "ENGINE_EMBEDDED_TOKEN"  # noqa: S105 - a name
ENFORCE_VARIABLE = "ENGINE_EMBEDDED_ENFORCE"
PUSH_VARIABLE = "ENGINE_EMBEDDED_PUSH"
LOGS_VARIABLE = "ENGINE_EMBEDDED_LOGS"
TIME_PATH = "/_lambda-engine/time/"
LANE_VARIABLE = "ENGINE_EMBEDDED_LANE"
IDENTITY_PATH = "/_lambda-engine/identity/"

# moto's own switches and ambient AWS settings must not leak from the operator's shell into the server that plays AWS.
_DROPPED = (ENV_PREFIX, "AWS_", "MOTO_", "WERKZEUG_", "FLASK_")


def command(
    settings: Settings, port: int, token: str = "", engine_url: str = "", key: tuple[str, str, str] | None = None, inside_url: str = ""
) -> tuple[list[str], dict[str, str]]:
    """argv and environment of a server on ``127.0.0.1:port`` that plays ``settings.account_id`` and ends with its parent.

    With a ``token`` it serves only requests that carry it. With an ``engine_url`` its CloudFormation makes Lambda resources there, signed with
    ``key`` if there is one, and its services invoke functions through the control plane's socket; functions reach the engine at ``inside_url``. It must be started from the process (and thread) that calls this: the child leaves at once when its parent is another.
    """
    argv = [sys.executable, "-m", "engine.aws.embedded_server", str(port), str(os.getpid())]
    env = {k: v for k, v in os.environ.items() if not k.startswith(_DROPPED)}
    env.update(
        MOTO_ACCOUNT_ID=settings.account_id,
        MOTO_PORT=str(port),
        MOTO_EC2_LOAD_DEFAULT_AMIS="false",
        AWS_DEFAULT_REGION=settings.region,
        PYTHONUNBUFFERED="1",
    )
    if engine_url:
        env[URL_VARIABLE] = engine_url
        env[INSIDE_VARIABLE] = inside_url
        env[PUSH_VARIABLE] = str(settings.run_dir() / "http.sock")
        env[LOGS_VARIABLE] = str(settings.data_dir / "logs")
    if key is not None:
        env[KEY_VARIABLE] = " ".join(key)
    lane = queue_lane(settings)
    if lane is not None:
        env[LANE_VARIABLE] = lane
    if token:
        env[TOKEN_VARIABLE] = token
    if settings.auth is AuthMode.IAM:
        env[ENFORCE_VARIABLE] = "1"
        # Roles commonly have AWS's own policies attached, and enforcement has to know what those allow.
        env["MOTO_IAM_LOAD_MANAGED_POLICIES"] = "true"
    return argv, env


def queue_lane(settings: Settings) -> str | None:
    """The socket that gives messages of the embedded SQS to whoever polls queues; none where policies decide who may have them."""
    if settings.aws_endpoint != "embedded" or settings.auth is AuthMode.IAM:
        return None
    return str(settings.run_dir() / "queues.sock")


def available() -> str | None:
    """None when the server can be started, else one sentence naming what to install."""
    missing = [name for name in ("moto", "flask", "flask_cors") if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    return (
        f"The embedded AWS needs the extra 'embedded' ({', '.join(missing)} not installed): run "
        "pip install 'lambda-engine[embedded]', or set LAMBDA_ENGINE_AWS_ENDPOINT to 'aws' or a URL."
    )
