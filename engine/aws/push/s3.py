"""Notifications of buckets. Source of the event: docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html."""

from __future__ import annotations

import base64
import functools
import hashlib
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus

from engine.aws import bucket_policies, holdings
from engine.aws.push import bucket_events, permissions, request
from engine.aws.push.courier import Courier, Unreachable
from engine.core.records import millis
from engine.core.rule_input import compact

PRINCIPAL = "s3.amazonaws.com"
INVALID = "Unable to validate the following destination configurations"
_END = "</NotificationConfiguration>"
_SKIP = "x-amz-skip-destination-validation"


def install(courier: Courier) -> None:
    """Have buckets notify functions of the engine, and everybody else with whole events."""
    from moto.s3 import notifications  # noqa: PLC0415 - moto is an extra
    from moto.s3.exceptions import S3ClientError  # noqa: PLC0415
    from moto.s3.models import FakeBucket, S3Backend  # noqa: PLC0415
    from moto.s3.responses import S3Response  # noqa: PLC0415

    def invoke(_account: str, event: Any, function: str, _region: str) -> None:
        bucket = event["Records"][0]["s3"]["bucket"]["name"]
        owner = _owner(bucket)
        courier.send(
            function, compact(event), principal=PRINCIPAL, source_arn=f"arn:aws:s3:::{bucket}", source_account=owner, trace=request.trace()
        )

    notifications._get_s3_event = _event  # noqa: SLF001 - where moto makes and sends them
    notifications._invoke_awslambda = invoke  # noqa: SLF001
    notifications._send_event_bridge_message = _tell_event_bridge  # noqa: SLF001
    tell = notifications.send_event

    def send_event(account: str, event_name: Any, bucket: Any, key: Any) -> None:
        if _is_of_request(_name(event_name), bucket):
            tell(account, event_name, bucket, key)

    notifications.send_event = send_event
    _ask_queues_and_topics(notifications)
    configure = FakeBucket.set_notification_configuration

    def set_configuration(bucket: Any, configuration: Any) -> None:
        if not _skips():
            _validate_all(courier, bucket, configuration or {}, S3ClientError)
        configure(bucket, configuration)

    FakeBucket.set_notification_configuration = set_configuration
    S3Response.get_bucket_notification = _with_event_bridge(S3Response.get_bucket_notification)
    bucket_policies.install()
    _understand_templates(FakeBucket, configure)
    mark, delete = S3Backend._set_delete_marker, S3Backend.delete_object  # noqa: SLF001 - moto tells nobody of delete markers

    def set_delete_marker(backend: Any, bucket_name: str, key_name: str) -> Any:
        marker = mark(backend, bucket_name, key_name)
        bucket = backend.get_bucket(bucket_name)
        kind = notifications.S3NotificationEvent.OBJECT_REMOVED_DELETE_MARKER_CREATED_EVENT
        notifications.send_event(backend.account_id, kind, bucket, marker)
        return marker

    def delete_object(backend: Any, bucket_name: str, key_name: str, version_id: str | None = None, bypass: bool = False) -> Any:
        """Of versions that are deleted for good, moto tells of the last one only, and as of the newest."""
        bucket = backend.get_bucket(bucket_name)
        versions = bucket.keys.getlist(key_name) if version_id is not None and bucket.is_versioned and key_name in bucket.keys else []
        gone = [one for one in versions if str(one.version_id) == str(version_id)]
        answer = delete(backend, bucket_name, key_name, version_id, bypass)
        for one in gone:
            tell(backend.account_id, notifications.S3NotificationEvent.OBJECT_REMOVED_DELETE_EVENT, bucket, one)
        return answer

    S3Backend._set_delete_marker = set_delete_marker  # noqa: SLF001
    S3Backend.delete_object = delete_object


def _ask_queues_and_topics(notifications: Any) -> None:
    """Have them get no more than their policies let in."""
    send, publish = notifications._send_sqs_message, notifications._send_sns_message  # noqa: SLF001 - where moto sends notifications

    def send_if_let_in(account: str, event: Any, queue: str, region: str) -> None:
        if _lets_in(f"arn:aws:sqs:{region}:{account}:{queue}", _bucket_of(event)):
            send(account, event, queue, region)

    def publish_if_let_in(account: str, event: Any, topic: str, region: str) -> None:
        if _lets_in(topic, _bucket_of(event)):
            publish(account, event, topic, region)

    notifications._send_sqs_message, notifications._send_sns_message = send_if_let_in, publish_if_let_in  # noqa: SLF001


def _with_event_bridge(get: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """moto tells EventBridge of a bucket that asks for it, and does not say so of the bucket."""

    @functools.wraps(get)
    def get_bucket_notification(response: Any) -> Any:
        status, headers, body = get(response)
        found = response.backend.get_bucket_notification_configuration(response.bucket_name)
        if found is not None and found.event_bridge is not None:
            text = (body.decode() if isinstance(body, bytes) else body).rstrip()
            opened = text[:-2] + ">" if text.endswith("/>") else text.removesuffix(_END)
            body = f"{opened}<EventBridgeConfiguration/>{_END}"
            headers.pop("Content-Length", None)
        return status, headers, body

    return get_bucket_notification


def _name(event_name: Any) -> str:
    return str(getattr(event_name, "value", event_name)).removeprefix("s3:")


def _is_of_request(name: str, bucket: Any) -> bool:
    """Whether it is what was asked for: moto writes the tags of each object that is put, and puts what an upload in parts has completed."""
    from flask import has_request_context  # noqa: PLC0415 - flask is an extra
    from flask import request as current  # noqa: PLC0415

    if name == "ObjectRemoved:Delete" and bucket.is_versioned:
        return False
    if not has_request_context():
        return True
    asked = current.args
    if name == "ObjectCreated:Put":
        return "uploadId" not in asked
    return name not in ("ObjectTagging:Put", "ObjectAcl:Put") or ("tagging" if name == "ObjectTagging:Put" else "acl") in asked


def _tell_event_bridge(_account: str, bucket: Any, event_name: Any, key: Any) -> None:
    bucket_events.tell(_name(event_name), bucket, key, _sequencer(time.time_ns()))


def _sequencer(now_ns: int) -> str:
    return f"00{now_ns:016X}"


def _understand_templates(bucket_class: Any, configure: Callable[[Any, Any], None]) -> None:
    """A stack's buckets get the notifications that their properties ask for, which moto leaves out. moto may make the bucket before the permission that
    it depends on, so that is asked for at each event only.
    """
    create, update = bucket_class.create_from_cloudformation_json, bucket_class.update_from_cloudformation_json

    def made(_class: Any, resource_name: str, cloudformation_json: Any, *arguments: Any, **named: Any) -> Any:
        bucket = create(resource_name, cloudformation_json, *arguments, **named)
        wanted = (cloudformation_json.get("Properties") or {}).get("NotificationConfiguration")
        if wanted:
            configure(bucket, _of_template(wanted))
        return bucket

    def changed(_class: Any, original: Any, new_name: str, cloudformation_json: Any, *arguments: Any, **named: Any) -> Any:
        bucket = update(original, new_name, cloudformation_json, *arguments, **named)
        wanted = (cloudformation_json.get("Properties") or {}).get("NotificationConfiguration")
        configure(bucket, _of_template(wanted) if wanted else None)
        return bucket

    bucket_class.create_from_cloudformation_json = classmethod(made)
    bucket_class.update_from_cloudformation_json = classmethod(changed)


def _of_template(wanted: dict[str, Any]) -> dict[str, Any]:
    """CloudFormation's form of a bucket's notifications in the API's, as moto reads it."""
    found: dict[str, Any] = {}
    for given, kind, target in (
        ("LambdaConfigurations", "CloudFunctionConfiguration", ("Function", "CloudFunction")),
        ("QueueConfigurations", "QueueConfiguration", ("Queue", "Queue")),
        ("TopicConfigurations", "TopicConfiguration", ("Topic", "Topic")),
    ):
        for each in wanted.get(given) or []:
            rules = ((each.get("Filter") or {}).get("S3Key") or {}).get("Rules") or []
            one = {target[1]: each[target[0]], "Event": [each["Event"]]}
            if rules:
                one["Filter"] = {"S3Key": {"FilterRule": [{"Name": r["Name"].lower(), "Value": r["Value"]} for r in rules]}}
            found.setdefault(kind, []).append(one)
    if wanted.get("EventBridgeConfiguration") is not None:
        found["EventBridgeConfiguration"] = {}
    return found


def _skips() -> bool:
    from flask import has_request_context  # noqa: PLC0415 - flask is an extra
    from flask import request as current  # noqa: PLC0415

    return has_request_context() and str(current.headers.get(_SKIP, "")).lower() == "true"


def _validate_all(courier: Courier, bucket: Any, configuration: Any, error: Any) -> None:
    for each in configuration.get("CloudFunctionConfiguration") or []:
        _validate(courier, bucket, each["CloudFunction"], error)
    for kind, name in (("QueueConfiguration", "Queue"), ("TopicConfiguration", "Topic")):
        for each in configuration.get(kind) or []:
            if not _lets_in(str(each[name]), bucket):
                raise error("InvalidArgument", INVALID)


def _validate(courier: Courier, bucket: Any, function: str, error: Any) -> None:
    try:
        verdict = courier.check(function, PRINCIPAL, bucket.arn, bucket.account_id)
    except Unreachable as e:
        raise error("InternalError", f"The engine could not be asked about {function}: {e}") from e
    if not verdict.accepted:
        raise error("InvalidArgument", INVALID)


def _bucket_of(event: Any) -> Any:
    """The bucket that a notification, or the test of one, is of."""
    records = event.get("Records")
    return holdings.bucket(str(records[0]["s3"]["bucket"]["name"] if records else event.get("Bucket")))


def _lets_in(arn: str, bucket: Any) -> bool:
    """Whether a queue or topic takes what a bucket has to say; said on the engine's log if not."""
    if not permissions.enforced():
        return True
    if bucket is None:
        return False
    try:
        permissions.check(PRINCIPAL, arn, bucket.arn, bucket.account_id)
    except permissions.NotAllowed as e:
        sys.stderr.write(f"embedded AWS: {bucket.arn} does not notify {arn}: {e}\n")
        return False
    return True


def _owner(bucket: str) -> str:
    from moto.s3.models import s3_backends  # noqa: PLC0415 - moto is an extra

    return str(s3_backends.bucket_accounts[bucket][1])


def _event(event_name: str, bucket: Any, key: Any, notification_id: str) -> dict[str, Any]:
    """The notification. Removals have neither size nor ETag; a version id comes with versioned buckets only."""
    name = _name(event_name)
    now_ns = time.time_ns()
    thing: dict[str, Any] = {"key": quote_plus(key.name, safe="/")}
    if not name.startswith("ObjectRemoved:"):
        thing |= {"size": key.size, "eTag": key.etag.replace('"', "")}
    if bucket.is_versioned:
        thing["versionId"] = str(key.version_id)
    thing["sequencer"] = _sequencer(now_ns)
    owner = hashlib.sha256(bucket.account_id.encode()).hexdigest()[:14].upper()
    return {
        "Records": [
            {
                "eventVersion": "2.1",
                "eventSource": "aws:s3",
                "awsRegion": bucket.region_name,
                "eventTime": millis(now_ns // 1_000_000),
                "eventName": name,
                "userIdentity": {"principalId": f"AWS:{request.access_key()}"},
                "requestParameters": {"sourceIPAddress": "127.0.0.1"},
                "responseElements": {
                    "x-amz-request-id": request.identifier(),
                    "x-amz-id-2": base64.b64encode(hashlib.sha512(str(now_ns).encode()).digest()[:57]).decode(),
                },
                "s3": {
                    "s3SchemaVersion": "1.0",
                    "configurationId": notification_id,
                    "bucket": {"name": bucket.name, "ownerIdentity": {"principalId": owner}, "arn": bucket.arn},
                    "object": thing,
                },
            }
        ]
    }
