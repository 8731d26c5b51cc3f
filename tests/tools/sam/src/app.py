import os

import boto3


def greet(event, context):
    name = event["pathParameters"]["name"]
    boto3.client("sqs").send_message(QueueUrl=os.environ["QUEUE"], MessageBody=name)
    print("greeting", name)
    return {"statusCode": 200, "body": f"{os.environ['GREETING']}, {name}!"}


def record(event, context):
    table = boto3.resource("dynamodb").Table(os.environ["TABLE"])
    if "Records" not in event:
        table.put_item(Item={"id": "tick"})
        return
    for record in event["Records"]:
        table.put_item(Item={"id": record["body"]})
