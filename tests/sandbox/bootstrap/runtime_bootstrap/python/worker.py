"""A worker that runs whatever source it is sent, for looking at the sandbox from inside. Python 3.9.

In a template, source that sets TEMPLATE makes it wait for copies after its answer.
"""

import json


def serve(channel, wait_ready, copies=None):
    stream = channel.makefile("rwb", buffering=0)
    stream.write(b'"hello"\n')
    scope = {"__name__": "function", "copies": copies}
    waiting = True
    while True:
        line = stream.readline()
        if not line:
            return
        request = json.loads(line)
        if waiting and request["wait"]:
            wait_ready()
            waiting = False
        scope["result"] = None
        try:
            exec(request["source"], scope)
            answer = {"result": scope["result"]}
        except Exception as e:
            answer = {"error": type(e).__name__, "errno": getattr(e, "errno", None), "text": str(e)}
        stream.write(json.dumps(answer).encode() + b"\n")
        if scope.pop("TEMPLATE", False):
            channel = copies.wait_for_copy()
            stream = channel.makefile("rwb", buffering=0)
            stream.write(b'"hello"\n')
