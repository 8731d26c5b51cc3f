"""Writes an object to S3, reads it back and lists the bucket; boto3 is the runtime's."""

import json

import boto3

s3 = boto3.client("s3")


def f(event, context):
    bucket, key = event["bucket"], event["prefix"] + context.aws_request_id
    s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(event["body"]).encode(), Metadata={"request": context.aws_request_id})
    answer = s3.get_object(Bucket=bucket, Key=key)
    keys = [o["Key"] for o in s3.list_objects_v2(Bucket=bucket, Prefix=key)["Contents"]]
    return {
        "body": json.loads(answer["Body"].read()),
        "own": answer["Metadata"]["request"] == context.aws_request_id,
        "found": keys == [key],
    }
