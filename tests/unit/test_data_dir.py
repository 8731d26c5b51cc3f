"""What a full disk's errors look like: of files, of SQLite, and wrapped by who met them."""

from __future__ import annotations

import os
import sqlite3

import pytest

from engine.data_dir import is_full
from tests.framework import host


def test_a_device_without_space_is_full() -> None:
    host.require("not Linux")
    with open("/dev/full", "wb", buffering=0) as file, pytest.raises(OSError) as caught:
        file.write(b"x")
    assert is_full(caught.value)


def test_a_database_without_space_is_full_however_deep_its_error_is() -> None:
    base = sqlite3.connect(":memory:", isolation_level=None)
    base.execute("CREATE TABLE t (x)")
    base.execute("PRAGMA max_page_count = 3")

    def fill() -> None:
        try:
            while True:
                base.execute("INSERT INTO t VALUES (?)", (os.urandom(3000),))
        except sqlite3.Error as e:
            raise RuntimeError("not written") from e

    with pytest.raises(RuntimeError) as caught:
        fill()
    base.close()
    assert is_full(caught.value)


@pytest.mark.parametrize("error", [OSError(13, "Permission denied"), sqlite3.OperationalError("database is locked"), KeyError("x")])
def test_other_errors_are_not(error: Exception) -> None:
    error.__context__ = error
    assert not is_full(error)
