"""Forward-only steps from an empty database to the current schema.

Each step is plain SQL that never changes once released: a database written by any older engine goes through the steps it lacks, in one
transaction. Alembic was refused: with one writer, one branch and no downgrade there is nothing for it to manage.
"""

from __future__ import annotations

from sqlalchemy import Connection, inspect, text

from engine.errors import ConfigurationError

_STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE functions (
            account VARCHAR NOT NULL, name VARCHAR NOT NULL, created_ms BIGINT NOT NULL, next_version INTEGER NOT NULL,
            tags JSON NOT NULL, PRIMARY KEY (account, name))""",
        """CREATE TABLE versions (
            account VARCHAR NOT NULL, name VARCHAR NOT NULL, ordinal INTEGER NOT NULL, version VARCHAR NOT NULL,
            config JSON NOT NULL, code_sha256 VARCHAR NOT NULL, code_size BIGINT NOT NULL, revision_id VARCHAR NOT NULL,
            last_modified_ms BIGINT NOT NULL, generation VARCHAR NOT NULL, fingerprint VARCHAR NOT NULL, preload JSON NOT NULL,
            PRIMARY KEY (account, name, ordinal), FOREIGN KEY (account, name) REFERENCES functions (account, name))""",
        "CREATE INDEX versions_by_code ON versions (code_sha256)",
        "CREATE TABLE code (sha256 VARCHAR NOT NULL PRIMARY KEY, size BIGINT NOT NULL, released_ms BIGINT)",
        """CREATE TABLE events (
            request_id VARCHAR NOT NULL PRIMARY KEY, account VARCHAR NOT NULL, function VARCHAR NOT NULL, qualifier VARCHAR,
            first_ms BIGINT NOT NULL, due_ms BIGINT NOT NULL, lease_ms BIGINT, failures INTEGER NOT NULL,
            refusals INTEGER NOT NULL, trace_id VARCHAR, payload BLOB NOT NULL)""",
        "CREATE INDEX events_by_due ON events (due_ms)",
        "CREATE INDEX events_by_age ON events (first_ms)",
    ),
    (
        """CREATE TABLE aliases (
            account VARCHAR NOT NULL, name VARCHAR NOT NULL, alias VARCHAR NOT NULL, version VARCHAR NOT NULL,
            description VARCHAR NOT NULL, weights JSON NOT NULL, revision_id VARCHAR NOT NULL,
            PRIMARY KEY (account, name, alias), FOREIGN KEY (account, name) REFERENCES functions (account, name))""",
        """CREATE TABLE attachments (
            account VARCHAR NOT NULL, name VARCHAR NOT NULL, kind VARCHAR NOT NULL, qualifier VARCHAR NOT NULL,
            document JSON NOT NULL,
            PRIMARY KEY (account, name, kind, qualifier), FOREIGN KEY (account, name) REFERENCES functions (account, name))""",
        "CREATE INDEX attachments_by_kind ON attachments (kind)",
    ),
    (
        "ALTER TABLE versions ADD COLUMN layers JSON NOT NULL DEFAULT '[]'",
        """CREATE TABLE layer_uses (
            account VARCHAR NOT NULL, name VARCHAR NOT NULL, ordinal INTEGER NOT NULL, sha256 VARCHAR NOT NULL,
            PRIMARY KEY (account, name, ordinal, sha256),
            FOREIGN KEY (account, name, ordinal) REFERENCES versions (account, name, ordinal))""",
        "CREATE INDEX layer_uses_by_code ON layer_uses (sha256)",
        "CREATE TABLE layers (account VARCHAR NOT NULL, name VARCHAR NOT NULL, next_version INTEGER NOT NULL, PRIMARY KEY (account, name))",
        """CREATE TABLE layer_versions (
            account VARCHAR NOT NULL, name VARCHAR NOT NULL, version INTEGER NOT NULL, description VARCHAR NOT NULL,
            runtimes JSON NOT NULL, architectures JSON NOT NULL, license_info VARCHAR, code_sha256 VARCHAR NOT NULL,
            code_size BIGINT NOT NULL, created_ms BIGINT NOT NULL, revision_id VARCHAR NOT NULL, policy JSON NOT NULL,
            PRIMARY KEY (account, name, version))""",
        "CREATE INDEX layer_versions_by_code ON layer_versions (code_sha256)",
    ),
    (
        """CREATE TABLE code_signing_configs (
            account VARCHAR NOT NULL, config_id VARCHAR NOT NULL, document JSON NOT NULL, tags JSON NOT NULL,
            PRIMARY KEY (account, config_id))""",
    ),
    ("CREATE TABLE vpcs (vpc VARCHAR NOT NULL PRIMARY KEY, document JSON NOT NULL)",),
    (
        """CREATE TABLE event_source_mappings (
            mapping VARCHAR NOT NULL PRIMARY KEY, account VARCHAR NOT NULL, revision INTEGER NOT NULL, document JSON NOT NULL,
            tags JSON NOT NULL)""",
    ),
    (
        """CREATE TABLE event_source_checkpoints (
            mapping VARCHAR NOT NULL, shard VARCHAR NOT NULL, document JSON NOT NULL, PRIMARY KEY (mapping, shard))""",
    ),
    (
        "DROP INDEX events_by_due",
        "CREATE INDEX events_waiting ON events (account, function, due_ms) WHERE lease_ms IS NULL",
        "CREATE INDEX events_held ON events (lease_ms) WHERE lease_ms IS NOT NULL",
    ),
    ("ALTER TABLE events ADD COLUMN tenant VARCHAR",),
)
SCHEMA_VERSION = len(_STEPS)
_KEY = "schema_version"


def migrate(connection: Connection, where: str, upto: int | None = None) -> None:
    """Bring the database up to ``SCHEMA_VERSION`` (or, to restore what an older engine wrote, to ``upto``), inside the caller's
    transaction.

    Raises ConfigurationError when a newer engine has written it; ``where`` names it in the message.
    """
    current = _current(connection)
    refuse_newer(current, where)
    wanted = SCHEMA_VERSION if upto is None else upto
    for step in _STEPS[current:wanted]:
        for statement in step:
            connection.execute(text(_in_dialect(statement, connection.dialect.name)))
    connection.execute(text("DELETE FROM meta WHERE key = :key"), {"key": _KEY})
    connection.execute(text("INSERT INTO meta (key, value) VALUES (:key, :value)"), {"key": _KEY, "value": str(wanted)})


def refuse_newer(found: int, where: str) -> None:
    """Raises ConfigurationError for a schema that only a newer engine understands."""
    if found > SCHEMA_VERSION:
        raise ConfigurationError(
            f"{where} was written by a newer engine: its schema is {found}, this engine knows up to {SCHEMA_VERSION}. "
            "Use that engine, or another data directory."
        )


def _in_dialect(statement: str, dialect: str) -> str:
    """The steps are written for SQLite. PostgreSQL calls bytes otherwise, and must order names as SQLite and Python do: by code point."""
    if dialect != "postgresql":
        return statement
    return statement.replace("BLOB", "BYTEA").replace("VARCHAR", 'VARCHAR COLLATE "C"')


def _current(connection: Connection) -> int:
    if not inspect(connection).has_table("meta"):
        connection.execute(text("CREATE TABLE meta (key VARCHAR NOT NULL PRIMARY KEY, value TEXT NOT NULL)"))
        return 0
    found = connection.execute(text("SELECT value FROM meta WHERE key = :key"), {"key": _KEY}).scalar_one_or_none()
    return int(found) if found is not None else 0
