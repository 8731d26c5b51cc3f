"""Resources of the embedded AWS that would be kept and never run: refused, so that nobody waits for what they do. Runs in the embedded AWS's process."""

from __future__ import annotations

from typing import Any


def install() -> None:
    """Refuse pipes, and delivery streams that want their records turned by a function. Once per process."""
    from moto.firehose.models import FirehoseBackend  # noqa: PLC0415 - moto is an extra
    from moto.pipes.models import EventBridgePipesBackend  # noqa: PLC0415

    deliver = FirehoseBackend.create_delivery_stream

    def create_pipe(_backend: Any, *_arguments: Any, **_members: Any) -> Any:
        raise NotImplementedError("a pipe would be kept but never run; an event source mapping reads the same sources")

    def create_delivery_stream(backend: Any, *arguments: Any, **members: Any) -> Any:
        if any(_is_processed(one) for one in (*arguments, *members.values())):
            raise NotImplementedError("records are delivered as they are put, no function of a ProcessingConfiguration would be run")
        return deliver(backend, *arguments, **members)

    EventBridgePipesBackend.create_pipe = create_pipe
    FirehoseBackend.create_delivery_stream = create_delivery_stream


def _is_processed(given: Any) -> bool:
    if not isinstance(given, dict):
        return False
    processing = given.get("ProcessingConfiguration") or {}
    return str(processing.get("Enabled")).lower() == "true" and bool(processing.get("Processors"))
