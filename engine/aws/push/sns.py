"""Subscriptions of topics. Source of the event: docs.aws.amazon.com/lambda/latest/dg/with-sns.html."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from engine.aws.push import permissions, request
from engine.aws.push.courier import Courier
from engine.core import topic_filters
from engine.core.patterns import InvalidPattern
from engine.core.push import Verdict
from engine.core.records import millis
from engine.core.rule_input import compact

PRINCIPAL = "sns.amazonaws.com"


def install(courier: Courier) -> None:
    """Have topics publish to functions of the engine."""
    from moto.sns.models import Subscription  # noqa: PLC0415 - moto is an extra

    _filter()
    publish = Subscription.publish

    def publish_or_invoke(
        subscription: Any, message: str, message_id: str, subject: str | None = None, message_attributes: dict[str, Any] | None = None,
        group_id: str | None = None, deduplication_id: str | None = None, message_structure: str | None = None,
    ) -> None:  # fmt: skip
        if subscription.protocol == "sqs":
            try:
                permissions.check(PRINCIPAL, subscription.endpoint, subscription.topic.arn, subscription.topic.account_id)
            except permissions.NotAllowed as e:
                sys.stderr.write(f"embedded AWS: {subscription.arn} did not reach {subscription.endpoint}: {e}\n")
                return
        if subscription.protocol != "lambda":
            if subscription.topic.fifo_topic and deduplication_id is None and message:
                # moto leaves it to the queue, which need not know how.
                deduplication_id = hashlib.sha256(message.encode()).hexdigest()
            publish(subscription, message, message_id, subject, message_attributes, group_id, deduplication_id, message_structure)
            return
        matcher = subscription._filter_policy_matcher  # noqa: SLF001 - moto has no other name for it
        if matcher is not None and not matcher.matches(message_attributes, message):
            return
        if message_structure == "json":
            message = subscription._parse_message_structure(message, subscription.protocol)  # noqa: SLF001
        notification = _notification(subscription, message, message_id, subject, message_attributes)
        event = {
            "Records": [
                {"EventSource": "aws:sns", "EventVersion": "1.0", "EventSubscriptionArn": subscription.arn, "Sns": notification},
            ]
        }
        courier.send(
            subscription.endpoint,
            compact(event),
            principal=PRINCIPAL,
            source_arn=subscription.topic.arn,
            source_account=subscription.topic.account_id,
            trace=request.trace(),
            refused=lambda verdict: _redrive(subscription, notification, verdict),
        )

    Subscription.publish = publish_or_invoke


def _filter() -> None:
    """Have filter policies read by the whole language: moto fails at ``$or`` in bodies and at null, and knows neither addresses nor all negations."""
    from moto.sns.exceptions import SNSInvalidParameter  # noqa: PLC0415 - moto is an extra
    from moto.sns.models import SNSBackend  # noqa: PLC0415
    from moto.sns.responses import SNSResponse  # noqa: PLC0415
    from moto.sns.utils import FilterPolicyMatcher  # noqa: PLC0415

    begin, validate = FilterPolicyMatcher.__init__, SNSBackend._validate_filter_policy  # noqa: SLF001 - moto has no other name for it

    def made(matcher: Any, filter_policy: dict[str, Any], filter_policy_scope: str | None) -> None:
        begin(matcher, filter_policy, filter_policy_scope)
        matcher.pattern = topic_filters.read(filter_policy) if filter_policy else None

    def matches(matcher: Any, message_attributes: dict[str, Any] | None, message: str) -> bool:
        pattern = matcher.pattern
        return pattern is None or topic_filters.matches(pattern, matcher.filter_policy_scope, message_attributes, message)

    def valid(backend: Any, value: Any, scope: str | None) -> None:
        validate(backend, _without_addresses(value), scope)
        try:
            topic_filters.read(value)
        except InvalidPattern as e:
            raise SNSInvalidParameter(f"Invalid parameter: FilterPolicy: {e}") from e

    subscribe = SNSBackend.subscribe

    def to_queues_only(backend: Any, topic_arn: str, endpoint: str, protocol: str) -> Any:
        if topic_arn.endswith(".fifo") and protocol == "lambda":
            raise SNSInvalidParameter("Invalid parameter: Protocol Reason: FIFO topics deliver to Amazon SQS queues only")
        if protocol == "lambda" and not endpoint.startswith("arn:"):
            raise SNSInvalidParameter("Invalid parameter: Lambda endpoint ARN")
        return subscribe(backend, topic_arn, endpoint, protocol)

    SNSBackend.subscribe = to_queues_only
    SNSBackend.set_subscription_attributes = _checked(SNSBackend.set_subscription_attributes)
    SNSResponse.subscribe = _whole(SNSResponse.subscribe)
    FilterPolicyMatcher.__init__ = made
    FilterPolicyMatcher.matches = matches
    SNSBackend._validate_filter_policy = valid  # noqa: SLF001


def _checked(call: Callable[..., None]) -> Callable[..., None]:
    """Attributes of subscriptions, with what moto does not look at refused."""
    from moto.sns.exceptions import SNSInvalidParameter  # noqa: PLC0415 - moto is an extra

    def set_subscription_attributes(backend: Any, arn: str, name: str, value: Any) -> None:
        subscription = next((one for one in backend.subscriptions.values() if one.arn == arn), None)
        if name == "RawMessageDelivery" and str(value).lower() == "true" and subscription is not None and subscription.protocol == "lambda":
            raise SNSInvalidParameter("Invalid parameter: Attributes Reason: Delivery protocol [lambda] does not support raw message delivery.")
        if name in ("FilterPolicy", "RedrivePolicy") and value:
            try:
                json.loads(value)
            except ValueError as e:
                raise SNSInvalidParameter(f"Invalid parameter: {name}: failed to parse JSON. {e}") from e
        if name == "FilterPolicyScope" and value not in ("MessageAttributes", "MessageBody"):
            raise SNSInvalidParameter(f"Invalid parameter: FilterPolicyScope: Invalid value [{value}]. Please use either MessageBody or MessageAttributes")
        call(backend, arn, name, value)

    return set_subscription_attributes


def _whole(call: Callable[..., Any]) -> Callable[..., Any]:
    """No subscription is left of a request whose attributes are refused: without its filter it would get everything."""

    def subscribe(response: Any) -> Any:
        before = set(response.backend.subscriptions)
        try:
            return call(response)
        except Exception:
            topic, endpoint = response._get_param("TopicArn"), response._get_param("Endpoint")  # noqa: SLF001 - moto has no other name for it
            for arn, made in list(response.backend.subscriptions.items()):
                if arn not in before and (made.topic.arn, made.endpoint) == (topic, endpoint):
                    response.backend.unsubscribe(arn)
            raise

    return subscribe


def _without_addresses(policy: Any) -> Any:
    """The policy with ``cidr``, which moto does not know, as a rule that it does."""
    if isinstance(policy, dict):
        return {"prefix" if name == "cidr" and isinstance(rule, str) else name: _without_addresses(rule) for name, rule in policy.items()}
    return [_without_addresses(one) for one in policy] if isinstance(policy, list) else policy


def _notification(subscription: Any, message: str, message_id: str, subject: str | None, attributes: dict[str, Any] | None) -> dict[str, Any]:
    region = subscription.topic.sns_backend.region_name
    return {
        "Type": "Notification",
        "MessageId": message_id,
        "TopicArn": subscription.topic.arn,
        "Subject": subject,
        "Message": message,
        "Timestamp": millis(time.time_ns() // 1_000_000),
        "SignatureVersion": "1",
        "Signature": "EXAMPLE",
        "SigningCertUrl": f"https://sns.{region}.amazonaws.com/SimpleNotificationService-0000000000000000000000.pem",
        "UnsubscribeUrl": f"https://sns.{region}.amazonaws.com/?Action=Unsubscribe&SubscriptionArn={subscription.arn}",
        "MessageAttributes": {name: {"Type": str(given["Type"]), "Value": _text(given["Value"])} for name, given in (attributes or {}).items()},
    }


def _text(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _redrive(subscription: Any, notification: dict[str, Any], _verdict: Verdict) -> None:
    """What the function cannot take goes to the subscription's dead-letter queue, where it has one."""
    policy = subscription.attributes.get("RedrivePolicy")
    if not policy:
        return
    from moto.sqs.models import sqs_backends  # noqa: PLC0415 - moto is an extra

    region, account, name = json.loads(policy)["deadLetterTargetArn"].split(":")[3:6]
    sqs_backends[account][region].send_message(queue_name=name, message_body=compact(notification))
