"""Any sequence of operations on functions, versions and aliases: conflicts, preconditions, repeats and pages as a simple model says."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.framework.control import ControlServer
from tests.framework.engine import OWN_RUNTIME, zip_of
from tests.framework.raw import Answer, RawClient

PACKAGES = [zip_of({"m.py": f"def f(e, c): return {n}\n"}) for n in range(2)]
NAMES = st.sampled_from(["a", "b", "c"])
ALIASES = st.sampled_from(["live", "beta"])
VERSIONS = st.sampled_from(["$LATEST", "1", "2", "3"])
ACCOUNTS = itertools.count(100_000_000_000)
STALE = "00000000-0000-0000-0000-000000000000"
NOT_FOUND, CONFLICT, STALE_ANSWER = (404, "ResourceNotFoundException"), (409, "ResourceConflictException"), (412, "PreconditionFailedException")


@dataclass
class Known:
    """What the model knows of a function. ``latest`` and ``versions`` hold (package, timeout)."""

    latest: tuple[int, int]
    next_version: int = 1
    versions: dict[str, tuple[int, int]] = field(default_factory=dict)
    aliases: dict[str, tuple[str, dict[str, float]]] = field(default_factory=dict)
    reserved: int | None = None

    def has(self, version: str) -> bool:
        return version == "$LATEST" or version in self.versions

    def publish(self) -> str:
        last = max(self.versions, key=int, default=None)
        if last is None or self.versions[last] != self.latest:
            last = str(self.next_version)
            self.next_version += 1
            self.versions[last] = self.latest
        return last


class Machine(RuleBasedStateMachine):
    """Every example has an account of its own in one server."""

    server: ClassVar[ControlServer]

    @initialize()
    def begin(self) -> None:
        self.account = str(next(ACCOUNTS))
        self.client = RawClient(self.server.url, self.account)
        self.known: dict[str, Known] = {}

    def teardown(self) -> None:
        if hasattr(self, "client"):
            for name in list(self.known):
                assert self.call("DeleteFunction", FunctionName=name).status == 204
            assert self.call("GetAccountSettings").members["AccountUsage"] == {"TotalCodeSize": 0, "FunctionCount": 0}
            self.client.close()

    def call(self, operation: str, **params: Any) -> Answer:
        return self.client.call(operation, params)

    def expect(self, answer: Answer, *wanted: Any) -> None:
        assert (answer.status, answer.code) == wanted, answer.body

    def arn(self, name: str, tail: str = "") -> str:
        return f"arn:aws:lambda:us-east-1:{self.account}:function:{name}{tail}"

    @rule(name=NAMES, package=st.sampled_from([0, 1]), publish=st.booleans())
    def create(self, name: str, package: int, publish: bool) -> None:
        answer = self.call(
            "CreateFunction", FunctionName=name, Role=f"arn:aws:iam::{self.account}:role/r", Runtime=OWN_RUNTIME, Handler="m.f",
            Code={"ZipFile": PACKAGES[package]}, Publish=publish,
        )  # fmt: skip
        if name in self.known:
            self.expect(answer, *CONFLICT)
            return
        self.expect(answer, 201, "")
        self.known[name] = made = Known((package, 3))
        assert answer.members["Version"] == (made.publish() if publish else "$LATEST")
        assert answer.members["FunctionArn"] == self.arn(name)

    @rule(name=NAMES, timeout=st.sampled_from([3, 5]), stale=st.booleans())
    def configure(self, name: str, timeout: int, stale: bool) -> None:
        answer = self.call("UpdateFunctionConfiguration", FunctionName=name, Timeout=timeout, **({"RevisionId": STALE} if stale else {}))
        known = self.known.get(name)
        if known is None or stale:
            self.expect(answer, *(NOT_FOUND if known is None else STALE_ANSWER))
            return
        self.expect(answer, 200, "")
        assert answer.members["LastUpdateStatus"] == "InProgress"
        known.latest = (known.latest[0], timeout)

    @rule(name=NAMES, package=st.sampled_from([0, 1]), publish=st.booleans())
    def upload(self, name: str, package: int, publish: bool) -> None:
        answer = self.call("UpdateFunctionCode", FunctionName=name, ZipFile=PACKAGES[package], Publish=publish)
        known = self.known.get(name)
        if known is None:
            self.expect(answer, *NOT_FOUND)
            return
        self.expect(answer, 200, "")
        known.latest = (package, known.latest[1])
        assert answer.members["Version"] == (known.publish() if publish else "$LATEST")

    @rule(name=NAMES, current=st.sampled_from([True, False, None]))
    def publish(self, name: str, current: bool | None) -> None:
        known = self.known.get(name)
        before = self.call("GetFunctionConfiguration", FunctionName=name)
        given = {} if current is None else {"RevisionId": before.members.get("RevisionId", STALE) if current else STALE}
        answer = self.call("PublishVersion", FunctionName=name, **given)
        if known is None:
            self.expect(before, *NOT_FOUND)
            self.expect(answer, *NOT_FOUND)
        elif current is False:
            self.expect(answer, *STALE_ANSWER)
        else:
            self.expect(answer, 201, "")
            version = known.publish()
            assert answer.members["Version"] == version
            assert answer.members["FunctionArn"] == self.arn(name, f":{version}")
            again = self.call("PublishVersion", FunctionName=name)
            assert (again.status, again.members["Version"], again.members["RevisionId"]) == (201, version, answer.members["RevisionId"])

    @rule(name=NAMES, alias=ALIASES, version=VERSIONS, extra=st.sampled_from([None, "1", "2"]), update=st.booleans())
    def point(self, name: str, alias: str, version: str, extra: str | None, update: bool) -> None:
        weights = {} if extra is None else {extra: 0.25}
        operation = "UpdateAlias" if update else "CreateAlias"
        answer = self.call(
            operation, FunctionName=name, Name=alias, FunctionVersion=version, RoutingConfig={"AdditionalVersionWeights": weights}
        )
        known = self.known.get(name)
        if known is None or (update and alias not in known.aliases) or not known.has(version):
            self.expect(answer, *NOT_FOUND)
        elif extra is not None and (version == "$LATEST" or version == extra):
            self.expect(answer, 400, "InvalidParameterValueException")
        elif extra is not None and not known.has(extra):
            self.expect(answer, *NOT_FOUND)
        elif not update and alias in known.aliases:
            self.expect(answer, *CONFLICT)
        else:
            self.expect(answer, 200 if update else 201, "")
            known.aliases[alias] = (version, weights)

    @rule(name=NAMES, alias=ALIASES)
    def unpoint(self, name: str, alias: str) -> None:
        self.expect(self.call("DeleteAlias", FunctionName=name, Name=alias), 204, "")
        if name in self.known:
            self.known[name].aliases.pop(alias, None)

    @rule(name=NAMES, version=st.sampled_from([None, "$LATEST", "1", "2", "3"]))
    def delete(self, name: str, version: str | None) -> None:
        answer = self.call("DeleteFunction", FunctionName=name, **({"Qualifier": version} if version else {}))
        known = self.known.get(name)
        if version == "$LATEST":
            self.expect(answer, 400, "InvalidParameterValueException")
        elif known is None:
            self.expect(answer, *NOT_FOUND)
        elif version is None:
            self.expect(answer, 204, "")
            del self.known[name]
        elif any(version == main or version in weights for main, weights in known.aliases.values()):
            self.expect(answer, *CONFLICT)
        else:
            self.expect(answer, 204, "")
            known.versions.pop(version, None)

    @rule(name=NAMES, wanted=st.sampled_from([None, 0, 300, 500, 700]))
    def reserve(self, name: str, wanted: int | None) -> None:
        known = self.known.get(name)
        if wanted is None:
            answer = self.call("DeleteFunctionConcurrency", FunctionName=name)
            self.expect(answer, *((204, "") if known else NOT_FOUND))
        else:
            answer = self.call("PutFunctionConcurrency", FunctionName=name, ReservedConcurrentExecutions=wanted)
            others = sum(k.reserved or 0 for n, k in self.known.items() if n != name)
            fits = 1000 - others - wanted >= 100
            self.expect(answer, *(NOT_FOUND if known is None else (200, "") if fits or not wanted else (400, "InvalidParameterValueException")))
            if known is not None and not fits and wanted:
                return
        if known is not None:
            known.reserved = wanted

    @invariant()
    def the_supervisor_holds_the_same(self) -> None:
        if not hasattr(self, "known"):
            return
        held = {name: entry for (account, name), entry in self.server.peer.catalogue.items() if account == self.account}
        assert held.keys() == self.known.keys()
        for name, known in self.known.items():
            entry = held[name]
            assert {k: v["timeout_s"] for k, v in entry["versions"].items()} == {
                k: timeout for k, (_, timeout) in {"$LATEST": known.latest, **known.versions}.items()
            }
            assert {k: (a["version"], a["weights"]) for k, a in entry["aliases"].items()} == known.aliases
            assert entry.get("reserved") == known.reserved

    @rule(size=st.sampled_from([1, 2, 50]))
    def look(self, size: int) -> None:
        assert [f["FunctionName"] for f in self.pages("ListFunctions", "Functions", size)] == sorted(self.known)
        every = [(f["FunctionName"], f["Version"]) for f in self.pages("ListFunctions", "Functions", size, FunctionVersion="ALL")]
        assert every == [(n, v) for n in sorted(self.known) for v in ("$LATEST", *sorted(self.known[n].versions, key=int))]
        for name, known in self.known.items():
            versions = [v["Version"] for v in self.pages("ListVersionsByFunction", "Versions", size, FunctionName=name)]
            assert versions == ["$LATEST", *sorted(known.versions, key=int)]
            aliases = self.pages("ListAliases", "Aliases", size, FunctionName=name)
            assert [a["Name"] for a in aliases] == sorted(known.aliases)
        settings_ = self.call("GetAccountSettings").members
        stored = sum(len(PACKAGES[p]) for k in self.known.values() for p, _ in (k.latest, *k.versions.values()))
        assert settings_["AccountUsage"] == {"TotalCodeSize": stored, "FunctionCount": len(self.known)}
        reserved = sum(k.reserved or 0 for k in self.known.values())
        assert settings_["AccountLimit"]["UnreservedConcurrentExecutions"] == 1000 - reserved

    def pages(self, operation: str, member: str, size: int, **params: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        marker: dict[str, str] = {}
        while True:
            answer = self.call(operation, MaxItems=size, **params, **marker)
            assert answer.status == 200, answer.body
            assert len(answer.members[member]) <= size
            found += answer.members[member]
            if not answer.members.get("NextMarker"):
                return found
            assert len(answer.members[member]) == size
            marker = {"Marker": answer.members["NextMarker"]}


def test_functions_versions_and_aliases_follow_the_model(tmp_path: Path) -> None:
    with ControlServer(tmp_path) as server:
        Machine.server = server
        run_state_machine_as_test(
            Machine, settings=settings(max_examples=6, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
        )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_functions_versions_and_aliases_follow_the_model_for_longer() -> None:
    with tempfile.TemporaryDirectory() as folder, ControlServer(Path(folder)) as server:
        Machine.server = server
        run_state_machine_as_test(
            Machine, settings=settings(max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck))
        )
