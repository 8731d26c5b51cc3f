from __future__ import annotations

import re
import subprocess
import sys
import uuid

import pytest

from engine import ids


def test_request_id_is_a_version_4_uuid():
    for _ in range(200):
        text = ids.request_id()
        assert str(uuid.UUID(text)) == text
        assert uuid.UUID(text).version == 4
        assert uuid.UUID(text).variant == uuid.RFC_4122
        assert ids.is_request_id(text)


def test_request_ids_do_not_repeat_in_a_process():
    assert len({ids.request_id() for _ in range(50_000)}) == 50_000


def test_request_ids_do_not_repeat_across_processes():
    ask = [sys.executable, "-c", "from engine import ids; print(ids.request_id())"]
    assert len({subprocess.run(ask, capture_output=True, text=True, check=True).stdout for _ in range(3)}) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c0ffee",
        "00000000-0000-4000-8000-00000000000",
        "00000000-0000-4000-8000-0000000000000",
        "00000000_0000-4000-8000-000000000000",
        "0000000g-0000-4000-8000-000000000000",
        "AAAAAAAA-0000-4000-8000-000000000000",
    ],
)
def test_other_texts_are_not_request_ids(text):
    assert not ids.is_request_id(text)


def test_revision_id_is_a_uuid_and_new_each_time():
    assert str(uuid.UUID(ids.revision_id()))
    assert ids.revision_id() != ids.revision_id()


def test_hex32_is_32_lower_case_hex_digits():
    assert re.fullmatch(r"[0-9a-f]{32}", ids.hex32())
    assert ids.hex32() != ids.hex32()
