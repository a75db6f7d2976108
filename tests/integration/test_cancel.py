"""The caller leaves: its provider is told at once, in every phase, and is not blamed for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI
from rig import CONFIG, MESSAGES, OPENAI, FaultKind, Rig, running, wait_until
from wire_ends import Client, Peer, config_for, get, node, post

from fastgw.wire.client_connection import PIPELINE_BYTES

QUIET = CONFIG[: CONFIG.index("      checks:")]  # without probes, which would count
UNTOUCHED = {"success": 0, "http_failure": 0, "tcp_failure": 0, "timeout_failure": 0}
BOUND_S = 30.0  # a hang guard: the goal is 0.1 s, which `make chaos` judges

LEAVING: dict[str, Callable[[Client], None]] = {
    "close": Client.close,
    "reset": Client.reset,
    "half close": Client.half_close,
}


def chat(*, stream: bool, **fields: str) -> bytes:
    body = json.dumps({"model": "gpt-4o", "messages": MESSAGES, "stream": stream}).encode()
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return post("/v1/chat/completions", body, "Content-Type: application/json", *lines)


def assert_nobody_is_blamed(rig: Rig) -> None:
    """No counter, no state, nothing in flight, nothing kept, and no other node was asked."""
    for name, item in rig.nodes().items():
        assert item.counters == UNTOUCHED, name
        assert item.state == 0, name
        assert item.in_flight == 0, name
        assert item.is_available(monotonic()), name
    counts = rig.counts()
    assert counts["exchanges"] == 0
    assert counts["held_bytes"] == 0
    assert counts["retries"] == 0
    assert counts["node_connections"] == {"idle": 0, "busy": 0, "dialling": 0}
    assert rig.deepseek.counters.connections == 0


def leave_and_measure(rig: Rig, leave: Callable[[], object], phase: str) -> None:
    begin = monotonic()
    leave()
    rig.await_(rig.openai.wait_until(lambda: rig.openai.connections_open == 0, BOUND_S))
    print(f"\n  {phase}: the provider saw the end after {1000 * (monotonic() - begin):.1f} ms")
    wait_until(lambda: rig.counts()["exchanges"] == 0, "the exchange ended")
    assert rig.counts()["clients_gone"] == 1
    assert_nobody_is_blamed(rig)


HALF_AN_ERROR = {"body": "HTTP/1.1 500 Broken\r\nContent-Length: 9\r\n\r\n{", "how": "hang"}
# (name, phase of the exchange, fault, its parameters, is it a stream)
PHASES: list[tuple[str, str, FaultKind, dict[str, Any], bool]] = [
    ("connecting", "connecting", FaultKind.HANDSHAKE_HANG, {}, True),
    ("waiting", "waiting", FaultKind.HANG_BEFORE_HEAD, {}, False),
    ("waiting for a stream", "waiting", FaultKind.HANG_BEFORE_HEAD, {}, True),
    ("holding comments", "holding", FaultKind.KEEPALIVE_FLOOD, {"interval_s": 0.01}, True),
    ("holding a role", "holding", FaultKind.STALL, {"after": 0}, True),
    ("holding half a document", "holding", FaultKind.STALL, {}, False),
    ("reading an error", "refused", FaultKind.RAW, HALF_AN_ERROR, False),
]


def phases_of(rig: Rig) -> list[str]:
    """The phase of each live exchange."""
    return [repr(exchange).split(" ")[1] for exchange in rig.call(lambda: list(rig.gateway.exchanges.live))]


@pytest.mark.parametrize(
    ("name", "phase", "kind", "parameters", "stream"), PHASES, ids=[phase[0] for phase in PHASES]
)
@pytest.mark.parametrize("how", LEAVING)
def test_a_caller_who_leaves_before_the_answer_cancels_it(
    ca_dir: Path, name: str, phase: str, kind: FaultKind, parameters: dict[str, Any], stream: bool, how: str
) -> None:
    with running(ca_dir, QUIET) as rig:
        rig.fault(rig.openai, kind, **parameters)
        with Client(rig.port) as client:
            client.send(chat(stream=stream))
            reached = lambda: phases_of(rig) == [phase] and rig.openai.connections_open == 1  # noqa: E731
            wait_until(reached, f"the exchange is {phase}")
            leave_and_measure(rig, lambda: LEAVING[how](client), f"{name}, {how}")
        # The provider was never at fault: the next caller is served by it.
        rig.fault(rig.openai, None)
        with Client(rig.port) as client:
            got = client.ask(chat(stream=stream))
            assert (got.status, got["x-fastgw-upstream"]) == (200, OPENAI)


@pytest.mark.parametrize("how", LEAVING)
def test_a_caller_who_leaves_in_the_middle_of_a_stream_cancels_it(
    ca_dir: Path, how: str, loop_kind: str
) -> None:
    with running(ca_dir, QUIET, loop_kind=loop_kind) as rig:
        with Client(rig.port) as client:
            client.send(chat(stream=True, x_sim_tokens="5000", x_sim_delay_ms="5"))
            client.read_until(b'"content":" hello"')
            leave_and_measure(rig, lambda: LEAVING[how](client), f"mid-stream, {how}")
        (record,) = rig.call(lambda: list(rig.openai.requests))
        assert record.ending == "aborted"
        assert record.progress < 5000
        assert rig.counts()["streams_interrupted"] == 0  # it was not the provider's answer that broke off


@pytest.mark.parametrize("how", LEAVING)
def test_a_caller_who_leaves_without_reading_cancels_a_stream_that_is_stopped(ca_dir: Path, how: str) -> None:
    """Nothing more is written then, so only the client's end can tell."""
    with running(ca_dir, QUIET) as rig:
        with Client(rig.port, receive_buffer=4096) as client:
            client.send(chat(stream=True, x_sim_tokens="100000"))

            def is_stopped() -> bool:
                connections = rig.gateway.server.listeners[0].connections
                return any(connection.is_paused for connection in connections)

            wait_until(lambda: rig.call(is_stopped), "the client's connection is full")
            leave_and_measure(rig, lambda: LEAVING[how](client), f"stopped, {how}")


def test_a_caller_who_leaves_while_the_body_goes_up_cancels_it(ca_dir: Path, loop_kind: str) -> None:
    def script(peer: Peer) -> None:
        message = peer.head()
        peer.body(message)
        assert not message.is_whole

    for leave in (Client.close, Client.reset):
        with node(script) as upstream:
            config = config_for(upstream.port, process="hold_body_bytes: 10000")
            with running(ca_dir, config, loop_kind=loop_kind) as rig:
                with Client(rig.port) as client:
                    client.send(get("/up", "Content-Length: 100000", method="POST") + b"x" * 50_000)
                    wait_until(lambda node=upstream: bool(node.asked), "the node has the head")
                    leave(client)
                assert upstream.gone.wait(BOUND_S)
                wait_until(lambda rig=rig: rig.counts()["exchanges"] == 0, "the exchange ended")
                (only,) = rig.nodes().values()
                assert (only.counters, only.in_flight) == (UNTOUCHED, 0)
                assert rig.counts()["node_connections"] == {"idle": 0, "busy": 0, "dialling": 0}
                assert rig.counts()["held_bytes"] == 0


def test_a_caller_who_leaves_before_the_second_attempt_is_answered_cancels_that_one(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=500)
        rig.fault(rig.deepseek, FaultKind.HANG_BEFORE_HEAD)
        with Client(rig.port) as client:
            client.send(chat(stream=False))
            rig.await_(rig.deepseek.wait_until(lambda: rig.deepseek.counters.requests == 1, BOUND_S))
        rig.await_(rig.deepseek.wait_until(lambda: rig.deepseek.connections_open == 0, BOUND_S))
        wait_until(lambda: rig.counts()["exchanges"] == 0, "the exchange ended")
        nodes = {name: item.counters for name, item in rig.nodes().items()}
        assert nodes["api.deepseek.com:443"] == UNTOUCHED
        assert nodes[OPENAI] == {**UNTOUCHED, "http_failure": 1}
        assert all(item.in_flight == 0 for item in rig.nodes().values())


def test_a_pipelining_caller_who_leaves_gets_nothing_else_done(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig:
        rig.fault(rig.openai, FaultKind.HANG_BEFORE_HEAD)
        with Client(rig.port) as client:
            client.send(3 * chat(stream=False))
            rig.await_(rig.openai.wait_until(lambda: rig.openai.counters.requests == 1, BOUND_S))
            leave_and_measure(rig, client.close, "pipelining")
        assert rig.openai.counters.requests == 1


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_caller_who_sent_more_than_is_read_and_leaves_cancels_the_first(ca_dir: Path, how: str) -> None:
    """What comes during an answer is left in the kernel at some point; the end behind it still counts.

    As long as the kernel has room for it, that is: an end behind more than that stays with the client's.
    """
    with running(ca_dir, QUIET) as rig:
        rig.fault(rig.openai, FaultKind.HANG_BEFORE_HEAD)

        def is_left() -> bool:
            (connection,) = rig.gateway.server.listeners[0].connections
            return connection.reading_stopped

        with Client(rig.port) as client:
            client.send(chat(stream=False))
            rig.await_(rig.openai.wait_until(lambda: rig.openai.counters.requests == 1, BOUND_S))
            client.send(post("/v1/embeddings", b"x" * 300_000)[: PIPELINE_BYTES + 1000])
            wait_until(lambda: rig.call(is_left), "no more is read")
            client.send(b"x" * 10_000)
            leave_and_measure(rig, lambda: LEAVING[how](client), f"more sent, {how}")


def test_a_hundred_callers_who_leave_do_not_eject_the_provider(ca_dir: Path, loop_kind: str) -> None:
    with running(ca_dir, QUIET, loop_kind=loop_kind) as rig:
        rig.fault(rig.openai, FaultKind.HANG_BEFORE_HEAD)
        clients = [Client(rig.port) for _ in range(100)]
        for client in clients:
            client.send(chat(stream=True))
        rig.await_(rig.openai.wait_until(lambda: rig.openai.counters.requests == 100, BOUND_S))
        begin = monotonic()
        for client in clients:
            client.close()
        rig.await_(rig.openai.wait_until(lambda: rig.openai.connections_open == 0, BOUND_S))
        print(f"\n  100 callers: the provider saw the last end after {1000 * (monotonic() - begin):.1f} ms")
        wait_until(lambda: rig.counts()["exchanges"] == 0, "all exchanges ended")
        assert rig.counts()["clients_gone"] == 100
        assert_nobody_is_blamed(rig)


def test_the_sdk_closes_its_stream_and_the_provider_stops(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig:
        headers = {"x-sim-tokens": "5000", "x-sim-delay-ms": "5"}
        with OpenAI(base_url=rig.base_url, api_key="sk-any", max_retries=0) as client:
            messages: Any = MESSAGES
            with client.chat.completions.create(
                model="gpt-4o", messages=messages, stream=True, extra_headers=headers
            ) as stream:
                for _ in zip(range(3), stream, strict=False):
                    pass
                leave_and_measure(rig, stream.close, "openai SDK, stream.close()")


def test_a_cancelled_task_of_the_async_sdk_stops_the_provider(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig:
        rig.fault(rig.openai, FaultKind.HANG_BEFORE_HEAD)

        async def ask_and_cancel() -> None:
            async with AsyncOpenAI(base_url=rig.base_url, api_key="sk-any", max_retries=0) as client:
                messages: Any = MESSAGES
                task = asyncio.create_task(client.chat.completions.create(model="gpt-4o", messages=messages))
                wanted = rig.openai.wait_until(lambda: rig.openai.counters.requests == 1, BOUND_S)
                await asyncio.to_thread(rig.await_, wanted)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        asyncio.run(ask_and_cancel())
        leave_and_measure(rig, lambda: None, "async openai SDK, task.cancel()")
