"""Hosts that close idle connections in the very moment in which the next request comes."""

from __future__ import annotations

import asyncio
import random
from time import monotonic

from .badhost import Plan
from .conversation import Ask
from .goals import Result, goal
from .load import Clients, Seen
from .stage import PATIENT, Stage, configuration, stage

LANES = 16
SPACING_S = (
    0.045,
    0.055,
)  # between an answer and the next request, as between an answer and its host's close


async def _lane(on: Stage, number: int, asked: list[Ask]) -> list[Seen]:
    """One caller, whose connection stays with one worker: so the host's does, too."""
    clients = Clients(on.address)
    rng = random.Random(number)
    seen = []
    for ask in asked:
        seen.append(await clients.ask(ask))
        await asyncio.sleep(rng.uniform(*SPACING_S))
    clients.close()
    return seen


LEAST_MET = 0.01  # of all requests


def stale_reuse(seed: int, count: int, *, least_met: float = LEAST_MET, most_rounds: int = 1) -> Result:
    """X04 with so many requests, of which at least a share has to meet a closed connection.

    Args:
        most_rounds: so many times the requests are sent until enough of them did.
    """
    routes = [(f"/lane{lane}", [lane]) for lane in range(LANES)]
    rng = random.Random(seed)

    async def load(on: Stage, turn: int) -> list[Seen]:
        lanes = []
        async with asyncio.TaskGroup() as group:
            for lane in range(LANES):
                asked = [
                    Ask(
                        f"x{seed}-{lane}-{turn}-{number}",
                        rng.random() < 0.5,
                        rng.choice((20, 2000, 100_000) if number % 20 == 0 else (20, 2000)),
                        path=f"/lane{lane}/v1/chat/completions",
                    )
                    for number in range(-(-count // LANES))
                ]
                lanes.append(group.create_task(_lane(on, lane, asked)))
        return [one for lane in lanes for one in lane.result()]

    with stage(LANES, seed, configuration(routes, deadlines=PATIENT)) as on:
        on.hosts.follow([Plan(0.0, host, ("closes_idle",)) for host in range(LANES)], monotonic())
        seen: list[Seen] = []
        for turn in range(most_rounds):
            seen += asyncio.run(load(on, turn))
            met = sum(each["stale_reuses"] for each in on.workers.counts().values())
            if met >= count * least_met:
                break
        attempts = "fastgw_upstream_requests_total"
        blamed = on.metric(attempts) - on.metric(attempts, 'outcome="succeeded"')
        ejected = on.metric("fastgw_node_ejected")
        report = on.report()
        errors = on.errors
    failed = [one for one in seen if not one.is_ok]
    twice = len(report.requests) - len({request.id for request in report.requests})
    measured = {
        "requests": len(seen),
        "met a closed connection": met,
        "on a used one": sum(request.nth > 1 for request in report.requests),
        "failed": len(failed),
        "duplicated": twice,
        "blamed on a node": int(blamed),
        "ejected": int(ejected),
    }
    # If hardly any request met a closed connection, nothing was put to the test.
    is_tried = met >= count * least_met
    ok = is_tried and not (failed or twice or blamed or ejected or errors)
    return Result(measured, ok, [*map(str, failed[:10]), *errors])


@goal(
    "X04",
    "5,000 POSTs in the moments in which their idle connections are closed: none fails or runs twice, no node"
    " is blamed",
)
def x04(seed: int, scale: float) -> Result:
    return stale_reuse(seed, round(5_000 * scale))
