"""HTTP/1.1 as clients speak it: what reaches a node, what comes back, and what is refused.

Both ends are raw sockets, so every byte is looked at.
"""

from __future__ import annotations

import hashlib
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest
from rig import Rig, running, wait_until
from wire_ends import (
    HANG_GUARD_S,
    Client,
    Ended,
    Message,
    Peer,
    ScriptedNode,
    answer,
    chunked,
    config_for,
    echoing,
    get,
    node,
    post,
    refusing,
    serving,
)

from fastgw.wire.client_connection import PIPELINE_BYTES

MIB = 1024 * 1024
# For heads that never end. It begins with the connection: a client must be able to send what it has in that
# time, however busy the machine is.
SLOW_HEAD = "head_timeout: 3"


def kernel_room() -> int:
    """The most bytes that the kernel keeps for one connection, of what nobody reads."""
    most = (Path(f"/proc/sys/net/ipv4/{name}").read_text().split()[2] for name in ("tcp_rmem", "tcp_wmem"))
    return sum(map(int, most))


@contextmanager
def echo_rig(
    ca_dir: Path, *, process: str = "", loop_kind: str = "uvloop"
) -> Iterator[tuple[Rig, ScriptedNode]]:
    """A gateway whose only node echoes what it is asked."""
    with (
        node(serving(echoing)) as echo,
        running(ca_dir, config_for(echo.port, process=process, uris="/plain*"), loop_kind=loop_kind) as rig,
    ):
        yield rig, echo


@pytest.fixture(scope="module")
def shared(ca_dir: Path) -> Iterator[tuple[Rig, ScriptedNode]]:
    """One gateway for the tests that leave nothing behind in it."""
    with echo_rig(ca_dir) as made:
        yield made


# --- Connections ------------------------------------------------------------------------------


def test_a_connection_serves_one_request_after_the_other(ca_dir: Path, loop_kind: str) -> None:
    with echo_rig(ca_dir, loop_kind=loop_kind) as (rig, echo), Client(rig.port) as client:
        for number in range(20):
            body = b"body %d" % number
            assert client.ask(post(f"/plain/{number}", body)).body == b"POST /plain/%d body %d" % (
                number,
                number,
            )
        assert echo.accepted == 1
        assert rig.counts()["client_connections"] == 1
        assert client.ask(get("/plain", "Connection: close"))["connection"] == "close"
        assert client.rest() == b""


def test_pipelined_requests_are_answered_in_their_order(ca_dir: Path, loop_kind: str) -> None:
    requests = [
        (post("/plain/a", b"first"), 200, b"POST /plain/a first"),
        (get("/plain/b"), 200, b"GET /plain/b "),
        (get("/nowhere"), 404, None),
        (
            get("/plain/c", "Transfer-Encoding: chunked", method="POST") + chunked(b"on", b"e"),
            200,
            b"POST /plain/c one",
        ),
        (get("/plain/d", method="HEAD"), 200, b""),
        (get("/healthz"), 200, b'{"status":"ok"}'),
        (post("/plain/e", b"x" * 30_000, method="PUT"), 200, b"PUT /plain/e " + b"x" * 30_000),
        (get("/plain/f", "Connection: close"), 200, b"GET /plain/f "),
    ]
    with echo_rig(ca_dir, loop_kind=loop_kind) as (rig, echo):
        for rounds in (1, 2):
            with Client(rig.port) as client:
                client.send(b"".join(request for request, _, _ in requests))
                for request, status, body in requests:
                    got = client.answer(request.split(b" ", 1)[0].decode())
                    assert got.status == status
                    assert body is None or got.body == body
                assert client.rest() == b""
            assert [m.target for m in echo.asked] == rounds * [f"/plain/{letter}" for letter in "abcdef"]


def test_many_pipelined_requests_in_one_write(shared: tuple[Rig, ScriptedNode]) -> None:
    rig, _ = shared
    with Client(rig.port) as client:
        client.send(b"".join(get(f"/plain/{number}") for number in range(500)))
        for number in range(500):
            assert client.answer().body == b"GET /plain/%d " % number


@pytest.mark.parametrize("size", [1, 2, 7])
def test_requests_may_come_in_slices_of_any_size(shared: tuple[Rig, ScriptedNode], size: int) -> None:
    rig, _ = shared
    data = post("/plain/1", b"one") + get("/plain/2")
    data += (
        get("/plain/3", "Transfer-Encoding: chunked", method="POST")
        + chunked(b"th", b"ree")
        + get("/plain/4")
    )
    with Client(rig.port) as client:
        for at in range(0, len(data), size):
            client.send(data[at : at + size])
        expected = [b"POST /plain/1 one", b"GET /plain/2 ", b"POST /plain/3 three", b"GET /plain/4 "]
        assert [client.answer().body for _ in expected] == expected


def test_an_empty_line_before_a_request_is_passed_over(shared: tuple[Rig, ScriptedNode]) -> None:
    rig, _ = shared
    with Client(rig.port) as client:
        assert client.ask(b"\r\n" + get("/plain/1")).body == b"GET /plain/1 "
        assert client.ask(b"\r\n" + get("/plain/2")).body == b"GET /plain/2 "


def test_a_client_of_http_1_0_is_served_and_its_connection_closed(shared: tuple[Rig, ScriptedNode]) -> None:
    rig, _ = shared
    with Client(rig.port) as client:
        got = client.ask(get("/plain/old", version="1.0"))
        assert (got.status, got.body, got["connection"]) == (200, b"GET /plain/old ", "close")
        assert client.rest() == b""
    with Client(rig.port) as client:
        for _ in range(2):
            got = client.ask(get("/plain/old", "Connection: keep-alive", version="1.0"))
            assert (got.body, got["connection"]) == (b"GET /plain/old ", "keep-alive")


def test_a_client_of_http_1_0_gets_no_chunks(ca_dir: Path) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"he", end=b""))
        go_on.wait(30)
        peer.send(chunked(b"llo"))

    with node(script) as upstream, running(ca_dir, config_for(upstream.port)) as rig:
        with Client(rig.port) as client:
            client.send(get("/", "Connection: keep-alive", version="1.0"))
            head = client.read_until(b"\r\n\r\n")
            assert b"chunked" not in head
            assert b"content-length" not in head
            assert b"\r\nconnection: close\r\n" in head
            assert client.read_until(b"he") == b"he"
            go_on.set()
            assert client.rest() == b"llo"


def test_a_client_of_http_1_0_can_tell_that_its_answer_was_cut(ca_dir: Path) -> None:
    """Without chunks or a length only the manner of the end says so: RST, not FIN."""
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"he", end=b""))
        go_on.wait(30)

    with node(script) as upstream, running(ca_dir, config_for(upstream.port)) as rig:
        with Client(rig.port) as client:
            client.send(get("/", version="1.0"))
            client.read_until(b"\r\n\r\nhe")
            go_on.set()
            with pytest.raises(ConnectionResetError):
                client.sock.recv(4096)


def test_head_has_the_head_of_get_and_no_body(ca_dir: Path) -> None:
    def respond(request: Message) -> bytes:
        whole = answer(b"twelve bytes", "Content-Type: text/plain")
        return whole[: -len(b"twelve bytes")] if request.method == "HEAD" else whole

    with node(serving(respond)) as upstream, running(ca_dir, config_for(upstream.port)) as rig:
        with Client(rig.port) as client:
            for _ in range(2):
                head = client.ask(get("/", method="HEAD"))
                assert (head.status, head["content-length"], head["content-type"]) == (
                    200,
                    "12",
                    "text/plain",
                )
                assert client.ask(get("/")).body == b"twelve bytes"
        assert upstream.accepted == 1


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"HEAD /plain HTTP/1.1\r\n\r\n", 400),
        (b"\r\nHEAD /plain HTTP/1.1\r\nHost: gw\r\nExpect: more\r\n\r\n", 417),
        (b"HEAD /%b HTTP/1.1\r\n" % (b"a" * 20_000), 414),
        (get("/plain", "Content-Length: 99999999999", method="HEAD"), 413),
        (b"HEAD /plain HTTP/1.1\r\nHost: gw\r\nX: ", 408),
    ],
)
def test_no_refusal_of_head_has_a_body(ca_dir: Path, data: bytes, status: int) -> None:
    """RFC 9110, 9.3.2."""
    with echo_rig(ca_dir, process=SLOW_HEAD if status == 408 else "") as (rig, _):
        admin = rig.admin.address
        assert admin is not None
        for port in (rig.port, admin.port)[: 1 + (status in (400, 417))]:
            with Client(port) as client:
                client.send(data)
                answered = client.answer("HEAD")
                assert (answered.status, answered["connection"]) == (status, "close")
                assert int(answered["content-length"]) > 0
                assert client.rest() == b""


def test_no_204_says_how_long_a_body_would_be(ca_dir: Path) -> None:
    """RFC 9110, 8.6: not even to HEAD, whatever the node says."""
    with node(serving(lambda _: b"HTTP/1.1 204 X\r\nContent-Length: 5\r\n\r\n")) as upstream:
        with running(ca_dir, config_for(upstream.port)) as rig, Client(rig.port) as client:
            for method in ("GET", "HEAD", "GET"):
                assert "content-length" not in client.ask(get("/", method=method))


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_an_answer_without_a_body_leaves_the_connection_in_order(ca_dir: Path, status: str) -> None:
    def respond(request: Message) -> bytes:
        if request.target == "/":
            return f"HTTP/1.1 {status}\r\nETag: x\r\n\r\n".encode()
        return answer(b"next")

    with node(serving(respond)) as upstream, running(ca_dir, config_for(upstream.port)) as rig:
        with Client(rig.port) as client:
            client.send(get("/") + get("/next") + get("/") + get("/next"))
            for _ in range(2):
                got = client.answer()
                assert (got.start, got["etag"]) == (f"HTTP/1.1 {status}", "x")
                assert "content-length" not in got  # RFC 9110 §8.6 forbids it in a 204
                assert "transfer-encoding" not in got
                assert client.answer().body == b"next"
        assert upstream.accepted == 1


def test_an_upgrade_is_served_as_a_plain_request(shared: tuple[Rig, ScriptedNode]) -> None:
    rig, echo = shared
    with Client(rig.port) as client:
        for _ in range(2):
            got = client.ask(get("/plain/ws", "Connection: Upgrade, x-hop", "Upgrade: websocket", "X-Hop: 1"))
            assert (got.status, got.body) == (200, b"GET /plain/ws ")
    assert "upgrade" not in echo.asked[-1]
    assert "x-hop" not in echo.asked[-1]


def test_small_writes_are_not_held_back(ca_dir: Path, loop_kind: str) -> None:
    """Nagle's algorithm would hold each token of a stream back until the one before is acknowledged."""
    with echo_rig(ca_dir, loop_kind=loop_kind) as (rig, _), Client(rig.port) as client:
        client.ask(get("/plain"))
        (to_client,) = rig.gateway.server.listeners[0].connections
        assert rig.gateway.generation is not None
        (pool,) = rig.gateway.generation.pools.values()
        wait_until(lambda: len(pool.idle) == 1, "the connection to the node is idle")
        (to_node,) = pool.idle
        for connection in (to_client, to_node):
            sock = connection.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# --- Expect -----------------------------------------------------------------------------------


def test_expect_100_continue_is_answered_here_and_not_passed_on(ca_dir: Path, loop_kind: str) -> None:
    with echo_rig(ca_dir, loop_kind=loop_kind) as (rig, echo), Client(rig.port) as client:
        client.send(get("/plain/x", "Expect: 100-continue", "Content-Length: 4", method="POST"))
        assert client.answer().raw == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"body")
        assert client.answer().body == b"POST /plain/x body"
        assert "expect" not in echo.asked[-1]


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/nowhere", ["Expect: 100-continue", "Content-Length: 4"], 404),
        ("/plain", ["Expect: 100-continue", "Content-Length: 99999999999"], 413),
        ("/plain", ["Expect: a-miracle", "Content-Length: 4"], 417),
    ],
)
def test_a_refused_expectation_gets_its_final_answer_at_once(
    shared: tuple[Rig, ScriptedNode], path: str, fields: list[str], status: int
) -> None:
    rig, echo = shared
    before = len(echo.asked)
    with Client(rig.port) as client:
        got = client.ask(get(path, *fields, method="POST"))
        assert (got.status, got["connection"]) == (status, "close")
        assert client.rest() == b""
    assert len(echo.asked) == before


# --- Bodies on their way up -------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        chunked(b"hello ", b"world"),
        b'6;a=b;c="d"\r\nhello \r\n5;x\r\nworld\r\n0\r\n\r\n',
        chunked(b"hello ", b"world", end=b"0\r\nX-Trailer: gone\r\nX-Other: too\r\n\r\n"),
        b"00006\r\nhello \r\n" + chunked(*[bytes([c]) for c in b"world"]),
        b"B\r\nhello world\r\n000;last\r\n\r\n",
    ],
    ids=["plain", "extensions", "trailers", "leading zeros", "one chunk"],
)
def test_a_chunked_body_reaches_the_node_whole(shared: tuple[Rig, ScriptedNode], body: bytes) -> None:
    rig, echo = shared
    head = get("/plain/up", "Transfer-Encoding: chunked", method="POST")
    for size in (1, 3, 1000):
        with Client(rig.port) as client:
            client.send(head)
            for at in range(0, len(body), size):
                client.send(body[at : at + size])
            assert client.answer().body == b"POST /plain/up hello world"
            assert client.ask(get("/plain/next")).body == b"GET /plain/next "
    assert echo.asked[-2]["content-length"] == "11"
    assert "x-trailer" not in echo.asked[-2]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_too_large_to_hold_goes_through_once(ca_dir: Path, is_chunked: bool, loop_kind: str) -> None:
    size = 17 * MIB
    block = bytes(range(256)) * 256
    digests: list[str] = []

    def script(peer: Peer) -> None:
        while True:
            request = peer.request()
            assert request.is_whole
            digests.append(hashlib.sha256(request.body).hexdigest())
            peer.send(answer(b"%d" % len(request.body)))

    with node(script) as upstream, running(ca_dir, config_for(upstream.port), loop_kind=loop_kind) as rig:
        with Client(rig.port) as client:
            digest = hashlib.sha256()
            kind = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {size}"
            client.send(get("/big", kind, method="POST"))
            for _ in range(size // len(block)):
                digest.update(block)
                client.send(b"%x\r\n%b\r\n" % (len(block), block) if is_chunked else block)
            if is_chunked:
                client.send(b"0\r\n\r\n")
            got = client.answer()
            assert (got.status, got.body) == (200, b"%d" % size)
            assert digests == [digest.hexdigest()]
            assert client.ask(post("/small", b"x")).body == b"1"
        counts = rig.counts()
        assert counts["bodies_not_held"] == 1
        assert counts["held_bytes"] == 0


def test_an_upload_waits_for_a_node_that_does_not_read(ca_dir: Path) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        request = peer.head()
        go_on.wait(30)
        peer.send(answer(b"%d" % len(peer.body(request).body)))

    most = kernel_room() + 4 * MIB  # and a little of ours
    size = most + 16 * MIB
    sent = [0]

    def upload(client: Client) -> None:
        client.send(get("/big", f"Content-Length: {size}", method="POST"))
        block = b"x" * 65536
        while sent[0] < size:
            client.send(block)
            sent[0] += len(block)

    with node(script, receive_buffer=65536) as upstream, running(ca_dir, config_for(upstream.port)) as rig:
        with Client(rig.port) as client:
            thread = threading.Thread(target=upload, args=(client,))
            thread.start()
            _wait_until_it_stops(sent)
            assert sent[0] < most
            assert rig.counts()["held_bytes"] < 2 * MIB
            go_on.set()
            assert client.answer().body == b"%d" % size
            thread.join()


def test_a_megabyte_is_held_and_replayed_on_the_next_node(ca_dir: Path, loop_kind: str) -> None:
    body = bytes(range(256)) * 4096

    def breaking(peer: Peer) -> None:
        peer.request()
        peer.reset()

    with node(breaking) as first, node(serving(echoing)) as second:
        with running(ca_dir, config_for(first.port, second.port), loop_kind=loop_kind) as rig:
            with Client(rig.port) as client:
                got = client.ask(post("/x", body, method="PUT"))
                assert got.body == b"PUT /x " + body
                assert got["x-fastgw-attempts"] == "2"
            assert first.asked[0].body == second.asked[0].body == body
            assert rig.counts()["held_bytes"] == 0


def test_a_large_body_moves_on_when_its_first_node_cannot_be_reached(ca_dir: Path) -> None:
    size = 17 * MIB
    with refusing() as port, node(serving(lambda request: answer(b"%d" % len(request.body)))) as second:
        with running(ca_dir, config_for(port, second.port)) as rig, Client(rig.port) as client:
            got = client.ask(post("/x", b"x" * size))
            assert (got.status, got.body) == (200, b"%d" % size)


# --- Answers on their way down ----------------------------------------------------------------


def _wait_until_it_stops(sent: list[int]) -> None:
    """Wait until a sender has not come further for half a second: it is stuck, or does not get to run."""
    seen = [(-1, monotonic())]

    def is_stuck() -> bool:
        if sent[0] != seen[0][0]:
            seen[0] = (sent[0], monotonic())
        return sent[0] > 0 and monotonic() - seen[0][1] > 0.5

    wait_until(is_stuck, "the sender is stuck")


def _is_paused(rig: Rig) -> bool:
    return any(connection.is_paused for connection in rig.gateway.server.listeners[0].connections)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_slow_reader_stops_the_node_and_loses_nothing(ca_dir: Path, framing: str, loop_kind: str) -> None:
    most = kernel_room() + 4 * MIB  # and a little of ours
    size = (most // MIB + 16) * MIB
    block = bytes(range(256)) * 256
    sent = [0]

    def script(peer: Peer) -> None:
        peer.request()
        field = {"length": f"Content-Length: {size}", "chunked": "Transfer-Encoding: chunked"}.get(
            framing, "X: y"
        )
        peer.send(f"HTTP/1.1 200 OK\r\n{field}\r\n\r\n".encode())
        while sent[0] < size:
            peer.send(b"%x\r\n%b\r\n" % (len(block), block) if framing == "chunked" else block)
            sent[0] += len(block)
        peer.send(b"0\r\n\r\n" if framing == "chunked" else b"")

    with node(script) as upstream, running(ca_dir, config_for(upstream.port), loop_kind=loop_kind) as rig:
        with Client(rig.port, receive_buffer=65536) as client:
            client.send(get("/big"))
            wait_until(lambda: rig.call(lambda: _is_paused(rig)), "the client's connection is full")
            _wait_until_it_stops(sent)
            assert sent[0] < most
            (connection,) = rig.gateway.server.listeners[0].connections
            waiting = rig.call(connection.transport.get_write_buffer_size)
            assert 0 < waiting <= MIB
            got = client.answer()
            assert got.is_whole
            expected = hashlib.sha256(block * (size // len(block))).digest()
            assert hashlib.sha256(got.body).digest() == expected


def test_what_a_client_sends_during_an_answer_waits_and_is_answered_next(
    ca_dir: Path, loop_kind: str
) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        while True:
            request = peer.request()
            if request.target == "/slow":
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
                go_on.wait(30)
                peer.send(b"world")
            else:
                peer.send(answer(b"%d" % len(request.body)))

    big = post("/big", b"x" * 300_000)
    with node(script) as upstream, running(ca_dir, config_for(upstream.port), loop_kind=loop_kind) as rig:
        with Client(rig.port) as client:
            client.send(get("/slow"))
            head = client.read_until(b"hello")
            assert b"200 OK" in head
            sending = threading.Thread(target=client.send, args=(big,))  # the kernel need not take it all
            sending.start()
            (connection,) = rig.gateway.server.listeners[0].connections
            wait_until(lambda: rig.call(lambda: bool(connection.reading_stopped)), "no more is read")
            assert len(upstream.asked) == 1
            assert rig.call(lambda: len(connection.buffer)) < PIPELINE_BYTES + 256 * 1024  # and one read
            go_on.set()
            assert client.read_until(b"world") == b"world"
            assert client.answer().body == b"300000"
            sending.join()


def test_garbage_sent_during_an_answer_is_refused_after_it(ca_dir: Path) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        go_on.wait(30)
        peer.send(b"world")

    with node(script) as upstream, running(ca_dir, config_for(upstream.port)) as rig:
        with Client(rig.port) as client:
            client.send(get("/slow"))
            client.read_until(b"hello")
            client.send(b"\x00\x01 no request at all\r\n\r\n")
            go_on.set()
            assert client.read_until(b"world") == b"world"
            assert client.answer().status == 400
            assert client.rest() == b""


def test_a_client_that_asks_and_never_reads_is_stopped(ca_dir: Path) -> None:
    body = b"x" * 60_000
    with node(serving(lambda _: answer(body))) as upstream, running(ca_dir, config_for(upstream.port)) as rig:
        with Client(rig.port, receive_buffer=4096) as client:
            client.sock.settimeout(1.0)
            sent = 0
            try:
                while sent < 400_000:
                    client.send(get("/x") * 50)
                    sent += 50
            except TimeoutError:
                pass
            (connection,) = rig.gateway.server.listeners[0].connections
            assert rig.call(connection.transport.get_write_buffer_size) <= MIB
            assert len(upstream.asked) < 100


def test_a_client_that_never_reads_the_end_of_its_answer_is_let_go(
    ca_dir: Path, monkeypatch: pytest.MonkeyPatch, loop_kind: str
) -> None:
    monkeypatch.setattr("fastgw.wire.client_connection.FLUSH_S", 0.3)
    body = b"x" * 5_000  # one piece on the way from the node: the answer is the gateway's, whole, at once
    with node(serving(lambda _: answer(body))) as upstream:
        config = config_for(upstream.port, process="keepalive: 0.3")
        with (
            running(ca_dir, config, loop_kind=loop_kind) as rig,
            Client(rig.port, receive_buffer=4096) as client,
        ):
            client.send(get("/x") * 600)
            wait_until(lambda: rig.counts()["requests"] > 0, "the first one is served")
            wait_until(lambda: rig.counts()["client_connections"] == 0, "the connection is given up")
            assert rig.counts()["exchanges"] == 0


# --- Refusals ---------------------------------------------------------------------------------

MALFORMED: list[tuple[str, bytes, int]] = [
    ("no version", b"GET /plain\r\n\r\n", 400),
    ("bare LF", b"GET /plain HTTP/1.1\nHost: a\n\n", 400),
    ("bare LF in the header", b"GET /plain HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
    ("two spaces", b"GET  /plain HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("trailing space", b"GET /plain HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    ("lower-case version", b"GET /plain http/1.1\r\nHost: a\r\n\r\n", 400),
    ("tab in the request line", b"GET\t/plain\tHTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("HTTP/1.2", b"GET /plain HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    ("HTTP/0.9", b"GET /plain HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 30 + b"\r\n\r\n", 400),
    ("NUL in the path", b"GET /plain\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("absolute target of another host", b"GET http://b/plain HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("asterisk target", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("authority target", b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    ("no Host", b"GET /plain HTTP/1.1\r\n\r\n", 400),
    ("two Hosts", get("/plain", "Host: b"), 400),
    ("Host with a path", b"GET /plain HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    ("space before the colon", get("/plain", "X-A : b"), 400),
    ("no colon", get("/plain", "just words"), 400),
    ("empty field name", get("/plain", ": b"), 400),
    ("folded field", get("/plain", "X-A: b", " c"), 400),
    ("NUL in a field", get("/plain", "X-A: b\x00c"), 400),
    ("bare CR in a field", get("/plain", "X-A: b\rc"), 400),
    ("field name with a control character", get("/plain", "X\x01A: b"), 400),
    ("field name in Latin-1", get("/plain", "X-\xe4: b"), 400),
    ("two lengths", get("/plain", "Content-Length: 1", "Content-Length: 1", method="POST") + b"x", 400),
    ("list of lengths", get("/plain", "Content-Length: 1, 1", method="POST") + b"x", 400),
    ("signed length", get("/plain", "Content-Length: +1", method="POST") + b"x", 400),
    ("negative length", get("/plain", "Content-Length: -1", method="POST"), 400),
    ("hexadecimal length", get("/plain", "Content-Length: 0x1", method="POST") + b"x", 400),
    ("empty length", get("/plain", "Content-Length:", method="POST"), 400),
    ("huge length", get("/plain", f"Content-Length: {10**30}", method="POST"), 400),
    (
        "length and chunks",
        get("/plain", "Content-Length: 3", "Transfer-Encoding: chunked", method="POST") + chunked(b"abc"),
        400,
    ),
    (
        "chunks and length",
        get("/plain", "Transfer-Encoding: chunked", "Content-Length: 3", method="POST") + chunked(b"abc"),
        400,
    ),
    ("chunked in HTTP/1.0", get("/plain", "Transfer-Encoding: chunked", method="POST", version="1.0"), 400),
    ("other coding", get("/plain", "Transfer-Encoding: gzip, chunked", method="POST"), 501),
    ("chunked twice", get("/plain", "Transfer-Encoding: chunked, chunked", method="POST"), 400),
    ("two codings", get("/plain", *["Transfer-Encoding: chunked"] * 2, method="POST"), 400),
    ("disguised coding", get("/plain", "Transfer-Encoding: \x0bchunked", method="POST"), 400),
    ("identity", get("/plain", "Transfer-Encoding: identity", method="POST"), 400),
    ("Connection that is no list", get("/plain", "Connection: close;x"), 400),
    ("dot segments", get("/plain/../admin"), 400),
    ("encoded dot segments", get("/plain/%2e%2e/admin"), 400),
    ("encoded slash", get("/plain%2fadmin"), 400),
    ("encoded NUL", get("/plain%00"), 400),
    ("broken percent-encoding", get("/plain%zz"), 400),
    ("empty segment", get("/plain//x"), 400),
    ("backslash", get("/plain\\x"), 400),
    ("fragment", get("/plain#x"), 400),
    ("unknown method", get("/plain", method="FROBNICATE"), 501),
    ("lower-case method", get("/plain", method="get"), 501),
    ("unknown Expect", get("/plain", "Expect: 200-ok"), 417),
    ("long line", get("/plain/" + "a" * 17_000), 414),
    ("long line without an end", b"GET /plain/" + b"a" * 17_000, 414),
    ("large head", get("/plain", *[f"X-{n}: {'v' * 1000}" for n in range(40)]), 431),
    ("large head without an end", get("/plain", *[f"X-{n}: {'v' * 1000}" for n in range(40)])[:-4], 431),
    ("too many fields", get("/plain", *[f"X-{n}: v" for n in range(101)]), 431),
    ("long field name", get("/plain", "X" * 300 + ": v"), 431),
]
# What is wrong with a body shows only after its head was accepted.
MALFORMED_BODIES: list[tuple[str, bytes]] = [
    ("no size", b"\r\nabc\r\n0\r\n\r\n"),
    ("size with a sign", b"+3\r\nabc\r\n0\r\n\r\n"),
    ("size with 0x", b"0x3\r\nabc\r\n0\r\n\r\n"),
    ("size with a space before it", b" 3\r\nabc\r\n0\r\n\r\n"),
    ("huge size", b"fffffffffffffffff\r\nabc"),
    ("bare LF after the size", b"3\nabc\r\n0\r\n\r\n"),
    ("bare CR after the size", b"3\rabc\r\n0\r\n\r\n"),
    ("longer than its size", b"3\r\nabcd\r\n0\r\n\r\n"),
    ("shorter than its size", b"4\r\nabc\r\n0\r\n\r\n"),
    ("LF after the data", b"3\r\nabc\n0\r\n\r\n"),
    ("control character in an extension", b"3;a=\x01\r\nabc\r\n0\r\n\r\n"),
    ("LF in an extension", b"3;a\nb\r\nabc\r\n0\r\n\r\n"),
    ("endless extension", b"3;" + b"a" * 20_000),
    ("endless trailers", b"0\r\n" + b"X: " + b"a" * 20_000),
    ("trailer without a name", b"0\r\n: x\r\n\r\n"),
]


@pytest.mark.parametrize(
    ("data", "status"), [row[1:] for row in MALFORMED], ids=[row[0] for row in MALFORMED]
)
def test_a_malformed_request_is_refused_and_reaches_no_node(
    shared: tuple[Rig, ScriptedNode], data: bytes, status: int
) -> None:
    rig, echo = shared
    before = len(echo.asked)
    with Client(rig.port) as client:
        client.send(data)
        got = client.answer("HEAD" if data.startswith(b"HEAD") else "GET")
        assert got.status == status, got.body
        assert got["connection"] == "close"
        assert b'"error"' in got.body
        assert client.rest() == b""
    assert len(echo.asked) == before


@pytest.mark.parametrize(
    "body", [row[1] for row in MALFORMED_BODIES], ids=[row[0] for row in MALFORMED_BODIES]
)
def test_a_malformed_body_is_refused_and_reaches_no_node(
    shared: tuple[Rig, ScriptedNode], body: bytes
) -> None:
    rig, echo = shared
    before = len(echo.asked)
    for size in (1, len(body)):
        with Client(rig.port) as client:
            client.send(get("/plain", "Transfer-Encoding: chunked", method="POST"))
            try:
                for at in range(0, len(body), size):
                    client.send(body[at : at + size])
            except OSError:
                pass  # refused already
            got = client.answer()
            assert (got.status, got["connection"]) == (400, "close")
            assert client.rest() == b""
    assert len(echo.asked) == before
    assert rig.counts()["exchanges"] == 0


def test_a_malformed_request_behind_a_good_one_is_refused_in_its_turn(
    shared: tuple[Rig, ScriptedNode],
) -> None:
    rig, echo = shared
    with Client(rig.port) as client:
        client.send(get("/plain/good") + b"GET /plain/bad\r\n\r\n" + get("/plain/never"))
        assert client.answer().body == b"GET /plain/good "
        assert client.answer().status == 400
        assert client.rest() == b""
    assert echo.asked[-1].target == "/plain/good"


def test_an_unknown_path_is_404_in_openais_shape_and_keeps_the_connection(
    shared: tuple[Rig, ScriptedNode],
) -> None:
    rig, echo = shared
    before = len(echo.asked)
    with Client(rig.port) as client:
        for request in (get("/nowhere"), post("/nowhere", b"body")):
            got = client.ask(request)
            assert got.status == 404
            assert b'"code":"route_not_found"' in got.body
            assert got["content-type"] == "application/json"
            if request.startswith(b"GET"):
                assert "connection" not in got
    assert len(echo.asked) == before


def test_a_body_is_too_large_by_its_length(ca_dir: Path) -> None:
    with echo_rig(ca_dir, process="max_body_bytes: 100000") as (rig, echo):
        with Client(rig.port) as client:
            got = client.ask(get("/plain", "Content-Length: 100001", method="POST"))
            assert (got.status, got["connection"]) == (413, "close")
            client.send(b"x" * 50_000)  # what is on its way already costs nobody the answer
            assert client.rest() == b""
        with Client(rig.port) as client:
            assert client.ask(post("/plain", b"x" * 100_000)).status == 200
        assert len(echo.asked) == 1


@pytest.mark.parametrize("hold", [1_000_000, 10_000])
def test_a_body_turns_out_to_be_too_large_while_it_comes(ca_dir: Path, hold: int) -> None:
    with echo_rig(ca_dir, process=f"max_body_bytes: 100000, hold_body_bytes: {hold}") as (rig, echo):
        with Client(rig.port) as client:
            client.send(get("/plain", "Transfer-Encoding: chunked", method="POST"))
            for _ in range(11):
                client.send(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
            got = client.answer()
            assert (got.status, got["connection"]) == (413, "close")
            assert client.rest() == b""
        assert rig.counts()["held_bytes"] == 0
        assert rig.counts()["exchanges"] == 0
        if echo.asked:
            assert echo.gone.wait(HANG_GUARD_S)  # the node has seen that there is no more
        assert all(not message.is_whole for message in echo.asked)
        for item in rig.nodes().values():
            assert item.counters == {"success": 0, "http_failure": 0, "tcp_failure": 0, "timeout_failure": 0}


# --- Clients that are slow --------------------------------------------------------------------


@pytest.mark.parametrize("begun", [b"G", get("/plain")[:-2], b"GET /plain HTTP/1.1\r\nX: "])
def test_a_slow_head_is_408(ca_dir: Path, begun: bytes) -> None:
    with echo_rig(ca_dir, process=SLOW_HEAD) as (rig, echo), Client(rig.port) as client:
        client.send(begun)
        got = client.answer()
        assert (got.status, got["connection"]) == (408, "close")
        assert client.rest() == b""
        assert echo.asked == []


def test_a_head_that_drips_gets_no_more_time(ca_dir: Path) -> None:
    dripped = iter(get("/plain", *[f"X-{n}: {'y' * 100}" for n in range(90)]))
    with echo_rig(ca_dir, process=SLOW_HEAD) as (rig, _), Client(rig.port) as client:
        while not select.select([client.sock], [], [], 0.05)[0]:
            client.send(bytes([next(dripped)]))  # there is enough for minutes
        assert client.answer().status == 408


def test_a_connection_that_says_nothing_is_closed(ca_dir: Path) -> None:
    with echo_rig(ca_dir, process="head_timeout: 0.3") as (rig, _), Client(rig.port) as client:
        assert client.rest() == b""
    with echo_rig(ca_dir, process="keepalive: 0.3") as (rig, _), Client(rig.port) as client:
        assert client.ask(get("/plain")).status == 200
        assert client.rest() == b""


@pytest.mark.parametrize("hold", [1_000_000, 10_000])
def test_a_body_that_stalls_is_408(ca_dir: Path, hold: int) -> None:
    with echo_rig(ca_dir, process=f"body_stall: 0.3, hold_body_bytes: {hold}") as (rig, _):
        with Client(rig.port) as client:
            client.send(get("/plain", "Content-Length: 50000", method="POST") + b"x" * 20_000)
            got = client.answer()
            assert (got.status, got["connection"]) == (408, "close")
            assert client.rest() == b""
        wait_until(lambda: rig.counts()["exchanges"] == 0, "the exchange ended")
        for item in rig.nodes().values():
            assert item.counters == {"success": 0, "http_failure": 0, "tcp_failure": 0, "timeout_failure": 0}
            assert item.in_flight == 0


@pytest.mark.parametrize("bad", [b"zz\r\nnot a chunk", b""], ids=["malformed", "stalled"])
def test_a_second_answer_never_follows_one_that_has_begun(ca_dir: Path, bad: bytes) -> None:
    """The node answers early, then the rest of the body turns out to be bad, or never comes."""

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun")
        peer.rest()

    # The answer must have begun before the body has stalled for too long.
    config = "hold_body_bytes: 10000" + (", body_stall: 3" if not bad else "")
    with node(script) as upstream, running(ca_dir, config_for(upstream.port, process=config)) as rig:
        with Client(rig.port) as client:
            client.send(
                get("/up", "Transfer-Encoding: chunked", method="POST") + chunked(b"x" * 20_000, end=b"")
            )
            client.read_until(b"begun")
            client.send(bad)
            assert client.rest() == b""


def test_a_request_cut_short_reaches_no_node(ca_dir: Path, loop_kind: str) -> None:
    with echo_rig(ca_dir, loop_kind=loop_kind) as (rig, echo):
        for data in (get("/plain")[:-3], get("/plain", "Content-Length: 10", method="POST") + b"12345"):
            for leave in (Client.close, Client.reset):
                client = Client(rig.port)
                client.send(data)
                leave(client)
            client = Client(rig.port)
            client.send(data)
            client.half_close()
            with client, pytest.raises(Ended):
                client.answer()
        wait_until(lambda: rig.counts()["client_connections"] == 0, "all clients are gone")
        assert rig.counts()["exchanges"] == 0
        assert echo.asked == []
