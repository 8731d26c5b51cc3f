"""What the data plane knows of functions: plain values, filled from the control plane's catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

LATEST = "$LATEST"


class EfsPlace(NamedTuple):
    """What EFS says of an access point: file system and root directory, whom everybody acts as there (0: it does not say, or root), and
    with which owner, group and mode the directory is made if it is not there.
    """

    id: str
    path: str
    uid: int
    gid: int
    made: tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class VersionConfig:
    """One invocable configuration: ``$LATEST`` or a published version.

    ``generation`` changes whenever anything an instance was started with changes; instances of another generation are
    drained. ``max_concurrency``: invocations that an instance may run at once. ``image``: what a container image starts (``entrypoint``, ``cmd``, ``workdir``, ``env``), None for a package. ``network``: ``vpc/subnet,subnet/group,group`` of a function in a VPC, else empty. ``sealed``: the values of ``env`` are behind a KMS key, and so are most names. ``api``: what the code wants of Lambda's HTTP APIs, ``extends`` (it registers extensions), ``asks`` or nothing. ``file_system``: ARN of its access point, LocalMountPath, and what EFS says of it if it is the embedded one's. ``tenants_apart``: an instance serves one tenant only. ``refusal``: why it is Failed, where that is its runtime. Times in seconds, sizes in MiB.
    """

    account: str
    name: str
    version: str
    generation: str
    state: str
    runtime: str
    handler: str
    timeout_s: int
    memory_mib: int
    tmp_mib: int
    code_dir: str
    env: dict[str, str] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    role: str = ""
    log_format: str = "Text"
    log_level: str | None = None
    system_log_level: str | None = None
    log_group: str = ""
    tracing: str = "PassThrough"
    snap_start: bool = False
    network: str = ""
    image: Mapping[str, Any] | None = None
    max_concurrency: int = 1
    sealed: bool = False
    api: str = ""
    file_system: tuple[str, str, EfsPlace | None] | None = None
    tenants_apart: bool = False
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class AliasConfig:
    """An alias: its main version and, for weighted routing, shares in 0..1 of other versions."""

    name: str
    version: str
    weights: tuple[tuple[str, float], ...] = ()

    def choose(self, draw: float) -> str:
        """The version for ``draw``, uniform in [0, 1)."""
        for version, weight in self.weights:
            if draw < weight:
                return version
            draw -= weight
        return self.version


@dataclass(frozen=True, slots=True)
class ProvisionedConfig:
    """Instances kept ready for a version or an alias. ``revision`` changes whenever somebody asks for them anew."""

    qualifier: str
    requested: int
    revision: str


@dataclass(frozen=True, slots=True)
class UrlConfig:
    """A function URL. ``qualifier``: the alias it invokes, None for the function itself. ``auth_type``: NONE or AWS_IAM. ``cors``: the
    rules under AWS's names. ``policy``: the resource policy document that governs it, if there is one. ``streamed``: InvokeMode is
    RESPONSE_STREAM.
    """

    url_id: str
    qualifier: str | None
    auth_type: str
    cors: Mapping[str, Any] | None = None
    policy: Mapping[str, Any] | None = None
    streamed: bool = False


@dataclass(frozen=True, slots=True)
class FunctionConfig:
    """A function with everything that can be invoked under its name. ``reserved`` None means unreserved; ``may_loop``: no chain of
    invocations is ended because the function occurs in it too often. ``keep_alive_s``, ``max_age_s``: None leaves them to the settings.
    ``policies`` are its resource policies, JSON text by qualifier (empty: the function's own).
    """

    account: str
    name: str
    versions: dict[str, VersionConfig]
    aliases: dict[str, AliasConfig]
    reserved: int | None = None
    may_loop: bool = False
    keep_alive_s: float | None = None
    max_age_s: float | None = None
    provisioned: tuple[ProvisionedConfig, ...] = ()
    urls: tuple[UrlConfig, ...] = ()
    policies: dict[str, str] = field(default_factory=dict)
