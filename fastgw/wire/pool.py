"""The connections of one node: idle ones to take, new ones to dial.

Last in, first out, so that a quiet node's connections grow old and are closed. What an idle
connection reads, or its end, removes it at once; nothing stale is kept for the next request.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import Any

from ..errors import ConnectFailed, NodeError
from .dialer import dial
from .events import ConnectionOwner, ExchangeEvents
from .head import Limits
from .node_connection import NodeConnection
from .resolver import Address, Resolver
from .tls import TlsContext


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Bounds of one node's connections; times in seconds."""

    size: int = 320  # idle connections kept
    idle_timeout_s: float = 30.0
    requests: int = 1000  # served by one connection before it is closed
    connect_timeout_s: float = 5.0
    tcp_timeout_s: float = 3.0


class Dial:
    """One connection being made for one exchange; ``cancel`` when the exchange has no use for it."""

    def __init__(self, exchange: ExchangeEvents) -> None:
        self.exchange: ExchangeEvents | None = exchange
        self.task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        self.exchange = None
        if self.task is not None:
            self.task.cancel()


class Pool(ConnectionOwner):
    """All connections to one node."""

    def __init__(
        self,
        resolver: Resolver,
        host: str,
        port: int,
        *,
        tls: TlsContext | None = None,
        server_name: str | None = None,
        settings: PoolSettings | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__()
        self.resolver = resolver
        self.host = host
        self.port = port
        self.tls = tls
        self.server_name = server_name or host
        self.settings = settings or PoolSettings()
        self.max_idle = self.settings.size
        self.max_requests = self.settings.requests
        # A provider's answer may carry more and longer fields than we accept of a client.
        self.limits = limits or Limits(16 * 1024, 64 * 1024, 256)
        self.idle: list[NodeConnection] = []
        self.busy: set[NodeConnection] = set()
        self.dials: set[Dial] = set()
        # Where each connection leads; where the name does; and who has to end there after its answer.
        self.place_of: dict[NodeConnection, Address] = {}
        self.places: tuple[Address, ...] = ()
        self.outdated: set[NodeConnection] = set()
        self.opened = 0
        self.reused = 0
        self.stale = 0
        self.is_closed = False

    def __repr__(self) -> str:
        return f"<Pool {self.host}:{self.port} idle={len(self.idle)} busy={len(self.busy)}>"

    # --- Taking and giving back ---------------------------------------------------------------

    def take(self, now: float) -> NodeConnection | None:
        """The youngest idle connection that is still good, or None: dial then."""
        idle = self.idle
        while idle:
            connection = idle.pop()
            if connection.is_fresh(now):
                self.reused += 1
                self.busy.add(connection)
                return connection
            self.stale += 1
            connection.abort()
        return None

    def give_back(self, connection: Any, now: float) -> None:
        given: NodeConnection = connection
        self.busy.discard(given)
        if self.is_closed or len(self.idle) >= self.max_idle or given.served >= self.max_requests:
            given.close()
            return
        if self.outdated and given in self.outdated:
            given.close()
            return
        if given.tls is not None:
            given.tls.save_session()
        given.idle_since = now
        self.idle.append(given)

    def forget(self, connection: Any) -> None:
        self.busy.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)
        self.place_of.pop(connection, None)
        if self.outdated:
            self.outdated.discard(connection)

    def flush(self) -> None:
        """Close all idle connections: the youngest was found dead, and the others are no better."""
        for connection in list(self.idle):
            connection.abort()

    def sweep(self, now: float) -> None:
        """Close what was idle for too long, or leads where the name does not lead any more."""
        places = self.resolver.lookup(self.host, self.port)
        if places is not None and places != self.places:
            self.places = places
            self._leave_old_places()
        # The oldest are at the bottom of the stack.
        limit = now - self.settings.idle_timeout_s
        while self.idle and self.idle[0].idle_since < limit:
            self.idle.pop(0).close()

    def _leave_old_places(self) -> None:
        """End the idle connections to addresses the name has lost; the busy ones end after their answer."""
        for connection, place in list(self.place_of.items()):
            if place in self.places:
                self.outdated.discard(connection)
            elif connection in self.busy:
                self.outdated.add(connection)
            else:
                connection.close()

    # --- Dialling -----------------------------------------------------------------------------

    def dial(self, exchange: ExchangeEvents, timeout_s: float) -> Dial:
        """Make a new connection; ``exchange`` is told when it is there or has failed."""
        ticket = Dial(exchange)
        self.dials.add(ticket)
        ticket.task = asyncio.get_running_loop().create_task(self._dial(ticket, timeout_s))
        # Not in the coroutine: one that is cancelled before its first step never runs.
        ticket.task.add_done_callback(lambda _: self.dials.discard(ticket))
        return ticket

    async def open(self, timeout_s: float) -> NodeConnection:
        """Make a new connection for the caller alone. Raises NodeError."""
        _, connection, place = await dial(
            self.resolver,
            self.host,
            self.port,
            self._new_connection,
            connect_timeout_s=timeout_s,
            tcp_timeout_s=min(timeout_s, self.settings.tcp_timeout_s),
        )
        self.opened += 1
        if not connection.is_fresh(connection.born):
            connection.abort()
            raise ConnectFailed("the provider closed the connection as soon as it was made")
        self.busy.add(connection)
        self.place_of[connection] = place
        return connection

    def _new_connection(self) -> NodeConnection:
        """With a TLS state of its own: one that has begun with another address is of no use."""
        tls = self.tls.new_session(self.server_name) if self.tls is not None else None
        return NodeConnection(self, tls, self.limits)

    async def _dial(self, ticket: Dial, timeout_s: float) -> None:
        error: NodeError | None = None
        connection: NodeConnection | None = None
        try:
            connection = await self.open(timeout_s)
        except NodeError as failure:
            error = failure
        except asyncio.CancelledError:
            return  # by Dial.cancel: nobody waits
        except Exception as unexpected:  # a bug of ours must not leave an exchange waiting
            error = ConnectFailed()
            error.__cause__ = unexpected
            asyncio.get_running_loop().call_exception_handler(
                {"message": "dialling failed in an unexpected way", "exception": unexpected}
            )
        exchange, ticket.exchange = ticket.exchange, None
        ticket.task = None
        if connection is None:
            if exchange is not None:
                exchange.on_connect_failed(error)  # type: ignore[arg-type]
        elif exchange is None:
            self.give_back(connection, monotonic())
        else:
            exchange.on_node_connected(connection)

    # --- Closing ------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the idle connections now and every busy one after its answer."""
        self.is_closed = True
        for connection in list(self.idle):
            connection.close()

    def abort(self) -> None:
        """Close everything at once."""
        self.close()
        for ticket in list(self.dials):
            ticket.cancel()
        for connection in list(self.busy):
            connection.abort()

    def counts(self) -> dict[str, Any]:
        return {
            "idle": len(self.idle),
            "busy": len(self.busy),
            "dialling": len(self.dials),
            "opened": self.opened,
            "reused": self.reused,
            "unsolicited": self.unsolicited,
            "stale": self.stale,
        }
