"""An engine that keeps its rows in PostgreSQL: functions, layers, URLs and queued events outlive it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.framework.engine import Engine, zip_of
from tests.framework.frame_server import until
from tests.framework.postgres import Postgres


def test_an_engine_lives_in_postgres(postgres_server: Postgres, tmp_path: Path) -> None:
    marks = tmp_path / "data"
    running = Engine(marks, pool_size=1, database_url=postgres_server.schema())
    try:
        running.start()
        client = running.client()
        layer = client.publish_layer_version(LayerName="l", Content={"ZipFile": zip_of({"python/lib.py": "X = 7"})})
        code = "import lib, sys\ndef f(e, c):\n    print('seen', e)\n    return lib.X\n"
        running.deploy("f", {"m.py": code}, Layers=[layer["LayerVersionArn"]], Publish=True)
        client.create_alias(FunctionName="f", Name="live", FunctionVersion="1")
        url = client.create_function_url_config(FunctionName="f", Qualifier="live", AuthType="NONE")["FunctionUrl"]
        assert client.invoke(FunctionName="f", InvocationType="Event", Payload=json.dumps("queued"))["StatusCode"] == 202
        log = marks / "logs" / "000000000000" / "f.log"
        until(lambda: log.exists() and "seen queued" in log.read_text(), 30)
        assert not (marks / "engine.db").exists()
        assert running.stop() == 0
        running.start()
        client = running.client()
        assert client.invoke(FunctionName="f", Qualifier="live")["Payload"].read() == b"7"
        assert client.get_function_url_config(FunctionName="f", Qualifier="live")["FunctionUrl"].partition(":")[0] == url.partition(":")[0]
        assert [x["Version"] for x in client.list_layer_versions(LayerName="l")["LayerVersions"]] == [1]
        client.delete_function(FunctionName="f")
        assert client.list_functions()["Functions"] == []
    finally:
        running.stop()
