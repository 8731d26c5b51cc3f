"""Where a broker is and who may speak to it: SourceAccessConfigurations, whose secrets are in the Secrets Manager of whoever plays AWS."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from engine.eventing.sources.orders import Source

# Kind of access to SASL mechanism; of RabbitMQ BASIC_AUTH is the only one.
MECHANISMS = {"BASIC_AUTH": "PLAIN", "SASL_SCRAM_256_AUTH": "SCRAM-SHA-256", "SASL_SCRAM_512_AUTH": "SCRAM-SHA-512"}
# (source, service) to a boto3 client.
Connect = Callable[[Source, str], Any]


class Login(NamedTuple):
    """A name and a password, and by which mechanism they are shown."""

    mechanism: str
    user: str
    password: str


def login(source: Source, connect: Connect) -> Login | None:
    """Raises ValueError for a secret that does not say a username and a password, and what boto3 raises."""
    broker = source.broker
    for kind, uri in broker.access if broker is not None else ():
        if kind in MECHANISMS:
            secret = connect(source, "secretsmanager").get_secret_value(SecretId=uri)
            try:
                found = json.loads(secret["SecretString"])
                return Login(MECHANISMS[kind], found["username"], found["password"])
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"the secret {uri} is no JSON object with username and password") from None
    return None


def is_here(server: str) -> bool:
    """Whether a broker is on this machine, where nobody asks for TLS."""
    host = server.rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")
