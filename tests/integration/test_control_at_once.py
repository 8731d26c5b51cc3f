"""Many changes at once, in a real engine whose control plane is confined: what shares a transaction must not need files elsewhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from engine.control_app import NICE
from tests.framework.engine import OWN_RUNTIME, ROLE, Engine, zip_of
from tests.framework.wait import until


def test_functions_created_published_and_deleted_eight_at_once_all_are(shared: Engine) -> None:
    package = zip_of({"m.py": "def f(e, c): return 1\n"})
    names = [f"at-once-{n}" for n in range(48)]
    client = shared.client()

    def create(name: str) -> str:
        return str(
            client.create_function(
                FunctionName=name, Role=ROLE, Runtime=OWN_RUNTIME, Handler="m.f", Code={"ZipFile": package}, Publish=True
            )["Version"]
        )

    def delete(name: str) -> int:
        return int(client.delete_function(FunctionName=name)["ResponseMetadata"]["HTTPStatusCode"])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(create, names)) == ["1"] * len(names)
        listed = {f["FunctionName"] for page in client.get_paginator("list_functions").paginate() for f in page["Functions"]}
        assert listed.issuperset(names)
        list(pool.map(lambda name: client.create_alias(FunctionName=name, Name="live", FunctionVersion="1"), names))
        assert list(pool.map(delete, names)) == [204] * len(names)
    listed = {f["FunctionName"] for page in client.get_paginator("list_functions").paginate() for f in page["Functions"]}
    assert listed.isdisjoint(names)


def test_the_control_plane_leaves_the_processor_to_invocations_first(shared: Engine) -> None:
    assert shared.process is not None
    control = shared.state()["processes"]["control"]
    wanted = min(19, psutil.Process(shared.process.pid).nice() + NICE)

    def stepped_back() -> bool:
        try:
            stats = [(t / "stat").read_text() for t in Path(f"/proc/{control}/task").iterdir()]
        except FileNotFoundError:
            # A thread ended meanwhile.
            return False
        # The 19th field; the name in the second may hold anything but ends with the last bracket.
        return {int(stat.rpartition(")")[2].split()[16]) for stat in stats} == {wanted}

    until(stepped_back, "every thread of the control plane is behind the supervisor")
