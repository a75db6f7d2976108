"""An exchange's request on its way to a node: onto a connection, rendered for it, and out, with its clock.

The time that a node may take for its answer begins when it has the whole request: neither a slow
client's upload nor a slow line counts against it.
"""

from __future__ import annotations

from time import monotonic

from ..wire.head import CHUNKED_BODY, NO_BODY, chunk_of
from ..wire.node_connection import NodeConnection
from .answering import Phase
from .choosing import Choosing
from .plan import NodeLink

JOIN_BYTES = 64 * 1024  # a larger body is written apart from its head instead of copied

# As C integers, which imported names are not.
_NO_BODY, _CHUNKED_BODY, _JOIN_BYTES = int(NO_BODY), int(CHUNKED_BODY), JOIN_BYTES
_CONNECTING, _WAITING, _HOLDING = int(Phase.CONNECTING), int(Phase.WAITING), int(Phase.HOLDING)


class Sending(Choosing):
    """An exchange's way to its node."""

    # --- Connections --------------------------------------------------------------------------

    def _reach(self, link: NodeLink, now: float) -> None:
        """Send on an idle connection, or make one."""
        # What goes through once is lost if an idle one turns out to have been closed just then.
        node = link.pool.take(now) if not self.is_streaming_body else None
        if node is not None:
            self._send(node, now)
        else:
            self._connect(now)

    def _connect(self, now: float) -> None:
        timeout = min(self.plan.connect_s, self.share_deadline - now)
        self.phase = _CONNECTING
        self.node_stalled_at = 0.0
        self.own_limit_s = self.plan.connect_s
        self.phase_deadline = now + timeout + 0.5  # the dialler's own limit comes first
        self.dial = self.link.pool.dial(self, timeout)  # type: ignore[union-attr]

    def on_node_connected(self, connection: NodeConnection) -> None:
        self.dial = None
        if self.phase != _CONNECTING:
            connection.pool.give_back(connection, monotonic())
            return
        self._send(connection, monotonic())

    # --- The request --------------------------------------------------------------------------

    def _send(self, node: NodeConnection, now: float) -> None:
        """Render the request for this attempt's node and send it."""
        link = self.link
        assert link is not None
        plan = self.plan
        self.node = node
        self.phase = _WAITING
        self.sent_at = self.asked_at = now
        self.relay = None
        self.held = None
        self.answer_held = 0
        self.node_stalled_at = 0.0
        self.own_limit_s = plan.head_stream_s if self.wants_stream else plan.head_s
        if self.is_streaming_body:
            self.share_deadline = self.total_deadline  # no other node will need any of it
        self.phase_deadline = self._answer_deadline()
        target = self.target
        body = self.body.data
        rendering = self.rendering
        if self.resumption is not None:
            body, target = self._render_again(body if rendering is None else rendering.body)
            rendering = None
        joined_body = None
        parts: list[bytes | memoryview] | None = None
        if self.is_streaming_body:
            length = self.head.content_length if self.head.content_length >= 0 else _CHUNKED_BODY
        elif rendering is not None:
            parts = rendering.parts
            length = 0
            for part in parts:
                length += len(part)
            if length <= _JOIN_BYTES:
                joined_body = b"".join(parts)
                parts = None
        elif body is not None:
            length = len(body)
            if length <= _JOIN_BYTES:
                joined_body = body
            else:
                parts = [body]
        else:
            # A request of a method that may have a body says that it has none.
            length = (
                0 if self.method == b"POST" or self.method == b"PUT" or self.method == b"PATCH" else _NO_BODY
            )
        extra = link.own_over(self.extra) if self.extra is not None else None
        head = link.template.render(
            self.head, self.method, link.target(target), length, extra, self.extra_drop, joined_body
        )
        is_head = self.head.is_head or self.method == b"HEAD"
        if not self.is_streaming_body:
            node.start(self, head, parts, is_head)
            if node.is_paused and self.node is node:
                self._on_stall(node, now)
                self.phase_deadline = self._answer_deadline()
            return
        node.start(self, head, None, is_head)
        node.request_complete = False
        for piece in self.body.take():
            self._send_piece(piece)
        if self.body_complete:
            self._end_body()

    def _render_again(self, body: bytes | None) -> tuple[bytes, bytes]:
        """The body and target for a node that is to go on with an answer."""
        resumption = self.resumption
        link = self.link
        assert resumption is not None and link is not None and body is not None
        resumption.choose_way(link)
        body = resumption.body_for(body)
        return body, link.prefix_target if resumption.by_prefix else self.target

    def _send_piece(self, piece: bytes) -> None:
        """Pass on a part of a body that is too large to hold."""
        node = self.node
        if node is None:
            # Not connected yet: the client is stopped, and little more than this comes.
            self.body.add(piece)
            self.client.stop_reading()
            return
        if self.head.content_length < 0:
            piece = chunk_of(piece, False)  # of nothing, nothing: an empty chunk would be the last one
        if piece:
            node.send(piece)
        if node.is_paused:
            self.client.stop_reading()
            self._on_stall(node, monotonic())
        else:
            self.client.go_on_reading()

    def _end_body(self) -> None:
        if self.node is not None:
            if self.head.content_length < 0:
                self.node.send(b"0\r\n\r\n")
            self.node.request_complete = True
            self._begin_clock()

    def on_node_writable(self) -> None:
        self.node_stalled_at = 0.0
        self._begin_clock()
        if self.is_streaming_body:
            self.client.go_on_reading()

    # --- Its clock ----------------------------------------------------------------------------

    def _on_stall(self, node: NodeConnection, now: float) -> None:
        self.node_stalled_at = now
        self.node_unsent = node.outlet.unsent()

    def _takes_request(self, node: NodeConnection, now: float) -> bool:
        """Has a node with much before it taken any of that, since this was asked last?"""
        unsent = self.node_unsent
        self._on_stall(node, now)
        return self.node_unsent < unsent

    def _is_going_out(self) -> bool:
        """Is a part of the request still on its way, or yet to come from the client?"""
        return self.node_stalled_at != 0.0 or (self.is_streaming_body and not self.body_complete)

    def _begin_clock(self) -> None:
        """More of the request has gone out. With the last of it the time begins that the node may take."""
        self.asked_at = monotonic()
        if self.phase == _WAITING or self.phase == _HOLDING:
            self.phase_deadline = self._answer_deadline()

    def _answer_deadline(self) -> float:
        """Until when the node may go on with what it is at."""
        if self._is_going_out():
            return self.share_deadline
        return min(self.share_deadline, self.asked_at + self.own_limit_s)
