"""The operations that tests/integration/test_official_clients.py asks every language for."""

import os
import time


def handler(event, context):
    op = event.get("op")
    print("handling", op)
    if op == "error":
        raise ValueError("boom")
    if op == "exit":
        os._exit(3)
    if op == "sleep":
        time.sleep(event["seconds"])
    if op == "big":
        return "x" * event["size"]
    if op == "context":
        return {
            "request_id": context.aws_request_id,
            "arn": context.invoked_function_arn,
            "deadline_ms": time.time() * 1000 + context.get_remaining_time_in_millis(),
            "function": context.function_name,
            "version": context.function_version,
            "memory": int(context.memory_limit_in_mb),
            "custom": context.client_context.custom,
            "trace": os.environ["_X_AMZN_TRACE_ID"],
        }
    return event


def echo(event, context):
    """What the bench measures: the client and the way to it, without a line in the log each time."""
    return event
