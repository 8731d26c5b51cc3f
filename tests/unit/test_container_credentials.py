"""Credentials of snapshots: tokens in place of keys, what they are good for and for how long. The clock is the test's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.core.instance import State
from engine.errors import AwsError
from engine.supervisor import role_credentials
from engine.supervisor.catalogue import parse_entry
from engine.wire import messages
from tests.framework.scripted_sandbox import ScriptedWorker
from tests.unit.test_invoker import Rig, entry
from tests.unit.test_provisioned import play
from tests.unit.test_role_credentials import ROLE, Plane
from tests.unit.test_snapshots import init, ready

__all__ = ["play"]
KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
ADDRESS, TOKEN = "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN"
Held = list[tuple[ScriptedWorker, messages.Invoke]]


def put(rig: Rig) -> None:
    whole = entry(role=ROLE)
    whole["versions"]["1"] = {**whole["versions"]["$LATEST"], "version": "1", "generation": "g1v", "snap_start": True}
    rig.catalogue.put(parse_entry(whole))


async def asked(rig: Rig, token: str) -> Any:
    """The document for a token, the error's code, or None."""
    found: list[Any] = []
    rig.invoker.setting.container.ask(token, found.append)
    await rig.until(lambda: bool(found))
    return found[0].code if isinstance(found[0], AwsError) else found[0] and json.loads(found[0])


async def copies(rig: Rig, count: int) -> list[str]:
    """Tokens of so many copies at work."""
    held: Held = []
    rig.sandbox.on_invoke = lambda w, e: held.append((w, e))
    answers = [rig.invoke(qualifier="1") for _ in range(count)]
    await rig.until(lambda: len(held) == count)
    for worker, event in held:
        worker.respond(event, b"1")
    for answer in answers:
        await rig.finish(answer)
    rig.sandbox.on_invoke = lambda w, e: w.respond(e, b"1")
    return [told["env"][TOKEN] for told in rig.sandbox.restored[-count:]]


def test_a_snapshot_has_an_address_and_a_token_in_place_of_keys(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sandbox.on_init = init
        put(rig)
        await ready(rig)
        env = rig.sandbox.told[0]["env"]
        assert not KEYS & env.keys()
        assert env[ADDRESS] == "http://127.0.0.1:4566/2021-04-23/credentials"
        tokens = await copies(rig, 3)
        assert all(told["env"].keys() == {ADDRESS, TOKEN} for told in rig.sandbox.restored)
        assert len({*tokens, env[TOKEN]}) == 4
        document = await asked(rig, tokens[0])
        assert [document[k] for k in ("AccessKeyId", "SecretAccessKey", "Token")] == ["k", "s", "t"]
        assert document == await asked(rig, env[TOKEN]), "what was read during init may be asked with in a copy"
        assert await asked(rig, "guess") is None
        assert await asked(rig, "") is None
        await rig.finish(rig.invoke())
        assert rig.sandbox.told[-1]["env"].keys() >= KEYS, "$LATEST does not start from the snapshot"
        assert not {ADDRESS, TOKEN} & rig.sandbox.told[-1]["env"].keys()

    play(scenario)


def test_a_token_is_good_until_its_copy_ends_and_a_templates_until_its_version_does(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sandbox.on_init = init
        put(rig)
        await ready(rig)
        tokens = await copies(rig, 2)
        first = rig.sandbox.told[0]["env"][TOKEN]
        copied = [i for i in rig.invoker.instances if i.restored]
        rig.sandbox.lose(copied[0].holder_id)
        await rig.until(lambda: copied[0] not in rig.invoker.instances)
        assert [await asked(rig, t) is None for t in tokens].count(True) == 1
        # The template makes way; what it told its copies holds.
        assert rig.invoker.standing.make_room()
        assert await asked(rig, first) is not None
        rig.clock.advance(61.0)
        rig.invoker.tick()
        await rig.until(lambda: not [i for i in rig.invoker.instances if i.restored])
        assert [await asked(rig, t) for t in tokens] == [None, None]
        rig.catalogue.delete("000000000000", "f")
        assert await asked(rig, first) is None

    play(scenario)


def test_a_version_that_has_no_template_asks_too_and_once_more_after_its_worker_was_replaced(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        rig.invoker.standing.templates.possible = False
        put(rig)
        await rig.finish(rig.invoke(qualifier="1"))
        rig.sandbox.on_invoke = lambda w, e: w.die()
        await rig.finish(rig.invoke(qualifier="1"))
        rig.sandbox.on_invoke = lambda w, e: w.respond(e, b"1")
        await rig.finish(rig.invoke(qualifier="1"))
        before, after = (told["env"][TOKEN] for told in rig.sandbox.told)
        assert not KEYS & rig.sandbox.told[0]["env"].keys()
        assert await asked(rig, before) is None
        assert (await asked(rig, after))["AccessKeyId"] == "k"

    play(scenario)


def test_an_address_that_sdks_would_not_ask_leaves_the_keys_where_they_were(play: Callable[..., None]) -> None:
    async def scenario(rig: Rig) -> None:
        setting = rig.invoker.setting
        setting.home = replace(setting.home, lambda_url="http://192.0.2.1:4566")
        rig.sandbox.on_init = init
        put(rig)
        await ready(rig)
        assert rig.sandbox.told[0]["env"].keys() >= KEYS
        await rig.finish(rig.invoke(qualifier="1"))
        assert rig.sandbox.restored[0]["env"] == {}

    play(scenario)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"])
def test_loopback_in_any_spelling_is_asked(play: Callable[..., None], url: str) -> None:
    async def scenario(rig: Rig) -> None:
        rig.invoker.setting.home = replace(rig.invoker.setting.home, lambda_url=url)
        assert rig.invoker.setting.container.offered
        rig.invoker.setting.home = replace(rig.invoker.setting.home, credentials=None)
        assert not rig.invoker.setting.container.offered, "there is nothing to be had"

    play(scenario)


def test_sessions_of_roles_are_renewed_when_they_are_asked_for_and_copies_need_not_leave(play: Callable[..., None], tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        async with Plane(rig, tmp_path) as plane:
            rig.sandbox.on_init = init
            put(rig)
            await ready(rig)
            (token,) = await copies(rig, 1)
            first = await asked(rig, token)
            assert (first["AccessKeyId"], first["Token"]) == ("ASIA1", "t")
            assert not KEYS & rig.sandbox.told[0]["env"].keys()
            rig.clock.advance(1799)
            assert await asked(rig, token) == first
            # AWS's SDKs ask again when a quarter of an hour is left: more than half of the session is over then.
            rig.clock.advance(2)
            second = await asked(rig, token)
            assert second["AccessKeyId"] == "ASIA2"
            assert second["Expiration"] > first["Expiration"]
            plane.status = 500
            rig.clock.advance(3000)
            assert await asked(rig, token) == second, "it still lasts"
            rig.clock.advance(601)
            assert await asked(rig, token) == "ServiceException"
            plane.status = 403
            assert await asked(rig, token) == "AccessDeniedException"
            plane.status = 200
            assert (await asked(rig, token))["AccessKeyId"] == f"ASIA{len(plane.asked)}"
            template = next(i for i in rig.invoker.instances if i.template)
            rig.invoker.tick()
            assert not template.leaving
            assert template.state is State.IDLE

    play(scenario)


def test_an_older_session_is_given_while_the_control_plane_is_slow(
    play: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(role_credentials, "PATIENCE_S", 0.01)

    async def scenario(rig: Rig) -> None:
        async with Plane(rig, tmp_path) as plane:
            rig.sandbox.on_init = init
            put(rig)
            await ready(rig)
            (token,) = await copies(rig, 1)
            rig.clock.advance(1801)
            plane.open.clear()
            found: list[Any] = []
            for _ in range(2):
                rig.invoker.setting.container.ask(token, found.append)
            await rig.until(lambda: len(found) == 2)
            assert [json.loads(f)["AccessKeyId"] for f in found] == ["ASIA1", "ASIA1"]
            plane.open.set()
            await rig.until(lambda: not rig.invoker.setting.roles._asking)
            assert len(found) == 2, "each is told once"
            assert (await asked(rig, token))["AccessKeyId"] == "ASIA2"
            assert len(plane.asked) == 2, "they waited for the same answer"

    play(scenario)
