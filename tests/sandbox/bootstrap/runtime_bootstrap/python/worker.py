"""A worker that runs whatever source it is sent, for looking at the sandbox from inside. Python 3.9."""

import json


def serve(channel, wait_ready):
    stream = channel.makefile("rwb", buffering=0)
    stream.write(b'"hello"\n')
    scope = {"__name__": "function"}
    waiting = True
    for line in stream:
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
