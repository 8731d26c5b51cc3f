"""Archives that try to leave their directory, to be what they are not, or to be more than they say: functions and layers."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.framework.engine import OWN_RUNTIME, ROLE
from tests.security.siege import Siege

pytestmark = pytest.mark.root


def archive(*entries: tuple[str, int, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of (name, mode, data)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as made:
        for name, mode, data in entries:
            info = zipfile.ZipInfo(name)
            info.create_system = 3
            info.external_attr = mode << 16
            info.compress_type = compression
            made.writestr(info, data)
    return out.getvalue()


FILE, LINK = stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777
HANDLER = ("m.py", FILE, b"def f(e, c): return 1")
ESCAPES = {
    "dots": archive(HANDLER, ("../../escaped", FILE, b"x")),
    "dots inside": archive(HANDLER, ("a/../../../escaped", FILE, b"x")),
    "absolute": archive(HANDLER, ("/tmp/escaped", FILE, b"x")),
    "backslashes": archive(HANDLER, ("..\\..\\escaped", FILE, b"x")),
    "a link out": archive(HANDLER, ("out", LINK, b"../../..")),
    "an absolute link": archive(HANDLER, ("out", LINK, b"/etc")),
    "a file through a link": archive(HANDLER, ("out", LINK, b"/tmp"), ("out/escaped", FILE, b"x")),
    "a device": archive(HANDLER, ("dev", stat.S_IFCHR | 0o666, b"")),
    "a pipe": archive(HANDLER, ("pipe", stat.S_IFIFO | 0o666, b"")),
    "a socket": archive(HANDLER, ("sock", stat.S_IFSOCK | 0o666, b"")),
    "no zip": b"PK\x03\x04" + b"\0" * 100,
    "a bomb": archive(HANDLER, ("zeros", FILE, b"\0" * 263_000_000)),
    "a hundred thousand entries": archive(*((f"f{n}", FILE, b"") for n in range(100_001)), compression=zipfile.ZIP_STORED),
}


def upload(siege: Siege, kind: str, data: bytes) -> None:
    if kind == "layer":
        siege.client.publish_layer_version(LayerName="hostile", Content={"ZipFile": data})
        return
    siege.client.create_function(FunctionName="hostile", Runtime=OWN_RUNTIME, Role=ROLE, Handler="m.f", Code={"ZipFile": data})
    siege.client.delete_function(FunctionName="hostile")


@pytest.mark.parametrize("what", ESCAPES)
@pytest.mark.parametrize("kind", ["function", "layer"])
def test_a_hostile_archive_is_refused(siege: Siege, what: str, kind: str) -> None:
    data = ESCAPES[what]
    before = sorted(p.name for p in siege.engine.data_dir.parent.iterdir())
    if what == "backslashes":  # on this side of the world an ordinary character in a name
        upload(siege, kind, data)
    else:
        with pytest.raises(ClientError) as e:
            upload(siege, kind, data)
        assert e.value.response["Error"]["Code"] == "InvalidParameterValueException"
    assert not Path("/tmp/escaped").exists()
    assert sorted(p.name for p in siege.engine.data_dir.parent.iterdir()) == before
    assert not list(siege.engine.data_dir.rglob("escaped"))


def test_hard_links_do_not_exist_in_archives(siege: Siege) -> None:
    """Zip knows none; two entries of one name are two writes of one file, never a link."""
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = archive(HANDLER, ("twice", FILE, b"one"), ("twice", FILE, b"two"))
    siege.engine.deploy("doubled", data, "m.f")
    assert siege.client.invoke(FunctionName="doubled")["Payload"].read() == b"1"
