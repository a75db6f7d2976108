"""Two nodes, one of which always misbehaves: what callers see of it, and what it costs."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from time import monotonic

from .badhost import Plan, Report
from .conversation import Ask, Content
from .faults import AFTER_CONTENT, BEFORE_CONTENT, CALLERS, FAULTS, HARMLESS, Strikes
from .goals import Result, goal
from .load import Clients, Seen, percentile
from .oracle import Verdict, judge
from .stage import Line, Stage, configuration, stage

RATE = 250.0  # requests a second: what two cores carry, with the load and the hosts on them
EPOCH_S = (0.5, 5.0)
# A node that said that it rests, or refused our key, is left alone even where nobody else is there: by its
# own word it misbehaves until it is tried again, after as long as that has gone on, and this.
RESTS_S = 4.5  # an overload that names no time
RESTING = [name for name in BEFORE_CONTENT if FAULTS[name].rests]
FAULTED = (*BEFORE_CONTENT, *HARMLESS, *CALLERS)  # all that X01 plays
REFUSED = "upstream_connect_failed"
PASSING = [name for name in BEFORE_CONTENT if not FAULTS[name].rests]


def faulty_epochs(seed: int, seconds: float, epoch_s: tuple[float, float] = EPOCH_S) -> list[Plan]:
    """At any time one of two hosts misbehaves before its content, the other is at most odd."""
    rng = random.Random(seed)
    plans = []
    passing: list[str] = []  # those whose turn is still to come
    resting: list[str] = []
    at = 0.0
    number = bad = 0
    while at < seconds:
        number += 1
        last_bad, bad = bad, rng.randrange(2)
        # A node that fails all the time is out at once; one that fails now and then is not.
        is_mixed = number % 2 == 0
        rests = number % 5 == 0
        names = rng.sample(PASSING, 6)
        if rests:
            names[:2] = rng.sample(RESTING, 2)
        share = rng.choice((0.05, 0.1, 0.2, 0.4) if is_mixed else (0.1, 0.3, 1.0))
        if not is_mixed:
            # Each in its turn: by chance alone some would never be played.
            turns = resting if rests else passing
            if not turns:
                turns += RESTING if rests else PASSING
                rng.shuffle(turns)
            names = [turns.pop()]
            if FAULTS[names[0]].strikes is Strikes.ACCEPT:
                # New connections are few, and none are made to a node that is still out.
                share, bad = 1.0, 1 - last_bad
        length = rng.uniform(*epoch_s) * (0.4 if rests else 1.0)
        plans.append(Plan(at, bad, tuple(names), share, is_bad=True))
        plans.append(Plan(at, 1 - bad, (*HARMLESS, *CALLERS), rng.choice((0.0, 0.1, 0.3))))
        at += length
        if rests:
            plans.append(Plan(at, bad, is_bad=True))
            at += length + RESTS_S
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


def never_struck(report: Report, log: Mapping[str, Line], faults: Iterable[str]) -> list[str]:
    """Which of these faults no request met."""
    met = {request.fault for request in report.requests} | {link.fault for link in report.connections}
    if any(outcome == REFUSED for line in log.values() for _, outcome, *_ in line.attempts):
        met.add("refuse")  # of which the host sees nothing
    return [name for name in faults if name not in met]


def failover(
    seed: int,
    count: int,
    *,
    rate: float = RATE,
    epoch_s: tuple[float, float] = EPOCH_S,
    most_excused: float = 0.001,
    most_turned_away: float = 0.0,
    most_unmet: int = len(FAULTED),
) -> Result:
    """X01 with so many requests.

    Args:
        most_excused: which share of them both nodes may strike, around a change, or may fail while the
            machine stands still.
        most_turned_away: ... may come when both nodes are out, the good one for what it did before, and all
            trials are taken: a burst of them, where the machine is busy.
        most_unmet: so many of the faults may not have struck at all.
    """
    with stage(2, seed, configuration([("/v1", [0, 1])])) as on:
        start = monotonic() + 0.5
        on.hosts.follow(faulty_epochs(seed, count / rate + 10, epoch_s), start)
        seen = run_load(on, asks(seed, count), rate, start)
        risk = on.metric("fastgw_duplicate_risk_total")
        report = on.report()
        log = on.access_log()
        findings = judge(seen, report, log, 2)
        errors = on.errors
    verdicts = findings.verdicts
    seen_by_hosts = (*report.requests, *report.connections)
    hit = sum(one.fault in BEFORE_CONTENT for one in seen_by_hosts)
    unmet = never_struck(report, log, FAULTED)
    measured: dict[str, int | float] = {
        "requests": len(seen),
        "struck": hit,
        "faults that never struck": len(unmet),
        "failed inexcusably": verdicts[Verdict.FAILED] + verdicts[Verdict.CUT],
        "turned away": verdicts[Verdict.TURNED_AWAY],
        "corrupted": verdicts[Verdict.CORRUPTED] + findings.damaged,
        "told of their own fault": verdicts[Verdict.TOLD],
        "excused": verdicts[Verdict.EXCUSABLE],
        "standstills": len(report.standstills),
        "failed in them": verdicts[Verdict.STANDSTILL],
        "duplicated": findings.duplicates,
        "sent again": findings.replays,
        "reported so": int(risk),
        "p50 ms": round(percentile([one.latency_s for one in seen], 0.5) * 1000, 1),
        "p99 ms": round(percentile([one.latency_s for one in seen], 0.99) * 1000, 1),
    }
    ok = (
        not measured["failed inexcusably"]
        and not measured["corrupted"]
        and measured["excused"] + measured["failed in them"] <= len(seen) * most_excused
        and measured["turned away"] <= len(seen) * most_turned_away
        and findings.duplicates <= findings.replays <= risk <= findings.replays + findings.unseen
        and len(unmet) <= most_unmet
        and not errors
    )
    never = f"never struck: {', '.join(unmet)}"
    return Result(measured, bool(ok), [*findings.notes, *errors, never])


@goal(
    "X01",
    "100,000 requests, one of two nodes always misbehaves before its content: none fails, none is corrupted,"
    " and the metric tells each that may have run twice",
)
def x01(seed: int, scale: float) -> Result:
    # A smaller run has not the time for all of them.
    return failover(seed, round(100_000 * scale), most_unmet=0 if scale >= 1 else len(FAULTED))


def breaks(seed: int, count: int, *, rate: float = RATE, most_early: float = 0.01) -> Result:
    """X03 with so many streams.

    Args:
        most_early: which share of them may be found broken in one read with their first content: they are
            many only where the gateway does not get to run.
    """
    with stage(2, seed, configuration([("/v1", [0, 1])], ejects=False)) as on:
        start = monotonic() + 0.5
        on.hosts.follow([Plan(0.0, host, tuple(AFTER_CONTENT), is_bad=True) for host in (0, 1)], start)
        seen = run_load(on, asks(seed, count, streams=1.0), rate, start)
        interrupted = on.metric("fastgw_streams_interrupted_total")
        report = on.report()
        log = on.access_log()
        errors = on.errors
    findings = judge(seen, report, log, 2)
    hosts: dict[str, list[str]] = defaultdict(list)
    for request in report.requests:
        hosts[request.id].append(request.generation)
    # Broken before the gateway had read any content, which another node may mend: as broken as the first.
    early = [one for one in seen if one.generation == "" and one.status != 200 and one.is_whole]
    honest = sum(
        one.status == 200
        and one.has_error
        and not one.is_whole
        and not one.is_done
        and one.content is not Content.CORRUPT
        and one.generation != ""
        for one in seen
    )
    unmet = never_struck(report, log, AFTER_CONTENT)
    again = sum(bool(one.generation) and hosts[one.ask.id][-1] != one.generation for one in seen)
    measured: dict[str, int | float] = {
        "streams": len(seen),
        "breaks that never struck": len(unmet),
        "ended with an error": honest,
        "failed before their content": len(early),
        "false ends": sum(one.is_lie or one.is_done for one in seen),
        "corrupted": findings.verdicts[Verdict.CORRUPTED] + findings.damaged,
        "second generations": again,
        "reported as interrupted": int(interrupted),
    }
    ok = (
        honest + len(early) == len(seen)
        and honest == interrupted
        and len(early) <= len(seen) * most_early
        and not again
        and not findings.damaged
        and not unmet
        and not errors
    )
    others = [one for one in seen if one.status != 200 or not one.has_error or one.is_whole]
    return Result(measured, bool(ok), [*findings.notes, *map(str, others[:10]), *errors])


@goal(
    "X03",
    "20,000 streams that break after their first content: every client sees an error and an unclean end, no"
    " false [DONE], no second generation",
)
def x03(seed: int, scale: float) -> Result:
    return breaks(seed, round(20_000 * scale))
