"""Every function in memory, in the form the supervisor is told: the snapshot after a reconnect costs no reading, and whether a function
can be invoked is known at once. Changed only on the event loop, after the store was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from engine.control import file_systems, instance_policy, runtime_management, snap_start, tenancy
from engine.control.configuration import SEALED, is_image
from engine.control.images import Images
from engine.control.kinds import POLICY, URL, may_loop, provisioned_concurrency, reserved_concurrency, resource_policies
from engine.control.mentions import Mention
from engine.control.vpc_documents import network
from engine.store.api import LATEST, CodeStore, Function, Version

_NO_POLICY = instance_policy.of_tags({})


class Catalogue:
    """Entries by account and name. ``code`` says where trees are, ``images`` what a container image is."""

    def __init__(self, code: CodeStore, images: Images) -> None:
        self._images = images
        # Text: at a start with many functions the path objects would cost more than everything else here.
        self._trees = code.tree("any").parent
        self._code = code
        self._there: Callable[[str], bool] = os.path.exists
        self._entries: dict[tuple[str, str], dict[str, Any]] = {}
        self.loaded = False
        # Counts up with every change.
        self.changes = 0
        # What the host has, once the supervisor has said so.
        self.runtimes: runtime_management.Runtimes | None = None

    def load(self, functions: Iterable[Function]) -> None:
        """Start over with these. ``loaded`` is for whoever has seen to it that their code is there."""
        self.changes += 1
        # One look at the disk instead of one for each.
        present = self._code.present()
        self._there = lambda tree: tree.rpartition("/")[2] in present
        try:
            self._entries = {(f.account, f.name): self._entry(f) for f in functions}
        finally:
            self._there = os.path.exists

    def put(self, function: Function) -> None:
        """Add or replace."""
        self._entries[function.account, function.name] = self._entry(function)
        self.changes += 1

    def remove(self, account: str, name: str) -> None:
        self.changes += 1
        self._entries.pop((account, name), None)

    def entry(self, account: str, name: str) -> dict[str, Any] | None:
        return self._entries.get((account, name))

    def entries(self) -> list[dict[str, Any]]:
        return list(self._entries.values())

    def has(self, account: str, name: str, qualifier: str | None) -> bool:
        """Whether this can be invoked by this name."""
        entry = self._entries.get((account, name))
        if entry is None:
            return False
        wanted = qualifier or LATEST
        return wanted in entry["versions"] or wanted in entry["aliases"]

    def tenants_apart(self, account: str, name: str) -> bool:
        """Whether each of its invocations is a tenant's."""
        entry = self._entries.get((account, name))
        return entry is not None and "tenants_apart" in entry["versions"][LATEST]

    def _entry(self, function: Function) -> dict[str, Any]:
        policy = instance_policy.of_tags(function.tags) if function.tags else _NO_POLICY
        places = int(policy["max_concurrency"] or 1)
        return {
            "account": function.account,
            "name": function.name,
            "keep_alive_s": policy["keep_alive_s"],
            "max_age_s": policy["max_age_s"],
            "aliases": {key: {"version": a.version, "weights": dict(a.weights)} for key, a in function.aliases.items()},
            "versions": {
                key: self._version(v, places if places > 1 and instance_policy.shareable(v.config) else 1) | self._refused(function, v)
                for key, v in function.versions.items()
            },
            **(self._attached(function) if function.attached else {}),
        }

    def _refused(self, function: Function, version: Version) -> dict[str, Any]:
        """What is other of a version that is held to another runtime version than the host's."""
        reason = runtime_management.refusal(function, version, self.runtimes) if function.attached and self.runtimes is not None else ""
        return {"state": "Failed", "refusal": reason} if reason else {}

    def _attached(self, function: Function) -> dict[str, Any]:
        """What most functions do not have."""
        return {
            "reserved": reserved_concurrency(function),
            "may_loop": may_loop(function),
            "provisioned": {
                qualifier: {"requested": d["ProvisionedConcurrentExecutions"], "revision": d["Revision"]}
                for qualifier, d in provisioned_concurrency(function).items()
            },
            "policies": resource_policies(function),
            "urls": [self._url(function, key.qualifier, document) for key, document in function.attached.items() if key.kind == URL],
        }

    @staticmethod
    def _url(function: Function, qualifier: str, document: Mapping[str, Any]) -> dict[str, Any]:
        policy = function.document(POLICY, qualifier)
        return {
            "id": document["UrlId"],
            "qualifier": qualifier or None,
            "auth_type": document["AuthType"],
            "cors": document.get("Cors"),
            "policy": policy,
            "streamed": document.get("InvokeMode") == "RESPONSE_STREAM",
        }

    def _api(self, trees: tuple[str, ...]) -> Mention | None:
        """What the code is seen to want of Lambda's HTTP APIs."""
        return next((what for what in (Mention.EXTENDS, Mention.ASKS) if any(self._there(f"{tree}.{what}") for tree in trees)), None)

    def _version(self, version: Version, places: int) -> dict[str, Any]:
        """``places``: how many invocations an instance runs at once; the lines of several can only be told apart as JSON."""
        config = version.config
        logging = config["LoggingConfig"]
        tree, *layers = (f"{self._trees}/{sha256}" for sha256 in (version.code_sha256, *version.layers))
        api = self._api((tree, *layers))
        return {
            "version": version.version,
            "generation": version.generation,
            "state": "Active" if all(map(self._there, (tree, *layers))) else "Failed",
            "runtime": config.get("Runtime"),
            "handler": config.get("Handler"),
            "timeout_s": config["Timeout"],
            "memory_mb": config["MemorySize"],
            "tmp_mb": config["EphemeralStorage"]["Size"],
            "env": dict.fromkeys(config[SEALED]["Early"], "") if SEALED in config else config.get("Environment", {}).get("Variables", {}),
            "sealed": SEALED in config,
            "code_dir": tree,
            "code_size": version.code_size,
            "layers": layers,
            "preload": list(version.preload),
            "role": config["Role"],
            "log_format": "JSON" if places > 1 else logging["LogFormat"],
            "log_level": logging.get("ApplicationLogLevel"),
            "system_log_level": logging.get("SystemLogLevel"),
            "log_group": logging["LogGroup"],
            "tracing": config["TracingConfig"]["Mode"],
            "snap_start": snap_start.of_version(version),
            "architecture": config["Architectures"][0],
            "max_concurrency": places,
            "network": network(config.get("VpcConfig")),
            "file_system": file_systems.of(config),
            **({"tenants_apart": True} if tenancy.apart(config) else {}),
            **(self._images.entry(version) if is_image(config) else {}),
            **({} if api is None else {"api": str(api)}),
        }
