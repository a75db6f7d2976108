"""What the two kinds of connection tell the exchange that uses them, and a node's tells its pool.

The connections know these classes only; ``proxy.exchange`` and ``wire.pool`` implement them. One
class for both sides of an exchange, because an extension type has one base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..errors import ClientError, NodeError
    from .head import ResponseHead
    from .node_connection import NodeConnection


class ConnectionOwner:
    """What a node connection tells the pool that it belongs to."""

    def __init__(self) -> None:
        self.unsolicited = 0  # connections on which a node spoke without having been asked

    def give_back(self, connection: Any, now: float) -> None:
        """A connection whose answer was whole and which may serve again."""
        raise NotImplementedError

    def forget(self, connection: Any) -> None:
        """The connection is closed."""
        raise NotImplementedError


class ExchangeEvents:
    """The callbacks of one exchange. Each is called from the event loop and must not block."""

    # --- From the client ----------------------------------------------------------------------

    def on_request_read(self, data: bytes, start: int, end: int, complete: bool) -> None:
        """``data[start:end]`` belongs to the request body, in its framing; the framer has spans."""
        raise NotImplementedError

    def on_client_gone(self) -> None:
        """The client closed its connection, or half of it, before its answer was whole."""
        raise NotImplementedError

    def on_request_refused(self, error: ClientError) -> bool:
        """The rest of the request is not well formed, or does not come. True: its client has been told."""
        self.on_client_gone()
        return False

    def on_client_writable(self) -> None:
        """The client takes bytes again; until then its connection's ``is_paused`` was set."""
        raise NotImplementedError

    # --- From a node --------------------------------------------------------------------------

    def on_node_connected(self, connection: NodeConnection) -> None:
        """A dialled connection is ready; it is idle and the exchange's own."""
        raise NotImplementedError

    def on_connect_failed(self, error: NodeError) -> None:
        """Dialling failed."""
        raise NotImplementedError

    def on_node_read(self, data: bytes, start: int, end: int, complete: bool) -> None:
        """``data[start:end]`` belongs to the answer's body, in its framing.

        The head is in the connection's ``head`` from the first call on; that call may come
        without body bytes. After a call with ``complete`` the connection is no longer the
        exchange's.
        """
        raise NotImplementedError

    def on_node_lost(self, error: NodeError) -> None:
        """The connection ended before the answer was whole, or the answer is not valid."""
        raise NotImplementedError

    def on_node_writable(self) -> None:
        """The node takes bytes again."""
        raise NotImplementedError

    def takes_switch(self, head: ResponseHead) -> bool:
        """Was this 101 asked for? Then all that follows is read as a body that lasts until the end."""
        return False
