"""The coarse clock."""

import asyncio
from typing import Any

import pytest

from fastgw import server


def test_ticker_judges_nothing_right_after_the_process_stood_still(monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[float] = []

    def sweep(now: float) -> bool:
        swept.append(now)
        return True

    async def main() -> None:
        ticker = server.Ticker([sweep], lambda: True)
        clock = [100.0]
        monkeypatch.setattr(server, "monotonic", lambda: clock[0])
        ticker.start()
        for clock[0] in (100.05, 107.0, 107.05):
            assert ticker._timer is not None
            ticker._timer.cancel()
            ticker._tick()
        ticker.stop()

    asyncio.run(main())
    assert swept == [100.0, 100.05, 107.05]


def watched_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long each timer of the running loop is to wait, seconds; no clock is read."""
    loop, waits = asyncio.get_running_loop(), list[float]()
    call_later = loop.call_later

    def watched(delay: float, *args: Any) -> asyncio.TimerHandle:
        waits.append(delay)
        return call_later(delay, *args)

    monkeypatch.setattr(loop, "call_later", watched)
    return waits


def test_ticker_comes_back_soon_where_a_sweep_had_more_to_do_than_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> list[float]:
        left = [False, False, True]
        swept: list[str] = []

        def first(now: float) -> bool:
            swept.append("first")
            return left.pop(0)

        def second(now: float) -> bool:
            swept.append("second")
            return True

        ticker = server.Ticker([first, second], lambda: True, interval_s=1.0)
        waits = watched_waits(monkeypatch)
        ticker.start()
        lasts = [waits[-1]]
        while left:
            assert ticker._timer is not None
            ticker._timer.cancel()
            ticker._tick()
            lasts.append(waits[-1])
        ticker.stop()
        assert swept == ["first", "second", "first", "first"]  # who was done is not disturbed
        return lasts

    *short, long = asyncio.run(main())
    assert all(wait < long / 10 for wait in short)


def test_ticker_calls_all_in_time_though_one_never_has_done(monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[float] = []

    def has_done(now: float) -> bool:
        swept.append(now)
        return True

    async def main() -> None:
        ticker = server.Ticker([has_done, lambda now: False], lambda: True, interval_s=1.0)
        clock = [100.0]
        monkeypatch.setattr(server, "monotonic", lambda: clock[0])
        ticker.start()
        for clock[0] in (100.1, 100.5, 100.9, 101.0, 101.1):
            assert ticker._timer is not None
            ticker._timer.cancel()
            ticker._tick()
        ticker.stop()

    asyncio.run(main())
    assert swept == [100.0, 101.0]


def test_ticker_is_slow_while_nothing_can_have_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> list[float]:
        busy = True
        ticker = server.Ticker([], lambda: busy, interval_s=0.05)
        waits = watched_waits(monkeypatch)
        ticker.start()
        busy = False
        assert ticker._timer is not None
        ticker._timer.cancel()
        ticker._tick()
        ticker.stop()
        return waits

    first, second = asyncio.run(main())
    assert second > 5 * first
