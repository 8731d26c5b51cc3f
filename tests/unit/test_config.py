"""Settings: precedence, sources, refusals that name the setting, and secrets that stay masked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine.config import CONFIG_FILE_VARIABLE, ENV_PREFIX, AuthMode, SandboxLevel, Settings, describe, load, unknown_variables
from engine.errors import ConfigurationError


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(ENV_PREFIX):
            monkeypatch.delenv(name)


def _file(tmp_path, monkeypatch, text):
    path = tmp_path / "engine.toml"
    path.write_text(text)
    monkeypatch.setenv(CONFIG_FILE_VARIABLE, str(path))


def _sources(settings, flags=None):
    return {name: source for name, _, source in describe(settings, flags)}


def test_defaults_suit_a_laptop():
    settings = load()
    assert (settings.host, settings.port, settings.region, settings.account_id) == ("127.0.0.1", 4566, "us-east-1", "000000000000")
    assert settings.auth is AuthMode.OFF
    assert settings.sandbox is SandboxLevel.AUTO
    assert set(_sources(settings).values()) == {"default"}


def test_flag_beats_environment_beats_file_beats_default(tmp_path, monkeypatch):
    _file(tmp_path, monkeypatch, "port = 1001\npool_size = 2\nregion = 'eu-west-1'\n")
    monkeypatch.setenv("LAMBDA_ENGINE_PORT", "1002")
    monkeypatch.setenv("LAMBDA_ENGINE_POOL_SIZE", "3")
    flags = {"port": 1003, "host": None}
    settings = load(**flags)
    assert (settings.port, settings.pool_size, settings.region, settings.host) == (1003, 3, "eu-west-1", "127.0.0.1")
    sources = _sources(settings, flags)
    assert [sources[n] for n in ("port", "pool_size", "region", "host")] == ["flag", "env", "file", "default"]


def test_data_dir_follows_xdg(monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/var/tmp/xdg")
    assert load().data_dir == Path("/var/tmp/xdg/lambda-engine")


def test_data_dir_becomes_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load(data_dir="here").data_dir == tmp_path / "here"
    assert load(data_dir="~/there").data_dir == Path.home() / "there"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"port": 70000}, "port"),
        ({"port": "many"}, "port"),
        ({"account_id": "12"}, "account_id"),
        ({"sandbox": "some"}, "sandbox"),
        ({"pool_size": -1}, "pool_size"),
        ({"keep_alive_s": 0}, "keep_alive_s"),
        ({"log_level": "loud"}, "log_level"),
        ({"aws_endpoint": "localhost:5000"}, "aws_endpoint.*'embedded', 'aws' or an http"),
        ({"host": "0.0.0.0"}, "not loopback: set auth=sigv4, or insecure=true"),
        ({"auth": "sigv4"}, "auth=sigv4 needs access_keys"),
        ({"auth": "iam"}, "auth=iam needs access_keys"),
        ({"auth": "iam", "access_keys": {"AKIA": "s"}, "aws_endpoint": "http://elsewhere"}, "auth=iam reads users, roles and policies from the embedded AWS"),
        ({"no_such_setting": 1}, "no_such_setting"),
        ({"database_url": "mysql://u:p@h/d"}, "database_url.*postgresql://"),
    ],
)
def test_refusal_names_the_setting(flags, says):
    with pytest.raises(ConfigurationError, match=says):
        load(**flags)


def test_every_offence_is_named_at_once():
    with pytest.raises(ConfigurationError) as caught:
        load(port=-1, pool_size=1000)
    assert "port" in str(caught.value)
    assert "pool_size" in str(caught.value)


def test_other_bind_is_allowed_with_signatures_or_on_demand():
    assert load(host="0.0.0.0", auth="sigv4", access_keys={"AKIA": "s"}).host == "0.0.0.0"
    assert load(host="0.0.0.0", insecure=True).insecure


def test_missing_file_is_named(monkeypatch):
    monkeypatch.setenv(CONFIG_FILE_VARIABLE, "/nonexistent/engine.toml")
    with pytest.raises(ConfigurationError, match=r"/nonexistent/engine\.toml: no such file"):
        load()


def test_unknown_key_in_the_file_is_refused(tmp_path, monkeypatch):
    _file(tmp_path, monkeypatch, "prot = 1\n")
    with pytest.raises(ConfigurationError, match="prot"):
        load()


@pytest.mark.parametrize(("content", "says"), [(b"port = \n", "Invalid value"), (b"region = '\xff'", "utf-8")])
def test_a_file_that_is_no_toml_is_named(tmp_path, monkeypatch, content, says):
    path = tmp_path / "engine.toml"
    path.write_bytes(content)
    monkeypatch.setenv(CONFIG_FILE_VARIABLE, str(path))
    with pytest.raises(ConfigurationError, match=rf"engine\.toml: .*{says}"):
        load()


def test_a_map_that_is_no_json_is_named(monkeypatch):
    monkeypatch.setenv("LAMBDA_ENGINE_RUNTIMES", "{python3.12: /usr/bin/python3.12}")
    with pytest.raises(ConfigurationError, match=r'"runtimes".*Expecting property name.*JSON'):
        load()


def test_variables_that_are_no_settings_are_found(monkeypatch):
    monkeypatch.setenv("LAMBDA_ENGINE_POOLSIZE", "3")
    monkeypatch.setenv("LAMBDA_ENGINE_XYZZY", "3")
    monkeypatch.setenv("LAMBDA_ENGINE_ENDPOINT", "http://127.0.0.1:1")
    found = unknown_variables()
    assert "LAMBDA_ENGINE_POOLSIZE (did you mean LAMBDA_ENGINE_POOL_SIZE?)" in found
    assert "LAMBDA_ENGINE_XYZZY" in found
    assert not any("ENDPOINT" in name.partition(" ")[0] for name in found)


def test_secrets_are_masked_everywhere(monkeypatch):
    monkeypatch.setenv("LAMBDA_ENGINE_ACCESS_KEYS", json.dumps({"AKIAKEY": "very-secret"}))
    settings = load()
    assert settings.access_keys["AKIAKEY"].get_secret_value() == "very-secret"
    shown = repr(settings) + str(describe(settings))
    assert "very-secret" not in shown
    assert "AKIAKEY" in str(describe(settings))


def test_settings_do_not_change_after_they_are_read():
    with pytest.raises(ValueError, match="frozen"):
        setattr(load(), "port", 1)  # noqa: B010 - the assignment itself is refused by mypy


def test_every_setting_is_described():
    rows = describe(load())
    assert [name for name, _, _ in rows] == list(Settings.model_fields)
    assert all(field.description for field in Settings.model_fields.values())


def test_run_dir_is_inside_the_data_dir_unless_socket_names_would_not_fit(tmp_path):
    short, deep = load(data_dir="/d"), load(data_dir=tmp_path / ("x" * 120))
    assert short.run_dir() == Path("/d/run")
    assert len(str(deep.run_dir() / "engine.sock")) < 108
    assert deep.run_dir() != load(data_dir=tmp_path / ("y" * 120)).run_dir()


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:1"), ("0.0.0.0", "http://127.0.0.1:1"), ("localhost", "http://127.0.0.1:1"), ("::1", "http://[::1]:1")],
)
def test_endpoint_url_is_one_a_client_on_this_host_can_use(host, url):
    assert load(host=host, port=1, insecure=True).endpoint_url() == url


@pytest.mark.parametrize(
    ("auth", "role_credentials", "assumes"),
    [("off", "auto", False), ("sigv4", "auto", False), ("iam", "auto", True), ("off", "assume", True), ("iam", "engine", False)],
)
def test_roles_are_assumed_where_policies_are_enforced_or_when_asked_for(auth, role_credentials, assumes):
    keys = {} if auth == "off" else {"AKIA": "s"}
    assert load(auth=auth, access_keys=keys, role_credentials=role_credentials).assumes_roles() is assumes
