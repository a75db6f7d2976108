"""A WebSocket connection through the gateway: who ends it, and when."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from exchange_bench import Bench, FakeNode, response

from fastgw.balancing.deadlines import Deadlines
from fastgw.proxy import tunnel as tunnel_module
from fastgw.proxy.exchange import Exchange
from fastgw.proxy.tunnel import agrees, handshake_fields, is_handshake
from fastgw.wire.client_connection import ClientConnection
from fastgw.wire.head import Limits, RequestHead, scan_request, scan_response

CHUNKED = "Transfer-Encoding: chunked"
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
ASKS = ("Connection: keep-alive, Upgrade", "Upgrade: websocket", KEY, "Sec-WebSocket-Version: 13")
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
LIMITS = Deadlines(tunnel_idle_s=30.0, client_write_s=5.0, node_write_s=4.0, head_stream_s=2.0)


def head_of(*fields: str, line: str = "GET /ws HTTP/1.1") -> RequestHead:
    text = "".join(f"{one}\r\n" for one in (line, "Host: gw", *fields))
    head = scan_request(text.encode() + b"\r\n", 0, Limits())
    assert head is not None
    return head


class TunnelBench(Bench):
    def _accept(self, connection: ClientConnection, head: RequestHead) -> Exchange:
        exchange = super()._accept(connection, head)
        exchange.is_upgrade = exchange.wants_stream = is_handshake(head)
        exchange.extra = handshake_fields(head, passthrough=False)
        return exchange

    def handshake(self) -> Exchange:
        return self.ask(b"", *ASKS, method="GET", path="/ws")

    def opened(self) -> FakeNode:
        """The node's end of a tunnel that has just been opened."""
        self.handshake()
        node = self.connect()
        node.take()
        node.say(SWITCH)
        self.transport.take()
        return node


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> TunnelBench:
    bench = TunnelBench(monkeypatch, deadlines=LIMITS)
    monkeypatch.setattr(tunnel_module, "monotonic", bench.clock)
    return bench


# --- What asks for one ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        ("Connection: Upgrade", "Upgrade: websocket", KEY),
        ("Connection: keep-alive", "Connection: upgrade", "Upgrade: h2c, WebSocket", KEY),
    ],
)
def test_a_handshake_is_known(fields: tuple[str, ...]) -> None:
    assert is_handshake(head_of(*fields))


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("GET /ws HTTP/1.1", ()),
        ("GET /ws HTTP/1.1", ("Upgrade: websocket", KEY)),
        ("GET /ws HTTP/1.1", ("Connection: Upgrade", KEY)),
        ("GET /ws HTTP/1.1", ("Connection: Upgrade", "Upgrade: websocket")),
        ("GET /ws HTTP/1.1", ("Connection: Upgrade", "Upgrade: h2c", KEY)),
        ("POST /ws HTTP/1.1", ("Connection: Upgrade", "Upgrade: websocket", KEY)),
        ("GET /ws HTTP/1.0", ("Connection: Upgrade", "Upgrade: websocket", KEY)),
        ("GET /ws HTTP/1.1", ("Connection: Upgrade", "Upgrade: websocket", KEY, "Content-Length: 1")),
        (
            "GET /ws HTTP/1.1",
            ("Connection: Upgrade", "Upgrade: websocket", KEY, "Transfer-Encoding: chunked"),
        ),
    ],
)
def test_what_is_no_handshake_is_a_plain_request(line: str, fields: tuple[str, ...]) -> None:
    assert not is_handshake(head_of(*fields, line=line))


def test_a_clients_key_in_the_protocols_stays_here_unless_it_may_pass() -> None:
    offered = "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.sk-1,openai-beta.realtime-v1"
    head = head_of(*ASKS, offered, "Sec-WebSocket-Protocol: openai-organization.org-1")
    fields = handshake_fields(head, passthrough=False)
    assert [value for name, value in fields if name == b"sec-websocket-protocol"] == [
        b"realtime, openai-beta.realtime-v1"
    ]
    assert (
        b"sk-1"
        in dict(handshake_fields(head_of(*ASKS, offered), passthrough=True))[b"sec-websocket-protocol"]
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (b"Upgrade: websocket\r\nConnection: Upgrade\r\n", True),
        (b"Upgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\n", True),
        (b"Upgrade: h2c\r\nConnection: Upgrade\r\n", False),
        (b"Upgrade: websocket\r\n", False),
    ],
)
def test_only_a_switch_to_websocket_is_an_agreement(fields: bytes, expected: bool) -> None:
    head = scan_response(b"HTTP/1.1 101 X\r\n" + fields + b"\r\n", 0, Limits())
    assert head is not None
    assert agrees(head) is expected
    old = scan_response(b"HTTP/1.0 101 X\r\n" + fields + b"\r\n", 0, Limits())
    assert not agrees(old)


# --- The handshake ----------------------------------------------------------------------------


def test_the_handshake_goes_out_and_the_nodes_agreement_comes_back(bench: TunnelBench) -> None:
    exchange = bench.handshake()
    node = bench.connect()
    sent = node.take().lower()
    assert sent.count(b"connection: upgrade\r\n") == sent.count(b"\r\nupgrade: websocket\r\n") == 1
    assert b"sec-websocket-key: dghlihnhbxbszsbub25jzq==\r\n" in sent
    node.say(SWITCH + b"\x81\x02hi")
    answer = bench.answer()
    assert answer.status == 101
    assert answer.fields["connection"] == "upgrade"
    assert answer.fields["upgrade"] == "websocket"
    assert answer.fields["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert answer.fields["x-fastgw-upstream"] == "a"
    assert "content-length" not in answer.fields and "transfer-encoding" not in answer.fields
    assert answer.rest == b"\x81\x02hi"
    assert bench.exchanges.tunnels == 1
    node.close()
    bench.check_end()
    assert (exchange.status, exchange.note, bench.exchanges.tunnels) == (101, "", 0)


@pytest.mark.parametrize("fault", ["reset", "503", "a switch to something else", "silent"])
def test_a_handshake_moves_to_the_next_node(bench: TunnelBench, fault: str) -> None:
    bench.handshake()
    first = bench.connect()
    if fault == "reset":
        first.reset()
    elif fault == "503":
        first.say(response(503, b"no"))
    elif fault == "silent":
        bench.wait(2.0)
    else:
        first.say(SWITCH.replace(b"websocket", b"chat"))
    second = bench.connect(1)
    second.say(SWITCH)
    answer = bench.answer()
    assert (answer.status, answer.fields["x-fastgw-upstream"], answer.fields["x-fastgw-attempts"]) == (
        101,
        "b",
        "2",
    )
    second.close()
    bench.check_end()


def test_a_node_that_refuses_is_heard(bench: TunnelBench) -> None:
    bench.handshake()
    bench.connect().say(response(426, b"no", "Upgrade: other"))
    assert bench.answer().status == 426
    bench.check_end()


def test_a_plain_request_is_switched_by_no_node(bench: TunnelBench) -> None:
    bench.ask(b"", method="GET", path="/ws")
    bench.connect().say(SWITCH)
    bench.connect(1).say(response(200, b"ok"))
    assert bench.answer().fields["x-fastgw-upstream"] == "b"
    bench.check_end()


# --- The tunnel -------------------------------------------------------------------------------


def test_bytes_pass_both_ways_unread(bench: TunnelBench) -> None:
    exchange = bench.handshake()
    node = bench.connect()
    node.take()
    bench.client.data_received(b"GET / HTTP/1.1\r\n")  # said before the node has agreed
    assert node.take() == b""
    node.say(SWITCH)
    assert node.take() == b"GET / HTTP/1.1\r\n"
    switch = len(bench.transport.take())
    bench.client.data_received(b"\x00\r\n\r\n\xff")
    assert node.take() == b"\x00\r\n\r\n\xff"
    node.say(b"HTTP/1.1 200 OK\r\n\r\n", b"\x00" * 9)
    assert bench.transport.take() == b"HTTP/1.1 200 OK\r\n\r\n" + b"\x00" * 9
    node.close()
    assert (exchange.body.size, exchange.sent_bytes) == (22, switch + 28)
    bench.check_end()


def test_when_the_node_closes_the_client_is_closed_in_order(bench: TunnelBench) -> None:
    node = bench.opened()
    node.say(b"bye")
    node.close()
    assert bench.transport.take() == b"bye"
    assert bench.transport.calls == ["close"]
    bench.client.connection_lost(None)
    bench.check_end()
    assert bench.nodes[0].counters["tcp_failure"] == 0


def test_when_the_client_closes_the_node_is_closed_in_order(bench: TunnelBench) -> None:
    node = bench.opened()
    bench.client.data_received(b"bye")
    bench.client.eof_received()
    assert node.take() == b"bye"
    assert node.transport.calls == ["close"]
    bench.check_end()


def test_a_node_that_resets_is_at_fault(bench: TunnelBench) -> None:
    bench.opened().reset()
    assert bench.live[-1].note == "stream_interrupted"
    assert bench.transport.calls == ["close"]
    assert bench.nodes[0].counters["tcp_failure"] == 1
    bench.check_end()


def test_a_tunnel_on_which_nobody_speaks_is_closed(bench: TunnelBench) -> None:
    node = bench.opened()
    bench.wait(29)
    bench.client.data_received(b"x")
    bench.wait(29)
    node.say(b"y")
    bench.wait(29)
    assert bench.transport.is_open and node.transport.is_open
    bench.wait(2)
    assert (bench.live[-1].note, bench.transport.calls, node.transport.calls) == (
        "tunnel_idle",
        ["close"],
        ["close"],
    )
    bench.check_end()


def test_it_outlasts_the_deadlines_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = TunnelBench(monkeypatch, deadlines=Deadlines(total_s=10, idle_s=5, progress_s=5))
    monkeypatch.setattr(tunnel_module, "monotonic", bench.clock)
    node = bench.opened()
    bench.wait(599)
    assert bench.transport.is_open and node.transport.is_open
    node.close()
    bench.check_end()


def stalled_client(bench: TunnelBench, node: FakeNode) -> None:
    bench.client.pause_writing()
    node.say(b"more")


def stalled_node(bench: TunnelBench, node: FakeNode) -> None:
    node.connection.pause_writing()
    bench.client.data_received(b"more")


@pytest.mark.parametrize(
    ("stall", "limit_s", "note"),
    [(stalled_client, 5, "client_stalled"), (stalled_node, 4, "stream_stalled")],
)
def test_a_side_that_takes_nothing_stops_the_other_and_then_ends_it(
    bench: TunnelBench, stall: Callable[[TunnelBench, FakeNode], None], limit_s: float, note: str
) -> None:
    node = bench.opened()
    stall(bench, node)
    stopped = node.transport if stall is stalled_client else bench.transport
    assert not stopped.is_reading
    (bench.client if stall is stalled_client else node.connection).resume_writing()
    assert stopped.is_reading
    stall(bench, node)
    bench.wait(limit_s - 0.5)
    assert bench.live[-1].note == ""
    bench.wait(1)
    assert bench.live[-1].note == note
    bench.check_end()


def test_the_end_of_a_drain_closes_both_sides(bench: TunnelBench) -> None:
    node = bench.opened()
    bench.exchanges.interrupt_all()
    assert bench.live[-1].note == "shutting_down"
    assert (bench.transport.calls, node.transport.calls) == (["close"], ["close"])
    bench.check_end()


def test_want_of_memory_closes_a_tunnel(bench: TunnelBench) -> None:
    node = bench.opened()
    assert bench.exchanges.shed() == 1
    assert bench.live[-1].note == "overloaded"
    assert (bench.transport.calls, node.transport.calls) == (["close"], ["close"])
    bench.check_end()
