"""Counts in DynamoDB: an atomic update, then a consistent read through the resource interface."""

import os

import boto3

table = boto3.resource("dynamodb").Table(os.environ["TABLE"])


def f(event, context):
    name = event["name"]
    table.update_item(Key={"name": name}, UpdateExpression="ADD hits :one", ExpressionAttributeValues={":one": 1})
    # A Decimal: the runtime prints it as a number.
    return {"hits": table.get_item(Key={"name": name}, ConsistentRead=True)["Item"]["hits"]}
