"""Tags by ARN in services of the embedded AWS whose moto has none: Kinesis's streams and consumers, scalable targets.

Runs in the embedded AWS's process. What keeps a state of all that it made, as Terraform does, reads the tags back each time.
"""

from __future__ import annotations

import functools
import json
from typing import Any

_KEPT = "lambda_engine_tags"


def install() -> None:
    """Have the tags of scalable targets from now on; once per process."""
    from moto.applicationautoscaling.responses import ApplicationAutoScalingResponse  # noqa: PLC0415 - moto is an extra
    from moto.core.exceptions import JsonRESTError  # noqa: PLC0415

    def tags_of(self: Any, arn: str) -> dict[str, str]:
        for targets in self.applicationautoscaling_backend.targets.values():
            for target in targets.values():
                if target.arn == arn:
                    return _kept(target)
        raise JsonRESTError("ResourceNotFoundException", f"The resource {arn} was not found")

    def answer(document: Any) -> str:
        return json.dumps({} if document is None else {"Tags": document})

    register = ApplicationAutoScalingResponse.register_scalable_target

    @functools.wraps(register)
    def register_scalable_target(self: Any) -> Any:
        made = register(self)
        tags_of(self, json.loads(made)["ScalableTargetARN"]).update(self._get_param("Tags") or {})
        return made

    ApplicationAutoScalingResponse.register_scalable_target = register_scalable_target
    _install(ApplicationAutoScalingResponse, tags_of, answer)


def install_kinesis() -> None:
    """The same of streams and their consumers, and the tags with which a stream is created."""
    from moto.core.responses import ActionResult, EmptyResult  # noqa: PLC0415
    from moto.kinesis.responses import KinesisResponse  # noqa: PLC0415

    def tags_of(self: Any, arn: str) -> dict[str, str]:
        if "/consumer/" in arn:
            return _kept(self.kinesis_backend.describe_stream_consumer("", "", arn))
        tags: dict[str, str] = self.kinesis_backend.describe_stream(arn, None).tags
        return tags

    def answer(document: Any) -> Any:
        return EmptyResult() if document is None else ActionResult({"Tags": [{"Key": k, "Value": v} for k, v in sorted(document.items())]})

    create = KinesisResponse.create_stream

    @functools.wraps(create)
    def create_stream(self: Any) -> Any:
        made = create(self)
        self.kinesis_backend.describe_stream(None, self._get_param("StreamName")).tags.update(self._get_param("Tags") or {})
        return made

    KinesisResponse.create_stream = create_stream
    _install(KinesisResponse, tags_of, answer)


def _kept(holder: Any) -> dict[str, str]:
    tags: dict[str, str] = vars(holder).setdefault(_KEPT, {})
    return tags


def _install(responses: Any, tags_of: Any, answer: Any) -> None:
    def list_tags_for_resource(self: Any) -> Any:
        return answer(tags_of(self, self._get_param("ResourceARN")))

    def tag_resource(self: Any) -> Any:
        tags_of(self, self._get_param("ResourceARN")).update(self._get_param("Tags") or {})
        return answer(None)

    def untag_resource(self: Any) -> Any:
        tags = tags_of(self, self._get_param("ResourceARN"))
        for key in self._get_param("TagKeys") or []:
            tags.pop(key, None)
        return answer(None)

    for operation in (list_tags_for_resource, tag_resource, untag_resource):
        setattr(responses, operation.__name__, operation)
