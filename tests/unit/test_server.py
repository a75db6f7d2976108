"""The coarse clock."""

import asyncio

import pytest

from fastgw import server


def test_ticker_judges_nothing_right_after_the_process_stood_still(monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[float] = []

    async def main() -> None:
        ticker = server.Ticker([swept.append], lambda: True)
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
