"""Events as AWS sends them to functions, for every source: call one of these and hand the result to ``Function.invoke``.

Ids and times are made up afresh unless given; whatever else is not given has the value AWS would send. Sources: the Developer Guide's pages per service
(docs.aws.amazon.com/lambda/latest/dg/lambda-services.html).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote_plus, urlencode

from engine.core.records import millis
from engine.core.schedules import iso

REGION, ACCOUNT = "us-east-1", "000000000000"
Event = dict[str, Any]
_sequence = itertools.count(1)


def s3(bucket: str, key: str, event: str = "ObjectCreated:Put", *, size: int = 1024, etag: str | None = None, version: str | None = None) -> Event:
    """A notification of a bucket."""
    thing: Event = {"key": quote_plus(key, safe="/")}
    if not event.startswith("ObjectRemoved:"):
        thing |= {"size": size, "eTag": etag or hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()}
    if version is not None:
        thing["versionId"] = version
    thing["sequencer"] = f"00{time.time_ns():016X}"
    return {
        "Records": [
            {
                "eventVersion": "2.1",
                "eventSource": "aws:s3",
                "awsRegion": REGION,
                "eventTime": millis(_now_ms()),
                "eventName": event,
                "userIdentity": {"principalId": "AWS:AIDAEXAMPLE"},
                "requestParameters": {"sourceIPAddress": "127.0.0.1"},
                "responseElements": {"x-amz-request-id": uuid.uuid4().hex[:16].upper(), "x-amz-id-2": base64.b64encode(bytes(57)).decode()},
                "s3": {
                    "s3SchemaVersion": "1.0",
                    "configurationId": "test",
                    "bucket": {"name": bucket, "ownerIdentity": {"principalId": "A3NL1KOZZKExample"}, "arn": f"arn:aws:s3:::{bucket}"},
                    "object": thing,
                },
            }
        ]
    }


def sqs(*bodies: str | Mapping[str, Any], queue: str = "queue", attributes: Mapping[str, str] | None = None, group: str | None = None) -> Event:
    """A batch of a queue; bodies that are no texts become JSON. ``group``: of a FIFO queue."""
    return {"Records": [_message(body, queue, attributes or {}, group) for body in bodies]}


def _message(body: str | Mapping[str, Any], queue: str, attributes: Mapping[str, str], group: str | None) -> Event:
    text = body if isinstance(body, str) else json.dumps(body)
    at = str(_now_ms())
    about = {"ApproximateReceiveCount": "1", "SentTimestamp": at, "SenderId": "AIDAEXAMPLE", "ApproximateFirstReceiveTimestamp": at}
    if group is not None:
        about |= {"SequenceNumber": f"{next(_sequence):020d}", "MessageGroupId": group, "MessageDeduplicationId": uuid.uuid4().hex}
    return {
        "messageId": str(uuid.uuid4()),
        "receiptHandle": base64.b64encode(uuid.uuid4().bytes).decode(),
        "body": text,
        "attributes": about,
        "messageAttributes": {
            name: {"stringValue": value, "stringListValues": [], "binaryListValues": [], "dataType": "String"} for name, value in attributes.items()
        },
        "md5OfMessageAttributes": None,
        "md5OfBody": hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue}",
        "awsRegion": REGION,
    }


def sns(message: str | Mapping[str, Any], *, topic: str = "topic", subject: str | None = None, attributes: Mapping[str, str] | None = None) -> Event:
    """What a topic publishes to a subscribed function."""
    arn = f"arn:aws:sns:{REGION}:{ACCOUNT}:{topic}"
    subscription = f"{arn}:{uuid.uuid4()}"
    return {
        "Records": [
            {
                "EventSource": "aws:sns",
                "EventVersion": "1.0",
                "EventSubscriptionArn": subscription,
                "Sns": {
                    "Type": "Notification",
                    "MessageId": str(uuid.uuid4()),
                    "TopicArn": arn,
                    "Subject": subject,
                    "Message": message if isinstance(message, str) else json.dumps(message),
                    "Timestamp": millis(_now_ms()),
                    "SignatureVersion": "1",
                    "Signature": "EXAMPLE",
                    "SigningCertUrl": f"https://sns.{REGION}.amazonaws.com/SimpleNotificationService-0000000000000000000000.pem",
                    "UnsubscribeUrl": f"https://sns.{REGION}.amazonaws.com/?Action=Unsubscribe&SubscriptionArn={subscription}",
                    "MessageAttributes": {name: {"Type": "String", "Value": value} for name, value in (attributes or {}).items()},
                },
            }
        ]
    }


def eventbridge(source: str, detail_type: str, detail: Mapping[str, Any], *, resources: Sequence[str] = ()) -> Event:
    """An event of a bus, as a rule hands it on."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": detail_type,
        "source": source,
        "account": ACCOUNT,
        "time": iso(time.time()),
        "region": REGION,
        "resources": list(resources),
        "detail": dict(detail),
    }


def scheduled(rule: str = "rule", *, at: str | None = None) -> Event:
    """What a rule with a schedule sends. ``at``: ``2026-01-31T12:00:00Z``, else now."""
    event = eventbridge("aws.events", "Scheduled Event", {}, resources=[f"arn:aws:events:{REGION}:{ACCOUNT}:rule/{rule}"])
    return event if at is None else {**event, "time": at}


def logs(*messages: str, group: str = "/aws/lambda/function", stream: str = "stream", subscription: str = "subscription") -> Event:
    """What a log group's subscription sends: gzip in base64."""
    at_ms = _now_ms()
    document = {
        "messageType": "DATA_MESSAGE",
        "owner": ACCOUNT,
        "logGroup": group,
        "logStream": stream,
        "subscriptionFilters": [subscription],
        "logEvents": [{"id": f"{next(_sequence):056d}", "timestamp": at_ms, "message": message} for message in messages],
    }
    return {"awslogs": {"data": base64.b64encode(gzip.compress(json.dumps(document).encode())).decode()}}


def kinesis(*data: bytes | str | Mapping[str, Any], stream: str = "stream", partition_key: str = "key", shard: int = 0) -> Event:
    """A batch of a stream's shard."""
    return {"Records": [_kinesis(each, stream, partition_key, shard) for each in data]}


def _kinesis(data: bytes | str | Mapping[str, Any], stream: str, partition_key: str, shard: int) -> Event:
    raw = data if isinstance(data, bytes) else data.encode() if isinstance(data, str) else json.dumps(data).encode()
    sequence = f"{49_590_338_271_490_256_608_559_692_538_361_571_095_921_575_989_136_588_898 + next(_sequence)}"
    return {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": partition_key,
            "sequenceNumber": sequence,
            "data": base64.b64encode(raw).decode(),
            "approximateArrivalTimestamp": _now_ms() / 1000,
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"shardId-{shard:012d}:{sequence}",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": f"arn:aws:iam::{ACCOUNT}:role/test",
        "awsRegion": REGION,
        "eventSourceARN": f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/{stream}",
    }


def dynamodb(*changes: tuple[str, Mapping[str, Any] | None, Mapping[str, Any] | None], table: str = "table", keys: Iterable[str] = ("id",)) -> Event:
    """A batch of a table's stream: each change is (``INSERT``, ``MODIFY`` or ``REMOVE``, old item or None, new item or None), items as DynamoDB
    types them: ``{"id": {"S": "1"}}``.
    """
    return {"Records": [_change(name, old, new, table, tuple(keys)) for name, old, new in changes]}


def _change(name: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, table: str, keys: tuple[str, ...]) -> Event:
    item = new if new is not None else old or {}
    about: Event = {"ApproximateCreationDateTime": float(_now_ms() // 1000), "Keys": {key: item[key] for key in keys if key in item}}
    if new is not None:
        about["NewImage"] = dict(new)
    if old is not None:
        about["OldImage"] = dict(old)
    about |= {"SequenceNumber": f"{next(_sequence):021d}", "SizeBytes": len(json.dumps(about)), "StreamViewType": "NEW_AND_OLD_IMAGES"}
    return {
        "eventID": uuid.uuid4().hex,
        "eventName": name,
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": REGION,
        "dynamodb": about,
        "eventSourceARN": f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{table}/stream/2026-01-01T00:00:00.000",
    }


def kafka(*values: bytes | str, topic: str = "topic", partition: int = 0, key: str | None = None, servers: str = "b-1.example:9092") -> Event:
    """A batch of a self-managed Kafka topic."""
    records = [
        {
            "topic": topic,
            "partition": partition,
            "offset": offset,
            "timestamp": _now_ms(),
            "timestampType": "CREATE_TIME",
            **({} if key is None else {"key": base64.b64encode(key.encode()).decode()}),
            "value": base64.b64encode(value if isinstance(value, bytes) else value.encode()).decode(),
            "headers": [],
        }
        for offset, value in enumerate(values)
    ]
    return {"eventSource": "SelfManagedKafka", "bootstrapServers": servers, "records": {f"{topic}-{partition}": records}}


def http_api(method: str = "GET", path: str = "/", *, route: str | None = None, query: Mapping[str, str] | None = None,
             headers: Mapping[str, str] | None = None, body: Any = None, path_parameters: Mapping[str, str] | None = None,
             stage: str = "$default") -> Event:  # fmt: skip
    """A request of an HTTP API, payload format 2.0; a function URL's is the same. A body that is no text becomes JSON."""
    raw, encoded, given = _body(body, {name.lower(): value for name, value in (headers or {}).items()})
    event: Event = {
        "version": "2.0",
        "routeKey": route or "$default",
        "rawPath": path,
        "rawQueryString": urlencode(dict(query or {})),
        "headers": {"host": "api.example", "x-forwarded-for": "127.0.0.1", **given},
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": "api",
            "domainName": "api.example",
            "domainPrefix": "api",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": given.get("user-agent", "test")},
            "requestId": str(uuid.uuid4()),
            "routeKey": route or "$default",
            "stage": stage,
            "time": _clf(),
            "timeEpoch": _now_ms(),
        },
        "isBase64Encoded": encoded,
    }
    if query:
        event["queryStringParameters"] = dict(query)
    if path_parameters:
        event["pathParameters"] = dict(path_parameters)
    if raw is not None:
        event["body"] = raw
    return event


def rest_api(method: str = "GET", path: str = "/", *, resource: str | None = None, query: Mapping[str, str] | None = None,
             headers: Mapping[str, str] | None = None, body: Any = None, path_parameters: Mapping[str, str] | None = None,
             stage: str = "prod", stage_variables: Mapping[str, str] | None = None) -> Event:  # fmt: skip
    """A request of a REST API, proxy integration, payload format 1.0. What is empty is null."""
    raw, encoded, given = _body(body, dict(headers or {}))
    return {
        "resource": resource or path,
        "path": path,
        "httpMethod": method,
        "headers": given or None,
        "multiValueHeaders": {name: [value] for name, value in given.items()} or None,
        "queryStringParameters": dict(query) if query else None,
        "multiValueQueryStringParameters": {name: [value] for name, value in query.items()} if query else None,
        "pathParameters": dict(path_parameters) if path_parameters else None,
        "stageVariables": dict(stage_variables) if stage_variables else None,
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": "api",
            "domainName": "api.example",
            "domainPrefix": "api",
            "extendedRequestId": uuid.uuid4().hex[:15],
            "httpMethod": method,
            "identity": dict.fromkeys(_IDENTITY) | {"sourceIp": "127.0.0.1", "userAgent": given.get("User-Agent", "test")},
            "path": f"/{stage}{path}",
            "protocol": "HTTP/1.1",
            "requestId": str(uuid.uuid4()),
            "requestTime": _clf(),
            "requestTimeEpoch": _now_ms(),
            "resourceId": "resource",
            "resourcePath": resource or path,
            "stage": stage,
        },
        "body": raw,
        "isBase64Encoded": encoded,
    }


_IDENTITY = (
    "accessKey", "accountId", "caller", "cognitoAuthenticationProvider", "cognitoAuthenticationType", "cognitoIdentityId", "cognitoIdentityPoolId",
    "principalOrgId", "user", "userArn",
)  # fmt: skip


def load_balancer(method: str = "GET", path: str = "/", *, query: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None,
                  body: Any = None) -> Event:  # fmt: skip
    """A request through an Application Load Balancer."""
    raw, encoded, given = _body(body, {name.lower(): value for name, value in (headers or {}).items()})
    arn = f"arn:aws:elasticloadbalancing:{REGION}:{ACCOUNT}:targetgroup/target/0123456789abcdef"
    return {
        "requestContext": {"elb": {"targetGroupArn": arn}},
        "httpMethod": method,
        "path": path,
        "queryStringParameters": dict(query or {}),
        "headers": {"host": "lb.example", "x-forwarded-for": "127.0.0.1", **given},
        "body": raw or "",
        "isBase64Encoded": encoded,
    }


def _body(body: Any, headers: dict[str, str]) -> tuple[str | None, bool, dict[str, str]]:
    """(text or base64, whether it is base64, headers with a content type)."""
    if body is None:
        return None, False, headers
    if isinstance(body, bytes):
        return base64.b64encode(body).decode(), True, headers
    if isinstance(body, str):
        return body, False, headers
    named = any(name.lower() == "content-type" for name in headers)
    return json.dumps(body), False, headers if named else {**headers, "content-type": "application/json"}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _clf() -> str:
    return time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
