import os

import boto3


def hello(event, context):
    table = boto3.resource("dynamodb").Table(os.environ["TABLE"])
    for record in event.get("Records", []):
        table.put_item(Item={"id": record["body"]})
    print("event keys", sorted(event))
    return {"statusCode": 200, "body": os.environ["GREETING"] + ", " + (event.get("pathParameters") or {}).get("name", "?")}
