"""One connection to a node: one request at a time out, its answer in.

TLS is driven here over a plain transport (``wire.tls``), so that a read costs no extra layer.
The answer's head and framing come from ``wire.head``; httptools validates the same bytes, and
both must agree where the message ends, or the answer is refused.
"""

from __future__ import annotations

import asyncio
import select
from enum import IntEnum
from time import monotonic
from typing import Any

import httptools

from ..errors import BadResponse, ConnectionLost, NodeError, Retryable
from .events import ConnectionOwner, ExchangeEvents
from .framing import BodyFramer
from .head import CHUNKED_BODY, NO_BODY, UNTIL_CLOSE, Limits, ResponseHead, joined, part, scan_response
from .outlet import Outlet
from .tls import TlsSession

WRITE_HIGH = 256 * 1024
WRITE_LOW = 32 * 1024
INTERIM_ANSWERS = 32  # 1xx heads swallowed before one answer
INTERIM_BYTES = 64 * 1024  # of them all together
PEEK_AFTER_S = 0.25  # idle for longer: look at the socket before it is used again


class NodeState(IntEnum):
    """Where a node connection is."""

    OPENING = 0
    IDLE = 1
    BUSY = 2
    CLOSED = 3


_OPENING, _IDLE, _BUSY, _CLOSED = (int(state) for state in NodeState)


class _Base:
    """An extension type cannot have a Python class first among its bases."""


class NodeConnection(_Base, asyncio.Protocol):
    """The client side of one connection to a node. It belongs to one pool."""

    def __init__(self, pool: ConnectionOwner, tls: TlsSession | None, limits: Limits) -> None:
        self.pool = pool
        self.tls = tls
        self.limits = limits
        self.transport: Any = None
        self.outlet: Outlet = None  # type: ignore[assignment]  # from connection_made on
        self.exchange: ExchangeEvents | None = None
        self.head: ResponseHead | None = None
        self.framer = BodyFramer()
        self.parser: Any = None
        self.waiter: asyncio.Future[None] | None = None
        self.state = _OPENING
        self.buffer = b""
        self.served = 0
        self.answer_bytes = 0
        self.interim = 0
        self.interim_bytes = 0
        self.is_head_request = False
        self.request_complete = True
        self.failure: NodeError | None = None
        self.message_ended = False
        self.is_validated = True
        self.is_paused = False
        self.reading_stopped = False
        self.read_at = 0.0  # when bytes came last, monotonic seconds
        self.born = 0.0
        self.idle_since = 0.0

    def __repr__(self) -> str:
        return f"<NodeConnection {NodeState(self.state).name.lower()} served={self.served}>"

    # --- Opening ------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.outlet = Outlet(transport)
        transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        self.parser = httptools.HttpResponseParser(self)
        self.born = self.idle_since = monotonic()
        if self.tls is None:
            self.state = _IDLE
        else:
            self.outlet.write(self.tls.start())

    async def wait_established(self) -> None:
        """Wait for the TLS handshake. Raises TlsFailed or ConnectionLost."""
        if self.state == _OPENING:
            self.waiter = asyncio.get_running_loop().create_future()
            try:
                await self.waiter
            finally:
                self.waiter = None
        elif self.failure is not None:  # it has failed before anybody waited
            raise self.failure

    def _shake_hands(self) -> bool:
        """Drive the handshake one step; True when it is done."""
        tls = self.tls
        assert tls is not None
        try:
            done = tls.handshake()
        except NodeError as error:
            self._send_alert()
            self._opening_failed(error)
            return False
        out = tls.outgoing()
        if out:
            self.outlet.write(out)
        if done:
            self.state = _IDLE
            if self.waiter is not None and not self.waiter.done():
                self.waiter.set_result(None)
        return done

    def _send_alert(self) -> None:
        assert self.tls is not None
        alert = self.tls.outgoing()
        if alert:
            self.outlet.write(alert)

    def _opening_failed(self, error: NodeError) -> None:
        self.state = _CLOSED
        self.failure = error
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_exception(error)
        if self.transport is not None:
            self.transport.close()

    # --- Closing ------------------------------------------------------------------------------

    def eof_received(self) -> bool:
        self._ended(None)
        if self._is_unsent():
            # Closing would wait until the node has taken the rest, for ever: nobody watches any more.
            self.transport.abort()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._ended(error)
        self.outlet.lost()
        self.parser = self.transport = None  # they refer back to this object
        self.is_paused = False

    def _ended(self, error: Exception | None) -> None:
        """The node has closed, cleanly or not."""
        state = self.state
        if state == _CLOSED:
            return
        self.state = _CLOSED
        if state == _OPENING:
            lost = ConnectionLost("the provider closed the connection while it was being made")
            lost.__cause__ = error
            self._opening_failed(lost)
            return
        self.pool.forget(self)
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        head = self.head
        if head is not None and not self.framer.complete and self._is_until_close() and error is None:
            # Over TLS only a close_notify proves that nothing was cut off.
            if self.tls is None or self.tls.eof_received():
                self.framer.complete_at_eof()
                self.read_at = monotonic()
                exchange.on_node_read(b"", 0, 0, True)
                return
        lost = ConnectionLost()
        lost.__cause__ = error
        exchange.on_node_lost(lost)

    def _is_until_close(self) -> bool:
        head = self.head
        if head is None:
            return False
        return head.status == 101 or (not head.is_chunked and head.content_length < 0)

    def abort(self) -> None:
        """Close at once: cancels what the node is doing for us."""
        self.exchange = None
        if self.state != _CLOSED:
            if self.state != _OPENING:
                self.pool.forget(self)
            self.state = _CLOSED
            if self.transport is not None:
                self.transport.abort()

    def close(self) -> None:
        """Close an idle connection in order."""
        if self.state != _CLOSED:
            self.state = _CLOSED
            self.pool.forget(self)
            if self.tls is not None and not self.is_paused:
                goodbye = self.tls.shutdown()
                if goodbye:
                    self.outlet.write(goodbye)
            self.transport.close()

    # --- A request ----------------------------------------------------------------------------

    def start(
        self,
        exchange: ExchangeEvents,
        head: bytes,
        body: list[bytes | memoryview] | None,
        is_head_request: bool,
    ) -> None:
        """Send a request and hand its answer to ``exchange``.

        ``head`` may have the body behind it; ``body`` is the parts of one that is written apart
        instead of copied, else None. One that comes through ``send`` later is said to be outstanding by
        ``request_complete``, which the exchange sets.
        """
        if self.state == _CLOSED:
            # Lost between being ready and being used: nothing of the request was written.
            lost = ConnectionLost()
            lost.retryable = Retryable.ALWAYS
            exchange.on_node_lost(lost)
            return
        self.exchange = exchange
        self.state = _BUSY
        self.request_complete = True
        self.head = None
        self.is_head_request = is_head_request
        self.answer_bytes = 0
        self.interim = 0
        self.interim_bytes = 0
        self.served += 1
        if body is None:
            self.send(head)
        elif self.tls is None:
            self.outlet.write_all([head, *body])
        else:
            self._send_encrypted(head)
            for piece in body:
                self._send_encrypted(piece)

    def send(self, data: bytes) -> None:
        """Write a part of a request."""
        if self.tls is not None:
            self._send_encrypted(data)
        elif self.state != _CLOSED:
            self.outlet.write(data)

    def _send_encrypted(self, data: bytes | memoryview) -> None:
        tls = self.tls
        assert tls is not None
        if self.state == _CLOSED:
            return
        try:
            out = tls.encrypt(data)
        except NodeError as error:
            self._fail(error)
            return
        self.outlet.write(out)

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        exchange = self.exchange
        if exchange is not None:
            exchange.on_node_writable()

    # --- Its answer ---------------------------------------------------------------------------

    def on_message_complete(self) -> None:
        """httptools: the message ended inside the bytes just fed."""
        self.message_ended = True

    def data_received(self, data: bytes) -> None:
        if self.state == _CLOSED:
            return
        tls = self.tls
        if tls is not None:
            try:
                tls.feed(data)
                if self.state == _OPENING and not self._shake_hands():
                    return
                data = tls.read()
            except NodeError as error:
                self._fail(error)
                return
            out = tls.outgoing()  # a key update, an alert
            if out:
                self.outlet.write(out)
            if not data:
                if tls.at_eof:
                    self._said_goodbye()
                return
        if self.exchange is None:
            # Nothing was asked: a late 408, a goodbye, or somebody else's answer.
            self.pool.unsolicited += 1
            self.close()
            return
        self.read_at = monotonic()
        self.answer_bytes += len(data)
        self._read_answer(data)
        if tls is not None and self.state != _CLOSED:
            if tls.at_eof:
                self._said_goodbye()
            elif tls.failure is not None:  # what came behind these bytes is not TLS
                self._fail(tls.failure)

    def _said_goodbye(self) -> None:
        """The node sent its close_notify: answer it, servers wait for ours."""
        self._ended(None)
        assert self.tls is not None
        if self._is_unsent():
            self.transport.abort()
            return
        goodbye = self.tls.shutdown()
        if goodbye:
            self.outlet.write(goodbye)
        self.transport.close()

    def _fail(self, error: NodeError) -> None:
        exchange = self.exchange
        if self.state == _OPENING:
            self._opening_failed(error)
            return
        self.abort()
        if exchange is not None:
            exchange.on_node_lost(error)

    def _read_answer(self, data: bytes) -> None:
        framer = self.framer
        # Only what the node sent is judged here: what the exchange makes of it is called outside.
        try:
            is_begun = self.head is not None
            if is_begun:
                start = 0
                end = framer.feed(data, 0)
                if self.is_validated and end:
                    self._validate(data, 0, end)
            else:
                if self.buffer:
                    data = joined(self.buffer, data)
                    self.buffer = b""
                begin = self._read_head(data)
                if begin < 0:
                    return
                head = self.head
                assert head is not None
                start = head.end
                has_body = not framer.complete
                end = framer.feed(data, start)
                if head.status == 101:
                    self._validate_switch(data, begin, start)
                elif has_body or self.is_validated:
                    self._validate(data, begin, end)
                else:
                    # httptools cannot be told that this answer has no body: it checks the head, no more.
                    self.parser.feed_data(part(data, begin, end))
                    self.parser = httptools.HttpResponseParser(self)
        except BadResponse as error:
            self._fail(error)
            return
        except (ValueError, httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            bad = BadResponse("the provider's answer is not valid HTTP")
            bad.__cause__ = error
            self._fail(bad)
            return
        if framer.complete:
            self._complete(data, start, end)
        else:
            exchange = self.exchange
            if exchange is not None:
                exchange.on_node_read(data, start, end, False)

    def _read_head(self, data: bytes) -> int:
        """Scan the final head, interim ones before it; where it begins, or -1: not yet."""
        start = 0
        while True:
            head = scan_response(data, start, self.limits)
            if head is None:
                self.buffer = data if start == 0 else part(data, start, len(data))
                return -1
            if head.status >= 200:
                break
            if head.status == 101:
                if self.exchange is None or not self.exchange.takes_switch(head):
                    raise BadResponse("the provider switched protocols unasked")
                break
            self.interim += 1
            self.interim_bytes += head.end - start
            if self.interim > INTERIM_ANSWERS or self.interim_bytes > INTERIM_BYTES:
                raise BadResponse("too many interim answers")
            start = head.end
        self.head = head
        self._frame(head)
        return start

    def _validate(self, data: bytes, start: int, end: int) -> None:
        """Let httptools read data[start:end]. Raises unless it sees the same end of the message."""
        self.parser.feed_data(data if start == 0 and end == len(data) else part(data, start, end))
        if self.message_ended != self.framer.complete:
            raise BadResponse("an answer whose length is ambiguous")

    def _validate_switch(self, data: bytes, start: int, end: int) -> None:
        """Let httptools read the head of a 101. What follows is not HTTP, and nobody else reads it."""
        try:
            self.parser.feed_data(part(data, start, end))
        except httptools.HttpParserUpgrade as upgrade:
            if upgrade.args[0] == end - start:
                self.is_validated = False
                return
        raise BadResponse("a switch of protocols whose end is ambiguous")

    def _frame(self, head: ResponseHead) -> None:
        """Decide how the body is framed."""
        framer = self.framer
        self.message_ended = False
        self.is_validated = True
        if self.is_head_request or head.status == 204 or head.status == 304:
            framer.expect(NO_BODY)
            self.is_validated = False
        elif head.status == 101:
            framer.expect(UNTIL_CLOSE)
        elif head.is_chunked:
            framer.expect(CHUNKED_BODY)
        elif head.content_length >= 0:
            framer.expect(head.content_length)
        else:
            framer.expect(UNTIL_CLOSE)

    def _complete(self, data: bytes, start: int, end: int) -> None:
        """The answer is whole: the connection goes back to the pool if everything was in order."""
        exchange, self.exchange = self.exchange, None
        head = self.head
        assert head is not None
        # What is left of this request would be taken for the beginning of the next.
        is_sent = self.request_complete and not (self.is_paused or self._is_unsent())
        reusable = (
            is_sent
            and end == len(data)
            and head.keep_alive
            and head.minor_version == 1
            and (self.tls is None or not (self.tls.at_eof or self.tls.failure is not None))
        )
        if exchange is not None:
            exchange.on_node_read(data, start, end, True)
        if self.state != _BUSY:
            return
        if reusable:
            self.go_on_reading()
            self.state = _IDLE
            self.pool.give_back(self, self.read_at)
        elif is_sent:
            self.close()
        else:
            self.abort()  # it may never take the rest of the request

    def _is_unsent(self) -> bool:
        """Is some of the request still on its way? Then the node answered early."""
        return bool(self.outlet.unsent())

    # --- Reading on and off -------------------------------------------------------------------

    def stop_reading(self) -> None:
        if not self.reading_stopped and self.state == _BUSY:
            self.reading_stopped = True
            self.transport.pause_reading()

    def go_on_reading(self) -> None:
        if self.reading_stopped:
            self.reading_stopped = False
            if self.state != _CLOSED:
                self.transport.resume_reading()

    # --- Idle ---------------------------------------------------------------------------------

    def is_fresh(self, now: float) -> bool:
        """May this idle connection be used again? One that was idle for long is looked at first."""
        if self.state != _IDLE or self.transport.is_closing():
            return False
        if now - self.idle_since < PEEK_AFTER_S:
            return True
        sock = self.transport.get_extra_info("socket")
        if sock is None:
            return True
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN | select.POLLRDHUP)
        return not poll.poll(0)
