"""Stores the event in S3 and reads it back. No endpoint and no key is named here: as on AWS, the environment has them."""

import json

import boto3

BUCKET = "lambda-engine-example"
s3 = boto3.client("s3")


def lambda_handler(event, context):
    s3.create_bucket(Bucket=BUCKET)
    key = f"{event.get('key', context.aws_request_id)}.json"
    s3.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(event).encode())
    stored = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return {"bucket": BUCKET, "key": key, "size": len(stored), "same": json.loads(stored) == event}
