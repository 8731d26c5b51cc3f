"""Resources beside Lambda that the embedded CloudFormation does not know and that templates of functions commonly have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engine.aws.event_resources import EVENT_RESOURCES
from engine.aws.http_api_resources import HTTP_API
from engine.aws.lambda_resources import Handler, Made, Properties
from engine.aws.rest_api_resources import REST_API
from engine.aws.scaling_resources import SCALING


class BucketPolicyHandler(Handler):
    """AWS::S3::BucketPolicy."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        bucket = properties["Bucket"]
        self.clients("s3").put_bucket_policy(Bucket=bucket, Policy=json.dumps(properties["PolicyDocument"]))
        return Made(bucket, bucket, {})

    def delete(self, made: Made, properties: Properties) -> None:
        s3 = self.clients("s3")
        self.forgiving(s3.delete_bucket_policy, s3.exceptions.ClientError, Bucket=made.physical)


class QueuePolicyHandler(Handler):
    """AWS::SQS::QueuePolicy."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        self._set(properties, json.dumps(properties["PolicyDocument"]))
        return Made(name, name, {"Id": name})

    def delete(self, made: Made, properties: Properties) -> None:
        sqs = self.clients("sqs")
        self.forgiving(self._set, sqs.exceptions.ClientError, properties=properties, policy="")

    def _set(self, properties: Properties, policy: str) -> None:
        for queue in properties["Queues"]:
            self.clients("sqs").set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})


class TopicPolicyHandler(Handler):
    """AWS::SNS::TopicPolicy. A topic keeps the policy until it goes or gets another: there is no operation that takes one away."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        for topic in properties["Topics"]:
            self.clients("sns").set_topic_attributes(
                TopicArn=topic, AttributeName="Policy", AttributeValue=json.dumps(properties["PolicyDocument"])
            )
        return Made(name, name, {"Id": name})

    def delete(self, made: Made, properties: Properties) -> None:
        """Nothing to do."""


class SubscriptionHandler(Handler):
    """AWS::SNS::Subscription."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        arguments: dict[str, Any] = {"TopicArn": properties["TopicArn"], "Protocol": properties["Protocol"], "ReturnSubscriptionArn": True}
        if properties.get("Endpoint"):
            arguments["Endpoint"] = properties["Endpoint"]
        attributes = {
            k: v if isinstance(v, str) else json.dumps(v)
            for k, v in properties.items()
            if k in ("FilterPolicy", "FilterPolicyScope", "RawMessageDelivery", "RedrivePolicy")
        }
        arn = self.clients("sns").subscribe(**arguments, Attributes=attributes)["SubscriptionArn"]
        return Made(arn, arn, {"Arn": arn})

    def delete(self, made: Made, properties: Properties) -> None:
        sns = self.clients("sns")
        self.forgiving(sns.unsubscribe, sns.exceptions.ClientError, SubscriptionArn=made.physical)


BESIDE: Mapping[str, type[Handler]] = {
    "AWS::S3::BucketPolicy": BucketPolicyHandler,
    "AWS::SQS::QueuePolicy": QueuePolicyHandler,
    "AWS::SNS::TopicPolicy": TopicPolicyHandler,
    "AWS::SNS::Subscription": SubscriptionHandler,
    **EVENT_RESOURCES,
    **REST_API,
    **HTTP_API,
    **SCALING,
}
