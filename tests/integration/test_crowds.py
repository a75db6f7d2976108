"""More clients than there is room for: those who wait lose nothing, and waiting costs nothing."""

from __future__ import annotations

import signal
import socket
import ssl
from pathlib import Path
from time import sleep

import trustme
from gateway_process import gateway_process
from rig import running, wait_until
from scrape import figures
from wire_ends import Client, Message, answer, config_for, echoing, get, node, serving

BUSY = get("/plain", "Content-Length: 1", method="POST")  # a request whose body is on its way
HELD = b"GET /plain HTTP/1.1\r\nHost: gw\r\nX: "  # a head that never ends


def fine(request: Message) -> bytes:
    return answer(b"fine")


def test_whoever_finds_no_room_waits_and_is_served_when_there_is(ca_dir: Path, loop_kind: str) -> None:
    with (
        node(serving(fine)) as upstream,
        running(ca_dir, config_for(upstream.port, process="max_connections: 3"), loop_kind=loop_kind) as rig,
    ):
        held = [Client(rig.port) for _ in range(3)]
        for client in held:
            client.send(BUSY)
        wait_until(lambda: rig.counts()["accept_pauses"] >= 1, "there is no room any more")
        with Client(rig.port) as waiting:
            waiting.send(get("/plain"))
            waiting.sock.settimeout(0.3)
            try:
                assert not waiting.sock.recv(1)
            except TimeoutError:
                pass  # neither served nor refused
            waiting.sock.settimeout(30)
            held.pop().close()
            assert waiting.answer().body == b"fine"
            assert held[0].ask(b"x").status == 200
        for client in held:
            client.close()


def test_who_holds_a_first_request_back_makes_room_for_who_asks(ca_dir: Path) -> None:
    # (On uvloop only: asyncio takes in all that wait outside before it can be told to stop.)
    with (
        node(serving(fine)) as upstream,
        running(ca_dir, config_for(upstream.port, process="max_connections: 5")) as rig,
    ):
        good = Client(rig.port)
        assert good.ask(get("/plain")).status == 200
        slow = [Client(rig.port) for _ in range(30)]
        for client in slow:
            client.send(HELD)
        with Client(rig.port) as late:
            assert late.ask(get("/plain")).status == 200
        assert good.ask(get("/plain")).status == 200  # who had asked before was spared
        assert slow[0].answer().status == 408
        assert slow[0].rest() == b""
        assert rig.counts()["slow_evicted"] >= 25
        for client in [*slow, good]:
            client.close()


def test_idle_connections_make_room_for_new_ones(ca_dir: Path, loop_kind: str) -> None:
    with (
        node(serving(fine)) as upstream,
        running(ca_dir, config_for(upstream.port, process="max_connections: 5"), loop_kind=loop_kind) as rig,
    ):
        clients = []
        for _ in range(20):
            clients.append(Client(rig.port))
            assert clients[-1].ask(get("/plain")).status == 200
        assert clients[0].rest() == b""
        assert clients[-1].ask(get("/plain")).status == 200
        assert rig.counts()["client_connections"] <= 5
        assert rig.counts()["idle_evicted"] >= 15

        def is_told() -> bool:  # there may be one more between the two looks
            evicted = rig.counts()["idle_evicted"]
            return figures(rig)["fastgw_connections_evicted_total"] == {("idle",): evicted, ("slow",): 0}

        wait_until(is_told, "the metric is what was counted")
        for client in clients:
            client.close()


def test_a_client_with_its_share_of_connections_is_told_so(ca_dir: Path, loop_kind: str) -> None:
    config = "max_connections_per_client: 2"
    with (
        node(serving(echoing)) as upstream,
        running(ca_dir, config_for(upstream.port, process=config), loop_kind=loop_kind) as rig,
    ):
        first, second = Client(rig.port), Client(rig.port)
        for client in (first, second):
            assert client.ask(get("/plain")).status == 200
        with Client(rig.port) as third:
            got = third.ask(get("/plain"))
            assert (got.status, got["connection"]) == (429, "close")
            assert b'"gateway_limit"' in got.body
            assert third.rest() == b""
        first.close()
        wait_until(lambda: rig.counts()["client_connections"] == 1, "the first one is gone")
        with Client(rig.port) as fourth:
            assert fourth.ask(get("/plain")).status == 200
        second.close()
        assert len(upstream.asked) == 3


def test_without_descriptors_it_neither_spins_nor_fails_who_is_connected(
    ca_dir: Path, tmp_path: Path
) -> None:
    config = tmp_path / "gateway.yaml"
    errors = tmp_path / "errors"
    with node(serving(fine)) as upstream:
        config.write_text(config_for(upstream.port, process="head_timeout: 100"))
        options = {"config": str(config), "connect_to": [], "ca_file": None, "nofile": 160}
        with gateway_process(options, errors=errors) as process, Client(process.port) as early:
            assert early.ask(get("/plain")).status == 200
            before = process.open_files()
            early.send(HELD)
            crowd = [socket.create_connection(("127.0.0.1", process.port)) for _ in range(300)]
            for sock in crowd:
                sock.sendall(HELD)
            wait_until(lambda: process.open_files() > 100, "the crowd is in")
            used = process.cpu_s()
            sleep(1.0)
            assert process.cpu_s() - used < 0.5  # one that spins takes all of it
            assert process.open_files() < 130  # what is left is for nodes, names and files
            assert early.ask(b"y\r\nConnection: close\r\n\r\n").status == 200
            for sock in crowd:
                sock.close()
            with Client(process.port) as late:
                assert late.ask(get("/plain")).status == 200
            wait_until(lambda: process.open_files() <= before + 2, "all descriptors are free again")
    said = errors.read_text()
    assert "Traceback" not in said


def test_handshakes_that_never_end_leave_descriptors_for_everything_else(
    ca_dir: Path, tmp_path: Path
) -> None:
    issued = trustme.CA().issue_cert("localhost")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(chain)
    key.touch(0o600)
    issued.private_key_pem.write_to_path(key)
    config = tmp_path / "gateway.yaml"
    config.write_text(config_for(1, process=f"tls: {{certificate: {chain}, key: {key}}}", uris="/plain"))
    options = {"config": str(config), "connect_to": [], "ca_file": None, "nofile": 160}
    with gateway_process(options, errors=tmp_path / "errors") as process:
        process.signal(signal.SIGSTOP)
        crowd = [socket.create_connection(("127.0.0.1", process.port)) for _ in range(300)]
        process.signal(signal.SIGCONT)  # all of them at once
        wait_until(lambda: process.open_files() > 90, "the crowd is in")
        with Client(process.admin_port) as operator:
            assert operator.ask(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").status == 200
        assert process.open_files() < 140
        for sock in crowd:
            sock.close()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", process.port), timeout=30) as sock:
            with context.wrap_socket(sock) as late:
                late.sendall(get("/healthz"))
                assert late.recv(100).startswith(b"HTTP/1.1 200 ")
