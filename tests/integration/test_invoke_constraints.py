"""Every constraint of the operations that the data plane answers, broken one at a time: the right code, and the service's words for it."""

from __future__ import annotations

import contextlib

import pytest

from engine.protocol.model import load
from tests.framework.constraints import breakages
from tests.framework.engine import Engine
from tests.framework.raw import RawClient
from tests.property.test_control_constraints import ELSEWHERE, said

MODEL = load()
# Asked for at all they are refused, whatever they say.
NOT_OBEYED = {"durableExecutionName"}


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_each_broken_constraint_of_an_invocation_is_named(shared: Engine, name: str) -> None:
    broken = list(breakages(MODEL.operation(name)))
    assert broken
    with contextlib.closing(RawClient(shared.url)) as client:
        for breakage in broken:
            answer = client.call(name, breakage.params)
            context = (name, breakage.path, breakage.text, answer.status, answer.body)
            assert answer.headers["x-amzn-requestid"], context
            assert answer.headers["x-amzn-errortype"] == answer.code, context
            if breakage.path in NOT_OBEYED:
                assert (answer.status, answer.code) == (501, "NotImplementedException"), context
                continue
            assert (answer.status, answer.code) == (400, "ValidationException"), context
            assert said(answer.message, breakage), context
