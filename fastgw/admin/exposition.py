"""``GET /metrics``: what was counted, and the state of the nodes, in the words of Prometheus.

The library that writes the format is loaded by the first scrape, in a thread, and the answer is
written in pieces with a turn of the loop after each: no request waits for a whole scrape.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, chain
from time import monotonic
from typing import TYPE_CHECKING, Any

from .. import metrics as figures
from .._shm import MetricKind
from .._version import __version__
from ..gateway import Gateway
from ..llm.account import Standing
from ..metrics import Family
from .readiness import Account, Place, accounts_in, checked_intervals, is_up, labelled, readiness_of

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

PIECE = 100  # samples written in one turn of the loop, or the one histogram that has more

Row = tuple[tuple[str, ...], Any]  # label values; a number, or a histogram's counts and sum


@dataclass(frozen=True, slots=True)
class _Collected:
    """What an encoder takes for a registry."""

    metric: Metric

    def collect(self) -> Iterator[Metric]:
        yield self.metric


async def render(gateway: Gateway, accept: str) -> tuple[bytes, bytes]:
    """All metrics as (body, content type), in the format that ``accept``, a field's value, asks for."""
    process = await asyncio.to_thread(_process)
    from prometheus_client.exposition import choose_encoder

    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is no number
        encode, content_type = choose_encoder("")
    end = b""
    text = bytearray()
    previous = ""
    for metric in chain(_metrics(gateway), process):
        lines = encode(_Collected(metric))
        if lines.endswith(b"# EOF\n"):
            end = b"# EOF\n"
            lines = lines[: -len(end)]
        if metric.name == previous:
            while lines.startswith(b"#"):  # said before its first piece
                lines = lines[lines.index(b"\n") + 1 :]
        previous = metric.name
        text += lines
        await asyncio.sleep(0)
    return bytes(text + end), content_type.encode()


def _process() -> list[Metric]:
    """``process_*`` of this process; run in a thread, for it looks at every open file."""
    import prometheus_client.exposition  # noqa: F401  # the slow part of the first scrape
    from prometheus_client.process_collector import ProcessCollector

    return list(ProcessCollector(registry=None).collect())


def _metrics(gateway: Gateway) -> Iterator[Metric]:
    """Every metric of our own, the large ones in pieces of one name; the figures are of one moment."""
    gateway.count_for_metrics()
    samples = gateway.recorder.metrics.collect()
    rows: dict[str, list[Row]] = {}
    for name, _, labels, value in samples:  # what all workers have counted
        rows.setdefault(name, []).append((labels, value))
    rows |= _read(gateway, accounts_in(samples), monotonic())
    failed = rows[figures.RELOAD_FAILED.name]
    rows[figures.RELOAD_SUCCESSFUL.name] = [((), int(not any(value for _, value in failed)))]
    for family in (*figures.COUNTED, *figures.READ):
        found = rows.get(family.name, [])
        for start, end in _pieces(family, len(found)):
            yield _metric(family, found[start:end])


def _read(gateway: Gateway, accounts: dict[Place, Account], now: float) -> dict[str, list[Row]]:
    """What the nodes' records and the checks of their accounts say now: all workers see the same."""
    up: list[Row] = []
    ejected: list[Row] = []
    dead: list[Row] = []
    cooling: list[Row] = []
    ready: list[Row] = []
    good: list[Row] = []
    checked: list[Row] = []
    wall = time.time() - now
    for label, built in labelled(gateway):
        intervals = checked_intervals(built)
        for name, node in {node.name: node for node in built.upstream.nodes}.items():
            labels = (label, name)
            up.append((labels, int(is_up(node, now))))
            ejected.append((labels, int(not node.is_usable())))
            dead.append((labels, int(node.is_dead())))
            cooling.append((labels, max(0.0, node.cooling_until - now)))
            account = accounts.get(labels)
            if name in intervals and account is not None and account.standing is not Standing.UNKNOWN:
                good.append((labels, int(account.standing is Standing.GOOD)))
                checked.append((labels, round(wall + account.checked_at, 3)))
        ready.append(((label,), int(readiness_of(built, label, accounts, now).ready)))
    return {
        figures.NODE_UP.name: up,
        figures.NODE_EJECTED.name: ejected,
        figures.NODE_DEAD.name: dead,
        figures.NODE_COOLING.name: cooling,
        figures.BACKUP_READY.name: ready,
        figures.ACCOUNT_GOOD.name: good,
        figures.ACCOUNT_CHECKED.name: checked,
        figures.BUILD_INFO.name: [((__version__,), 1)],
    }


def _pieces(family: Family, rows: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the rows of each piece; one that is empty if there is none."""
    step = max(1, PIECE // (len(family.buckets) + 3 if family.buckets else 1))
    for start in range(0, max(rows, 1), step):
        yield start, min(rows, start + step)


def _metric(family: Family, rows: list[Row]) -> Metric:
    from prometheus_client import metrics_core

    if family.kind is MetricKind.HISTOGRAM:
        histogram = metrics_core.HistogramMetricFamily(family.name, family.help, labels=family.labels)
        bounds = [*map(repr, family.buckets), "+Inf"]
        for labels, (counts, total) in rows:
            histogram.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total)
        return histogram
    kind = (
        metrics_core.CounterMetricFamily
        if family.kind is MetricKind.COUNTER
        else metrics_core.GaugeMetricFamily
    )
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, value in rows:
        metric.add_metric(labels, value)
    return metric
