"""What an outage costs the providers, and how they get their traffic back: over real connections."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from time import monotonic

import httpx
import pytest
from raw_http import Answer, Connection, chat
from rig import CONFIG, DEADLINES, DEEPSEEK, MESSAGES, OPENAI, FaultKind, Rig, running, wait_until

QUIET = CONFIG[: CONFIG.index("      checks:")]  # without probes: every request counted is a caller's
# Nodes that stay in use whatever they do: there is nothing but the budget to keep retries back.
NEVER_OUT = (
    QUIET
    + """\
      checks:
        active: {type: tcp, healthy: {interval: 3600}, unhealthy: {interval: 3600}}
        passive: {unhealthy: {http_failures: 0, tcp_failures: 0, timeouts: 0}}
"""
)
TOTAL_S = float(DEADLINES["total"])
PATH = "/v1/chat/completions"


async def at_rate(
    rig: Rig, per_s: float, number: int, model: Callable[[int], str] = lambda _: "gpt-4o"
) -> list[tuple[Answer, float]]:
    """Send so many requests, evenly spread; each answer and how long it took, seconds."""
    idle: list[Connection] = []
    answers: list[tuple[Answer, float]] = []

    async def one(at: int) -> None:
        connection = idle.pop() if idle else await Connection.open(rig.port)
        began = monotonic()
        answer = await connection.ask("POST", PATH, body=chat("hello", model=model(at)))
        answers.append((answer, monotonic() - began))
        if not connection.is_closed:
            idle.append(connection)

    began = monotonic()
    async with asyncio.TaskGroup() as group:
        for at in range(number):
            await asyncio.sleep(max(0.0, began + at / per_s - monotonic()))
            group.create_task(one(at))
    for connection in idle:
        await connection.close()
    return answers


def asked(rig: Rig) -> int:
    """How many requests have reached the providers."""
    return rig.call(lambda: rig.openai.counters.requests + rig.deepseek.counters.requests)


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.long)])
@pytest.mark.parametrize(("status", "config"), [(503, QUIET), (500, NEVER_OUT)], ids=["503", "500 never out"])
def test_two_providers_that_fail_half_of_the_time_are_not_asked_much_more_than_asked_for(
    ca_dir: Path, seconds: int, status: int, config: str
) -> None:
    with running(ca_dir, config) as rig:
        for provider in (rig.openai, rig.deepseek):
            rig.fault(provider, FaultKind.STATUS, status=status, probability=0.5)
        number = 300 * seconds
        answers = asyncio.run(at_rate(rig, 300, number))
        assert len(answers) == number
        ratio = asked(rig) / number
        statuses = Counter(answer.status for answer, _ in answers)
        slowest = max(took for _, took in answers)
        refusals = rig.call(lambda: rig.gateway.exchanges.budget_refusals)
        print(f"{status}: {ratio:.3f} upstream per client, {dict(statuses)}")
        print(f"{refusals} retries were kept back, the slowest answer took {slowest:.2f} s")
    assert ratio <= 1.25
    assert slowest < TOTAL_S
    assert all(answer.is_whole for answer, _ in answers)
    assert set(statuses) <= {200, status}
    # How long nobody is asked is a matter of the clock: a machine that falls behind serves fewer.
    assert statuses[200] > (0.1 if seconds < 60 else 0.4) * number
    if config is NEVER_OUT:
        assert refusals > 0, "it was the budget that held the retries back"
        assert {a.headers["x-should-retry"] for a, _ in answers if a.status != 200} == {"false"}


def test_without_a_budget_every_failure_is_tried_again(ca_dir: Path) -> None:
    config = NEVER_OUT.replace("  dead_reprobe: 1", "  dead_reprobe: 1\n  retry_budget_percent: 0")
    with running(ca_dir, config) as rig:
        for provider in (rig.openai, rig.deepseek):
            rig.fault(provider, FaultKind.STATUS, status=500)
        asyncio.run(at_rate(rig, 300, 200))
        assert asked(rig) == 400


def test_a_limited_model_costs_its_provider_little_and_its_callers_nothing(ca_dir: Path) -> None:
    with running(ca_dir, QUIET) as rig:
        rig.fault(rig.openai, FaultKind.STATUS, status=429, match='"gpt-4o"')
        began = monotonic()
        answers = asyncio.run(at_rate(rig, 50, 200, lambda at: "gpt-4o-mini" if at % 10 == 9 else "gpt-4o"))
        took = monotonic() - began
        used = Counter(answer.headers["x-fastgw-upstream"] for answer, _ in answers)
        at_primary = rig.call(lambda: rig.openai.counters.requests) - used[OPENAI]

        def is_shown() -> bool:
            asyncio.run(at_rate(rig, 50, 1))  # if its term has ended just now, this begins the next
            primary, _ = httpx.get(rig.admin_url + "/admin/upstreams", timeout=60).json()[0]["nodes"]
            return [(one["model"], one["reason"]) for one in primary["models"]] == [
                ("gpt-4o", "rate_limited")
            ]

        wait_until(is_shown, "its limit is shown")
    assert {answer.status for answer, _ in answers} == {200}
    # Those of the other model are served there all the time.
    assert used == {DEEPSEEK: 180, OPENAI: 20}
    # Of this one come the first, those sent before its answer was there, and single trials.
    assert 1 <= at_primary <= 2 * took


@pytest.fixture
def ramping(ca_dir: Path) -> Iterator[Rig]:
    config = QUIET.replace("  dead_reprobe: 1", "  dead_reprobe: 1\n  slow_start: 10")
    with running(ca_dir, config) as rig:
        yield rig


def test_a_provider_that_was_out_for_long_gets_its_traffic_back_step_by_step(ramping: Rig) -> None:
    rig = ramping
    numbers = count()

    def ask() -> str:
        body = {"model": f"gpt-{next(numbers)}", "messages": MESSAGES}
        answer = httpx.post(rig.url + PATH, json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.headers["x-fastgw-upstream"]

    rig.fault(rig.openai, FaultKind.REFUSE)
    began = monotonic()
    wait_until(lambda: ask() == DEEPSEEK and monotonic() - began > 6.0, "a long outage")
    rig.fault(rig.openai, None)
    assert rig.nodes()[OPENAI].ejected_until - monotonic() <= 4.4  # the longest term, and a tenth of it
    wait_until(lambda: ask() == OPENAI, "it is back")
    assert rig.nodes()[OPENAI].ramp_from > 0
    first = Counter(ask() for _ in range(20))
    assert first[DEEPSEEK] > 0, "its share is not whole at once"
    wait_until(lambda: rig.nodes()[OPENAI].ramp_from == 0 or ask() == "", "the ramp is over")
    assert {ask() for _ in range(20)} == {OPENAI}
