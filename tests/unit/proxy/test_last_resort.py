"""Requests that come while every node is out, and others find out whether one is back."""

from __future__ import annotations

import pytest
from exchange_bench import BODY, COMPLETION, Answer, Bench, json_response
from fake_transport import FakeTransport

from fastgw._core import Cause
from fastgw.balancing.health import HealthPolicy
from fastgw.errors import ConnectFailed


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """All nodes are out, and a request has the only place that there is for trying one."""
    bench = Bench(monkeypatch, 1, health=HealthPolicy(panic_in_flight=1, ejection_jitter=0.0))
    bench.nodes[0].eject(bench.clock.now + 50.0, Cause.PASSIVE)
    bench.ask()
    return bench


class Second:
    """Another client with a request of its own."""

    def __init__(self, bench: Bench) -> None:
        self.connection = bench.listener.make_connection()
        self.transport = FakeTransport()
        self.connection.connection_made(self.transport)
        lines = ["POST /v1/chat/completions HTTP/1.1", "Host: gw", f"Content-Length: {len(BODY)}"]
        self.connection.data_received("".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + BODY)

    def answer(self) -> Answer:
        return Answer(self.transport.take())


def test_where_all_nodes_are_out_a_request_waits_for_what_another_finds_out(crowded: Bench) -> None:
    second = Second(crowded)
    assert len(crowded.pools[0].tickets) == 1 and second.transport.take() == b""
    node = crowded.connect()
    node.take()
    crowded.wait(0.1)
    node.say(json_response(COMPLETION))
    crowded.wait(0.05)
    assert node.take().startswith(b"POST ")
    node.say(json_response(COMPLETION))
    answer = second.answer()
    assert (answer.status, answer.fields["x-fastgw-attempts"]) == (200, "1")
    crowded.check_end()


def test_it_does_not_wait_for_long(crowded: Bench) -> None:
    second = Second(crowded)
    crowded.wait(0.2)
    assert second.transport.take() == b""
    crowded.wait(0.1)
    answer = second.answer()
    assert (answer.status, answer.error["code"]) == (503, "no_upstream")
    assert answer.fields["x-should-retry"] == "true"
    crowded.connect().say(json_response(COMPLETION))
    assert crowded.answer().status == 200
    crowded.check_end()


def test_it_does_not_wait_where_the_other_has_failed(crowded: Bench) -> None:
    second = Second(crowded)
    crowded.dialled().fail(ConnectFailed("refused"))
    assert crowded.answer().status == 502
    crowded.wait(0.05)
    crowded.dialled().fail(ConnectFailed("refused"))  # the first pause is short: it was tried, too
    assert second.answer().status == 502
    crowded.check_end()


def test_a_client_that_leaves_while_it_waits_leaves_nothing_behind(crowded: Bench) -> None:
    second = Second(crowded)
    second.connection.connection_lost(None)
    crowded.wait(0.1)
    crowded.connect().say(json_response(COMPLETION))
    assert crowded.answer().status == 200
    crowded.check_end()
