"""What the code of a package is seen to want of Lambda's HTTP APIs."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.control.mentions import Mention, find


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"m.py": b"import os\n"}, None),
        ({"m.py": b""}, None),
        ({"m.py": b"os.environ['AWS_LAMBDA_RUNTIME_API']"}, Mention.ASKS),
        ({"a/b/m.mjs": b"const base = `http://${process.env.AWS_LAMBDA_RUNTIME_API}/2020-01-01/extension`"}, Mention.EXTENDS),
        ({"a.js": b"AWS_LAMBDA_RUNTIME_API", "z.js": b"api + '/extension/register'"}, Mention.EXTENDS),
        ({"bootstrap": b"\x7fELF\0/2020-01-01/extension/register\0"}, Mention.EXTENDS),
        ({"bootstrap": b"AWS_LAMBDA_RUNTIME_API\0/extension/\0Lambda-Extension-Name"}, Mention.EXTENDS),
        ({"README.md": b"AWS_LAMBDA_RUNTIME_API", "m.js.map": b"extension/register"}, None),
        ({"awslambdaric/client.py": b"AWS_LAMBDA_RUNTIME_API", "node_modules/aws-lambda-ric/index.mjs": b"AWS_LAMBDA_RUNTIME_API"}, None),
    ],
)
def test_what_is_found(tmp_path: Path, files: dict[str, bytes], found: Mention | None) -> None:
    tree = tmp_path / "tree"
    for name, content in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert find(tree) is found


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_bytes(b"AWS_LAMBDA_RUNTIME_API")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/m.py").symlink_to("../outside.py")
    assert find(tmp_path / "tree") is None
