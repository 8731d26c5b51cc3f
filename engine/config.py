"""Settings: one class feeds the server, the command line and the documentation.

Precedence: flag > environment (``LAMBDA_ENGINE_<NAME>``) > TOML file > default. ``describe`` gives every effective value with
where it came from, secrets masked. Imports pydantic: keep it out of ``engine.core`` and of the bootstrap.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import os
import tempfile
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from engine.errors import ConfigurationError

ENV_PREFIX = "LAMBDA_ENGINE_"
CONFIG_FILE_VARIABLE = "LAMBDA_ENGINE_CONFIG"


class SandboxLevel(StrEnum):
    """How an instance is isolated; ``auto`` takes the best one that works on this host."""

    AUTO = "auto"
    FULL = "full"
    USER = "user"
    PROCESS = "process"


class NetworkMode(StrEnum):
    """What functions without a VPC have: ``isolated``: only the engine's endpoint; ``nat``: also what the host routes to, but nothing of
    the host itself; ``host``: the host's own network; ``auto``: nat where this host allows it, else isolated (at level process: host).
    """

    AUTO = "auto"
    NAT = "nat"
    ISOLATED = "isolated"
    HOST = "host"


class AuthMode(StrEnum):
    """``off``: any credentials; ``sigv4``: requests must be signed with a known key; ``iam``: and be allowed by IAM policies."""

    OFF = "off"
    SIGV4 = "sigv4"
    IAM = "iam"


class RoleCredentials(StrEnum):
    """Where functions' credentials come from; ``auto`` assumes roles with auth=iam only."""

    AUTO = "auto"
    ASSUME = "assume"
    ENGINE = "engine"


class GroupRule(BaseModel):
    """What a security group allows: ``peers`` are CIDR blocks and groups; ``ports`` is ``5432``, ``8000-8010`` or empty for all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: str = Field("all", pattern="^(all|tcp|udp|icmp)$")
    ports: str = Field("", pattern=r"^(\d{1,5}(-\d{1,5})?)?$")
    peers: list[str] = Field(min_length=1)

    @field_validator("peers")
    @classmethod
    def _peers(cls, value: list[str]) -> list[str]:
        for peer in value:
            if not peer.startswith("sg-"):
                ipaddress.IPv4Network(peer)
        return value

    @model_validator(mode="after")
    def _ports(self) -> GroupRule:
        low, high = self.span()
        if self.ports and (self.protocol not in ("tcp", "udp") or not low <= high <= 65535):
            raise ValueError(f"ports {self.ports!r} cannot be had with protocol {self.protocol}")
        return self

    def span(self) -> tuple[int, int]:
        """First and last port, -1 for all."""
        low, _, high = self.ports.partition("-")
        return (int(low), int(high or low)) if low else (-1, -1)


class SecurityGroupSettings(BaseModel):
    """A security group: nothing comes in and everything may go out, as with a new one on AWS."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ingress: list[GroupRule] = Field(default_factory=list)
    egress: list[GroupRule] = Field(default_factory=lambda: [GroupRule(protocol="all", peers=["0.0.0.0/0"])])


class VpcSettings(BaseModel):
    """A VPC of this engine's own, beside those that EC2 knows: ``subnets`` by id, ``security_groups`` by id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cidr: str
    subnets: dict[str, str] = Field(default_factory=dict)
    security_groups: dict[str, SecurityGroupSettings] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> VpcSettings:
        block = _block(self.cidr)
        for name, cidr in self.subnets.items():
            if not name.startswith("subnet-") or not _block(cidr).subnet_of(block):
                raise ValueError(f"{name}={cidr}: a subnet is called subnet-... and lies within {block}")
        for name, group in self.security_groups.items():
            if not name.startswith("sg-"):
                raise ValueError(f"{name}: a security group is called sg-...")
            peers = [p for rule in (*group.ingress, *group.egress) for p in rule.peers if p.startswith("sg-")]
            if unknown := sorted(set(peers) - self.security_groups.keys()):
                raise ValueError(f"{name} refers to {', '.join(unknown)}, which this VPC does not have")
        return self


class FileSystemSettings(BaseModel):
    """A directory of this host that stands in for an EFS or S3 Files access point; ``uid`` and ``gid``: whom functions act as there
    (sandbox level full), as the access point's POSIX user; otherwise its owner.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    uid: int | None = Field(None, ge=1, lt=1 << 31)
    gid: int | None = Field(None, ge=1, lt=1 << 31)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, (str, Path)) else value

    @field_validator("path")
    @classmethod
    def _whole(cls, value: Path) -> Path:
        value = value.expanduser()
        if not value.is_absolute() or value == Path("/") or ".." in value.parts:
            raise ValueError(f"{value}: an absolute directory is needed, and not all of the host")
        return value


def _block(cidr: str) -> ipaddress.IPv4Network:
    """A block of a size AWS allows. Raises ValueError."""
    block = ipaddress.IPv4Network(cidr)
    if not 16 <= block.prefixlen <= 28:
        raise ValueError(f"{cidr}: VPCs and subnets have between 16 and 65536 addresses (/28 to /16)")
    return block


def default_data_dir() -> Path:
    """``$XDG_DATA_HOME/lambda-engine`` or ``~/.local/share/lambda-engine``."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "lambda-engine"


class Settings(BaseSettings):
    """Everything an operator may set. Units are in the names; defaults suit a laptop."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="forbid", frozen=True, validate_default=True
    )

    host: str = Field("127.0.0.1", description="Address the HTTP port binds. Anything but loopback needs auth or insecure.")
    port: int = Field(4566, ge=0, le=65535, description="HTTP port for AWS clients; 0 takes a free one.")
    port_file: Path | None = Field(None, description="File that gets the HTTP URL once the port is bound (useful with port 0).")
    binary_address: str | None = Field(
        None, description="host:port of an extra TCP listener for the binary protocol (the Unix socket is always there)."
    )
    data_dir: Path = Field(default_factory=default_data_dir, description="Everything the engine keeps.")
    database_url: SecretStr | None = Field(
        None,
        description="postgresql://user:password@host/database instead of SQLite in data_dir; code packages stay in data_dir.",
    )
    region: str = Field("us-east-1", description="AWS region the engine plays.")
    account_id: str = Field(
        "000000000000", pattern=r"^\d{12}$", description="Account of callers whose access key is not 12 digits."
    )

    auth: AuthMode = Field(
        AuthMode.OFF,
        description="off: any credentials; sigv4: signatures are verified; iam: and policies of the embedded IAM are enforced.",
    )
    access_keys: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="Access key id to secret, for auth=sigv4 and iam (JSON in the environment); each is its account's root.",
    )
    role_credentials: RoleCredentials = Field(
        RoleCredentials.AUTO,
        description="assume: functions get credentials of their execution role from STS, and roles are checked; engine: the engine's "
        "own (roles need not exist); auto: assume with auth=iam, else engine.",
    )
    insecure: bool = Field(False, description="Allow a non-loopback bind without authentication.")

    sandbox: SandboxLevel = Field(SandboxLevel.AUTO, description="Isolation level: auto, full, user or process.")
    network: NetworkMode = Field(
        NetworkMode.AUTO,
        description="Functions without a VPC reach: isolated: only the engine's endpoint; nat: also the outside, through the host "
        "(sandbox level full); host: everything the host does; auto: nat where possible, else isolated.",
    )
    vpcs: dict[str, VpcSettings] = Field(
        default_factory=dict, description="VPCs beside those of EC2, by id; see docs/network.md (JSON in the environment)."
    )
    file_systems: dict[str, FileSystemSettings] = Field(
        default_factory=dict,
        description="What functions' FileSystemConfigs mount: ARN of an EFS or S3 Files access point to a directory of this host, or to "
        "{'path': ..., 'uid': ..., 'gid': ...}; see docs/file-systems.md (JSON in the environment).",
    )
    vpc_refresh_s: float = Field(5.0, gt=0, description="How often changes of security groups and subnets are fetched from EC2.")
    pool_size: int = Field(8, ge=0, le=512, description="Prepared empty sandboxes kept per runtime in use.")
    runtimes: dict[str, Path] = Field(
        default_factory=dict, description="Runtime id to interpreter, e.g. {'python3.12': '/usr/bin/python3.12'}."
    )
    ignore_architecture: bool = Field(
        False,
        description="Take functions whose Architectures name the other processor, and run their packages here. What they have compiled for "
        "that one fails to start.",
    )
    image_registries: dict[str, str] = Field(
        default_factory=dict,
        description="Where images are fetched from when functions are created of them: host in ImageUri to its address, e.g. "
        "{'registry.example.com': 'https://registry.example.com'}. Images of other hosts are imported first.",
    )
    java_client: Path | None = Field(
        None,
        description="Directory of jars: aws-lambda-java-runtime-interface-client and what it needs. With a JDK it makes Java runtimes available.",
    )

    signing_profiles: dict[str, Path] = Field(
        default_factory=dict, description="ARN of a signing profile version to a public key in PEM, for code signing configurations."
    )

    account_concurrency: int = Field(1000, ge=1, description="Concurrent executions in the account.")
    request_rate: int = Field(
        10, ge=0, description="Requests per second for each unit of reserved or provisioned concurrency, as on Lambda; 0: no limit."
    )
    account_request_rate: int = Field(
        0, ge=0, description="The same for the account's unreserved concurrency. Lambda's is 10; 0 lets load tests find the engine's own limit."
    )
    scaling_burst: int = Field(1000, ge=1, description="New instances one function may start at once.")
    scaling_period_s: float = Field(10.0, gt=0, description="Seconds in which a used up scaling burst is refilled.")
    keep_alive_s: float = Field(
        600.0, gt=0, description="An instance idle this long is retired; the tag lambda-engine:keep-alive-s sets it for a function."
    )
    max_age_s: float = Field(
        0.0, ge=0, description="An idle instance this old is retired; 0: none is. The tag lambda-engine:max-age-s sets it for a function."
    )
    freeze_after_s: float = Field(
        0.1, ge=0, description="An instance idle this long is frozen until its next invocation, as on AWS; 0 never freezes."
    )
    cpu_quota: bool = Field(
        True, description="Limit CPU time by MemorySize as AWS does (1,769 MB buy one vCPU); false leaves shares only."
    )
    stream_bandwidth_mib_s: float = Field(
        0.0, ge=0, description="MiB per second of a streamed response after its first 6 MiB; Lambda's are 2, 0 sets no limit."
    )
    max_instances: int = Field(1000, ge=1, description="Instances the host may hold at once.")
    snapshots: bool = Field(
        False,
        description="Copy instances from a template whose init ran once, as SnapStart does, for every Python version and $LATEST too; "
        "AWS would not.",
    )
    learn_imports: bool = Field(
        False,
        description="Import the packages that a Python version's first instance was seen to import in a process that the next ones are copied "
        "from, where that leaves no traces; each still runs its own init.",
    )
    autoscaling_period_s: float = Field(
        60.0, gt=0, description="What Application Auto Scaling of provisioned concurrency takes for a minute (for tests: less)."
    )
    memory_budget_mib: int = Field(0, ge=0, description="What the MemorySize of all instances may add up to; 0: anything.")
    memory_reserve_mib: int = Field(
        256, ge=0, description="With less memory left on the machine than this, no instance starts before another one goes."
    )
    host_wait_s: float = Field(10.0, gt=0, description="How long an invocation waits for room on a full host before it is refused.")
    compiled: bool = Field(
        True, description="Use the compiled lane for plain warm invocations where it was built; false runs everything in Python."
    )
    init_timeout_s: float = Field(10.0, gt=0, description="Init phase limit before it is repeated inside the invocation.")
    async_retry_base_s: float = Field(
        60.0, gt=0, description="Delay before the first retry of a failed asynchronous invocation; the second waits twice that."
    )

    event_poll_s: int = Field(
        5, ge=1, le=20, description="How long one poll of an event source waits for something, and so how long a change of a mapping may take."
    )

    event_over_pull: bool = Field(
        False,
        description="Poll SQS with at least five pollers that throttles do not slow down, as Lambda may: with little reserved concurrency, messages then "
        "reach the dead-letter queue without a run.",
    )

    event_brokers: dict[str, str] = Field(
        default_factory=dict,
        description="Where the brokers of event source mappings are, by ARN: amqp(s)://host:port of Amazon MQ, host:port,… of MSK. Others are asked of "
        "whoever plays AWS.",
    )

    aws_endpoint: str = Field(
        "embedded", description="Where other AWS services live: embedded, aws (the real one) or a URL."
    )
    xray_daemon: str | None = Field(
        None, pattern=r"^[^\s:]+:\d{1,5}$|^\[[0-9a-fA-F:.]+\]:\d{1,5}$",
        description="host:port at which an X-Ray daemon takes segments (UDP): those of functions with TracingConfig Active are sent there, and "
        "functions are told its address; they must be able to reach it themselves.",
    )
    drain_s: float = Field(20.0, ge=0, description="How long a SIGTERM waits for invocations in flight.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="The engine's own log level.")
    log_file_mib: int = Field(16, ge=1, description="Size at which a function's log file is rotated (one old file is kept).")

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("image_registries")
    @classmethod
    def _registry_addresses(cls, value: dict[str, str]) -> dict[str, str]:
        for host, address in value.items():
            if not address.startswith(("http://", "https://")) or "/" in host:
                raise ValueError(f"{host}={address}: a registry is HOST=https://ADDRESS")
        return value

    @field_validator("aws_endpoint")
    @classmethod
    def _endpoint(cls, value: str, _info: ValidationInfo) -> str:
        if value in ("embedded", "aws") or value.startswith(("http://", "https://")):
            return value
        raise ValueError("must be 'embedded', 'aws' or an http(s) URL")

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and value.get_secret_value().partition("://")[0] not in {"postgresql", "postgres", "postgresql+psycopg"}:
            raise ValueError("must begin with postgresql://; SQLite needs no URL")
        return value

    @field_validator("vpcs")
    @classmethod
    def _vpc_names(cls, value: dict[str, VpcSettings]) -> dict[str, VpcSettings]:
        owners: dict[str, str] = {}
        for vpc, settings in value.items():
            if not vpc.startswith("vpc-"):
                raise ValueError(f"{vpc}: a VPC is called vpc-...")
            for name in (*settings.subnets, *settings.security_groups):
                if owners.setdefault(name, vpc) != vpc:
                    raise ValueError(f"{name} is in {owners[name]} and in {vpc}")
        return value

    @model_validator(mode="after")
    def _files_apart(self) -> Settings:
        own = Path(os.path.realpath(self.data_dir))
        for arn, share in self.file_systems.items():
            if not arn.startswith("arn:") or "access-point/fsap-" not in arn:
                raise ValueError(f"file_systems: {arn} is not the ARN of an access point")
            real = Path(os.path.realpath(share.path))
            if real.is_relative_to(own) or own.is_relative_to(real):
                raise ValueError(f"file_systems: {share.path} and the engine's data_dir {self.data_dir} must lie apart")
        return self

    @model_validator(mode="after")
    def _safe(self) -> Settings:
        loopback = self.host in ("127.0.0.1", "::1", "localhost") or self.host.startswith("127.")
        if not loopback and self.auth is AuthMode.OFF and not self.insecure:
            raise ValueError(f"host={self.host} is not loopback: set auth=sigv4, or insecure=true to accept the risk")
        if self.auth is not AuthMode.OFF and not self.access_keys:
            raise ValueError(f"auth={self.auth} needs access_keys, e.g. LAMBDA_ENGINE_ACCESS_KEYS='{{\"AKIA...\":\"secret\"}}'")
        if self.auth is AuthMode.IAM and self.aws_endpoint != "embedded":
            raise ValueError("auth=iam reads users, roles and policies from the embedded AWS: set aws_endpoint=embedded, or auth=sigv4")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = os.environ.get(CONFIG_FILE_VARIABLE)
        sources: tuple[PydanticBaseSettingsSource, ...] = (init_settings, env_settings)
        if path:
            return (*sources, TomlConfigSettingsSource(settings_cls, Path(path)))
        return sources

    def assumes_roles(self) -> bool:
        """Whether functions run with their execution role's credentials."""
        if self.role_credentials is RoleCredentials.AUTO:
            return self.auth is AuthMode.IAM
        return self.role_credentials is RoleCredentials.ASSUME

    def run_dir(self) -> Path:
        """Directory of the engine's sockets: ``<data_dir>/run``, or a short name in /tmp where that would exceed the
        108 bytes of a Unix socket address.
        """
        inside = self.data_dir / "run"
        if len(os.fsencode(inside)) <= 80:
            return inside
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]
        # Its owner's, not this process's: parts of the engine may have become that user.
        owner = self.data_dir.stat().st_uid if self.data_dir.exists() else os.getuid()
        folder = tempfile.gettempdir()
        return Path(folder if len(os.fsencode(folder)) <= 60 else "/tmp") / f"lambda-engine-{owner}-{digest}"  # noqa: S108 - its owner is checked

    def database(self) -> Path | str:
        """Where the store's rows are: a file of SQLite, or a URL with its password."""
        return self.data_dir / "engine.db" if self.database_url is None else self.database_url.get_secret_value()

    def cache_dir(self) -> Path:
        """``$XDG_CACHE_HOME/lambda-engine`` or ``~/.cache/lambda-engine``: what can be made again and is shared by all engines
        of this user. Below the data directory where there is no writable home.
        """
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        path = Path(base) / "lambda-engine"
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            return self.data_dir / "cache"
        return path if os.access(path, os.W_OK) else self.data_dir / "cache"

    def endpoint_url(self) -> str:
        """URL of the HTTP port for clients on this host."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "localhost") else self.host  # noqa: S104 - compared, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def load(**flags: Any) -> Settings:
    """Settings from flags (None means not given), environment and file.

    Raises ConfigurationError naming each offending setting.
    """
    from pydantic import ValidationError  # noqa: PLC0415 - the name clashes with engine.errors at module level

    path = os.environ.get(CONFIG_FILE_VARIABLE)
    if path and not Path(path).is_file():
        raise ConfigurationError(f"{CONFIG_FILE_VARIABLE}={path}: no such file")
    try:
        return Settings(**{k: v for k, v in flags.items() if v is not None})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as e:
        raise ConfigurationError(f"{CONFIG_FILE_VARIABLE}={path}: {e}") from e
    except SettingsError as e:
        # It names the setting; what is wrong with it is said by the error below it.
        raise ConfigurationError(f"{e}: {e.__cause__ or 'not understood'}; maps are JSON in the environment") from e
    except ValidationError as e:
        lines = [f"{'.'.join(map(str, x['loc'])) or 'settings'}: {x['msg']}" for x in e.errors()]
        raise ConfigurationError("; ".join(lines)) from e


def unknown_variables() -> list[str]:
    """Variables of the environment that look like settings and are none, each with the setting that may have been meant."""
    names = [f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields]
    known = {*names, *(f"{ENV_PREFIX}{name}" for name in ("CONFIG", "ENDPOINT", "REGISTRY_PASSWORD"))}
    unknown = sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name.upper() not in known)
    close = {name: difflib.get_close_matches(name.upper(), names, 1, 0.9) for name in unknown}
    return [name + (f" (did you mean {close[name][0]}?)" if close[name] else "") for name in unknown]


def describe(settings: Settings, flags: dict[str, Any] | None = None) -> list[tuple[str, str, str]]:
    """(name, value, source) of every setting; secrets are masked. Source is flag, env, file or default."""
    in_env = set(EnvSettingsSource(type(settings))().keys())
    path = os.environ.get(CONFIG_FILE_VARIABLE)
    in_file = set(TomlConfigSettingsSource(type(settings), Path(path))().keys()) if path else set()
    rows = []
    for name in type(settings).model_fields:
        if flags and flags.get(name) is not None:
            source = "flag"
        elif name in in_env:
            source = "env"
        else:
            source = "file" if name in in_file else "default"
        value = getattr(settings, name)
        if name == "access_keys":
            value = dict.fromkeys(value, "********")
        rows.append((name, str(value), source))
    return rows
