"""What the composition root says and refuses before anything is served."""

from __future__ import annotations

import socket

import pytest

from engine import app, start
from engine.config import load
from engine.data_dir import held
from engine.errors import ConfigurationError
from engine.sandbox.api import SandboxReport


def report(level: str) -> SandboxReport:
    return SandboxReport(level, "auto", "isolated")


def test_safe_settings_have_nothing_to_warn_of():
    assert app.risks(load(), report("full")) == []
    assert app.risks(load(), report("user")) == []


def test_open_port_is_said_in_capitals():
    (warning,) = app.risks(load(host="0.0.0.0", port=80, insecure=True), report("full"))
    assert warning.startswith("INSECURE: anybody who reaches 0.0.0.0:80 ")


def test_signed_requests_need_no_warning():
    settings = load(host="0.0.0.0", insecure=True, auth="sigv4", access_keys={"AKIA": "secret"})
    assert app.risks(settings, report("full")) == []


def test_missing_isolation_is_said_in_capitals():
    (warning,) = app.risks(load(), report("process"))
    assert warning.startswith("NO ISOLATION: ")


def test_taken_port_is_named(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*--port"):
            start.begun(load(port=port, data_dir=tmp_path)).__enter__()


def test_data_directory_of_another_engine_is_refused(tmp_path):
    settings = load(port=0, data_dir=tmp_path)
    with held(settings.data_dir), pytest.raises(ConfigurationError, match="is in use by another engine"):
        start.begun(settings).__enter__()


def test_children_read_the_same_settings(tmp_path, monkeypatch):
    settings = load(port=0, data_dir=tmp_path, access_keys={"AKIA": "secret"}, runtimes={"python3.12": "/p"}, pool_size=3, database_url="postgresql://u:p@h/d")
    monkeypatch.setenv("LAMBDA_ENGINE_POOL_SIZE", "9")
    for name, value in start.child_environment(settings, 4711).items():
        monkeypatch.setenv(name, value)
    assert load().model_dump() == {**settings.model_dump(), "port": 4711}
