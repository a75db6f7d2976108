"""Would failover work right now? What the workers know of each upstream's nodes, put together.

A backup rots in silence: nobody uses it, so nobody sees that its key was revoked. Readiness is
about the node that would take over, not about the one in use, and says why it would not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .. import metrics as figures
from .._core import Node
from ..gateway import Gateway
from ..generation import BuiltUpstream
from ..llm.account import Standing
from ..metrics import STANDINGS

Place = tuple[str, str]  # (label of the upstream, name of the node), as in the metrics
Sample = tuple[str, Any, tuple[str, ...], Any]  # what ``Metrics.collect`` returns for a series

# A check that should have come by now and has not: in intervals, and on top of that seconds.
_LATE_INTERVALS = 2.0
_LATE_S = 60.0

_WORDS = {
    Standing.BAD_KEY: "its key is refused",
    Standing.NO_BALANCE: "its account is empty",
    Standing.UNREACHABLE: "its account could not be checked: no answer",
}


@dataclass(frozen=True, slots=True)
class Account:
    """The last account check of one node; ``checked_at`` is in monotonic seconds."""

    standing: Standing
    checked_at: float
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Readiness:
    """Could another node take over?

    Attributes:
        ready: if the preferred node failed now, another one would answer.
        preferred: the node that the next request goes to first, as far as tiers decide; None: none is up.
        reasons: what keeps each of the other nodes from taking over, or is wrong with the preferred one.
    """

    ready: bool
    preferred: str | None
    reasons: tuple[str, ...]


def accounts_in(samples: Iterable[Sample]) -> dict[Place, Account]:
    """What the worker that checks accounts has found, from the memory that all share."""
    standings: dict[Place, Standing] = {}
    times: dict[Place, float] = {}
    missing: dict[Place, list[str]] = {}
    for name, _, labels, value in samples:
        if name == figures.ACCOUNT_STANDING.name and 0 < value <= len(STANDINGS):
            standings[labels[0], labels[1]] = STANDINGS[value - 1]
        elif name == figures.ACCOUNT_CHECKED_MS.name and value > 0:
            times[labels[0], labels[1]] = value / 1000
        elif name == figures.MODEL_MISSING.name and value > 0:
            missing.setdefault((labels[0], labels[1]), []).append(labels[2])
    return {
        place: Account(standing, times.get(place, 0.0), tuple(missing.get(place, ())))
        for place, standing in standings.items()
    }


def labelled(gateway: Gateway) -> list[tuple[str, BuiltUpstream]]:
    """The upstreams in use, with their labels in the metrics."""
    assert gateway.generation is not None
    built = {built.upstream: built for built in gateway.generation.upstreams.values()}
    return [(label, built[upstream]) for label, upstream in gateway.recorder.upstreams]


def is_up(node: Node, now: float) -> bool:
    """Does it take traffic, not only a trial?"""
    return node.is_usable() and not node.is_dead() and node.cooling_until <= now


def checked_intervals(built: BuiltUpstream) -> dict[str, float]:
    """The nodes whose accounts are checked, by name, with the seconds between two checks."""
    if built.checker is None:
        return {}
    return {checked.node.name: checked.interval_s for checked in built.checker.nodes}


def readiness_of(built: BuiltUpstream, label: str, accounts: dict[Place, Account], now: float) -> Readiness:
    """Whether failover would work in one upstream at ``now``, monotonic seconds."""
    upstream = built.upstream
    nodes = sorted(upstream.nodes, key=lambda node: (-node.priority, node.weight == 0))
    intervals = checked_intervals(built)
    preferred = next((node for node in nodes if is_up(node, now)), None)
    reasons = []
    backups = 0
    for node in nodes:
        problem = _problem(node, accounts.get((label, node.name)), intervals.get(node.name), now)
        if problem:
            reasons.append(f"{node.name}: {problem}")
        elif node is not preferred:
            backups += 1
    if len(nodes) < 2:
        reasons.append("there is no other node")
    if not upstream.retries:
        reasons.append("retries is 0: a request is not moved to another node")
    return Readiness(
        backups > 0 and preferred is not None and upstream.retries > 0,
        preferred.name if preferred is not None else None,
        tuple(reasons),
    )


def _problem(node: Node, account: Account | None, interval_s: float | None, now: float) -> str:
    """Why a node would not answer; empty if nothing is known against it."""
    if interval_s is not None:
        if account is None:
            return "its account has not been checked yet"
        if account.standing is Standing.MODEL_MISSING:
            names = ", ".join(account.missing) or "a mapped one"
            return f"its provider does not offer the model {names}"
        if account.standing in _WORDS:
            return _WORDS[account.standing]
    if node.is_dead():
        return "its key was refused, or its account was empty, when a request was sent"
    if not node.is_usable():
        return "it is out as unhealthy"
    if node.cooling_until > now:
        return f"it is busy for {node.cooling_until - now:.0f} s more"
    if not node.is_available(now):
        return "it has as many requests in flight as it may"
    if interval_s is not None and account is not None:
        age = now - account.checked_at
        if age > _LATE_INTERVALS * interval_s + _LATE_S:
            return f"its account was last checked {age:.0f} s ago"
    return ""
