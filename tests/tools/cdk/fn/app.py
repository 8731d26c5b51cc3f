import os

import boto3


def hello(event, context):
    print("hello called")
    return f"{os.environ['GREETING']} from {context.function_version}"


def work(event, context):
    table = boto3.resource("dynamodb").Table(os.environ["TABLE"])
    for record in event.get("Records", [{"body": event.get("detail-type", "?")}]):
        table.put_item(Item={"id": record["body"]})


def on_event(event, context):
    print(event["RequestType"], event["ResourceProperties"])
    return {"PhysicalResourceId": "seed", "Data": {"Word": event["ResourceProperties"]["Greeting"] + event["ResourceProperties"]["Count"]}}
