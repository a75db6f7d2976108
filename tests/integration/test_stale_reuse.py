"""Providers close idle connections whenever they like, also in the very moment of the next request."""

from __future__ import annotations

import json
import threading
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from rig import CONFIG, OPENAI, FaultKind, Rig, running
from wire_ends import Client, Ended, Peer, answer, config_for, echoing, get, node, post, serving

UNTOUCHED = {"success": 0, "http_failure": 0, "tcp_failure": 0, "timeout_failure": 0}
QUIET = CONFIG[: CONFIG.index("      checks:")]  # without probes, which would count


def ask_many(rig: Rig, number: int, at_once: int) -> list[str]:
    """So many POSTs, every second a stream; returns what went wrong, and which node answered instead."""
    wrong: list[str] = []
    ids = count()

    def ask() -> None:
        with Client(rig.port) as client:
            while (mark := next(ids)) < number:
                text = f"request-{mark:04d}"
                body: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}
                body["stream"] = bool(mark % 2)
                try:
                    got = client.ask(post("/v1/chat/completions", json.dumps(body).encode()))
                except Ended as end:
                    wrong.append(f"{text}: {end}")
                    return
                if got.status != 200 or not got.is_whole or text[-4:].encode() not in got.body:
                    wrong.append(f"{text}: {got.start} {got.body[:200]!r}")
                elif got["x-fastgw-upstream"] != OPENAI:
                    wrong.append(f"{text}: answered by {got['x-fastgw-upstream']}")

    threads = [threading.Thread(target=ask) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (FaultKind.CLOSE_AFTER, {"after": 1, "announce": False}),
        (FaultKind.CLOSE_AFTER, {"after": 3, "announce": False}),
        (FaultKind.CLOSE_AFTER, {"after": 2, "announce": True}),
        (FaultKind.RESET_BEFORE_HEAD, {"reused": True, "how": "rst"}),
        (FaultKind.RESET_BEFORE_HEAD, {"reused": True, "how": "fin"}),
    ],
    ids=["after 1", "after 3", "announced", "reset on reuse", "end on reuse"],
)
def test_no_caller_sees_a_connection_that_died_between_two_requests(
    ca_dir: Path, kind: FaultKind, parameters: dict[str, Any], loop_kind: str
) -> None:
    with running(ca_dir, QUIET, loop_kind=loop_kind) as rig:
        rig.fault(rig.openai, kind, **parameters)
        assert ask_many(rig, 200, at_once=4) == []
        counts = rig.counts()
        for item in rig.nodes().values():
            assert dict(item.counters) == UNTOUCHED
            assert item.is_available(monotonic())
            assert item.in_flight == 0
        assert counts["uncertain_replays"] == 0
        assert counts["exchanges"] == 0
        assert counts["node_connections"]["busy"] == 0
        if kind is FaultKind.RESET_BEFORE_HEAD:
            assert counts["stale_reuses"] > 10


def test_connections_closed_in_the_moment_of_reuse_harm_nobody(ca_dir: Path, loop_kind: str) -> None:
    """The node closes a little after each answer: before, while and after the next request comes."""

    def script(peer: Peer) -> None:
        peer.send(echoing(peer.request()))
        sleep(peer.number % 20 / 20_000)  # 0 to 1 ms: around the time the next request takes

    with node(script) as upstream, running(ca_dir, config_for(upstream.port), loop_kind=loop_kind) as rig:
        with Client(rig.port) as client:
            for number in range(400):
                body = b"%d" % number
                got = client.ask(post("/v1/files", body))
                assert (got.status, got.body) == (200, b"POST /v1/files " + body)
                assert got["x-fastgw-attempts"] == "1"
        print(f"\n  {rig.counts()['stale_reuses']} of 400 requests met a connection that was dead")
        (only,) = rig.nodes().values()
        assert (dict(only.counters), only.in_flight) == (UNTOUCHED, 0)


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files"])
def test_a_dead_connection_costs_one_replay_on_a_fresh_one_to_the_same_node(
    ca_dir: Path, how: str, path: str, loop_kind: str
) -> None:
    """Nothing was processed, so it makes no difference whether the request may run twice."""
    body = b"{}" + b" " * 100_000

    def script(peer: Peer) -> None:
        request = peer.request()
        peer.send(answer(b'{"data": []}'))
        request = peer.request()
        assert request.connection == 1
        if how == "rst":
            peer.reset()

    with node(script) as first, node(serving(echoing)) as second:
        with running(ca_dir, config_for(first.port, second.port), loop_kind=loop_kind) as rig:
            with Client(rig.port) as client:
                for _ in range(2):
                    got = client.ask(post(path, body))
                    assert (got.status, got.body, got["x-fastgw-attempts"]) == (200, b'{"data": []}', "1")
            assert [message.connection for message in first.asked] == [1, 1, 2]
            assert [message.body for message in first.asked] == [body] * 3
            assert second.asked == []
            counts = rig.counts()
            assert (counts["stale_reuses"], counts["retries"], counts["uncertain_replays"]) == (1, 0, 0)
            assert all(dict(item.counters) == UNTOUCHED for item in rig.nodes().values())


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_an_upload_that_cannot_be_sent_twice_meets_no_dead_connection(
    ca_dir: Path, is_chunked: bool, loop_kind: str
) -> None:
    """It goes out once, so not where a connection may have been closed in this moment."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer(b"done"))
        peer.head()
        peer.reset()

    body = b"x" * 100_000
    upload = post("/v1/files", body)
    if is_chunked:
        upload = b"POST /v1/files HTTP/1.1\r\nHost: gateway.test\r\nTransfer-Encoding: chunked\r\n\r\n"
        upload += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    config = "hold_body_bytes: 10000"
    with (
        node(script) as only,
        running(ca_dir, config_for(only.port, process=config), loop_kind=loop_kind) as rig,
    ):
        with Client(rig.port) as client:
            for request in (get("/"), upload):
                got = client.ask(request)
                assert (got.status, got.body, got["x-fastgw-attempts"]) == (200, b"done", "1")
        assert [(message.connection, message.body) for message in only.asked] == [(1, b""), (2, body)]
        assert rig.counts()["stale_reuses"] == 0


TIRED = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("provider", [None, "openai"], ids=["plain", "llm"])
def test_a_408_to_an_idle_connection_that_crosses_a_request_is_not_its_answer(
    ca_dir: Path, provider: str | None, loop_kind: str
) -> None:
    completion = answer(b'{"choices": [{"message": {"content": "hello"}}]}')

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(completion)
        peer.request()
        peer.send(TIRED if peer.number == 1 else completion)

    with node(script) as first, node(serving(echoing)) as second:
        config = config_for(first.port, second.port, provider=provider)
        with running(ca_dir, config, loop_kind=loop_kind) as rig, Client(rig.port) as client:
            for _ in range(2):
                got = client.ask(post("/v1/chat/completions", b"{}"))
                assert (got.status, got["x-fastgw-attempts"]) == (200, "1")
            assert [message.connection for message in first.asked] == [1, 1, 2]
            assert second.asked == []
            counts = rig.counts()
            assert (counts["stale_reuses"], counts["retries"]) == (1, 0)
            assert all(dict(item.counters) == UNTOUCHED for item in rig.nodes().values())


def test_a_408_on_the_fresh_connection_is_an_answer(ca_dir: Path) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        if peer.number == 1:
            peer.send(answer(b"{}"))
            peer.request()
        peer.send(TIRED)

    with node(script) as only, running(ca_dir, config_for(only.port)) as rig, Client(rig.port) as client:
        assert client.ask(get("/")).status == 200
        assert client.ask(get("/")).status == 408
        assert [message.connection for message in only.asked] == [1, 1, 2]


def test_the_fresh_connection_is_tried_once_and_then_the_next_node(ca_dir: Path) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        if peer.number == 1:
            peer.send(answer(b"{}"))
            peer.request()

    with node(script) as first, node(serving(echoing)) as second:
        with running(ca_dir, config_for(first.port, second.port)) as rig:
            with Client(rig.port) as client:
                assert client.ask(get("/")).body == b"{}"
                got = client.ask(get("/"))
                assert (got.body, got["x-fastgw-attempts"]) == (b"GET / ", "2")
            assert [message.connection for message in first.asked] == [1, 1, 2]
            assert rig.counts()["retries"] == 1
            nodes = list(rig.nodes().values())
            assert dict(nodes[0].counters) == {**UNTOUCHED, "tcp_failure": 1}
            assert dict(nodes[1].counters) == UNTOUCHED


def test_a_request_that_may_have_run_is_not_taken_for_one_that_has_not(ca_dir: Path) -> None:
    """The reused connection ends after the first byte of an answer: somebody was there."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer(b"{}"))
        peer.request()
        peer.send(b"HTTP/1.1 2")

    with node(script) as first, node(serving(echoing)) as second:
        with running(ca_dir, config_for(first.port, second.port)) as rig, Client(rig.port) as client:
            assert client.ask(post("/v1/files", b"x")).status == 200
            assert client.ask(post("/v1/files", b"x")).status == 502
            assert len(first.asked) == 2
            assert second.asked == []
            assert rig.counts()["stale_reuses"] == 0


def test_several_dead_connections_cost_nobody_an_answer(ca_dir: Path, loop_kind: str) -> None:
    together = threading.Barrier(4, timeout=30)

    def script(peer: Peer) -> None:
        request = peer.request()
        if request.target == "/together":
            together.wait()
        peer.send(answer(b"{}"))
        if peer.number <= 4:
            peer.request()
            peer.reset()
        serving(echoing)(peer)

    with node(script) as upstream, running(ca_dir, config_for(upstream.port), loop_kind=loop_kind) as rig:
        clients = [Client(rig.port) for _ in range(4)]
        for client in clients:
            client.send(get("/together"))
        for client in clients:
            assert client.answer().status == 200
        assert rig.counts()["node_connections"]["idle"] == 4
        for client in clients:
            for _ in range(3):
                got = client.ask(post("/v1/files", b"x"))
                assert (got.status, got["x-fastgw-attempts"]) == (200, "1")
            client.close()
        assert 1 <= rig.counts()["stale_reuses"] <= 4


def test_connections_are_reused_when_nothing_is_wrong(ca_dir: Path, loop_kind: str) -> None:
    with running(ca_dir, QUIET, loop_kind=loop_kind) as rig:
        assert ask_many(rig, 200, at_once=4) == []
        assert rig.openai.counters.connections <= 4
        assert rig.counts()["node_connections_reused"] >= 196
