"""WebSocket connections through the gateway: real clients before real servers, over TLS and without."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from fault_rig import FAILED_TCP, check_health
from openai import OpenAI
from rig import Rig, running, wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol
from wire_ends import Client, Peer, answer, config_for, get, node, serving

from fastgw.balancing.upstream import AttemptOutcome
from fastgw.simulator.certificates import ensure

HOST = "api.openai.com"
ENABLED = "enable_websocket: true"
HANDSHAKE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
SWITCH = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


class WebSocketServer:
    """A provider that speaks WebSocket; it remembers the handshakes it was sent."""

    def __init__(self, serve_one: Callable[[ServerConnection], None], context: ssl.SSLContext | None) -> None:
        self.handshakes: list[Any] = []
        self.gone = threading.Event()

        def handler(connection: ServerConnection) -> None:
            self.handshakes.append(connection.request)
            try:
                serve_one(connection)
            except ConnectionClosed:
                pass
            finally:
                self.gone.set()

        self.server = serve(handler, "127.0.0.1", 0, ssl=context, select_subprotocol=choose, max_size=1 << 24)
        self.port: int = self.server.socket.getsockname()[1]


def unsent_upwards(rig: Rig) -> int:
    """How many bytes of all tunnels' clients wait for their nodes."""
    return rig.call(lambda: sum(live.node.outlet.unsent() for live in rig.gateway.exchanges.live))


def choose(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol("realtime") if "realtime" in offered else None


def echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


@contextmanager
def provider(
    serve_one: Callable[[ServerConnection], None] = echo, context: ssl.SSLContext | None = None
) -> Iterator[WebSocketServer]:
    started = WebSocketServer(serve_one, context)
    thread = threading.Thread(target=started.server.serve_forever, name="provider")
    thread.start()
    try:
        yield started
    finally:
        started.server.shutdown()
        thread.join(30)


@contextmanager
def tunnelled(rig: Rig, path: str = "/ws", **options: Any) -> Iterator[ClientConnection]:
    url = f"ws://127.0.0.1:{rig.port}{path}"
    with connect(url, proxy=None, open_timeout=30, max_size=1 << 24, **options) as socket:
        yield socket


def test_messages_of_every_size_go_both_ways(ca_dir: Path, loop_kind: str) -> None:
    with provider() as upstream:
        config = config_for(upstream.port, route=ENABLED)
        with running(ca_dir, config, loop_kind=loop_kind) as rig, tunnelled(rig) as socket:
            for size in (0, 1, 125, 126, 65_535, 65_536, 3_000_000):
                socket.send(b"\xff" * size)
                assert socket.recv(timeout=30) == b"\xff" * size
            socket.send("text ä")
            assert socket.recv(timeout=30) == "text ä"
            assert socket.ping().wait(30)
            assert rig.counts()["tunnels"] == 1


def tls_config(port: int, **fields: str) -> str:
    """The provider over TLS, with a key of its own."""
    text = config_for(8443, process=f'connect_to: ["{HOST}:8443:127.0.0.1:{port}"]', route=ENABLED)
    key = ', auth: {header: {Authorization: "Bearer sk-of-the-node"}}'
    text = text.replace("scheme: http", "scheme: https")
    return text.replace("host: 127.0.0.1, port: 8443, weight: 1", f"host: {HOST}, port: 8443, weight: 1{key}")


@contextmanager
def tls_provider(ca_dir: Path, serve_one: Callable[[ServerConnection], None]) -> Iterator[WebSocketServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ensure(ca_dir, (HOST, "api.deepseek.com")).chain_file(HOST))
    with provider(serve_one, context) as upstream:
        yield upstream


def realtime(connection: ServerConnection) -> None:
    """As much of the Realtime API as a text conversation needs."""
    connection.send(json.dumps({"type": "session.created", "event_id": "e1", "session": {"id": "s"}}))
    for message in connection:
        if json.loads(message)["type"] == "response.create":
            for word in ("say ", "hello"):
                event = {"type": "response.output_text.delta", "delta": word, "event_id": "e2"}
                connection.send(json.dumps(event))
            connection.send(json.dumps({"type": "response.done", "event_id": "e3", "response": {}}))


def test_the_sdks_realtime_client_talks_to_the_node_with_the_nodes_key(ca_dir: Path) -> None:
    with tls_provider(ca_dir, realtime) as upstream:
        config = tls_config(upstream.port).replace("weight: 1,", "weight: 1, provider: openai,")
        with running(ca_dir, config) as rig:
            text = ""
            with OpenAI(
                base_url=rig.base_url,
                websocket_base_url=f"ws://127.0.0.1:{rig.port}/v1",
                api_key="sk-of-the-client",
                organization="org-of-the-client",
            ) as client:
                with client.realtime.connect(model="gpt-realtime") as connection:
                    connection.response.create()
                    for event in connection:
                        if event.type == "response.output_text.delta":
                            text += event.delta
                        if event.type == "response.done":
                            break
            assert text == "say hello"
            assert upstream.gone.wait(30)
            wait_until(lambda: rig.counts()["exchanges"] == 0, "the tunnel is closed")
        (handshake,) = upstream.handshakes
        assert handshake.path == "/v1/realtime?model=gpt-realtime"
        assert handshake.headers["authorization"] == "Bearer sk-of-the-node"
        assert "of-the-client" not in str(handshake.headers)


def test_large_messages_go_both_ways_over_tls(ca_dir: Path) -> None:
    with tls_provider(ca_dir, echo) as upstream, running(ca_dir, tls_config(upstream.port)) as rig:
        with tunnelled(rig) as socket:
            for size in (1, 70_000, 5_000_000):
                socket.send(b"\xff" * size)
                assert socket.recv(timeout=30) == b"\xff" * size


def test_a_provider_that_leaves_out_the_goodbye_of_tls_is_not_at_fault(ca_dir: Path) -> None:
    with tls_provider(ca_dir, echo) as upstream, running(ca_dir, tls_config(upstream.port)) as rig:
        for _ in range(5):  # of WebSocket's own goodbye it leaves out nothing
            with tunnelled(rig) as client:
                client.send("hello")
                assert client.recv() == "hello"
            wait_until(lambda: rig.counts()["tunnels"] == 0, "it has ended")
        [node] = rig.gateway.generation.nodes.values()
        assert node.counters["tcp_failure"] == 0
        assert node.outcomes[AttemptOutcome.SUCCEEDED] == 5


def test_a_browsers_protocols_reach_the_node_but_its_key_does_not(ca_dir: Path) -> None:
    offered = [Subprotocol("realtime"), Subprotocol("openai-insecure-api-key.sk-of-the-client")]
    with provider() as upstream, running(ca_dir, config_for(upstream.port, route=ENABLED)) as rig:
        with tunnelled(rig, subprotocols=offered, origin="https://app.example") as socket:
            assert socket.subprotocol == "realtime"
        assert upstream.gone.wait(30)
        (handshake,) = upstream.handshakes
        assert handshake.headers["sec-websocket-protocol"] == "realtime"
        assert handshake.headers["origin"] == "https://app.example"


def test_what_connection_names_stays_on_its_hop_in_a_handshake_too(ca_dir: Path) -> None:
    with node(serving(lambda request: answer(b"no"))) as upstream:
        with running(ca_dir, config_for(upstream.port, route=ENABLED)) as rig, Client(rig.port) as client:
            named = ("Connection: Sec-WebSocket-Extensions", "Sec-WebSocket-Extensions: permessage-deflate")
            assert client.ask(get("/ws", *HANDSHAKE, KEY, *named)).status == 200
            (asked,) = upstream.asked
            assert "sec-websocket-extensions" not in asked
            assert asked["sec-websocket-version"] == "13"
            assert asked["connection"] == "Upgrade"


# --- Failover ---------------------------------------------------------------------------------


def test_the_handshake_moves_to_a_node_that_can(ca_dir: Path) -> None:
    with ExitStack() as stack:
        refusing = stack.enter_context(node(serving(lambda request: answer(b"no", status="503 X"))))
        upstream = stack.enter_context(provider())
        rig = stack.enter_context(running(ca_dir, config_for(refusing.port, upstream.port, route=ENABLED)))
        for attempts in ("2", "1"):  # the second time it is known
            with tunnelled(rig) as socket:
                assert socket.response is not None
                assert socket.response.headers["x-fastgw-upstream"] == f"127.0.0.1:{upstream.port}"
                assert socket.response.headers["x-fastgw-attempts"] == attempts
                socket.send("x")
                assert socket.recv(timeout=30) == "x"


def test_a_node_that_refuses_the_handshake_is_heard(ca_dir: Path) -> None:
    with node(serving(lambda request: answer(b"no", status="403 X"))) as refusing:
        with running(ca_dir, config_for(refusing.port, route=ENABLED)) as rig:
            with pytest.raises(InvalidStatus) as caught, tunnelled(rig):
                pass
            assert caught.value.response.status_code == 403


def test_where_it_is_not_enabled_a_handshake_is_refused(ca_dir: Path) -> None:
    with node(serving(lambda request: answer(b"ok"))) as upstream:
        with running(ca_dir, config_for(upstream.port)) as rig, Client(rig.port) as client:
            got = client.ask(get("/ws", *HANDSHAKE, KEY))
            assert got.status == 400
            assert json.loads(got.body)["error"]["code"] == "websocket_not_enabled"
            assert client.ask(get("/ws", "Connection: Upgrade", "Upgrade: h2c")).body == b"ok"
            assert len(upstream.asked) == 1


# --- The end ----------------------------------------------------------------------------------


def test_a_clients_goodbye_and_its_code_reach_the_provider(ca_dir: Path) -> None:
    codes: list[int | None] = []

    def listen(connection: ServerConnection) -> None:
        try:
            connection.recv()
        finally:
            codes.append(connection.protocol.close_code)

    with provider(listen) as upstream, running(ca_dir, config_for(upstream.port, route=ENABLED)) as rig:
        with tunnelled(rig) as socket:
            socket.close(4001, "enough")
        assert upstream.gone.wait(30)
        assert codes == [4001]
        wait_until(lambda: rig.counts()["exchanges"] == 0, "the tunnel is closed")
        assert rig.counts()["node_connections"] == {"idle": 0, "busy": 0, "dialling": 0}


def test_a_providers_goodbye_and_its_code_reach_the_client(ca_dir: Path) -> None:
    with provider(lambda connection: connection.close(4002, "later")) as upstream:
        with running(ca_dir, config_for(upstream.port, route=ENABLED)) as rig, tunnelled(rig) as socket:
            with pytest.raises(ConnectionClosed) as caught:
                socket.recv(timeout=30)
            assert caught.value.rcvd is not None and caught.value.rcvd.code == 4002


def test_a_client_that_vanishes_leaves_no_connection_to_the_provider(ca_dir: Path) -> None:
    with provider() as upstream, running(ca_dir, config_for(upstream.port, route=ENABLED)) as rig:
        with Client(rig.port) as client:
            assert client.ask(get("/ws", *HANDSHAKE, KEY)).status == 101
        assert upstream.gone.wait(30)
        wait_until(lambda: rig.counts()["exchanges"] == 0, "the tunnel is closed")


@pytest.mark.parametrize("leave", [Client.half_close, Client.close])
def test_what_a_client_said_before_it_left_still_reaches_a_slow_provider(
    ca_dir: Path, loop_kind: str, leave: Callable[[Client], None]
) -> None:
    may_read = threading.Event()
    got: list[int] = []

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(SWITCH)
        assert may_read.wait(30)
        got.append(len(peer.rest()))

    with (
        node(script, receive_buffer=8192) as upstream,
        running(ca_dir, config_for(upstream.port, route=ENABLED), loop_kind=loop_kind) as rig,
    ):
        with Client(rig.port) as client:
            assert client.ask(get("/ws", *HANDSHAKE, KEY)).status == 101
            sending = threading.Thread(target=lambda: (client.send(b"u" * 8_000_000), leave(client)))
            sending.start()
            wait_until(lambda: unsent_upwards(rig) > 0, "the provider holds the client up")
            may_read.set()
            sending.join(30)
            assert upstream.gone.wait(30)
        assert got == [8_000_000]
        wait_until(lambda: rig.counts()["exchanges"] == 0, "the tunnel is closed")
        assert rig.counts()["tunnels"] == 0


def test_a_provider_that_takes_nothing_is_not_waited_for_when_the_client_has_left(ca_dir: Path) -> None:
    may_end = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(SWITCH)
        may_end.wait(30)

    # The client must be able to leave before that, however busy the machine is.
    deadlines = "{head: 20, node_write: 5, total: 60}"
    with node(script, receive_buffer=8192) as upstream:
        config = config_for(upstream.port, route=ENABLED, deadlines=deadlines)
        with running(ca_dir, config) as rig:
            with Client(rig.port) as client:
                assert client.ask(get("/ws", *HANDSHAKE, KEY)).status == 101
                client.sock.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    client.send(b"u" * 64_000_000)
            wait_until(lambda: rig.counts()["exchanges"] == 0, "the tunnel is closed")
            assert rig.counts()["node_connections"]["busy"] == 0
            may_end.set()


def test_a_provider_that_dies_ends_the_clients_connection(ca_dir: Path) -> None:
    may_die = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(SWITCH + b"\x81\x02hi")
        may_die.wait(30)
        peer.reset()

    with node(script) as upstream, running(ca_dir, config_for(upstream.port, route=ENABLED)) as rig:
        begin = monotonic()
        with Client(rig.port) as client:
            assert client.ask(get("/ws", *HANDSHAKE, KEY)).status == 101
            assert client.read_until(b"\x81\x02hi")
            may_die.set()
            assert client.sock.recv(100) == b""
        check_health(rig, f"127.0.0.1:{upstream.port}", FAILED_TCP, begin)


def test_a_drain_waits_for_open_connections_and_closes_them_at_its_end(ca_dir: Path) -> None:
    with provider() as upstream, running(ca_dir, config_for(upstream.port, route=ENABLED)) as rig:
        with tunnelled(rig) as socket:
            drained = asyncio.run_coroutine_threadsafe(rig.gateway.drain(5.0), rig.loop)
            wait_until(lambda: rig.call(lambda: rig.gateway.is_draining), "it drains")
            socket.send("still here")
            assert socket.recv(timeout=30) == "still here"
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=30)
            drained.result(30)
