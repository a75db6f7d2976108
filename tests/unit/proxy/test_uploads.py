"""Request bodies that are too large to hold: they go through once, and their requests cannot move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from exchange_bench import COMPLETION, PATH, Bench, FakeNode, json_response

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
