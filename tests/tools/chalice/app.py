from chalice import Chalice, Rate

app = Chalice(app_name="chalice-demo")


@app.route("/hello/{name}")
def hello(name):
    app.log.info("hello %s", name)
    return {"hello": name}


@app.on_sqs_message(queue="chalice-queue", batch_size=1)
def work(event):
    for record in event:
        print("got", record.body)


@app.schedule(Rate(1, unit=Rate.HOURS))
def tick(event):
    print("tick")


@app.lambda_function()
def plain(event, context):
    return {"plain": event}
