"""Requests that take time to go out: bodies too large to hold, which go through once, and slow nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from exchange_bench import COMPLETION, PATH, Bench, FakeNode, json_response

from fastgw.balancing.deadlines import Deadlines
from fastgw.errors import ConnectFailed

Make = Callable[..., Bench]

HELD = 100
LIMITS = {"hold_body_bytes": HELD, "hold_total_bytes": 1000, "max_body_bytes": 1 << 20}


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    def bench(*args: Any, **options: Any) -> Bench:
        return Bench(monkeypatch, *args, limits=LIMITS, **options)

    return bench


def begun(bench: Bench, size: int) -> FakeNode:
    """A node that has got the first bytes of an upload of this size, which go on coming."""
    bench.client.data_received(
        f"POST {PATH} HTTP/1.1\r\nHost: gw\r\nContent-Length: {size}\r\n\r\n".encode() + b"x" * (HELD + 1)
    )
    node = bench.connect()
    node.take()
    return node


def more(bench: Bench, size: int) -> None:
    bench.client.data_received(b"x" * size)


def test_an_upload_stays_with_a_node_that_others_have_found_out(make: Make) -> None:
    """It cannot go anywhere else: to give it up would fail what may well succeed."""
    bench = make()
    node = begun(bench, 2000)
    other = bench.upstream.start_attempt(bench.clock.now)
    assert other is not None
    other.failed(2, bench.clock.now, True)
    bench.wait(0.05)
    more(bench, 2000 - HELD - 1)
    bench.wait(0.05)
    node.say(json_response(COMPLETION))
    assert bench.answer().status == 200
    bench.check_end()


def test_an_upload_goes_out_on_a_connection_of_its_own(make: Make) -> None:
    """An idle one may have been closed at this moment: then the upload would be lost."""
    bench = make()
    bench.warm()
    assert len(bench.pools[0].idle) == 1
    node = begun(bench, 2000)
    more(bench, 2000 - HELD - 1)
    node.say(json_response(COMPLETION))
    assert bench.answer().status == 200
    bench.check_end()


def test_an_upload_of_which_nothing_has_come_yet_moves(make: Make) -> None:
    bench = make()
    bench.exchanges.held_bytes = LIMITS["hold_total_bytes"] + 1  # of other requests: nothing more is held
    bench.client.data_received(
        f"POST {PATH} HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    )
    bench.client.data_received(b"5")  # the size of its first chunk
    bench.dialled().fail(ConnectFailed())
    node = bench.connect(1)
    bench.client.data_received(b"\r\nhello\r\n0\r\n\r\n")
    assert node.take().endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    node.say(json_response(COMPLETION))
    assert bench.answer().status == 200
    bench.exchanges.held_bytes -= LIMITS["hold_total_bytes"] + 1
    bench.check_end()


# --- Clocks -----------------------------------------------------------------------------------


def test_the_time_of_a_slow_upload_is_not_the_nodes(make: Make) -> None:
    bench = make(deadlines=Deadlines(head_s=10.0, first_content_s=20.0, total_s=60.0))
    node = begun(bench, HELD + 1 + 5 * 8192)
    for _ in range(5):
        bench.wait(9.0)
        more(bench, 8192)
    bench.wait(9.0)
    node.say(json_response(COMPLETION)[:-1])  # in time, and so is the rest
    bench.wait(5.0)
    node.say(json_response(COMPLETION)[-1:])
    assert bench.answer().status == 200
    assert not any(bench.nodes[0].counters.values())
    bench.check_end()


def test_a_node_that_has_the_whole_upload_has_its_own_time(make: Make) -> None:
    bench = make(deadlines=Deadlines(head_s=10.0, total_s=60.0))
    node = begun(bench, HELD + 1 + 8192)
    bench.wait(20.0)
    more(bench, 8192)
    bench.wait(9.9)
    assert not node.is_cut
    bench.wait(0.1)
    assert bench.answer().status == 504 and node.is_cut
    assert bench.nodes[0].counters["timeout_failure"] == 1
    bench.check_end()


def test_an_upload_that_uses_up_the_requests_time_is_no_fault_of_the_node(make: Make) -> None:
    bench = make(deadlines=Deadlines(head_s=10.0, total_s=25.0))
    node = begun(bench, 1 << 20)
    bench.wait(20.0)
    more(bench, 8192)
    bench.wait(5.0)
    answer = bench.answer()
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout") and node.is_cut
    assert not any(bench.nodes[0].counters.values())
    bench.check_end()


def stalled(bench: Bench, position: int = 0) -> FakeNode:
    """A node that does not take all of the request at once."""
    ticket = bench.dialled(position)
    node = FakeNode(ticket.pool)
    ticket.pool.busy.add(node.connection)
    node.transport.on_write = node.connection.pause_writing
    node.transport.unsent = 1000
    ticket.exchange.on_node_connected(node.connection)
    return node


def test_a_node_that_takes_a_request_slowly_is_no_node_that_takes_nothing(make: Make) -> None:
    bench = make(deadlines=Deadlines(node_write_s=30.0, head_s=40.0))
    bench.ask()
    node = stalled(bench)
    for unsent in (800, 600, 400):
        bench.wait(29.0)
        node.transport.unsent = unsent
        bench.wait(1.0)
    node.connection.resume_writing()
    bench.wait(39.0)  # the whole time for the head is still to come
    node.say(json_response(COMPLETION))
    assert bench.answer().status == 200
    bench.check_end()


def test_a_node_that_takes_no_more_of_a_request_is_left(make: Make) -> None:
    bench = make(deadlines=Deadlines(node_write_s=30.0, head_s=40.0))
    bench.ask()
    node = stalled(bench)
    bench.wait(29.0)
    node.transport.unsent = 800
    bench.wait(1.0)
    bench.wait(29.0)
    assert not node.is_cut
    bench.wait(1.0)
    assert node.is_cut and bench.nodes[0].counters["timeout_failure"] == 1
    bench.connect(1).say(json_response(COMPLETION))
    assert bench.answer().status == 200
    bench.check_end()


def test_a_request_that_goes_out_slowly_leaves_time_for_the_next_node(make: Make) -> None:
    bench = make(deadlines=Deadlines(node_write_s=30.0, head_s=40.0, total_s=100.0))
    bench.ask()
    node = stalled(bench)
    node.transport.unsent = 800
    bench.wait(29.0)
    bench.wait(2.0)
    assert not node.is_cut
    bench.wait(18.9)
    assert not node.is_cut
    bench.wait(0.1)  # half of the time
    assert node.is_cut
    bench.connect(1).say(json_response(COMPLETION))
    assert bench.answer().status == 200
    bench.check_end()
