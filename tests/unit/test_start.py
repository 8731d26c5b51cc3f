"""What keeps an engine from starting is said in words, before anything runs."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from engine import start
from engine.config import load
from engine.errors import ConfigurationError


def refusal(**settings: object) -> str:
    with pytest.raises(ConfigurationError) as caught, start.begun(load(port=0, **settings)):
        pass
    return str(caught.value)


def test_a_data_directory_that_cannot_be_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    # Its sockets would be inside, unless their names do not fit there.
    for place in (file, file / "below", tmp_path / ("long" * 25) / "x"):
        if not place.is_relative_to(file):
            place.parent.touch()
        assert str(place) in (said := refusal(data_dir=place)), said
        assert said.endswith(("File exists. Set --data-dir.", "Not a directory. Set --data-dir."))


@pytest.mark.parametrize(
    ("runtimes", "says"),
    [
        ({"python3.12": "/nonexistent/python"}, "runtimes: python3.12: /nonexistent/python does not exist"),
        ({"python3.12": "/bin/true"}, "runtimes: /bin/true is not python3.12, or does not run"),
        ({"nodejs22.x": "/bin/true"}, "runtimes: /bin/true is not nodejs22.x, or does not run"),
        ({"cobol": "/bin/true"}, "runtimes: /bin/true is not cobol, or does not run"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_runtime_that_was_named_and_is_none(tmp_path: Path, runtimes: dict[str, str], says: str) -> None:
    assert refusal(data_dir=tmp_path / "data", runtimes=runtimes) == says


def test_a_data_directory_is_its_owners_alone(tmp_path: Path) -> None:
    place = tmp_path / "new" / "data"
    refusal(data_dir=place, runtimes={"cobol": "/bin/true"})
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_jars_that_are_not_there(tmp_path: Path) -> None:
    assert refusal(data_dir=tmp_path / "data", java_client=tmp_path) == f"java_client: there are no jars in {tmp_path}"
