"""The coarse clock."""

import asyncio

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


def test_ticker_comes_back_soon_where_a_sweep_had_more_to_do_than_it_may() -> None:
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
        ticker.start()
        waits = []
        while True:
            assert ticker._timer is not None
            waits.append(ticker._timer.when() - asyncio.get_running_loop().time())
            if not left:
                break
            ticker._timer.cancel()
            ticker._tick()
        ticker.stop()
        assert swept == ["first", "second"] * 3
        return waits

    *short, long = asyncio.run(main())
    assert all(wait < long / 10 for wait in short)


def test_ticker_is_slow_while_nothing_can_have_a_deadline() -> None:
    async def main() -> tuple[float, float]:
        busy = True
        ticker = server.Ticker([], lambda: busy, interval_s=0.05)
        ticker.start()
        assert ticker._timer is not None
        first = ticker._timer.when() - asyncio.get_running_loop().time()
        busy = False
        ticker._timer.cancel()
        ticker._tick()
        second = ticker._timer.when() - asyncio.get_running_loop().time()
        ticker.stop()
        return first, second

    first, second = asyncio.run(main())
    assert second > 5 * first
