"""The tables as SQLAlchemy sees them. ``migrations`` creates them; a test holds the two together."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", Text, nullable=False),
)

functions = Table(
    "functions",
    metadata,
    Column("account", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("created_ms", BigInteger, nullable=False),
    Column("next_version", Integer, nullable=False),
    Column("tags", JSON, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("account", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("version", String, nullable=False),
    Column("config", JSON, nullable=False),
    Column("code_sha256", String, nullable=False),
    Column("code_size", BigInteger, nullable=False),
    Column("revision_id", String, nullable=False),
    Column("last_modified_ms", BigInteger, nullable=False),
    Column("generation", String, nullable=False),
    Column("fingerprint", String, nullable=False),
    Column("preload", JSON, nullable=False),
    Column("layers", JSON, nullable=False),
    ForeignKeyConstraint(["account", "name"], ["functions.account", "functions.name"]),
    Index("versions_by_code", "code_sha256"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("account", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("alias", String, primary_key=True),
    Column("version", String, nullable=False),
    Column("description", String, nullable=False),
    Column("weights", JSON, nullable=False),
    Column("revision_id", String, nullable=False),
    ForeignKeyConstraint(["account", "name"], ["functions.account", "functions.name"]),
)

# What is attached to a function (qualifier empty), a version or an alias; ``kind`` says which resource module wrote it.
attachments = Table(
    "attachments",
    metadata,
    Column("account", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("qualifier", String, primary_key=True),
    Column("document", JSON, nullable=False),
    ForeignKeyConstraint(["account", "name"], ["functions.account", "functions.name"]),
    Index("attachments_by_kind", "kind"),
)

# Which versions have which layer content: what the JSON in ``versions.layers`` says, so that it can be counted.
layer_uses = Table(
    "layer_uses",
    metadata,
    Column("account", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("sha256", String, primary_key=True),
    ForeignKeyConstraint(["account", "name", "ordinal"], ["versions.account", "versions.name", "versions.ordinal"]),
    Index("layer_uses_by_code", "sha256"),
)

# One row per name ever published: numbers go on after versions were deleted.
layers = Table(
    "layers",
    metadata,
    Column("account", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("next_version", Integer, nullable=False),
)

layer_versions = Table(
    "layer_versions",
    metadata,
    Column("account", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("description", String, nullable=False),
    Column("runtimes", JSON, nullable=False),
    Column("architectures", JSON, nullable=False),
    Column("license_info", String, nullable=True),
    Column("code_sha256", String, nullable=False),
    Column("code_size", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("revision_id", String, nullable=False),
    Column("policy", JSON, nullable=False),
    Index("layer_versions_by_code", "code_sha256"),
)

# ``document``: the members of the API's CodeSigningConfig under their AWS names.
code_signing_configs = Table(
    "code_signing_configs",
    metadata,
    Column("account", String, primary_key=True),
    Column("config_id", String, primary_key=True),
    Column("document", JSON, nullable=False),
    Column("tags", JSON, nullable=False),
)

# VPCs as they were last known, attached servers included; see engine.control.vpc_documents.
vpcs = Table(
    "vpcs",
    metadata,
    Column("vpc", String, primary_key=True),
    Column("document", JSON, nullable=False),
)

# ``document``: the members of the API's EventSourceMappingConfiguration. ``revision`` counts changes, for whoever polls.
event_source_mappings = Table(
    "event_source_mappings",
    metadata,
    Column("mapping", String, primary_key=True),
    Column("account", String, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("document", JSON, nullable=False),
    Column("tags", JSON, nullable=False),
)

# How far a mapping of a stream is with each of its shards; see ``engine.eventing.sources.orders.Checkpoint``.
event_source_checkpoints = Table(
    "event_source_checkpoints",
    metadata,
    Column("mapping", String, primary_key=True),
    Column("shard", String, primary_key=True),
    Column("document", JSON, nullable=False),
)

# One row per package. ``released_ms``: since when no version refers to it; its files go a while later.
code = Table(
    "code",
    metadata,
    Column("sha256", String, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("released_ms", BigInteger, nullable=True),
)

events = Table(
    "events",
    metadata,
    Column("request_id", String, primary_key=True),
    Column("account", String, nullable=False),
    Column("function", String, nullable=False),
    Column("qualifier", String, nullable=True),
    Column("first_ms", BigInteger, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    Column("lease_ms", BigInteger, nullable=True),
    Column("failures", Integer, nullable=False),
    Column("refusals", Integer, nullable=False),
    Column("trace_id", String, nullable=True),
    Column("payload", LargeBinary, nullable=False),
    Column("tenant", String, nullable=True),
    Index("events_by_age", "first_ms"),
)
Index(
    "events_waiting",
    events.c.account,
    events.c.function,
    events.c.due_ms,
    sqlite_where=events.c.lease_ms.is_(None),
    postgresql_where=events.c.lease_ms.is_(None),
)
Index("events_held", events.c.lease_ms, sqlite_where=events.c.lease_ms.is_not(None), postgresql_where=events.c.lease_ms.is_not(None))
