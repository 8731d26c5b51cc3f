"""APIs and load balancers at their addresses: which requests are for one, what it is, and invoking its functions in the service's name.

One ``ApiExchange`` is one request, from its head to its answer. A function is invoked only if its resource policy lets API Gateway in, or if
the integration has a role to do it with.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from engine.arn import FunctionRef, parse_function_name
from engine.auth import gateway as policies
from engine.auth.policy import Identity
from engine.clock import Clock
from engine.errors import AccessDenied
from engine.protocol.gateway.definition import function_arn
from engine.protocol.gateway.request import ApiContext
from engine.supervisor.api import InvokeApi, Verifier
from engine.supervisor.ask import Connect
from engine.supervisor.catalogue import Catalogue
from engine.supervisor.gateway import addresses
from engine.supervisor.gateway.balancing import BalancerExchange, address_of, decode
from engine.supervisor.gateway.connections import PATH as WORDS
from engine.supervisor.gateway.connections import ConnectionsExchange
from engine.supervisor.gateway.definitions import ELSEWHERE_S, EMBEDDED_S, Definitions
from engine.supervisor.gateway.exchange import ApiExchange
from engine.supervisor.gateway.keysets import KeySets
from engine.supervisor.gateway.served import served
from engine.supervisor.gateway.sockets import Socket
from engine.supervisor.request import ReplyTo

if TYPE_CHECKING:
    from engine.supervisor.exchanges import Head
    from engine.supervisor.front import Connection

MAX_DECISIONS = 4096
log = structlog.get_logger("engine")


class Gateways:
    """Finds the API or load balancer that a request is for."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        catalogue: Catalogue,
        api: InvokeApi,
        verifier: Verifier | None,
        connect: Connect,
        token: str,
        *,
        region: str,
        account_id: str,
        written_here: bool,
    ) -> None:
        """``connect`` reaches the control plane, ``token`` proves who asks it. ``written_here``: APIs change through this port only."""
        self.loop = loop
        self.clock = clock
        self.verifier = verifier
        fresh_s = EMBEDDED_S if written_here else ELSEWHERE_S
        self.definitions = Definitions(loop, "api", served, connect, token, fresh_s=fresh_s)
        self.balancers = Definitions(loop, "balancer", decode, connect, token, fresh_s=fresh_s)
        self.key_sets = KeySets(loop, connect, token)
        self.account_id = account_id
        self._catalogue = catalogue
        self._api = api
        self._region = region
        self.sockets: dict[str, Socket] = {}
        self._counts: dict[tuple[str, str, str], int] = {}
        self._decisions: dict[tuple[str, str], bool] = {}
        self._revision = -1

    def exchange(self, head: Head, connection: Connection) -> ApiExchange | BalancerExchange | ConnectionsExchange | None:
        """The exchange that a request begins; None when it is for neither an API nor a load balancer."""
        address = addresses.of(head, self._region)
        if address is not None:
            return ApiExchange(self, address, head, connection)
        if head.url.startswith(WORDS):
            connection_id = head.path[len(WORDS) :].decode("latin-1")
            return ConnectionsExchange(self, head, connection, connection_id, None, None)
        balancer = address_of(head)
        return None if balancer is None else BalancerExchange(self, balancer, head, connection)

    def count(self, api_id: str, stage: str, status: int) -> None:
        """One request to an API that there is."""
        key = (api_id, stage, f"{status // 100}xx")
        self._counts[key] = self._counts.get(key, 0) + 1

    def figures(self) -> dict[str, Any]:
        """For the metrics page: requests by API, stage and class of status, and open connections by API."""
        connections: dict[str, int] = {}
        for socket in self.sockets.values():
            api_id = socket.context.api.api_id
            connections[api_id] = connections.get(api_id, 0) + 1
        return {"requests": [[*key, count] for key, count in self._counts.items()], "connections": connections}

    def invoke(
        self,
        uri: str,
        context: ApiContext,
        role: str,
        source_arn: str,
        event: bytes,
        trace: bytes | None,
        reply_to: ReplyTo,
        tenant: str | None = None,
    ) -> None:
        """Start the function that a URI names. Raises ValueError for one that names none, AwsError when it cannot be started."""
        arn = function_arn(uri, context.stage.variables)
        if arn is None:
            raise ValueError(f"{uri!r} does not name a function")
        self.start(arn, None if role else policies.API_GATEWAY, context.api.account, source_arn, event, trace, reply_to, tenant)

    def start(
        self,
        arn: str,
        caller: Identity | None,
        account: str,
        source_arn: str,
        event: bytes,
        trace: bytes | None,
        reply_to: ReplyTo,
        tenant: str | None = None,
    ) -> None:
        """Start a function for a service that its policy has to let in; None: nobody has to be. Raises AwsError."""
        ref = parse_function_name(arn, account=self.account_id, region=self._region)
        if caller is not None and not self._lets_in(ref, caller, account, source_arn):
            raise AccessDenied(f"{ref.arn()} has no policy that lets {caller.arn} invoke it for {source_arn}")
        self._api.invoke_function(ref, event, trace, reply_to, tenant)

    def _lets_in(self, ref: FunctionRef, caller: Identity, account: str, source_arn: str) -> bool:
        if self._revision != self._catalogue.revision or len(self._decisions) > MAX_DECISIONS:
            self._revision = self._catalogue.revision
            self._decisions.clear()
        key = (ref.arn(), source_arn)
        decision = self._decisions.get(key)
        if decision is None:
            policy = self._catalogue.policy(ref)
            decision = self._decisions[key] = policies.lets_in(policy, caller, ref.arn(), account, source_arn)
            if not decision:
                log.warning("a function does not let a service in", function=ref.arn(), service=caller.arn, source=source_arn)
        return decision
