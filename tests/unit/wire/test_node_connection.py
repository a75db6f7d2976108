"""One connection to a node, without a socket: its requests out, its answers in."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator

import pytest
import trustme
from fake_transport import FakeTransport

from fastgw.errors import BadResponse, ConnectionLost, NodeError, Retryable, TlsFailed
from fastgw.wire.events import ExchangeEvents
from fastgw.wire.head import Limits
from fastgw.wire.node_connection import NodeConnection, NodeState
from fastgw.wire.pool import Pool
from fastgw.wire.resolver import Resolver
from fastgw.wire.tls import TlsContext

LIMITS = Limits(16 * 1024, 64 * 1024, 256)
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Recorder(ExchangeEvents):
    """An exchange that only takes notes."""

    def __init__(self, connection: NodeConnection) -> None:
        self.connection = connection
        self.body = b""
        self.statuses: list[int] = []
        self.events: list[str] = []
        self.error: NodeError | None = None

    def on_node_read(self, data: bytes, start: int, end: int, complete: bool) -> None:
        connection = self.connection
        if connection.head is not None and not self.statuses:
            self.statuses.append(connection.head.status)
        if start < end:
            self.body += connection.framer.decoded(data)
        if complete:
            self.events.append("complete")

    def on_node_lost(self, error: NodeError) -> None:
        self.events.append("lost")
        self.error = error

    def on_node_writable(self) -> None:
        self.events.append("writable")


@pytest.fixture
def pool() -> Iterator[Pool]:
    resolver = Resolver()
    yield Pool(resolver, "node.example", 80)
    resolver.close()


class Bench:
    """A pool with one plain connection, busy with a GET."""

    def __init__(self, pool: Pool, *, is_head: bool = False, start: bool = True) -> None:
        self.pool = pool
        self.connection = NodeConnection(pool, None, LIMITS)
        self.transport = FakeTransport()
        self.connection.connection_made(self.transport)
        pool.busy.add(self.connection)
        self.exchange = Recorder(self.connection)
        if start:
            self.start(is_head=is_head)

    def start(self, *, is_head: bool = False) -> None:
        self.exchange = Recorder(self.connection)
        self.connection.start(self.exchange, GET, None, is_head)

    def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.connection.data_received(piece)

    @property
    def state(self) -> NodeState:
        return NodeState(self.connection.state)

    @property
    def is_pooled(self) -> bool:
        return self.pool.idle == [self.connection] and not self.pool.busy and self.transport.is_open


# --- Answers ----------------------------------------------------------------------------------

ANSWERS = {
    "with a length": (OK, b"hello"),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;a\r\nllo\r\n0\r\nA: b\r\n\r\n",
        b"hello",
    ),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "empty and chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n", b""),
    "after 100": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"hello"),
    "after 102 and 103": (
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK,
        b"hello",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_cut_anywhere_is_the_same_answer(pool: Pool, name: str) -> None:
    answer, body = ANSWERS[name]
    for first in range(1, len(answer) + 1):
        pool.idle.clear()
        bench = Bench(pool)
        bench.feed(answer[:first], *([answer[first:]] if first < len(answer) else []))
        assert bench.exchange.events == ["complete"]
        assert bench.exchange.body == body
        assert bench.is_pooled, (name, first)
        bench.pool.idle.clear()
        bench.pool.busy.add(bench.connection)
        bench.start()
        bench.feed(OK)
        assert bench.exchange.body == b"hello" and bench.is_pooled
        assert bench.connection.served == 2


@pytest.mark.parametrize("length", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b""])
def test_an_answer_to_head_has_no_body(pool: Pool, length: bytes) -> None:
    bench = Bench(pool, is_head=True)
    bench.feed(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
    assert bench.exchange.events == ["complete"] and bench.exchange.body == b""
    assert bench.is_pooled
    pool.idle.clear()
    bench.start()
    bench.feed(OK)
    assert bench.exchange.body == b"hello"


def test_an_answer_until_the_end_of_the_connection(pool: Pool) -> None:
    bench = Bench(pool)
    bench.feed(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo")
    assert bench.exchange.events == []
    assert bench.connection.eof_received() is False
    assert bench.exchange.events == ["complete"] and bench.exchange.body == b"hello"
    bench.connection.connection_lost(None)
    assert bench.exchange.events == ["complete"]
    assert not pool.idle and not pool.busy


def test_a_reset_is_no_end_of_an_answer(pool: Pool) -> None:
    bench = Bench(pool)
    bench.feed(b"HTTP/1.1 200 OK\r\n\r\nhel")
    bench.connection.connection_lost(ConnectionResetError())
    assert bench.exchange.events == ["lost"]
    assert isinstance(bench.exchange.error, ConnectionLost)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        OK[:-1],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
def test_an_end_inside_an_answer_is_a_loss(pool: Pool, answer: bytes) -> None:
    bench = Bench(pool)
    if answer:
        bench.feed(answer)
    bench.connection.eof_received()
    bench.connection.connection_lost(None)
    assert bench.exchange.events == ["lost"]
    assert isinstance(bench.exchange.error, ConnectionLost)
    assert bench.connection.answer_bytes == len(answer)
    assert not pool.idle and not pool.busy


@pytest.mark.parametrize(
    "answer",
    [
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"SSH-2.0-x\r\n",
        b"RTSP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 65 * 1024,
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 257 + b"\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n" * 33,
    ],
)
def test_what_is_no_answer_is_refused_and_cut_off(pool: Pool, answer: bytes) -> None:
    bench = Bench(pool)
    bench.feed(answer)
    assert bench.exchange.events == ["lost"]
    assert type(bench.exchange.error) is BadResponse
    assert bench.exchange.body == b""
    assert bench.transport.calls == ["abort"] and not pool.busy and not pool.idle
    bench.feed(OK)
    bench.connection.connection_lost(None)
    assert bench.exchange.events == ["lost"]


def test_a_mistake_of_the_exchange_is_not_blamed_on_the_node(pool: Pool) -> None:
    class Clumsy(Recorder):
        def on_node_read(self, data: bytes, start: int, end: int, complete: bool) -> None:
            raise ValueError("ours")

    bench = Bench(pool, start=False)
    exchange = Clumsy(bench.connection)
    bench.connection.start(exchange, GET, None, False)
    with pytest.raises(ValueError, match="ours"):
        bench.feed(OK[:-1])
    assert exchange.events == []


# --- When a connection is used again ----------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"x",
        OK + OK,
        OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"OK\r\n", b"OK\r\nConnection: keep-alive\r\n"),
        b"HTTP/1.1 204 No Content\r\n\r\nstray",
    ],
)
def test_an_answer_that_leaves_a_doubt_is_the_last_of_its_connection(pool: Pool, answer: bytes) -> None:
    bench = Bench(pool)
    bench.feed(answer)
    assert bench.exchange.events == ["complete"]
    assert bench.exchange.body in (b"hello", b"")
    assert bench.transport.calls == ["close"] and not pool.idle and not pool.busy


def test_a_connection_with_half_a_request_on_it_is_cut_off(pool: Pool) -> None:
    bench = Bench(pool, start=False)
    bench.connection.start(bench.exchange, GET, [b"x" * 100_000], False)
    bench.transport.unsent = 1
    bench.feed(OK)
    assert bench.exchange.events == ["complete"]
    assert bench.transport.calls == ["abort"] and not pool.idle and not pool.busy


def test_a_node_that_ends_and_takes_no_more_of_the_request_is_cut_off(pool: Pool) -> None:
    bench = Bench(pool, start=False)
    bench.connection.start(bench.exchange, GET, [b"x" * 100_000], False)
    bench.transport.unsent = 1  # and that is how it stays
    assert bench.connection.eof_received() is False
    assert bench.exchange.events == ["lost"]
    assert bench.transport.calls == ["abort"] and not pool.busy


def test_a_connection_whose_request_still_comes_is_cut_off(pool: Pool) -> None:
    bench = Bench(pool)
    bench.connection.request_complete = False
    bench.connection.send(b"part")
    bench.feed(OK)
    assert bench.exchange.events == ["complete"]
    assert bench.transport.calls == ["abort"] and not pool.idle
    other = Bench(pool)
    assert other.connection.request_complete
    other.connection.pause_writing()
    other.feed(OK)
    assert other.transport.calls == ["abort"] and not pool.idle


def test_an_answer_before_the_whole_request_is_told_at_once(pool: Pool) -> None:
    bench = Bench(pool)
    bench.connection.request_complete = False
    bench.feed(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\n")
    assert bench.exchange.statuses == [413] and bench.exchange.events == []


def test_bytes_that_nobody_asked_for_close_an_idle_connection(pool: Pool) -> None:
    bench = Bench(pool)
    bench.feed(OK)
    assert bench.is_pooled
    bench.feed(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert bench.transport.calls == ["close"] and not pool.idle
    assert pool.unsolicited == 1
    bench.feed(b"more of it")
    assert pool.unsolicited == 1


def test_a_connection_that_ends_while_idle_is_forgotten(pool: Pool) -> None:
    for ending in ("eof", "reset"):
        bench = Bench(pool)
        bench.feed(OK)
        if ending == "eof":
            bench.connection.eof_received()
        bench.connection.connection_lost(ConnectionResetError() if ending == "reset" else None)
        assert not pool.idle and bench.state is NodeState.CLOSED


def test_a_request_on_a_lost_connection_was_never_sent(pool: Pool) -> None:
    bench = Bench(pool, start=False)
    bench.connection.connection_lost(None)
    bench.start()
    assert bench.exchange.events == ["lost"]
    assert bench.exchange.error is not None
    assert bench.exchange.error.retryable is Retryable.ALWAYS
    assert ConnectionLost.retryable is Retryable.IF_REUSED
    assert bench.transport.sent == b""


# --- Requests and flow ------------------------------------------------------------------------


@pytest.mark.parametrize("body", [None, b"x" * 100_000])
def test_a_body_of_its_own_is_written_behind_the_head(pool: Pool, body: bytes | None) -> None:
    bench = Bench(pool, start=False)
    bench.connection.start(bench.exchange, GET, None if body is None else [body], False)
    assert len(bench.transport.written) == (1 if body is None else 2)
    assert bench.transport.sent == GET + (body or b"")
    assert repr(bench.connection) == "<NodeConnection busy served=1>"


def test_a_node_that_takes_bytes_again_is_told(pool: Pool) -> None:
    bench = Bench(pool)
    bench.connection.pause_writing()
    assert bench.connection.is_paused
    bench.connection.resume_writing()
    assert not bench.connection.is_paused and bench.exchange.events == ["writable"]
    bench.feed(OK)
    bench.connection.pause_writing()
    bench.connection.resume_writing()  # nobody to tell


def test_reading_stops_and_goes_on(pool: Pool) -> None:
    bench = Bench(pool)
    bench.connection.stop_reading()
    bench.connection.stop_reading()
    assert not bench.transport.is_reading
    bench.connection.go_on_reading()
    bench.connection.go_on_reading()
    assert bench.transport.is_reading
    bench.connection.stop_reading()
    bench.feed(OK)  # was on its way already
    assert bench.is_pooled and bench.transport.is_reading
    bench.connection.stop_reading()
    assert bench.transport.is_reading


def test_an_aborted_connection_says_nothing_more(pool: Pool) -> None:
    bench = Bench(pool)
    bench.feed(OK[:-2])
    bench.connection.abort()
    bench.connection.abort()
    bench.feed(OK[-2:])
    bench.connection.connection_lost(None)
    bench.connection.send(b"x")
    bench.connection.close()
    bench.connection.go_on_reading()
    assert bench.exchange.events == [] and bench.transport.calls == ["abort"]
    assert not pool.busy and not pool.idle


def test_an_exchange_may_abort_its_connection_while_it_is_called(pool: Pool) -> None:
    class Leaving(Recorder):
        def on_node_read(self, data: bytes, start: int, end: int, complete: bool) -> None:
            super().on_node_read(data, start, end, complete)
            self.connection.abort()

    for answer in (OK, OK[:-1]):
        bench = Bench(pool, start=False)
        exchange = Leaving(bench.connection)
        bench.connection.start(exchange, GET, None, False)
        bench.feed(answer)
        assert bench.transport.calls == ["abort"] and not pool.idle and not pool.busy
        assert "lost" not in exchange.events


# --- TLS --------------------------------------------------------------------------------------


class TlsNode:
    """The node's end of a TLS connection, over two buffers."""

    def __init__(self, context: ssl.SSLContext, bench: TlsBench) -> None:
        self.bench = bench
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.end = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def receive(self) -> bytes:
        """What the gateway wrote, decrypted."""
        self.incoming.write(self.bench.transport.take())
        plain = b""
        while True:
            try:
                piece = self.end.read(65536)
            except ssl.SSLWantReadError:
                return plain
            if not piece:
                return plain
            plain += piece

    def cipher(self, data: bytes = b"", *, close: bool = False) -> bytes:
        if data:
            self.end.write(data)
        if close:
            with pytest.raises(ssl.SSLWantReadError):
                self.end.unwrap()
        return self.outgoing.read()


class TlsBench:
    def __init__(self, pool: Pool, client: TlsContext, server: ssl.SSLContext) -> None:
        self.pool = pool
        self.transport = FakeTransport()
        self.connection = NodeConnection(pool, client.new_session("node.example"), LIMITS)
        self.connection.connection_made(self.transport)
        self.node = TlsNode(server, self)
        self.exchange = Recorder(self.connection)

    def shake_hands(self) -> None:
        for _ in range(4):
            self.node.incoming.write(self.transport.take())
            try:
                self.node.end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            out = self.node.outgoing.read()
            if out:
                self.connection.data_received(out)

    def start(self) -> None:
        self.pool.busy.add(self.connection)
        self.exchange = Recorder(self.connection)
        self.connection.start(self.exchange, GET, None, False)

    @property
    def state(self) -> NodeState:
        return NodeState(self.connection.state)


@pytest.fixture(scope="module")
def serving(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("node.example").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def trusting(ca_file: str) -> TlsContext:
    return TlsContext(ca_file)


@pytest.fixture
def tls_bench(pool: Pool, trusting: TlsContext, serving: ssl.SSLContext) -> TlsBench:
    return TlsBench(pool, trusting, serving)


def test_a_request_and_its_answer_over_tls(tls_bench: TlsBench) -> None:
    assert tls_bench.state is NodeState.OPENING
    tls_bench.shake_hands()
    assert tls_bench.state is NodeState.IDLE
    for _ in range(2):
        tls_bench.start()
        assert tls_bench.node.receive() == GET
        cipher = tls_bench.node.cipher(OK)
        tls_bench.connection.data_received(cipher[:7])
        tls_bench.connection.data_received(cipher[7:])
        assert tls_bench.exchange.events == ["complete"] and tls_bench.exchange.body == b"hello"
        assert tls_bench.pool.idle == [tls_bench.connection]
        tls_bench.pool.idle.clear()


def test_waiting_for_the_handshake(pool: Pool, trusting: TlsContext, serving: ssl.SSLContext) -> None:
    async def run() -> None:
        bench = TlsBench(pool, trusting, serving)
        waiting = asyncio.ensure_future(bench.connection.wait_established())
        await asyncio.sleep(0)
        assert not waiting.done()
        bench.shake_hands()
        await waiting
        await bench.connection.wait_established()  # again, and at once

    asyncio.run(run())


@pytest.mark.parametrize("waits_first", [True, False])
@pytest.mark.parametrize("ending", ["nonsense", "eof", "reset"])
def test_a_handshake_that_fails_is_told_whoever_comes_first(
    tls_bench: TlsBench, ending: str, waits_first: bool
) -> None:
    async def run() -> None:
        connection = tls_bench.connection
        waiting = asyncio.ensure_future(connection.wait_established())
        if waits_first:
            await asyncio.sleep(0)
        if ending == "nonsense":
            connection.data_received(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        elif ending == "eof":
            connection.eof_received()
        connection.connection_lost(ConnectionResetError() if ending == "reset" else None)
        with pytest.raises(TlsFailed if ending == "nonsense" else ConnectionLost):
            await waiting
        assert tls_bench.state is NodeState.CLOSED

    asyncio.run(run())


def test_only_a_goodbye_ends_an_answer_over_tls(
    pool: Pool, trusting: TlsContext, serving: ssl.SSLContext
) -> None:
    for says_goodbye in (True, False):
        bench = TlsBench(pool, trusting, serving)
        bench.shake_hands()
        bench.start()
        bench.node.receive()
        cipher = bench.node.cipher(b"HTTP/1.1 200 OK\r\n\r\nhello", close=says_goodbye)
        bench.connection.data_received(cipher)
        if not says_goodbye:
            bench.connection.eof_received()
        bench.connection.connection_lost(None)
        assert bench.exchange.body == b"hello"
        assert bench.exchange.events == (["complete"] if says_goodbye else ["lost"])
        assert not pool.busy and not pool.idle


def test_a_goodbye_instead_of_taking_the_request_cuts_the_connection_off(tls_bench: TlsBench) -> None:
    tls_bench.shake_hands()
    tls_bench.start()
    tls_bench.transport.unsent = 1
    tls_bench.connection.data_received(tls_bench.node.cipher(close=True))
    assert tls_bench.exchange.events == ["lost"]
    assert tls_bench.transport.calls == ["abort"] and not tls_bench.pool.busy


def test_a_goodbye_behind_an_answer_ends_the_connection(tls_bench: TlsBench) -> None:
    tls_bench.shake_hands()
    tls_bench.start()
    tls_bench.node.receive()
    tls_bench.connection.data_received(tls_bench.node.cipher(OK, close=True))
    assert tls_bench.exchange.events == ["complete"]
    assert not tls_bench.pool.idle and tls_bench.transport.calls == ["close"]


def test_nonsense_behind_an_answer_ends_the_connection(tls_bench: TlsBench) -> None:
    tls_bench.shake_hands()
    tls_bench.start()
    tls_bench.node.receive()
    tls_bench.connection.data_received(tls_bench.node.cipher(OK) + b"\x17\x03\x03\x00\x05nonsense")
    assert tls_bench.exchange.events == ["complete"]
    assert not tls_bench.pool.idle


def test_nonsense_inside_an_answer_is_a_loss(tls_bench: TlsBench) -> None:
    tls_bench.shake_hands()
    tls_bench.start()
    tls_bench.node.receive()
    tls_bench.connection.data_received(tls_bench.node.cipher(OK[:-2]) + b"\x17\x03\x03\x00\x05nonsense")
    assert tls_bench.exchange.events == ["lost"]
    assert isinstance(tls_bench.exchange.error, ConnectionLost)


def test_a_connection_that_can_no_longer_encrypt_is_lost(tls_bench: TlsBench) -> None:
    tls_bench.shake_hands()
    tls_bench.start()
    assert tls_bench.connection.tls is not None
    tls_bench.connection.tls.shutdown()
    tls_bench.connection.send(b"x")
    assert tls_bench.exchange.events == ["lost"]
    assert tls_bench.transport.calls == ["abort"] and not tls_bench.pool.busy
