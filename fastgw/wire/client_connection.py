"""One client's connection: requests in, answers out, one exchange at a time.

httptools validates and frames the raw bytes; ``wire.head`` scans the same bytes. Both must
agree where a message ends, or the connection is refused. No task, future or timer is made per
request: deadlines are numbers that the listener's sweep compares with the clock.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable
from enum import IntEnum
from time import monotonic
from typing import Any

import httptools

from ..errors import ClientError, ClientTimeout, ProtocolError, TooManyConnections
from .events import ExchangeEvents
from .framing import BodyFramer
from .head import CHUNKED_BODY, Limits, RequestHead, joined, part, scan_request
from .outlet import Outlet

PIPELINE_BYTES = 64 * 1024  # of further requests, read while one is being answered
LINGER_BYTES = 256 * 1024  # of a refused body, read so that the client can read its answer
LINGER_S = 1.0
FLUSH_S = 30.0  # a client that has taken nothing of the end of its answer for so long is cut off
RATE_WINDOW_S = 30.0  # a body's rate is averaged over
PRESSURE = 0.8  # of all connections: beyond it each new one costs one that waits
WAIT_S = 1.0  # that it must have waited for, there; the less room is left, the less
HEAD_WAIT_S = 0.2  # ... of one whose request is on its way, perhaps: at least
SORT_S = 0.25  # how often idle ones are sorted by age, at most
ENDED_AT_ONCE = 8  # in one sweep: a crowd that is closed at one time must hold nobody else up
SWEPT_AT_ONCE = 256  # connections that a sweep looks at, and of a crowd one part in SWEPT_IN besides:
SWEPT_IN = 4  # more of them at a time would be felt by whoever asks in that moment
WRITE_HIGH = 64 * 1024
WRITE_LOW = 16 * 1024


class ClientState(IntEnum):
    """Where a client connection is in its current request."""

    IDLE = 0  # between requests; nothing of the next one read
    HEAD = 1  # some bytes of a head
    BODY = 2  # the body is being read (the answer may have begun)
    ANSWERING = 3  # request whole, answer not
    LINGERING = 4  # answered with close; reading what the client still sends
    CLOSED = 5


# Plain numbers: the compiled module compares them without a look-up.
_IDLE, _HEAD, _BODY, _ANSWERING, _LINGERING, _CLOSED = (int(state) for state in ClientState)
_WAIT_S, _HEAD_WAIT_S = WAIT_S, HEAD_WAIT_S


class Listener:
    """What the connections of one listening socket share: limits, the way up, and themselves.

    Args:
        accept: called with (connection, head) for each request; returns its exchange, or None
            if it has answered already.
        refuse: called with (connection, error) to answer a request that is not well formed.
    """

    def __init__(
        self,
        accept: Callable[[ClientConnection, RequestHead], ExchangeEvents | None],
        refuse: Callable[[ClientConnection, ClientError], None],
        *,
        limits: Limits | None = None,
        max_connections: int = 10_000,
        max_connections_per_client: int = 0,
        head_timeout_s: float = 10.0,
        body_stall_s: float = 30.0,
        min_body_rate: int = 256,
        keepalive_s: float = 75.0,
    ) -> None:
        self.accept = accept
        self.refuse = refuse
        self.limits = limits or Limits()
        self.max_connections = max_connections
        self.crowded_at = int(max_connections * PRESSURE)
        self.max_connections_per_client = max_connections_per_client
        self.head_timeout_s = head_timeout_s
        self.body_stall_s = body_stall_s
        self.min_body_rate = min_body_rate
        self.keepalive_s = keepalive_s
        self.connections: list[ClientConnection] = []  # each knows its place
        self.closed = 0  # of them: their transports are about to say that they are gone
        self.on_full: Callable[[], None] | None = None  # called when no further connection has room
        self.max_descriptor = 1 << 30  # a connection with a higher number fills the listener, too
        self.is_draining = False
        self.accepted = 0
        self.refused_connections = 0
        self.slow_evicted = 0
        self.idle_evicted = 0
        self._per_client: dict[str, int] = {}
        self._unasked: OrderedDict[ClientConnection, None] = OrderedDict()  # no request yet, oldest first
        self._idle: list[tuple[float, ClientConnection]] = []  # deadlines and who has them, oldest last
        self._sorted_at = 0.0
        self._ending: list[ClientConnection] = []  # whose deadline the sweep has found to be over
        self._swept = 0  # up to this place

    def make_connection(self) -> ClientConnection:
        """The protocol factory for ``loop.create_server``."""
        return ClientConnection(self)

    def evict(self, now: float, spares_idle: bool = False) -> bool:
        """Close a connection that waits, to make room for another; False: none has waited for long enough.

        First one that holds its first request back, in part or all of it: every client sends that at
        once, but one that wants nothing else than the place. Without any such, one that is idle between
        requests, unless it ``spares_idle`` ones. Of each kind the one that has waited for longest.
        """
        room = (self.max_connections - len(self.connections)) / (self.max_connections - self.crowded_at)
        wait_s = _WAIT_S * (0.0 if room < 0.0 else 1.0 if room > 1.0 else room)
        connection = next(iter(self._unasked), None)
        if connection is None:
            return not spares_idle and self._evict_idle(now, now - wait_s + self.keepalive_s)
        if now - connection.opened_at < (wait_s if wait_s > _HEAD_WAIT_S else _HEAD_WAIT_S):
            return False  # a moment more, and it has waited for long enough, or has asked
        self.slow_evicted += 1
        del self._unasked[connection]
        connection.evict()
        return True

    def evict_idle(self, now: float) -> bool:
        """Close the connection that has been idle between requests for longest; False: none is."""
        return self._evict_idle(now, 1e18)

    def _evict_idle(self, now: float, latest: float) -> bool:
        """Close the one that has been idle for longest, unless its deadline is after ``latest``."""
        if not self._idle and now - self._sorted_at >= SORT_S:
            self._sorted_at = now
            self._idle = [(c.deadline, c) for c in self.connections if c.state <= _HEAD and c.requests]
            self._idle.sort(key=lambda entry: -entry[0])
        while self._idle:
            deadline, connection = self._idle[len(self._idle) - 1]
            is_idle = connection.state <= _HEAD and connection.deadline == deadline
            if is_idle and deadline > latest:
                return False
            self._idle.pop()
            if is_idle:
                self.idle_evicted += 1
                connection.evict()
                return True
        return False

    def admits(self, address: str) -> bool:
        """Count one more connection of a client, unless it has its share."""
        count = self._per_client.get(address, 0)
        if count >= self.max_connections_per_client:
            return False
        self._per_client[address] = count + 1
        return True

    def dismiss(self, address: str) -> None:
        """A connection that was counted is gone."""
        count = self._per_client[address] - 1
        if count:
            self._per_client[address] = count
        else:
            del self._per_client[address]

    def join(self, connection: ClientConnection) -> None:
        connection.place = len(self.connections)
        self.connections.append(connection)

    def leave(self, connection: ClientConnection) -> None:
        """The last one takes its place, so that none is looked for."""
        if connection.place >= 0:
            self.closed -= 1
            last = self.connections.pop()
            if last is not connection:
                self.connections[connection.place] = last
                last.place = connection.place
            connection.place = -1

    def sweep(self, now: float) -> bool:
        """Close what has waited too long. Called a few times a second.

        Returns False if there are more to look at, or to close, than may be without a look at what
        else there is to do.
        """
        ending = self._ending
        if not ending:
            for _ in range(SWEPT_AT_ONCE + len(self.connections) // SWEPT_IN):
                if self._swept >= len(self.connections):
                    break
                connection = self.connections[self._swept]
                self._swept += 1
                if connection.deadline <= now:
                    ending.append(connection)
                elif connection.reading_stopped and connection.has_left():
                    connection.eof_received()
                    connection.transport.close()
        for _ in range(min(len(ending), ENDED_AT_ONCE)):
            connection = ending.pop()
            if connection.deadline <= now:
                connection.on_deadline(now)
        if ending or self._swept < len(self.connections):
            return False
        self._swept = 0
        return True

    def drain(self) -> None:
        """Close idle connections now and every other one after its current answer."""
        self.is_draining = True
        for connection in list(self.connections):
            if connection.state == _IDLE:
                connection.close()

    def abort_all(self) -> None:
        for connection in list(self.connections):
            connection.abort()


class _Base:
    """An extension type cannot have a Python class first among its bases."""


class ClientConnection(_Base, asyncio.Protocol):
    """The server side of one client connection."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.limits = listener.limits
        self.transport: Any = None
        self.outlet: Outlet = None  # type: ignore[assignment]  # from connection_made on
        self.exchange: ExchangeEvents | None = None
        self.head: RequestHead | None = None
        self.framer = BodyFramer()
        self.parser: Any = None
        self.state = _IDLE
        self.deadline = 0.0
        self.opened_at = 0.0
        self.read_at = 0.0  # when bytes came last, monotonic seconds
        self.is_paused = False
        self.buffer = b""
        self.message_ended = False
        self.lingered = 0
        self.requests = 0
        self.reading_stopped = False
        self.answer_begun = False
        self.unsent = 0
        self.rate_due = 0.0  # when the rate of the body is judged
        self.rate_bytes = 0  # of the body since RATE_WINDOW_S before that
        self.address = ""
        self.is_counted = False  # among its client's connections
        self.is_tunnel = False
        self.place = -1  # among its listener's connections; -1: not there

    def __repr__(self) -> str:
        return f"<ClientConnection {ClientState(self.state).name.lower()} requests={self.requests}>"

    # --- Opening and closing ------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        listener = self.listener
        self.transport = transport
        self.outlet = Outlet(transport)
        listener.accepted += 1
        now = monotonic()
        if len(listener.connections) >= listener.crowded_at:
            has_room = listener.evict(now) or len(listener.connections) < listener.max_connections
            if not has_room:
                listener.refused_connections += 1
                self.state = _CLOSED
                transport.abort()
                return
        transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        self.parser = httptools.HttpRequestParser(self)
        address = self.peer_address()  # nobody can say it once the client has gone
        self.opened_at = now
        self.deadline = now + listener.head_timeout_s
        listener.join(self)
        listener._unasked[self] = None
        if listener.on_full is not None and (
            len(listener.connections) >= listener.max_connections
            or _descriptor(transport) > listener.max_descriptor
        ):
            listener.on_full()
        if listener.max_connections_per_client:
            if address != "unix":
                self.is_counted = listener.admits(address)
                if not self.is_counted:
                    listener.refused_connections += 1
                    self.read_at = now
                    self._refuse(TooManyConnections())

    def peer_address(self) -> str:
        """The client's address, without its port; "unix" for a local socket.

        "unknown" for one that had left before it could be asked.
        """
        if not self.address:
            peer = self.transport.get_extra_info("peername") if self.transport is not None else None
            self.address = str(peer[0]) if isinstance(peer, tuple) else "unknown" if peer is None else "unix"
        return self.address

    def connection_lost(self, error: Exception | None) -> None:
        self._enter_closed()
        self.deadline = 1e18
        self.listener.leave(self)
        self._is_asked()
        if self.is_counted:
            self.is_counted = False
            self.listener.dismiss(self.address)
        self.outlet.lost()
        self.parser = None  # it refers back to this object
        self.buffer = b""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.on_client_gone()

    def eof_received(self) -> bool:
        # Half a connection with an unanswered request means that the client has gone.
        # Returning False lets the transport write what it holds and close.
        exchange, self.exchange = self.exchange, None
        if self.state != _CLOSED:
            self._set_closed()
        if exchange is not None:
            exchange.on_client_gone()
            self.transport.abort()
        return False

    def close(self) -> None:
        """Close after what was written has been sent."""
        if self.state != _CLOSED:
            self._set_closed()
            self.transport.close()

    def _enter_closed(self) -> None:
        if self.state != _CLOSED:
            self.state = _CLOSED
            self.listener.closed += self.place >= 0

    def _set_closed(self) -> None:
        """Nothing more is read or written; what was written has a while to be sent."""
        self._enter_closed()
        self.unsent = self.outlet.unsent()
        self.deadline = monotonic() + FLUSH_S

    def abort(self) -> None:
        """Close at once; what was not sent yet is lost."""
        if self.transport is not None:
            self._enter_closed()
            self.deadline = 1e18
            self.transport.abort()

    def evict(self) -> None:
        """Close to make room; one that has begun a request is told that it took too long."""
        if self.outlet.unsent():
            self.abort()  # it has not even read its last answer, and could hold on for long
            return
        if self.state == _HEAD:
            self._refuse(ClientTimeout())
        if self.state == _LINGERING:  # there is no time for that
            self._set_closed()
            self.transport.close()
        else:
            self.close()

    # --- Reading ------------------------------------------------------------------------------

    def on_message_complete(self) -> None:
        """httptools: the message ended inside the bytes just fed."""
        self.message_ended = True

    def data_received(self, data: bytes) -> None:
        self.read_at = monotonic()
        if self.state <= _HEAD:
            if self.buffer:
                data = joined(self.buffer, data)
                self.buffer = b""
            self._read_head(data)
        elif self.state == _BODY:
            self._read_body(data, 0)
        elif self.state == _ANSWERING:
            self._keep_for_later(data)
        elif self.state == _LINGERING:
            self.lingered += len(data)
            if self.lingered > LINGER_BYTES:
                self.abort()

    def become_tunnel(self) -> bytes:
        """From here on whatever the client sends is its exchange's, unread; returns what it has sent."""
        self.is_tunnel = True
        said, self.buffer = self.buffer, b""
        self._read_on()
        return said

    def _keep_for_later(self, data: bytes) -> None:
        exchange = self.exchange
        if self.is_tunnel and exchange is not None:
            exchange.on_request_read(data, 0, len(data), False)
            return
        self.buffer += data
        if len(self.buffer) > PIPELINE_BYTES and not self.reading_stopped:
            self.reading_stopped = True
            self.transport.pause_reading()

    def _read_head(self, data: bytes) -> None:
        try:
            head = scan_request(data, 0, self.limits)
        except ProtocolError as error:
            self.buffer = data
            self._refuse(error)
            return
        if head is None:
            # (An empty line after the last request is no beginning of the next one.)
            if self.state == _IDLE and data != b"\r\n" and data != b"\r":
                self.state = _HEAD
                self.deadline = self.read_at + self.listener.head_timeout_s
            self.buffer = data
            self._read_on()
            return
        self.requests += 1
        if self.requests == 1:
            self._is_asked()
        self.head = head
        if head.is_chunked:
            self.framer.expect(CHUNKED_BODY)
        else:
            self.framer.expect(head.content_length if head.content_length > 0 else 0)
        self.message_ended = False
        self.state = _BODY
        self.deadline = 1e18
        start = head.end
        framer = self.framer
        if head.wants_upgrade and start < len(data) and not framer.complete:
            # httptools stops behind such a head: see _validate.
            if not self._validate(part(data, 0, start), False):
                return
            end = start
        else:
            # The commonest case: the whole request is here, and nothing else.
            try:
                end = framer.feed(data, start)
            except ValueError as error:
                if self._validate(part(data, 0, start), False):  # what is wrong with the head comes first
                    self._refuse(ProtocolError(f"a malformed request body: {error}"))
                return
            if not self._validate(data if end == len(data) else part(data, 0, end), framer.complete):
                return
        if framer.complete:
            self.state = _ANSWERING
            if end < len(data):
                self._keep_for_later(part(data, end, len(data)))
        else:
            self._read_on()
        self.exchange = exchange = self.listener.accept(self, head)
        if framer.complete:
            if exchange is not None:
                exchange.on_request_read(data, start, end, True)
        elif self.state == _BODY:
            self.deadline = self.read_at + self.listener.body_stall_s
            self.rate_due = self.read_at + RATE_WINDOW_S
            self.rate_bytes = 0
            if exchange is not None and start < end:
                exchange.on_request_read(data, start, end, False)
            if end < len(data):
                self._read_body(data, end)

    def _validate(self, data: bytes | memoryview, is_end: bool) -> bool:
        """Feed httptools one piece; False and the connection refused unless it agrees."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # What is tunnelled later comes after the whole request. httptools takes the head of
            # any such request for the whole, so it reads the body after one that asks for nothing.
            self.parser = httptools.HttpRequestParser(self)
            if upgrade.args[0] != len(data):
                self._refuse(ProtocolError("a request whose length is ambiguous"))
                return False
            self.message_ended = is_end
            if not is_end:
                self.parser.feed_data(self._plain_head())
            return True
        except httptools.HttpParserInvalidMethodError:
            self._refuse(ProtocolError("a method that is not supported", 501, "not_implemented"))
            return False
        except httptools.HttpParserError:
            self._refuse(ProtocolError("a malformed request"))
            return False
        if self.message_ended != is_end:
            self._refuse(ProtocolError("a request whose length is ambiguous"))
            return False
        return True

    def _plain_head(self) -> bytes:
        """A head whose body is framed like that of the current request."""
        head = self.head
        assert head is not None
        if head.is_chunked:
            return b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
        return b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % head.content_length

    def _read_body(self, data: bytes, start: int) -> None:
        framer = self.framer
        try:
            end = framer.feed(data, start)
        except ValueError as error:
            self._refuse(ProtocolError(f"a malformed request body: {error}"))
            return
        complete = framer.complete
        if not self._validate(memoryview(data)[start:end], complete):
            return
        if complete:
            self.state = _ANSWERING
            self.deadline = 1e18
            if end < len(data):
                self._keep_for_later(part(data, end, len(data)))
        else:
            self.deadline = self.read_at + self.listener.body_stall_s
            self.rate_bytes += end - start
            if self.read_at >= self.rate_due and self._is_too_slow():
                return
        exchange = self.exchange  # a reference of our own: the call may end the exchange
        if exchange is not None:
            exchange.on_request_read(data, start, end, complete)

    def _is_too_slow(self) -> bool:
        """Judge the rate at which the body came; True: it was refused."""
        took_s = self.read_at - self.rate_due + RATE_WINDOW_S
        if self.rate_bytes < self.listener.min_body_rate * took_s:
            self._refuse(ClientTimeout())
            return True
        self.rate_due = self.read_at + RATE_WINDOW_S
        self.rate_bytes = 0
        return False

    def _refuse(self, error: ClientError) -> None:
        """Answer a request that is not well formed, and close."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None and exchange.on_request_refused(error):
            return
        if self.answer_begun:
            # A second answer inside the first one would be taken for its content.
            self.abort()
            return
        self.state = _ANSWERING
        self.message_ended = False
        if self.head is None:
            error.is_of_head = self.buffer.startswith((b"HEAD ", b"\r\nHEAD "))
        self.listener.refuse(self, error)

    def on_deadline(self, now: float) -> None:
        """The sweep found that ``deadline`` has passed."""
        if self.state == _IDLE:
            self.close()
        elif self.state == _HEAD or self.state == _BODY:
            self._refuse(ClientTimeout())
        elif self.state == _LINGERING or self.state == _CLOSED:
            # The client may still be reading the end of its answer, slowly.
            unsent = self.outlet.unsent()
            if unsent == 0 or (self.unsent and unsent >= self.unsent):
                self.abort()
            else:
                self.unsent = unsent
                self.deadline = now + FLUSH_S

    def _is_asked(self) -> None:
        """It waits for its first request no longer."""
        self.listener._unasked.pop(self, None)

    # --- Flow control -------------------------------------------------------------------------

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        exchange = self.exchange
        if exchange is not None:
            exchange.on_client_writable()
        elif self.state <= _HEAD:
            self._go_on()

    def stop_reading(self) -> None:
        """Take no more of the request body for now."""
        is_read = self.state == _BODY or (self.is_tunnel and self.state == _ANSWERING)
        if is_read and not self.reading_stopped:
            self.reading_stopped = True
            self.deadline = 1e18
            self.transport.pause_reading()

    def go_on_reading(self) -> None:
        """Take more of the request body. What stopped for a pipeline goes on by itself."""
        if self.is_tunnel and self.state == _ANSWERING:
            self._read_on()
        elif self.state == _BODY and self.reading_stopped:
            now = monotonic()
            self.deadline = now + self.listener.body_stall_s
            self.rate_due = now + RATE_WINDOW_S  # while we took nothing nobody was slow
            self.rate_bytes = 0
            self._read_on()

    def _read_on(self) -> None:
        if self.reading_stopped:
            self.reading_stopped = False
            self.transport.resume_reading()

    # --- Writing ------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write bytes of the answer; nothing happens on a closed connection."""
        if self.state < _LINGERING:
            self.answer_begun = True
            self.outlet.write(data)

    def send_interim(self, data: bytes) -> None:
        """Write a 1xx answer: the answer itself is still to come."""
        if self.state < _LINGERING and not self.answer_begun:
            self.outlet.write(data)

    def keeps_alive(self) -> bool:
        """May this connection serve another request after the current one?"""
        return (
            self.head is not None
            and self.head.keep_alive
            and self.state == _ANSWERING
            and not self.listener.is_draining
        )

    def finish(self, keep_alive: bool, now: float) -> None:
        """The answer is whole. ``keep_alive`` is what its head has promised."""
        self.exchange = None
        self.head = None
        self.answer_begun = False
        if self.state == _CLOSED:
            return
        if not keep_alive or self.listener.is_draining:
            self._close_politely()
            return
        self.state = _IDLE
        self.deadline = now + self.listener.keepalive_s
        if self.is_paused:
            # A client that asks and never reads: no further request until it has read.
            if not self.reading_stopped:
                self.reading_stopped = True
                self.transport.pause_reading()
            return
        self._go_on()

    def _go_on(self) -> None:
        """Read the next request, from what was kept for later or from the connection."""
        if self.buffer:
            # Not from here: a long pipeline would be a deep recursion. Nothing more is read
            # until it is used up, or a client could send faster than it is answered.
            asyncio.get_running_loop().call_soon(self._read_next)
        else:
            self._read_on()

    def _read_next(self) -> None:
        if self.state <= _HEAD and self.buffer:
            data, self.buffer = self.buffer, b""
            self.read_at = monotonic()
            self._read_head(data)

    def _close_politely(self) -> None:
        """Close so that the client can read its answer although it may still be sending."""
        if self.state == _BODY or self.buffer or self.message_ended is False:
            self.state = _LINGERING
            self.deadline = monotonic() + LINGER_S
            self.unsent = 0
            self.buffer = b""
            self._read_on()
            try:
                self.transport.write_eof()
            except (OSError, RuntimeError, NotImplementedError):
                self.close()
        else:
            self.close()

    def end_unclean(self, by_reset: bool) -> None:
        """End an answer so that no client can take it for a whole one: close without its end.

        ``by_reset``: where closing is itself the end of the body, only a reset says otherwise.
        """
        self.exchange = None
        if by_reset and self.state != _CLOSED:
            sock = self.transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.abort()
        else:
            self.close()

    # --- While not reading --------------------------------------------------------------------

    def has_left(self) -> bool:
        """A transport whose reading is stopped does not say so: ask the socket itself.

        What a tunnel's client said before it closed still has to be read, unless it was reset.
        """
        sock = self.transport.get_extra_info("socket") if self.state < _LINGERING else None
        if sock is None:
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        seen = poll.poll(0)
        return bool(seen) and (not self.is_tunnel or bool(seen[0][1] & select.POLLERR))


def _descriptor(transport: Any) -> int:
    """The number of a connection's descriptor: the lowest that was free, so it says how many are taken."""
    sock = transport.get_extra_info("socket")
    return sock.fileno() if sock is not None else -1
