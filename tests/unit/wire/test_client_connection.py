"""One client's connection, without a socket: what is read, what is refused, and when it ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
from fake_transport import FakeTransport

from fastgw.errors import ClientError
from fastgw.wire import client_connection as module
from fastgw.wire.client_connection import ClientConnection, ClientState, Listener
from fastgw.wire.events import ExchangeEvents
from fastgw.wire.head import Limits, RequestHead

GET = b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: gw\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST /a HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
NEVER = 1e18


class Recorder(ExchangeEvents):
    """An exchange that only takes notes."""

    def __init__(self, connection: ClientConnection, head: RequestHead) -> None:
        self.connection = connection
        self.head = head
        self.body = b""
        self.reads = 0
        self.events: list[str] = []

    def on_request_read(self, data: bytes, start: int, end: int, complete: bool) -> None:
        self.reads += 1
        self.body += self.connection.framer.decoded(data)
        if complete:
            self.events.append("complete")

    def on_client_gone(self) -> None:
        self.events.append("gone")

    def on_client_writable(self) -> None:
        self.events.append("writable")

    def answer(self, keep_alive: bool | None = None) -> None:
        """Answer as an exchange does."""
        keep = self.connection.keeps_alive() if keep_alive is None else keep_alive
        self.connection.send(OK)
        self.connection.finish(keep, self.connection.read_at)


class Bench:
    """A listener with one connection."""

    def __init__(self, answer: Callable[[ClientConnection], None] | None = None, **options: Any) -> None:
        self.exchanges: list[Recorder] = []
        self.paths: list[bytes] = []
        self.refusals: list[int] = []
        self.answer = answer
        self.listener = Listener(self.accept, self.refuse, **options)
        self.connection, self.transport = self.connect()

    def connect(self) -> tuple[ClientConnection, FakeTransport]:
        connection = self.listener.make_connection()
        transport = FakeTransport(peername=("10.0.0.7", 1234))
        connection.connection_made(transport)
        return connection, transport

    def accept(self, connection: ClientConnection, head: RequestHead) -> ExchangeEvents | None:
        self.paths.append(head.path)
        if self.answer is not None:
            self.answer(connection)
            return None
        self.exchanges.append(Recorder(connection, head))
        return self.exchanges[-1]

    def refuse(self, connection: ClientConnection, error: ClientError) -> None:
        self.refusals.append(error.status)
        connection.send(b"refused")
        connection.finish(False, connection.read_at)

    def feed(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.connection.data_received(piece)

    @property
    def state(self) -> ClientState:
        return ClientState(self.connection.state)

    @property
    def exchange(self) -> Recorder:
        return self.exchanges[-1]


def answer_at_once(connection: ClientConnection) -> None:
    connection.send(OK)
    connection.finish(connection.keeps_alive(), connection.read_at)


# --- Requests ---------------------------------------------------------------------------------


def test_a_request_without_a_body_is_one_event() -> None:
    bench = Bench()
    bench.feed(GET)
    assert bench.exchange.events == ["complete"] and bench.exchange.reads == 1
    assert bench.state is ClientState.ANSWERING
    assert repr(bench.connection) == "<ClientConnection answering requests=1>"
    bench.exchange.answer()
    assert bench.state is ClientState.IDLE
    assert bench.transport.sent == OK and bench.transport.is_open


@pytest.mark.parametrize(
    ("request_bytes", "body"),
    [
        (POST + b"hello", b"hello"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (CHUNKED + b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nA: b\r\n\r\n", b"hello"),
        (CHUNKED + b"0\r\n\r\n", b""),
        (GET, b""),
    ],
)
def test_a_request_cut_anywhere_is_the_same_request(request_bytes: bytes, body: bytes) -> None:
    for first in range(1, len(request_bytes)):
        bench = Bench()
        bench.feed(request_bytes[:first], request_bytes[first:])
        assert (bench.exchange.body, bench.exchange.events) == (body, ["complete"])
        assert not bench.refusals
        bench.exchange.answer()
        assert bench.state is ClientState.IDLE


def test_one_byte_at_a_time() -> None:
    bench = Bench()
    for _ in range(3):
        bench.feed(*(bytes([byte]) for byte in POST + b"hello"))
        assert bench.exchange.body == b"hello"
        bench.exchange.answer()
    assert bench.connection.requests == 3


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /a HTTP/1.1\r\n\r\n", 400),
        (b"HELLO\r\n", 400),
        (b"FOO / HTTP/1.1\r\nHost: gw\r\n\r\n", 501),
        (CHUNKED + b"zz\r\n", 400),
        (CHUNKED + b"5 \r\nhello\r\n", 400),
        (POST[:-2] + b"Content-Length: 5\r\n\r\n", 400),
    ],
)
def test_a_malformed_request_is_answered_and_its_connection_closed(data: bytes, status: int) -> None:
    bench = Bench()
    bench.feed(data)
    if not bench.refusals:  # a request line that is not whole
        bench.feed(b"\r\n")
    assert bench.refusals == [status]
    assert bench.transport.sent == b"refused"
    assert bench.state is ClientState.LINGERING and bench.transport.calls == ["write_eof"]
    bench.feed(GET)
    assert len(bench.exchanges) <= 1


def test_a_malformed_second_request_can_read_its_answer_too() -> None:
    bench = Bench()
    bench.feed(GET)
    bench.exchange.answer()
    bench.feed(b"GET /b\r\nHost: gw\r\n\r\n")
    assert bench.refusals == [400]
    assert bench.state is ClientState.LINGERING


def test_a_malformed_body_ends_its_exchange() -> None:
    bench = Bench()
    bench.feed(CHUNKED + b"5\r\nhello\r\n", b"nonsense")
    assert bench.exchange.events == ["gone"]
    assert bench.refusals == [400]


def test_no_second_answer_is_written_into_the_first() -> None:
    bench = Bench()
    bench.feed(CHUNKED + b"5\r\nhello\r\n")
    bench.connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    bench.feed(b"nonsense")
    assert bench.exchange.events == ["gone"]
    assert bench.refusals == [] and bench.transport.calls == ["abort"]


def test_an_interim_answer_is_no_answer() -> None:
    bench = Bench()
    bench.feed(CHUNKED)
    bench.connection.send_interim(b"HTTP/1.1 100 Continue\r\n\r\n")
    bench.feed(b"nonsense\r\n")
    assert bench.refusals == [400]
    assert bench.transport.sent.endswith(b"refused")


def test_no_interim_answer_after_the_answer() -> None:
    bench = Bench()
    bench.feed(CHUNKED)
    bench.connection.send(OK)
    bench.connection.send_interim(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert bench.transport.sent == OK


# --- Upgrades that are not made ---------------------------------------------------------------

UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


@pytest.mark.parametrize(
    ("plain", "body"),
    [(GET, b""), (POST, b"hello"), (CHUNKED, b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), (CHUNKED, b"0\r\n\r\n")],
)
def test_a_request_to_upgrade_is_served_as_a_plain_one(plain: bytes, body: bytes) -> None:
    request = plain[:-2] + UPGRADE + b"\r\n" + body
    for first in (1, len(request) - len(body), len(request) - 1):
        bench = Bench()
        bench.feed(request[:first], request[first:])
        assert not bench.refusals
        assert bench.exchange.events == ["complete"]
        assert bench.exchange.body in (b"", b"hello")
        bench.exchange.answer()
        bench.feed(GET)
        assert bench.exchange.events == ["complete"] and len(bench.exchanges) == 2


def test_the_body_of_a_request_to_upgrade_is_checked_as_any_other() -> None:
    bench = Bench()
    bench.feed(CHUNKED[:-2] + UPGRADE + b"\r\n" + b"5 \r\nhello\r\n0\r\n\r\n")
    assert bench.refusals == [400]


# --- Pipelining -------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_one_after_the_other() -> None:
    async def run() -> None:
        bench = Bench()
        bench.feed(GET + POST + b"hello" + GET.replace(b"/a", b"/c"))
        assert len(bench.exchanges) == 1
        for number in range(1, 4):
            assert len(bench.exchanges) == number
            bench.exchange.answer()
            await asyncio.sleep(0)
        assert [exchange.head.path for exchange in bench.exchanges] == [b"/a", b"/a", b"/c"]
        assert bench.exchanges[1].body == b"hello"
        assert bench.state is ClientState.IDLE

    asyncio.run(run())


def test_half_a_pipelined_request_waits_for_its_rest() -> None:
    async def run() -> None:
        bench = Bench()
        bench.feed(GET + POST[:20])
        bench.exchange.answer()
        await asyncio.sleep(0)
        assert bench.state is ClientState.HEAD
        bench.feed(POST[20:] + b"hello")
        assert bench.exchange.body == b"hello"

    asyncio.run(run())


def test_more_is_not_read_while_enough_waits() -> None:
    async def run() -> None:
        bench = Bench()
        bench.feed(GET)
        while bench.transport.is_reading:
            bench.feed(GET * 100)
        assert len(bench.connection.buffer) < module.PIPELINE_BYTES + 100 * len(GET)
        bench.connection.go_on_reading()  # is for bodies
        assert not bench.transport.is_reading
        waiting = 1 + len(bench.connection.buffer) // len(GET)
        for _ in range(waiting):
            assert not bench.transport.is_reading
            bench.exchange.answer()
            await asyncio.sleep(0)
        assert len(bench.exchanges) == waiting
        assert bench.transport.is_reading and bench.state is ClientState.IDLE

    asyncio.run(run())


def test_a_client_cannot_send_faster_than_it_is_answered_at_once() -> None:
    async def run() -> None:
        bench = Bench(answer_at_once)
        sent = 0
        while sent < 5_000:
            if bench.transport.is_reading:
                bench.feed(GET * 500)
                sent += 500
            await asyncio.sleep(0)
            assert len(bench.connection.buffer) <= module.PIPELINE_BYTES + 500 * len(GET)
        while bench.connection.buffer:
            await asyncio.sleep(0)
        assert len(bench.paths) == sent
        assert bench.transport.is_reading

    asyncio.run(run())


def test_a_pipelined_body_that_is_not_whole_is_read_on() -> None:
    async def run() -> None:
        bench = Bench()
        size = module.PIPELINE_BYTES + 1000
        post = POST.replace(b"5", b"%d" % (size + 1))
        bench.feed(GET)
        bench.feed(post + b"x" * size)
        assert not bench.transport.is_reading
        bench.exchange.answer()
        await asyncio.sleep(0)
        assert bench.state is ClientState.BODY and bench.transport.is_reading
        bench.feed(b"y")
        assert len(bench.exchange.body) == size + 1

    asyncio.run(run())


def test_a_client_that_asks_and_never_reads_gets_no_further_answer() -> None:
    async def run() -> None:
        bench = Bench()
        bench.feed(GET + GET)
        bench.connection.pause_writing()
        bench.exchange.answer()
        await asyncio.sleep(0)
        assert len(bench.exchanges) == 1 and not bench.transport.is_reading
        bench.connection.resume_writing()
        await asyncio.sleep(0)
        assert len(bench.exchanges) == 2
        bench.exchange.answer()
        assert bench.transport.is_reading

    asyncio.run(run())


# --- Keeping and closing ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "keeps"),
    [
        (GET, True),
        (GET[:-2] + b"Connection: close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
def test_whether_another_request_may_follow(data: bytes, keeps: bool) -> None:
    bench = Bench()
    bench.feed(data)
    assert bench.connection.keeps_alive() is keeps
    bench.exchange.answer()
    assert bench.state is (ClientState.IDLE if keeps else ClientState.CLOSED)
    assert bench.transport.calls == ([] if keeps else ["close"])


def test_an_answer_before_the_body_is_whole_closes_so_that_it_can_be_read() -> None:
    bench = Bench()
    bench.feed(POST + b"he")
    assert not bench.connection.keeps_alive()
    bench.exchange.answer()
    assert bench.transport.calls == ["write_eof"]
    bench.feed(b"llo" + GET)  # read and forgotten
    assert len(bench.exchanges) == 1
    bench.listener.sweep(bench.connection.deadline)
    assert bench.transport.calls == ["write_eof", "abort"]


def test_not_much_of_a_refused_body_is_read() -> None:
    bench = Bench()
    bench.feed(POST.replace(b"5", b"9999999"))
    bench.exchange.answer()
    for _ in range(module.LINGER_BYTES // 65536):
        bench.feed(b"x" * 65536)
        assert bench.transport.calls == ["write_eof"]
    bench.feed(b"x")
    assert bench.transport.calls == ["write_eof", "abort"]


def test_a_drain_closes_idle_connections_and_others_after_their_answer() -> None:
    bench = Bench()
    busy, busy_transport = bench.connect()
    promised, promised_transport = bench.connect()
    busy.data_received(GET)
    busy_exchange = bench.exchange
    promised.data_received(GET)
    promised_exchange = bench.exchange
    assert promised.keeps_alive()
    bench.listener.drain()
    assert bench.transport.calls == ["close"]
    assert not busy.keeps_alive()
    busy_exchange.answer()
    promised_exchange.answer(keep_alive=True)  # its head had said so before the drain
    assert busy_transport.calls == promised_transport.calls == ["close"]


def test_too_many_connections_are_refused() -> None:
    bench = Bench(max_connections=1)
    other, transport = bench.connect()
    assert transport.calls == ["abort"]
    assert bench.listener.refused_connections == 1
    other.connection_lost(None)
    assert bench.listener.connections == [bench.connection]


def test_a_crowd_closes_what_was_idle_for_longest(clock: Clock) -> None:
    bench = Bench(answer_at_once, max_connections=5)
    ends = [(bench.connection, bench.transport), *(bench.connect() for _ in range(3))]
    for index in (2, 0, 1, 3):
        clock.now += 1.0
        ends[index][0].data_received(GET)
    for expected in (2, 0):
        asking, _ = bench.connect()
        assert [index for index, (_, transport) in enumerate(ends) if transport.calls] == [expected]
        asking.data_received(GET)
        ends[expected][0].connection_lost(None)
        ends[expected] = (ends[expected][0], FakeTransport())
    assert bench.listener.idle_evicted == 2 and bench.listener.refused_connections == 0


def test_a_crowd_closes_who_holds_a_first_request_back_before_who_is_idle(clock: Clock) -> None:
    bench = Bench(answer_at_once, max_connections=10)
    ends = [(bench.connection, bench.transport), *(bench.connect() for _ in range(7))]
    for connection, _ in ends[:5]:
        connection.data_received(GET)
    ends[5][0].data_received(b"GET /slow HTTP/1.1\r\nHo")
    clock.now += 0.5
    bench.connect()
    assert not any(transport.calls for _, transport in ends)  # it could still be on its way
    clock.now += 0.5
    bench.connect()
    assert bench.refusals == [408] and ends[5][1].calls == ["write_eof", "close"]
    bench.connect()
    assert ends[6][1].calls == ["close"]  # nothing was ever said on that one
    assert bench.listener.slow_evicted == 2 and bench.listener.idle_evicted == 0
    assert not any(transport.calls for _, transport in ends[:5])


def test_the_fuller_it_is_the_shorter_a_first_request_may_be_held_back(clock: Clock) -> None:
    bench = Bench(max_connections=10)
    for _ in range(9):
        bench.connect()
    clock.now += 0.15
    assert not bench.listener.evict(clock.now)
    clock.now += 0.1
    assert bench.listener.evict(clock.now)
    assert bench.transport.calls == ["close"]


def test_idle_ones_are_spared_where_only_slow_ones_are_to_go(clock: Clock) -> None:
    bench = Bench(answer_at_once, max_connections=1)
    bench.feed(GET)
    clock.now += 5.0
    assert not bench.listener.evict(clock.now, True)
    assert bench.listener.evict(clock.now)


def test_a_crowd_whose_time_is_over_at_once_is_ended_a_few_at_a_time(clock: Clock) -> None:
    bench = Bench(max_connections=1000)
    crowd = [bench.connect() for _ in range(39)]
    clock.now += 60.0
    closed = [0]
    is_done = False
    while not is_done:
        is_done = bench.listener.sweep(clock.now)
        closed.append(sum(transport.calls == ["close"] for _, transport in crowd))
        assert 0 < closed[-1] - closed[-2] <= module.ENDED_AT_ONCE
    assert closed[-1] == 39


def test_a_sweep_looks_at_a_part_of_a_crowd_and_at_all_of_it_in_turn(clock: Clock) -> None:
    bench = Bench(max_connections=100_000)
    size = 20 * module.SWEPT_AT_ONCE
    crowd = [bench.connection, *(bench.connect()[0] for _ in range(size - 1))]
    for connection in crowd[::2]:
        connection.connection_lost(None)  # who comes after it takes its place
    rest = crowd[1::2]
    assert sorted(map(id, bench.listener.connections)) == sorted(map(id, rest))
    sweeps = 1
    while not bench.listener.sweep(clock.now):
        sweeps += 1
    assert 1 < sweeps <= module.SWEPT_IN
    clock.now += 60.0
    while not bench.listener.sweep(clock.now):
        pass
    assert all(connection.state == ClientState.CLOSED for connection in rest)
    assert bench.listener.closed == len(rest)
    for connection in rest:
        connection.connection_lost(None)
    assert (bench.listener.connections, bench.listener.closed) == ([], 0)


def test_one_that_is_busy_again_is_not_taken_for_idle(clock: Clock) -> None:
    bench = Bench(max_connections=3)
    second, transport = bench.connect()
    for connection in (bench.connection, second):
        connection.data_received(GET)
        bench.exchange.answer()
        clock.now += 1.0
    bench.connect()
    assert bench.transport.calls == ["close"]
    bench.connection.connection_lost(None)
    second.data_received(GET)  # it was second in age when they were sorted
    _, newest = bench.connect()
    assert transport.is_open and newest.is_open
    _, refused = bench.connect()
    assert refused.calls == ["abort"] and bench.listener.refused_connections == 1


def test_an_idle_client_that_reads_nothing_is_cut_off_to_make_room(clock: Clock) -> None:
    bench = Bench(answer_at_once, max_connections=2)
    bench.feed(GET)
    bench.transport.unsent = 10
    clock.now += 1.0
    bench.connect()
    assert bench.transport.calls == ["abort"]


def test_a_listener_without_room_says_so(clock: Clock) -> None:
    bench = Bench(max_connections=3)
    said: list[str] = []
    bench.listener.on_full = lambda: said.append("full")
    bench.connect()
    assert said == []
    bench.connect()
    assert said == ["full"]


def test_a_client_has_its_share_of_connections() -> None:
    bench = Bench(max_connections_per_client=2)
    second, _ = bench.connect()
    third, transport = bench.connect()
    assert bench.refusals == [429]
    assert transport.sent == b"refused" and transport.calls == ["write_eof"]
    third.data_received(GET)
    third.connection_lost(None)
    second.connection_lost(None)
    bench.connect()
    assert bench.refusals == [429] and not bench.exchanges
    bench.connection.connection_lost(None)
    assert sum(bench.listener._per_client.values()) == 1


def test_the_connections_of_a_local_socket_are_not_counted() -> None:
    bench = Bench(max_connections_per_client=1)
    for _ in range(3):
        connection = bench.listener.make_connection()
        connection.connection_made(FakeTransport(peername=""))
    assert not bench.refusals


def test_the_clients_address_is_known() -> None:
    bench = Bench()
    assert bench.connection.peer_address() == "10.0.0.7"
    connection = bench.listener.make_connection()
    connection.connection_made(FakeTransport(peername=""))
    assert connection.peer_address() == "unix"


def test_the_address_of_a_client_that_has_gone_is_known() -> None:
    bench = Bench()
    bench.transport.extra["peername"] = None  # as that of a socket that was reset
    assert bench.connection.peer_address() == "10.0.0.7"
    connection = bench.listener.make_connection()
    connection.connection_made(FakeTransport(peername=None))
    assert connection.peer_address() == "unknown"


# --- The client leaves ------------------------------------------------------------------------


@pytest.mark.parametrize("data", [GET, POST, POST + b"he", CHUNKED])
def test_a_client_that_leaves_ends_its_exchange_once(data: bytes) -> None:
    bench = Bench()
    bench.feed(data)
    assert bench.connection.eof_received() is False
    assert bench.transport.calls == ["abort"]
    bench.connection.connection_lost(None)
    assert bench.exchange.events.count("gone") == 1
    assert bench.listener.connections == []
    bench.connection.send(b"x")
    bench.connection.finish(True, bench.connection.read_at)
    bench.connection.abort()
    assert bench.transport.sent == b""


def test_a_lost_connection_ends_its_exchange_once() -> None:
    bench = Bench()
    bench.feed(GET)
    bench.connection.connection_lost(OSError())
    bench.connection.connection_lost(None)
    assert bench.exchange.events == ["complete", "gone"]
    assert bench.state is ClientState.CLOSED


@pytest.mark.parametrize("data", [b"", GET[:9]])
def test_an_end_between_requests_is_no_error(data: bytes) -> None:
    bench = Bench()
    if data:
        bench.feed(data)
    assert bench.connection.eof_received() is False  # the transport closes by itself
    assert bench.refusals == [] and bench.transport.sent == b""


def test_what_waits_is_forgotten_when_the_client_leaves() -> None:
    async def run() -> None:
        bench = Bench(answer_at_once)
        bench.feed(GET + GET)
        bench.connection.eof_received()
        await asyncio.sleep(0)
        assert len(bench.paths) == 1

    asyncio.run(run())


def test_a_client_that_leaves_while_it_is_not_read_is_noticed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bench = Bench()
        bench.transport.extra["socket"] = ours
        bench.feed(POST + b"he")
        bench.connection.stop_reading()
        bench.listener.sweep(0.0)
        assert bench.exchange.events == []
        theirs.close()
        bench.listener.sweep(0.0)
        assert bench.exchange.events == ["gone"]
        assert "abort" in bench.transport.calls


@pytest.mark.parametrize("is_reset", [False, True])
def test_what_a_tunnels_client_said_before_it_left_is_still_to_be_read(is_reset: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bench = Bench()
        bench.transport.extra["socket"] = ours
        bench.feed(GET)
        bench.connection.become_tunnel()
        bench.connection.stop_reading()
        theirs.sendall(b"unread")
        if is_reset:
            ours.sendall(b"never taken")
        theirs.close()
        bench.listener.sweep(0.0)
        assert bench.exchange.events == ["complete", "gone"][: 1 + is_reset]


# --- Deadlines --------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "monotonic", made)
    return made


def test_a_head_has_a_time_as_a_whole(clock: Clock) -> None:
    bench = Bench(head_timeout_s=10.0)
    clock.now += 5
    for byte in GET[:9]:
        bench.feed(bytes([byte]))
        clock.now += 1
    bench.listener.sweep(1014.9)
    assert bench.refusals == []
    bench.listener.sweep(1015.0)
    assert bench.refusals == [408]


def test_a_new_connection_that_says_nothing_is_closed(clock: Clock) -> None:
    bench = Bench(head_timeout_s=10.0)
    bench.listener.sweep(1009.9)
    assert bench.transport.is_open
    bench.listener.sweep(1010.0)
    assert bench.transport.calls == ["close"] and bench.transport.sent == b""


def test_an_idle_connection_is_closed_without_a_word(clock: Clock) -> None:
    bench = Bench(keepalive_s=75.0)
    bench.feed(GET)
    bench.exchange.answer()
    bench.transport.take()
    bench.feed(b"\r", b"\n")  # some clients end a body with an empty line of their own
    assert bench.state is ClientState.IDLE
    bench.listener.sweep(1074.9)
    assert bench.transport.is_open
    bench.listener.sweep(1075.0)
    assert bench.transport.calls == ["close"] and bench.transport.sent == b""


def test_an_empty_line_between_requests_is_passed_over() -> None:
    bench = Bench()
    bench.feed(GET)
    bench.exchange.answer()
    bench.feed(b"\r\n", GET)
    assert len(bench.exchanges) == 2 and not bench.refusals


def test_a_body_may_not_stall(clock: Clock) -> None:
    bench = Bench(body_stall_s=30.0)
    bench.feed(POST)
    clock.now += 20
    bench.feed(b"he")
    bench.listener.sweep(1049.9)
    assert bench.refusals == []
    bench.listener.sweep(1050.0)
    assert bench.refusals == [408] and bench.exchange.events == ["gone"]


@pytest.mark.parametrize(("rate", "refusals"), [(255, [408]), (256, []), (1, [408])])
def test_a_body_must_come_at_some_rate(clock: Clock, rate: int, refusals: list[int]) -> None:
    bench = Bench()
    bench.feed(b"POST /a HTTP/1.1\r\nHost: gw\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(65):
        if bench.refusals:
            break
        clock.now += 1.0
        bench.feed(b"x" * rate)
        bench.listener.sweep(clock.now)
    assert bench.refusals == refusals
    assert bench.exchange.events == (["gone"] if refusals else [])


def test_the_rate_counts_only_while_we_take_the_body(clock: Clock) -> None:
    bench = Bench(body_stall_s=1000.0)
    bench.feed(b"POST /a HTTP/1.1\r\nHost: gw\r\nContent-Length: 100000\r\n\r\nx")
    bench.connection.stop_reading()
    clock.now += 100.0
    bench.connection.go_on_reading()
    clock.now += 20.0
    bench.feed(b"x")
    assert not bench.refusals
    clock.now += 10.0
    bench.feed(b"x")
    assert bench.refusals == [408]


def test_any_rate_will_do_where_none_is_asked_for(clock: Clock) -> None:
    bench = Bench(min_body_rate=0)
    bench.feed(POST)
    for _ in range(4):
        clock.now += 29.0
        bench.feed(b"x")
        bench.listener.sweep(clock.now)
    assert not bench.refusals


def test_a_body_that_we_do_not_take_does_not_stall(clock: Clock) -> None:
    bench = Bench(body_stall_s=30.0)
    bench.feed(POST + b"he")
    bench.connection.stop_reading()
    bench.connection.stop_reading()
    assert not bench.transport.is_reading
    bench.listener.sweep(5000.0)
    assert bench.refusals == []
    clock.now = 5000.0
    bench.connection.go_on_reading()
    bench.connection.go_on_reading()
    assert bench.transport.is_reading and bench.connection.deadline == 5030.0


def test_an_answer_in_progress_has_no_deadline_here(clock: Clock) -> None:
    bench = Bench()
    bench.feed(GET)
    assert bench.connection.deadline == NEVER


@pytest.mark.parametrize("how", ["close", "linger", "unclean"])
def test_a_client_that_does_not_take_the_end_of_its_answer_is_cut_off(clock: Clock, how: str) -> None:
    bench = Bench()
    bench.feed(POST + (b"he" if how == "linger" else b"hello"))
    bench.transport.unsent = 5000
    if how == "unclean":
        bench.connection.send(b"half of it")
        bench.connection.end_unclean(False)
    else:
        bench.exchange.answer(keep_alive=False)
    if how == "linger":
        bench.listener.sweep(1001.0)
        clock.now = 1001.0
        assert bench.transport.calls == ["write_eof"]
    start = clock.now
    for step in range(1, 4):  # it reads, slowly
        bench.transport.unsent -= 1000
        bench.listener.sweep(start + step * module.FLUSH_S)
        assert "abort" not in bench.transport.calls
    bench.listener.sweep(start + 4 * module.FLUSH_S)
    assert bench.transport.calls[-1] == "abort"
    bench.listener.sweep(1e9)
    assert bench.transport.calls.count("abort") == 1


# --- Writing ----------------------------------------------------------------------------------


def test_a_client_that_can_write_again_is_told_to_the_exchange() -> None:
    bench = Bench()
    bench.feed(GET)
    bench.connection.pause_writing()
    assert bench.connection.is_paused
    bench.connection.resume_writing()
    assert not bench.connection.is_paused
    assert bench.exchange.events == ["complete", "writable"]
    bench.exchange.answer()
    bench.connection.pause_writing()
    bench.connection.resume_writing()  # nobody to tell


def test_an_unclean_end_is_a_close_or_a_reset() -> None:
    bench = Bench()
    bench.feed(GET)
    bench.connection.end_unclean(False)
    assert bench.transport.calls == ["close"]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bench = Bench()
        bench.transport.extra["socket"] = ours
        bench.feed(GET)
        bench.connection.end_unclean(True)
        assert bench.transport.calls == ["abort"]
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)[:4] == b"\x01\0\0\0"


def test_limits_are_those_of_the_listener() -> None:
    bench = Bench(limits=Limits(64, 128, 4))
    bench.feed(b"GET /" + b"a" * 100)
    assert bench.refusals == [414]
