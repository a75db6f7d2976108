"""One accepted connection: TLS, HTTP/1.1, and the playing of scripts.

TLS runs over memory buffers on top of a plain transport, because a simulator has to do what no TLS transport
offers: leave a handshake hanging, end TCP without close_notify, reset in the middle of a record.  It is
the same code under uvloop and asyncio, and it costs no task per connection.
"""

import asyncio
import socket
import ssl
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import httptools

from fastgw.simulator.script import Op, Script, Step

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_PIPELINED = 64

_LINGER_ZERO = struct.pack("ii", 1, 0)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_REFUSALS = {
    400: b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    413: b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    431: b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
}


@dataclass(slots=True)
class Request:
    """One request. Header names are lower case; ``target`` is as it came, ``path`` without the query."""

    method: str = ""
    target: str = ""
    path: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    keep_alive: bool = True
    version: str = "1.1"
    served: int = 1  # how many requests this connection has brought, this one included

    def header(self, name: str) -> str | None:
        """The first value of a header (lower case), or None."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Playback(Protocol):
    """A script under way; the connection says how far it came."""

    script: Script

    def sent(self, progress: int) -> None:
        """So many more content events were written."""

    def ended(self, is_complete: bool, by_peer: bool) -> None:
        """Called once: the answer was whole, or the peer left, or we cut it."""


class Application(Protocol):
    """Whom a connection serves."""

    is_early: bool  # answer when the head is there, without waiting for the body

    def opened(self, connection: "Connection") -> "ssl.SSLContext | Hang | None":
        """Say how to speak: TLS, plain (None), or not at all."""

    def handshaken(self, succeeded: bool) -> None:
        """A handshake ended."""

    def respond(self, request: Request) -> Playback:
        """Answer a request."""

    def respond_early(self, request: Request) -> Playback | None:
        """Answer a request of which only the head is there, or None to wait for the rest."""

    def closed(self, connection: "Connection") -> None:
        """The connection is gone."""


class Hang:
    """The marker for "accept and never say a word"."""


HANG = Hang()


class Connection(asyncio.Protocol):
    """See the module. Serves one request at a time and keeps pipelined ones in order."""

    def __init__(self, application: Application, loop: asyncio.AbstractEventLoop) -> None:
        self._application = application
        self._loop = loop
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # until connection_made
        # TLS
        self._tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._is_established = False
        self._is_hung = False  # from the handshake on
        # Reading
        self._parser = httptools.HttpRequestParser(self)
        self._served = 0
        self._request = Request()
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._head_bytes = 0
        self._is_in_head = True
        self._is_deaf = False  # what still comes from this peer is thrown away
        self._waiting: deque[Request] = deque()
        # Playing
        self._playback: Playback | None = None
        self._is_open_ended = False  # the playback has ended for its record, but the script goes on
        self._position = 0
        self._repeated = 0
        self._has_waited = False
        self._timer: asyncio.TimerHandle | None = None
        self._is_stopped = False  # by an op that ends the connection, or its talking
        self._is_write_paused = False
        self._is_closing = False

    # --- Life ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        speech = self._application.opened(self)
        if isinstance(speech, Hang):
            self._is_hung = True
        elif speech is not None:
            self._tls = speech.wrap_bio(self._incoming, self._outgoing, server_side=True)
        else:
            self._is_established = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        self._stop_timer()
        self._end_playback(is_complete=False, by_peer=True)
        if self._tls is not None and not self._is_established:
            self._application.handshaken(False)
        self._application.closed(self)

    def eof_received(self) -> None:
        self._peer_left()

    def reset(self) -> None:
        """End with RST, now; what is still unsent is lost."""
        self._is_closing = True
        self._stop_timer()
        self._end_playback(is_complete=False, by_peer=False)
        raw = self._transport.get_extra_info("socket")
        if raw is not None and not self._transport.is_closing():
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self._transport.abort()

    def abort(self) -> None:
        """Close without ceremony."""
        self._is_closing = True
        self._stop_timer()
        self._end_playback(is_complete=False, by_peer=False)
        self._transport.abort()

    def _peer_left(self) -> None:
        self._stop_timer()
        self._end_playback(is_complete=False, by_peer=True)
        self._close()

    def _close(self, *, notify: bool = True) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        self._stop_timer()
        self._end_playback(is_complete=False, by_peer=False)
        if notify and self._tls is not None and self._is_established:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # the peer's own close_notify is not waited for
            self._flush()
        self._transport.close()

    def _reset_when_flushed(self, patience: int = 1000) -> None:
        """RST throws away what the kernel has not sent, so first let it go out (for about 1 s)."""
        if patience and self._transport.get_write_buffer_size() and not self._transport.is_closing():
            self._timer = self._loop.call_later(0.001, self._reset_when_flushed, patience - 1)
        else:
            self.reset()

    # --- Reading ------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._is_hung or self._is_closing:
            return
        if self._tls is None:
            self._feed(data)
            return
        self._incoming.write(data)
        try:
            if not self._is_established and not self._shake_hands():
                return
            self._read_tls()
        except ssl.SSLError:
            self._flush()  # the alert
            self._stop_timer()
            self._end_playback(is_complete=False, by_peer=True)
            self._close(notify=False)

    def _shake_hands(self) -> bool:
        tls = cast(ssl.SSLObject, self._tls)
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        self._is_established = True
        self._application.handshaken(True)
        self._flush()
        return True

    def _read_tls(self) -> None:
        tls = cast(ssl.SSLObject, self._tls)
        try:
            while self._incoming.pending and not self._is_closing:
                data = tls.read(65536)
                if not data:  # close_notify
                    self._peer_left()
                    return
                self._feed(data)
        except ssl.SSLWantReadError:
            pass
        if self._outgoing.pending and not self._is_closing:
            self._flush()

    def _feed(self, data: bytes) -> None:
        if self._is_deaf:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None  # a mistake of ours, not of the peer
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(400)
            return
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431)

    def _refuse(self, status: int) -> None:
        """Answer a message that is none; the bytes that follow mean nothing."""
        if self._is_deaf:
            return
        self._is_deaf = True
        self._write(_REFUSALS[status])
        self._close()

    def on_message_begin(self) -> None:
        self._served += 1
        self._request = Request(served=self._served)
        self._body = []
        self._body_bytes = 0
        self._head_bytes = 0
        self._is_in_head = True

    def on_url(self, url: bytes) -> None:
        self._request.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        request = self._request
        request.method = self._parser.get_method().decode("latin-1")
        request.path = request.target.partition("?")[0]
        request.keep_alive = self._parser.should_keep_alive()
        request.version = self._parser.get_http_version()
        is_free = self._playback is None and not self._waiting
        if self._application.is_early and is_free and not self._is_deaf:
            playback = self._application.respond_early(request)
            if playback is not None:
                self._is_deaf = True
                self._begin(playback)
                return
        if is_free and (request.header("expect") or "").lower() == "100-continue":
            self._write(_CONTINUE)

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body_bytes > MAX_BODY_BYTES:
            self._body = []
            self._refuse(413)
        elif not self._is_deaf:
            self._body.append(data)

    def on_message_complete(self) -> None:
        self._is_in_head = True
        self._head_bytes = 0
        if self._is_deaf or self._is_closing:
            return
        request = self._request
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        if self._playback is not None:
            self._waiting.append(request)
            if len(self._waiting) > MAX_PIPELINED:
                self._refuse(400)
            return
        self._begin(self._application.respond(request))

    # --- Playing ------------------------------------------------------------------------------

    def _begin(self, playback: Playback) -> None:
        self._playback = playback
        self._is_open_ended = False
        self._position = 0
        self._repeated = 0
        self._has_waited = False
        self._play()

    def _on_timer(self) -> None:
        self._timer = None
        self._has_waited = True
        self._play()

    def _play(self) -> None:
        """Take steps until one has to wait, the peer does not keep up, or the script is over."""
        pieces: list[bytes] = []
        while self._playback is not None and not self._is_closing and not self._is_write_paused:
            step = self._playback.script[self._position]
            if step.wait_s > 0.0 and not self._has_waited:
                self._write(b"".join(pieces))
                if not self._is_closing:
                    self._timer = self._loop.call_later(step.wait_s, self._on_timer)
                return
            self._has_waited = False
            if step.op is Op.SEND:
                pieces.append(step.data)
                if step.progress:
                    self._playback.sent(step.progress)
                self._advance(step)
                continue
            if pieces:
                self._write(b"".join(pieces))
                pieces = []
            if step.op is Op.END:
                self._end()
            else:
                self._stop(step.op)
                return
        if pieces:
            self._write(b"".join(pieces))

    def _advance(self, step: Step) -> None:
        self._repeated += 1
        if self._repeated == step.times:
            self._position += 1
            self._repeated = 0

    def _end(self) -> None:
        playback = cast(Playback, self._playback)
        if not self._is_open_ended:
            self._is_open_ended = True
            playback.ended(True, False)
        self._position += 1
        self._repeated = 0
        if self._position < len(playback.script):
            return
        self._playback = None
        if self._waiting and not self._is_closing:
            # The loop of _play goes on with this one.
            self._playback = self._application.respond(self._waiting.popleft())
            self._is_open_ended = False
            self._position = 0
            self._repeated = 0

    def _stop(self, op: Op) -> None:
        self._is_stopped = True
        if op is Op.CLOSE:
            self._close()
        elif op is Op.DROP:
            self._close(notify=False)
        elif op is Op.RESET:
            self._is_deaf = True
            self._reset_when_flushed()
        # HANG: the script stays where it is until the peer leaves.

    def _end_playback(self, *, is_complete: bool, by_peer: bool) -> None:
        playback, self._playback = self._playback, None
        if playback is not None and not self._is_open_ended:
            self._is_open_ended = True
            playback.ended(is_complete, by_peer)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- Writing ------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        self._is_write_paused = True

    def resume_writing(self) -> None:
        self._is_write_paused = False
        if self._timer is None and not self._is_stopped:
            self._play()

    def _write(self, data: bytes) -> None:
        if not data or self._is_closing:
            return
        if self._tls is None:
            self._transport.write(data)
            return
        view = memoryview(data)
        while view:
            view = view[self._tls.write(cast(Any, view)) :]
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())
