"""What ``Ref`` and ``Fn::GetAtt`` give of resources that moto makes: the ones templates ask for and moto does not know. Runs in the embedded AWS's process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

Read = Callable[[Any], str]


def install(url: str) -> None:
    """Teach moto's classes; once per process. ``url``: where functions reach the engine, which is where the addresses of queues lead: some SDKs ask there."""
    from moto.ecr.models import Repository  # noqa: PLC0415 - moto is an extra
    from moto.events.models import Archive, EventBus  # noqa: PLC0415
    from moto.iam.models import ManagedPolicy  # noqa: PLC0415
    from moto.kms.models import Key  # noqa: PLC0415
    from moto.sns.models import Topic  # noqa: PLC0415
    from moto.sqs.models import Queue  # noqa: PLC0415

    Queue.physical_resource_id = property(lambda queue: f"{url}/{queue.account_id}/{queue.name}")
    _teach(Topic, {"TopicArn": lambda topic: str(topic.arn)})
    _teach(Queue, {"QueueUrl": lambda queue: str(queue.physical_resource_id)})
    _teach(Key, {"KeyId": lambda key: str(key.id)})
    _teach(ManagedPolicy, {"PolicyArn": lambda policy: str(policy.arn), "PolicyId": lambda policy: str(policy.id)})
    _texts(Key, "KeyPolicy")
    for named in (EventBus, Archive):
        named.physical_resource_id = property(lambda made: made.name)
    _named(Repository, lambda name, _properties: name.lower())
    _named(Topic, lambda name, properties: _ordered(name, properties.get("FifoTopic")))
    _named(Queue, lambda name, properties: _ordered(name, properties.get("FifoQueue")))


def _ordered(name: str, fifo: Any) -> str:
    return f"{name[:75]}.fifo" if str(fifo).lower() == "true" and not name.endswith(".fifo") else name


def _teach(model: Any, attributes: Mapping[str, Read]) -> None:
    knows, gives = getattr(model, "has_cfn_attr", None), getattr(model, "get_cfn_attribute", None)

    def has_cfn_attr(_class: Any, attr: str) -> bool:
        return attr in attributes or bool(knows and knows(attr))

    def get_cfn_attribute(made: Any, attribute_name: str) -> Any:
        from moto.cloudformation.exceptions import UnformattedGetAttTemplateException  # noqa: PLC0415

        if attribute_name in attributes:
            return attributes[attribute_name](made)
        if gives is None:
            raise UnformattedGetAttTemplateException
        return gives(made, attribute_name)

    model.has_cfn_attr = classmethod(has_cfn_attr)
    model.get_cfn_attribute = get_cfn_attribute


def _named(model: Any, name_of: Callable[[str, Mapping[str, Any]], str]) -> None:
    """A name that was made up from the resource's is one that its service takes: of repositories without capitals, of what keeps order with ``.fifo``."""
    create = model.create_from_cloudformation_json

    def made(_class: Any, resource_name: str, cloudformation_json: Any, *arguments: Any, **named: Any) -> Any:
        return create(name_of(resource_name, cloudformation_json.get("Properties") or {}), cloudformation_json, *arguments, **named)

    model.create_from_cloudformation_json = classmethod(made)


def _texts(model: Any, member: str) -> None:
    """A document of the template is what its service was sent: text."""
    create = model.create_from_cloudformation_json

    def made(_class: Any, resource_name: str, cloudformation_json: Any, *arguments: Any, **named: Any) -> Any:
        properties = cloudformation_json.get("Properties") or {}
        if isinstance(properties.get(member), dict):
            cloudformation_json = {**cloudformation_json, "Properties": {**properties, member: json.dumps(properties[member])}}
        return create(resource_name, cloudformation_json, *arguments, **named)

    model.create_from_cloudformation_json = classmethod(made)
