"""Two nodes, one of which always misbehaves: what callers see of it, and what it costs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from time import monotonic

from .badhost import Plan
from .conversation import Ask
from .faults import AFTER_CONTENT, BEFORE_CONTENT, FAULTS, HARMLESS
from .goals import Result, goal
from .load import Clients, Seen, percentile
from .oracle import Verdict, judge
from .stage import Stage, configuration, stage

RATE = 250.0  # requests a second: what two cores carry, with the load and the hosts on them
EPOCH_S = (0.5, 5.0)
# A node that has said it rests, or whose key was refused, is left alone with nobody else there: its last
# term is as long as all before it, and a little more.
RESTING_EPOCH_S = (0.5, 2.0)
RESTS_S = (4.5, 2.0)  # after an overload that names no time; after anything else


def faulty_epochs(seed: int, seconds: float) -> list[Plan]:
    """At any time one of two hosts misbehaves before its content, the other is at most odd."""
    rng = random.Random(seed)
    plans = []
    at = 0.0
    bad = 0
    stays_until = 0.0
    while at < seconds:
        if at >= stays_until:
            bad = rng.randrange(2)
        # A node that fails all the time is out at once; one that fails now and then is not.
        is_mixed = rng.random() < 0.6
        names = rng.sample(BEFORE_CONTENT, 6 if is_mixed else 1)
        rests = any(FAULTS[name].rests for name in names)
        length = rng.uniform(*(RESTING_EPOCH_S if rests else EPOCH_S))
        share = rng.choice((0.05, 0.1, 0.2, 0.4) if is_mixed else (0.1, 0.3, 1.0))
        plans.append(Plan(at, bad, tuple(names), share, is_bad=True))
        plans.append(Plan(at, 1 - bad, tuple(HARMLESS), rng.choice((0.0, 0.1, 0.3))))
        at += length
        if rests:
            stays_until = max(stays_until, at + RESTS_S["overloaded" not in names] + length)
    plans.append(Plan(at, 0))
    plans.append(Plan(at, 1))
    return plans


def asks(seed: int, count: int, *, streams: float = 0.7) -> Iterator[Ask]:
    """Requests of all kinds, a few of them large."""
    rng = random.Random(f"asks {seed}")
    for number in range(count):
        size = rng.choice((20, 300, 300, 2000)) if rng.random() < 0.97 else rng.randrange(50_000, 400_000)
        # A model that a node does not know is remembered for a minute: each request has one of its own.
        yield Ask(f"x{seed}-{number}", rng.random() < streams, size, f"gpt-{number}")


def run_load(on: Stage, asked: Iterator[Ask], rate: float, start: float) -> list[Seen]:
    """Put a load on the gateway; blocks until all of it is answered."""

    async def run() -> list[Seen]:
        clients = Clients(on.address)
        seen = await clients.run(asked, rate, start)
        clients.close()
        return seen

    return asyncio.run(run())


def failover(seed: int, count: int, rate: float = RATE) -> Result:
    """X01 with so many requests."""
    with stage(2, seed, configuration([("/v1", [0, 1])])) as on:
        start = monotonic() + 0.5
        on.hosts.follow(faulty_epochs(seed, count / rate + 10), start)
        seen = run_load(on, asks(seed, count), rate, start)
        risk = on.metric("fastgw_duplicate_risk_total")
        report = on.report()
        log = on.access_log()
        findings = judge(seen, report, log)
        errors = on.errors
    verdicts = findings.verdicts
    hit = sum(r.fault in BEFORE_CONTENT for r in report.requests)
    measured = {
        "requests": len(seen),
        "struck": hit,
        "failed inexcusably": verdicts[Verdict.FAILED] + verdicts[Verdict.CUT],
        "corrupted": verdicts[Verdict.CORRUPTED] + findings.damaged,
        "excused": verdicts[Verdict.EXCUSABLE],
        "duplicated": findings.duplicates,
        "sent again": findings.replays,
        "reported so": int(risk),
        "p50 ms": round(percentile([one.latency_s for one in seen], 0.5) * 1000, 1),
        "p99 ms": round(percentile([one.latency_s for one in seen], 0.99) * 1000, 1),
    }
    ok = (
        not measured["failed inexcusably"]
        and not measured["corrupted"]
        and findings.duplicates <= findings.replays == risk
        and not errors
    )
    return Result(measured, bool(ok), [*findings.notes, *errors])


@goal(
    "X01",
    "100,000 requests, one of two nodes always misbehaves before its content: none fails, none is corrupted,"
    " and the metric tells each that may have run twice",
)
def x01(seed: int, scale: float) -> Result:
    return failover(seed, round(100_000 * scale))
