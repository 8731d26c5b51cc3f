"""The smallest useful function: it greets whom the event names."""


def lambda_handler(event, context):
    name = event.get("name", "world")
    print(f"greeting {name} with {context.memory_limit_in_mb} MB")
    return {"greeting": f"Hello, {name}!", "request": context.aws_request_id}
