"""What tasks of state machines ask the engine with."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from engine.aws import state_machines


def test_branches_make_their_clients_one_after_the_other(monkeypatch):
    at_once, most, made = threading.Semaphore(1), [], []

    class Clients:
        def __init__(self, *about):
            made.append(about)

        def client(self, service, **_config):
            alone = at_once.acquire(blocking=False)
            most.append(alone)
            time.sleep(0.01)
            if alone:
                at_once.release()
            return service

    monkeypatch.setattr(state_machines, "AwsClients", Clients)
    tasks = state_machines._Engine("http://127.0.0.1:1")
    with ThreadPoolExecutor(8) as branches:
        found = list(branches.map(lambda _: tasks.client(service_name="lambda", region_name="us-east-1"), range(8)))
    assert (found, most, len(made)) == (["lambda"] * 8, [True] * 8, 1)
