"""WebSocket: the request that asks for it, and the connection after a node has agreed.

The handshake is an exchange like any other: it moves to the next node until one answers 101. From then
on a ``Tunnel`` has both connections, and passes bytes on without reading them. It ends with either of
them.

Source: RFC 6455, 4.1 and 4.2.1 (what a handshake is made of); RFC 9110, 7.8 (Upgrade).
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from ..errors import ConnectionLost, NodeError
from ..wire.events import ExchangeEvents
from ..wire.head import NO_BODY, RequestHead, ResponseHead

if TYPE_CHECKING:
    from ..wire.client_connection import ClientConnection
    from .answering import Answering

OWN_FIELDS = b"sec-websocket-*"  # of a handshake, beside Upgrade and Connection
SWITCH = b"connection: upgrade\r\nupgrade: websocket\r\n"
# What browsers, which cannot set Authorization, put into Sec-WebSocket-Protocol: RFC 6455 has no better
# place. They are the client's credentials, as those fields are.
_CREDENTIAL_PROTOCOLS = (b"openai-insecure-api-key.", b"openai-organization.", b"openai-project.")


def is_handshake(head: RequestHead) -> bool:
    """Does this request ask for WebSocket, and is it one that can be granted?

    What asks for another protocol, or only seems to ask for this one, is a plain request: RFC 9110
    lets a server take no notice of Upgrade.
    """
    return (
        head.wants_upgrade
        and head.method == b"GET"
        and head.minor_version == 1
        and not head.is_chunked
        and head.content_length <= 0
        and _names(head, b"upgrade", b"websocket")
        and _names(head, b"connection", b"upgrade")
        and head.names(b"sec-websocket-key")
    )


def handshake_fields(head: RequestHead, *, passthrough: bool) -> list[tuple[bytes, bytes]]:
    """What a node is sent of a handshake besides the fields that every request has.

    Args:
        passthrough: the client's own credentials go to the node.
    """
    fields = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    for name, value in head.items():
        if not name.startswith(OWN_FIELDS[:-1]) or _names(head, b"connection", name):
            continue
        if name == b"sec-websocket-protocol" and not passthrough:
            offered = [protocol.strip() for protocol in value.split(b",")]
            value = b", ".join(name for name in offered if not name.startswith(_CREDENTIAL_PROTOCOLS))
            if not value:
                continue
        fields.append((name, value))
    return fields


def _names(head: RequestHead | ResponseHead, name: bytes, token: bytes) -> bool:
    """Is the token in one of the lists of the fields of that name?"""
    return any(
        token == item.strip().lower()
        for field, value in head.items()
        if field == name
        for item in value.split(b",")
    )


def agrees(head: ResponseHead) -> bool:
    """Does this 101 switch to WebSocket?"""
    return (
        head.minor_version == 1
        and _names(head, b"upgrade", b"websocket")
        and _names(head, b"connection", b"upgrade")
    )


class Tunnel(ExchangeEvents):
    """Two connections that have become one. It takes the place of its exchange among the live ones.

    Args:
        exchange: one whose node has answered 101; it is told when the tunnel has ended.
    """

    def __init__(self, exchange: Answering) -> None:
        assert exchange.node is not None
        self.exchange = exchange
        self.client: ClientConnection = exchange.client
        self.node = exchange.node
        self.plan = exchange.plan
        self.bytes_up = 0
        self.bytes_down = 0
        self.last_byte_at = 0.0
        self.client_stalled_at = 0.0
        self.node_stalled_at = 0.0
        self.is_open = True
        self.is_left = False  # by its client, of whom the node still has something to take
        self.untaken = 0

    def open(self, first: bytes, now: float) -> None:
        """Tell the client, and pass on what either side has said already."""
        exchange, client, node = self.exchange, self.client, self.node
        link, head = exchange.link, node.head
        assert link is not None and head is not None
        live = exchange.exchanges.live
        live.discard(exchange)
        live.add(self)
        exchange.exchanges.tunnels += 1
        self.last_byte_at = now
        client.exchange = node.exchange = self
        said_early = client.become_tunnel()
        shows = self.plan.shows_headers
        switch = self.plan.answer_template.render(
            head,
            NO_BODY,
            True,
            1,
            (link.answer_lines if shows else b"") + SWITCH,
            exchange.request_id,
            exchange.attempts if shows else 0,
            first or None,
        )
        self.bytes_down += len(switch)
        client.send(switch)
        if said_early:
            self.on_request_read(said_early, 0, len(said_early), False)

    # --- Upwards ------------------------------------------------------------------------------

    def on_request_read(self, data: bytes, start: int, end: int, complete: bool) -> None:
        if not self.is_open:
            return
        self.last_byte_at = monotonic()
        self.bytes_up += len(data)
        self.node.send(data)
        if self.node.is_paused:  # (a client that was closed meanwhile takes no notice)
            self.node_stalled_at = self.node_stalled_at or self.last_byte_at
            self.client.stop_reading()

    def on_node_writable(self) -> None:
        self.node_stalled_at = monotonic() if self.is_left else 0.0
        if self.is_open:
            self.client.go_on_reading()

    # --- Downwards ----------------------------------------------------------------------------

    def on_node_read(self, data: bytes, start: int, end: int, complete: bool) -> None:
        if not self.is_open:
            return
        now = self.node.read_at
        if start < end and not self.is_left:
            self.last_byte_at = now
            self.bytes_down += end - start
            self.client.send(data[start:end])
            if self.client.is_paused:
                self.client_stalled_at = self.client_stalled_at or now
                self.node.stop_reading()
        if complete:
            self._close("", now)

    def on_client_writable(self) -> None:
        self.client_stalled_at = 0.0
        if self.is_open:
            self.node.go_on_reading()

    # --- The end ------------------------------------------------------------------------------

    def on_client_gone(self) -> None:
        now = monotonic()
        self.untaken = self.node.outlet.unsent()
        if self.untaken and self.is_open:
            self.is_left = True
            self.client_stalled_at = 0.0
            self.node_stalled_at = self.node_stalled_at or now
            self.node.go_on_reading()  # or its own end would not be seen
        else:
            self._close("", now)

    def on_node_lost(self, error: NodeError) -> None:
        # An end is no fault, also where TLS has not said that it is one: WebSocket's own goodbye does.
        is_end = isinstance(error, ConnectionLost) and error.__cause__ is None
        self._close("" if is_end else "stream_interrupted", monotonic())

    def on_tick(self, now: float) -> None:
        """Compare what the sides may take with the clock."""
        plan = self.plan
        if self.is_left and (unsent := self.node.outlet.unsent()) < self.untaken:
            self.untaken = unsent
            self.node_stalled_at = now
            if not unsent:
                self._close("", now)
        elif self.client_stalled_at and now - self.client_stalled_at >= plan.client_write_s:
            self.client.abort()
            self._close("client_stalled", now)
        elif self.node_stalled_at and now - self.node_stalled_at >= plan.node_write_s:
            self._close("stream_stalled", now)
        elif now - self.last_byte_at >= plan.tunnel_idle_s:
            self._close("tunnel_idle", now)

    def on_shutdown(self) -> None:
        """The drain is over."""
        self._close("shutting_down", monotonic())

    def on_overload(self) -> None:
        """What waits here fills the memory that others need."""
        if self.client.is_paused:
            self.client.abort()
        self._close("overloaded", monotonic())

    def is_relaying(self) -> bool:
        """Is it one of those that can be ended to make room?"""
        return True

    def _close(self, code: str, now: float) -> None:
        """Close both sides; what is on its way to them still arrives. ``code``: why, if nobody wanted it."""
        if not self.is_open:
            return
        self.is_open = False
        exchange, client, node = self.exchange, self.client, self.node
        client.exchange = node.exchange = None
        exchange.exchanges.live.discard(self)
        exchange.exchanges.tunnels -= 1
        if node.outlet.unsent():
            node.abort()  # it takes nothing, and could hold on for long
        else:
            node.close()
        client.close()
        exchange.node = None
        exchange.sent_bytes += self.bytes_down
        exchange.body.size += self.bytes_up
        exchange.end_tunnel(code, now)
