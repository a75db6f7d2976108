"""The goals of abuse, small and seeded, without judging times: those are for ``make chaos``."""

from __future__ import annotations

import pytest
import uvloop
from chaos.abuse import SlowHeadsRun, crowd_without_descriptors
from chaos.abuse_bytes import MOST_GROWTH, MOST_MEMORY, measured
from chaos.abuse_streams import stream_through, streams_of
from chaos.soak import slope


@pytest.mark.timeout(300)  # a hang guard, as below
@pytest.mark.parametrize("room", [4000, 800], ids=["with room", "without room"])
def test_a_thousand_slow_heads_keep_no_good_request_out(room: int) -> None:
    run = SlowHeadsRun(2, 1000, per_second=100)
    process = f"max_connections: {room}, head_timeout: 2"
    uvloop.run(
        run.play(
            process=process,
            nofile=6000,
            calm_s=1,
            attack_s=4,
            opens_per_second=1000,
            interval_s=1,
            enough=501,
            until=("opened", "ended") if room > 1000 else ("ended",),
        )
    )
    assert run.failures == []
    assert len(run.under) >= 400
    assert run.attack["ended"] > 500
    assert run.attack["answered"] > 0.9 * run.attack["ended"]  # with 408, and not just cut off
    assert run.growth <= 1000 * 64 * 1024  # what the first of everything takes counts for more here
    if room > 1000:
        assert run.attack["most"] == 1000
        assert run.counts["idle_evicted"] == run.counts["slow_evicted"] == 0
    else:
        assert run.counts["slow_evicted"] > 0


@pytest.mark.timeout(300)
def test_expensive_bytes_take_no_memory() -> None:
    _, costs = uvloop.run(measured(0.02))
    assert len(costs) > 30
    for name, cost in costs.items():
        assert cost.growth <= MOST_GROWTH, (name, cost)
        assert cost.memory <= MOST_MEMORY, (name, cost)


def test_a_gateway_without_descriptors_lives_and_can_be_looked_after() -> None:
    found, _ = crowd_without_descriptors(256, 1000, 0.3)
    assert found["live"] == 5
    assert found["status_after"] == 200
    assert found["most_descriptors"] < 256


@pytest.mark.parametrize("kind", streams_of(1.0))
def test_a_flood_is_relayed_to_the_byte_in_bounded_memory(kind: str) -> None:
    pieces, how, most_growth = streams_of(0.02)[kind]
    run = uvloop.run(stream_through(pieces, **how))
    assert run.exact == run.streams
    assert run.growth <= most_growth


def test_a_slope_is_that_of_most_points() -> None:
    climbing = [(at, at * 10) for at in range(0, 10_000, 100)]
    climbing[50] = (5000, 10**9)
    assert slope(climbing) == pytest.approx(10 * 100_000 / 2**20, rel=0.01)
    assert slope([(0, 5), (1000, 5)]) == slope([(0, 5)]) == 0.0
