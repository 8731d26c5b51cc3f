"""HTTP servers as peers: each a context manager that yields (host:port, path) of an echo."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import boto3

from bench.engine import ECHO, ROLE, free_port, zipped

_START_S = 60.0

_WSGI = """
def app(environ, start_response):
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
"""
_ASGI = """
async def app(scope, receive, send):
    body = b""
    while True:
        event = await receive()
        body += event["body"]
        if not event.get("more_body"):
            break
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json"), length]})
    await send({"type": "http.response.body", "body": body})
"""


@contextlib.contextmanager
def gunicorn(python: Path, work: Path, *, threads: int) -> Iterator[tuple[str, str]]:
    """One gunicorn worker; ``threads`` 0 is the sync worker, which closes each connection after its answer."""
    port = free_port()
    (work / "echo_wsgi.py").write_text(_WSGI, encoding="utf-8")
    kind = ["-k", "gthread", "--threads", str(threads), "--keep-alive", "75"] if threads else ["-k", "sync"]
    words = [str(python), "-m", "gunicorn", "-w", "1", *kind, "-b", f"127.0.0.1:{port}", "--chdir", str(work), "echo_wsgi:app"]
    with running(words, port, work):
        yield f"127.0.0.1:{port}", "/"


@contextlib.contextmanager
def uvicorn(python: Path, work: Path) -> Iterator[tuple[str, str]]:
    """One uvicorn process."""
    port = free_port()
    (work / "echo_asgi.py").write_text(_ASGI, encoding="utf-8")
    words = [str(python), "-m", "uvicorn", "--app-dir", str(work), "--port", str(port), "--no-access-log", "--log-level", "error"]
    with running([*words, "echo_asgi:app"], port, work):
        yield f"127.0.0.1:{port}", "/"


@contextlib.contextmanager
def awslambdaric(python: Path, work: Path, *, workers: int) -> Iterator[tuple[str, str]]:
    """AWS's own Python runtime client, its HTTP Runtime API served by a minimal loop (``runtime_api.py``)."""
    port, api_port = free_port(), free_port()
    (work / "ric").mkdir(exist_ok=True)
    (work / "ric" / "app.py").write_bytes(ECHO["app.py"])
    loop = Path(__file__).with_name("runtime_api.py")
    with contextlib.ExitStack() as stack:
        stack.enter_context(running([str(python), str(loop), str(port), str(api_port)], api_port, work))
        env = {
            **os.environ,
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{api_port}",
            "LAMBDA_TASK_ROOT": str(work / "ric"),
            "AWS_LAMBDA_FUNCTION_NAME": "echo",
            "AWS_LAMBDA_FUNCTION_VERSION": "1",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
            "AWS_LAMBDA_LOG_GROUP_NAME": "g",
            "AWS_LAMBDA_LOG_STREAM_NAME": "s",
        }
        for _ in range(workers):
            words = [str(python), "-m", "awslambdaric", "app.handler"]
            process = subprocess.Popen(words, env=env, cwd=work / "ric", stdout=subprocess.DEVNULL, start_new_session=True)
            stack.callback(_end, process)
        yield f"127.0.0.1:{port}", "/"


@contextlib.contextmanager
def ministack(python: Path, work: Path) -> Iterator[tuple[str, str]]:
    """The Docker-free AWS emulator, bound to loopback, with an echo function of the same code."""
    port = free_port()
    env = {
        **os.environ,
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "LAMBDA_EXECUTOR": "local",
        "HOME": str(work),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    with running([str(python.parent / "ministack")], port, work, env):
        client = boto3.client(
            "lambda",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        client.create_function(
            FunctionName="echo", Runtime="python3.11", Role=ROLE, Handler="app.handler", Code={"ZipFile": zipped(ECHO)}, Timeout=30
        )
        client.get_waiter("function_active_v2").wait(FunctionName="echo")
        answer = client.invoke(FunctionName="echo", Payload=b'"x"')
        if answer["Payload"].read() != b'"x"':
            raise RuntimeError("ministack did not echo")
        yield f"127.0.0.1:{port}", "/2015-03-31/functions/echo/invocations"


@contextlib.contextmanager
def running(words: list[str], port: int, work: Path, env: dict[str, str] | None = None) -> Iterator[None]:
    """A server process in a session of its own, from listening to gone. Raises RuntimeError with its last words."""
    log_path = work / f"peer-{port}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=env, cwd=work, start_new_session=True)
    try:
        end = time.monotonic() + _START_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{words[0]} did not start: {log_path.read_text(errors='replace')[-600:]}")
            time.sleep(0.05)
        yield
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and what it started (it leads a session of its own)."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
