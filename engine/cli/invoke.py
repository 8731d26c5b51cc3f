"""``invoke``: call a function and show what it answered."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.options import Endpoint, Json
from engine.cli.output import CliError, document, say
from engine.cli.session import Session

# A function may run for 900 s; the client must outwait it, and must not send it twice.
READ_TIMEOUT_S = 930


def payload_of(text: str) -> bytes:
    """The payload an argument names: ``@file``, ``-`` for stdin, or the text itself. Raises CliError for an unreadable file."""
    if text == "-":
        return sys.stdin.buffer.read()
    if text.startswith("@"):
        try:
            return Path(text[1:]).read_bytes()
        except OSError as e:
            raise CliError(f"{text[1:]}: {e.strerror}", 2) from e
    return text.encode()


def _decoded(payload: bytes) -> Any:
    try:
        return json.loads(payload)
    except ValueError:
        return payload.decode("utf-8", "replace")


def invoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Function name or ARN.")],
    payload: Annotated[str, typer.Argument(metavar="[PAYLOAD]", help="JSON, @file, or - for stdin.")] = "{}",
    tail: Annotated[bool, typer.Option("--tail", help="Show the end of the log on stderr.")] = False,
    qualifier: Annotated[str | None, typer.Option(help="Version or alias.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant-id", help="Whom for, of a function that keeps its tenants apart.")] = None,
    asynchronous: Annotated[bool, typer.Option("--async", help="Queue it and do not wait (InvocationType=Event).")] = False,
    endpoint: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Invoke a function; its answer goes to stdout. Status 1 when the function failed."""
    session = Session(endpoint)
    request: dict[str, Any] = {"FunctionName": name, "Payload": payload_of(payload)}
    if qualifier:
        request["Qualifier"] = qualifier
    if tenant:
        request["TenantId"] = tenant
    if asynchronous:
        request["InvocationType"] = "Event"
    elif tail:
        request["LogType"] = "Tail"
    with session.talking():
        client = session.client(read_timeout=READ_TIMEOUT_S, retries={"total_max_attempts": 1})
        reply = client.invoke(**request)
        answer: bytes = reply["Payload"].read()
    log = base64.b64decode(reply.get("LogResult", "")).decode("utf-8", "replace")
    error = reply.get("FunctionError")
    if as_json:
        document(
            {
                "StatusCode": reply["StatusCode"],
                "RequestId": reply["ResponseMetadata"]["RequestId"],
                "ExecutedVersion": reply.get("ExecutedVersion"),
                "FunctionError": error,
                "LogResult": log or None,
                "Payload": _decoded(answer) if answer else None,
            }
        )
    else:
        sys.stdout.buffer.write(answer + (b"\n" if answer else b""))
        sys.stdout.flush()
        if log:
            say(log.rstrip("\n"))
        if asynchronous:
            say(f"queued as {reply['ResponseMetadata']['RequestId']}")
    if error:
        say(f"the function failed ({error})")
        raise typer.Exit(1)
