"""Faults that last: providers that breathe without speaking, outages under load, limits that stay reached.

Each is run scaled down, and at full size by ``pytest -m long``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from fault_rig import (
    BRIEF_S,
    CHAT,
    TIMED_OUT,
    asked,
    check_health,
    is_whole_chat,
    matrix_config,
    request_bytes,
)
from quick_probes import quick_probes
from raw_http import chat, connected
from rig import (
    CONFIG,
    DEADLINES,
    DEEPSEEK,
    OPENAI,
    FaultKind,
    Rig,
    config_of,
    running,
    wait_until,
    with_deadlines,
)
from wire_ends import Client

both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


# --- No content in time -----------------------------------------------------------------------

SLOW_S = 100.0  # longer than any limit here
WORDLESS: dict[str, tuple[FaultKind, dict[str, Any]]] = {
    "first token much too late": (FaultKind.STALL, {"after": 0, "after_bytes": 0, "duration_s": SLOW_S}),
    "head much too late": (FaultKind.HANG_BEFORE_HEAD, {"duration_s": SLOW_S}),
    "comments or blank lines for ever": (FaultKind.KEEPALIVE_FLOOD, {"interval_s": 0.05}),
}
each_wordless = pytest.mark.parametrize(("kind", "fault"), WORDLESS.values(), ids=list(WORDLESS))


def whole_answer_of_the_backup(
    ca_dir: Path, kind: FaultKind, fault: dict[str, Any], stream: bool, *, limit_s: float
) -> float:
    """Ask once, the first content being waited for that long; returns how long the caller waited, seconds."""
    limits = dict.fromkeys(("head", "head_stream", "first_content", "first_content_stream"), limit_s)
    with running(ca_dir, matrix_config(**limits)) as rig:
        rig.fault(rig.openai, kind, **fault)
        return answered_by_the_backup(rig, stream)


def answered_by_the_backup(rig: Rig, stream: bool) -> float:
    begin = monotonic()
    with Client(rig.port) as client:
        got = client.ask(request_bytes(stream))
    took_s = monotonic() - begin
    assert is_whole_chat(got, stream), got.raw
    assert (got["x-fastgw-upstream"], got["x-fastgw-attempts"]) == (DEEPSEEK, "2")
    assert (len(asked(rig, rig.openai)), len(asked(rig, rig.deepseek))) == (1, 1)
    check_health(rig, OPENAI, TIMED_OUT, begin)
    assert b"keep-alive" not in got.body
    return took_s


@each_wordless
@both_ways
def test_without_content_in_time_the_backup_answers(
    ca_dir: Path, kind: FaultKind, fault: dict[str, Any], stream: bool
) -> None:
    assert whole_answer_of_the_backup(ca_dir, kind, fault, stream, limit_s=BRIEF_S) < SLOW_S / 2


@pytest.mark.long
@each_wordless
@both_ways
def test_without_content_for_five_seconds_the_backup_answers_within_eight(
    ca_dir: Path, kind: FaultKind, fault: dict[str, Any], stream: bool
) -> None:
    assert 4.9 < whole_answer_of_the_backup(ca_dir, kind, fault, stream, limit_s=5.0) < 8


# --- Load -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """One request of a load; times are monotonic seconds."""

    begun_at: float
    ended_at: float
    by: str

    @property
    def waited_s(self) -> float:
        return self.ended_at - self.begun_at


async def served(port: int, number: int) -> Served:
    """One caller: must get a whole answer that echoes its own words. Every second one asks for a stream."""
    mark = f"request-{number:05d}"
    stream = bool(number % 2)
    begin = monotonic()
    async with connected(port) as connection:
        got = await connection.ask("POST", CHAT, body=chat(mark, stream=stream))
    assert (got.status, got.is_whole) == (200, True), got
    assert mark[-5:] in got.text, got
    if stream:
        assert got.text.endswith("data: [DONE]\n\n"), got
    return Served(begin, monotonic(), got.headers["x-fastgw-upstream"])


def load(rig: Rig, rate: float, seconds: float) -> list[Served]:
    """So many callers a second, each on a connection of its own, however long the others wait."""

    async def run() -> list[Served]:
        begin = monotonic()
        callers = []
        async with asyncio.TaskGroup() as group:
            for number in range(round(rate * seconds)):
                await asyncio.sleep(max(0.0, begin + number / rate - monotonic()))
                callers.append(group.create_task(served(rig.port, number)))
        return [caller.result() for caller in callers]

    return asyncio.run(run())


@contextmanager
def broken(rig: Rig, kind: FaultKind, **fault: Any) -> Iterator[None]:
    rig.fault(rig.openai, kind, **fault)
    yield
    rig.fault(rig.openai, None)


# --- Silence: probes find it, and those who wait are told -------------------------------------


def longest_wait_when_the_primary_falls_silent(rig: Rig, rate: float, seconds: float) -> float:
    """The primary goes on accepting connections and says nothing any more, probes included."""
    assert {one.by for one in load(rig, rate, 0.5)} == {OPENAI}
    with broken(rig, FaultKind.HANG_BEFORE_HEAD):
        callers = load(rig, rate, seconds)
    assert {one.by for one in callers} == {DEEPSEEK}
    assert not rig.nodes()[OPENAI].is_usable()
    return max(one.waited_s for one in callers)


# No deadline that a caller would reach; probes may take a second, as they may unless a file says otherwise.
WITH_PROBES = CONFIG[CONFIG.index("      checks:") :].replace("          timeout: 20\n", "")
PATIENT_WITH_PROBES = with_deadlines(matrix_config(), **dict.fromkeys(DEADLINES, 100)) + WITH_PROBES


def test_nobody_waits_for_a_deadline_when_probes_find_silence(ca_dir: Path) -> None:
    # Three probes of a healthy node in a row must not take longer, on a machine however busy.
    config = quick_probes(config_of(PATIENT_WITH_PROBES), 0.02, timeout_s=1.5)
    with running(ca_dir, config) as rig:
        longest_s = longest_wait_when_the_primary_falls_silent(rig, 50, 2.0)
        print(f"\n  the longest wait was {longest_s:.2f} s")
        assert longest_s < 50  # a deadline would be 100


@pytest.mark.long
def test_nobody_waits_five_seconds_for_a_primary_that_falls_silent(ca_dir: Path) -> None:
    with running(ca_dir, PATIENT_WITH_PROBES) as rig:
        longest_s = longest_wait_when_the_primary_falls_silent(rig, 50, 15.0)
        print(f"\n  the longest wait was {longest_s:.2f} s")
        assert longest_s < 5


# --- An outage that ends ----------------------------------------------------------------------


def outage(rig: Rig, rate: float, seconds: float) -> tuple[int, float]:
    """503 for so long: everybody is served. Returns (attempts at the primary, when it ended)."""
    with broken(rig, FaultKind.STATUS, status=503):
        callers = load(rig, 1, 1) + load(rig, rate, seconds)  # one alone finds it out
    ended_at = monotonic()
    assert {one.by for one in callers} == {DEEPSEEK}
    return len(asked(rig, rig.openai)), ended_at


def back_after(rig: Rig, ended_at: float, rate: float) -> float:
    """Go on asking; returns how long after the outage the first answer of the primary came, seconds."""
    last: list[Served] = []

    def is_back() -> bool:
        last[:] = load(rig, rate, 1 / rate)
        return last[-1].by == OPENAI

    wait_until(is_back, "the primary answers again")
    return last[-1].ended_at - ended_at


def test_an_outage_costs_few_attempts_and_ends_by_itself(ca_dir: Path) -> None:
    with running(ca_dir, matrix_config()) as rig:
        begin = monotonic()
        attempts, ended_at = outage(rig, 20, 2.0)
        # One that found it out, and a trial each time it had rested for 3.6 to 4.4 s.
        assert attempts <= 1 + (ended_at - begin) / 3.6
        assert rig.nodes()[OPENAI].cooling_until - ended_at < 4.4
        back_after(rig, ended_at, 20)
        assert rig.nodes()[OPENAI].cooling_until == 0


@pytest.mark.long
def test_a_minute_of_503_costs_few_attempts_and_the_primary_is_back_in_five_seconds(ca_dir: Path) -> None:
    with running(ca_dir, CONFIG) as rig:
        attempts, ended_at = outage(rig, 1, 60)
        back_s = back_after(rig, ended_at, 1)
        print(f"\n  {attempts} attempts; back after {back_s:.2f} s")
        assert attempts <= 18  # of 60 requests
        assert back_s < 5


# --- A limit that stays reached ---------------------------------------------------------------

LIMITS: dict[str, tuple[tuple[str, str], ...]] = {
    "as OpenAI": (),  # with limits of which much remains, refilled in milliseconds
    "no word": (("x-ratelimit-reset-requests", ""), ("x-ratelimit-reset-tokens", "")),
    "milliseconds": (("retry-after-ms", "10"),),
    "refilled at once": (("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "6ms")),
}


def check_limited(rig: Rig, headers: tuple[tuple[str, str], ...], rate: float, seconds: float) -> None:
    """Everybody is served by the other, and at most two attempts a second reach the limited one."""
    with broken(rig, FaultKind.STATUS, status=429, headers=headers):
        begin = monotonic()
        callers = load(rig, 1, 1) + load(rig, rate, seconds)
        took_s = monotonic() - begin
    assert {one.by for one in callers} == {DEEPSEEK}
    attempts = len(asked(rig, rig.openai))
    assert 1 <= attempts <= 1 + 2 * took_s
    assert rig.counts()["retries"] == attempts


@pytest.mark.parametrize("headers", LIMITS.values(), ids=list(LIMITS))
def test_a_limit_that_stays_reached_is_not_run_against(
    ca_dir: Path, headers: tuple[tuple[str, str], ...]
) -> None:
    with running(ca_dir, matrix_config()) as rig:
        check_limited(rig, headers, 50, 1.5)


@pytest.mark.long
@pytest.mark.parametrize("headers", LIMITS.values(), ids=list(LIMITS))
def test_a_limit_that_stays_reached_for_long(ca_dir: Path, headers: tuple[tuple[str, str], ...]) -> None:
    with running(ca_dir, CONFIG) as rig:
        check_limited(rig, headers, 50, 30)
