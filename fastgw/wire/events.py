"""What the two kinds of connection tell the exchange that uses them.

The connections know this class only; ``proxy.exchange`` implements it. One class for both
sides, because an extension type has one base and one exchange listens to both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..errors import NodeError
    from .node_connection import NodeConnection


class ExchangeEvents:
    """The callbacks of one exchange. Each is called from the event loop and must not block."""

    # --- From the client ----------------------------------------------------------------------

    def on_request_read(self, data: bytes, start: int, end: int, complete: bool) -> None:
        """``data[start:end]`` belongs to the request body, in its framing; the framer has spans."""
        raise NotImplementedError

    def on_client_gone(self) -> None:
        """The client closed its connection, or half of it, before its answer was whole."""
        raise NotImplementedError

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
