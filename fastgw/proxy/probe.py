"""Probes: health requests of our own, from start-up on, whether there is traffic or not.

Each probe makes a new connection, so that it sees what a new connection would see: the name, the
port, the certificate. Only the status line of the answer matters.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from random import random
from time import monotonic
from typing import Any

from .._core import Report
from ..balancing.health import Thresholds
from ..balancing.upstream import Upstream
from ..errors import FailureKind, NodeError, NodeTimeout
from ..wire.events import ExchangeEvents
from ..wire.node_connection import NodeConnection
from ..wire.pool import Pool

logger = logging.getLogger("fastgw.probe")


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """How one upstream's nodes are probed; times in seconds, an interval of 0 means never.

    A status in neither set counts as reachable below 500 and as a failure above, if
    ``judges_unlisted``; else it says nothing.
    """

    is_tcp: bool = False
    timeout_s: float = 1.0
    healthy_interval_s: float = 1.0
    unhealthy_interval_s: float = 1.0
    healthy_statuses: frozenset[int] = frozenset()
    unhealthy_statuses: frozenset[int] = frozenset()
    judges_unlisted: bool = True
    concurrency: int = 10


@dataclass(frozen=True, slots=True)
class ProbedNode:
    """A node, the connections to probe it over, and the request to send (b"" for tcp).

    ``settings`` and ``thresholds`` None: those of the upstream.
    """

    node: Any
    pool: Pool
    request: bytes
    settings: ProbeSettings | None = None
    thresholds: Thresholds | None = None


def judge(status: int, settings: ProbeSettings) -> int | None:
    """What a probe's status counts as: a ``Report``, or None for nothing."""
    if status in settings.healthy_statuses:
        return int(Report.SUCCESS)
    if status in settings.unhealthy_statuses:
        return int(Report.HTTP_FAILURE)
    if not settings.judges_unlisted:
        return None
    return int(Report.SUCCESS if status < 500 else Report.HTTP_FAILURE)


class _Answer(ExchangeEvents):
    """Waits for the status line of one probe."""

    def __init__(self, connection: NodeConnection) -> None:
        self.connection = connection
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def on_node_read(self, data: bytes, start: int, end: int, complete: bool) -> None:
        if not self.status.done() and self.connection.head is not None:
            self.status.set_result(self.connection.head.status)

    def on_node_lost(self, error: NodeError) -> None:
        if not self.status.done():
            self.status.set_exception(error)

    def on_node_writable(self) -> None:
        pass


class Prober:
    """Probes every node of one upstream, each in its own rhythm.

    Args:
        on_result: called after each probe with (node, "success" | "failure" | "ignored").
    """

    def __init__(
        self,
        upstream: Upstream,
        nodes: tuple[ProbedNode, ...],
        settings: ProbeSettings,
        on_result: Callable[[Any, str], None] | None = None,
    ) -> None:
        self.upstream = upstream
        self.nodes = nodes
        self.settings = settings
        self.on_result = on_result
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        if self._tasks:  # elected while a reload changed over: both ask for it
            return
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run(probed)) for probed in self.nodes]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _run(self, probed: ProbedNode) -> None:
        try:
            await self._watch(probed)
        except asyncio.CancelledError:
            return  # by ``stop``; kept in its task, the error would be a cycle through the frames

    async def _watch(self, probed: ProbedNode) -> None:
        settings = probed.settings or self.settings
        await asyncio.sleep(random() * min(0.1, settings.healthy_interval_s))  # not all in one instant
        while True:
            usable = probed.node.state <= 1
            interval = settings.healthy_interval_s if usable else settings.unhealthy_interval_s
            if interval <= 0:
                # This kind of probe never runs; the other kind may have its turn later.
                await asyncio.sleep(1.0)
                continue
            async with self._slots:
                begin = monotonic()
                try:
                    report = await self.probe(probed)
                except Exception:  # a bug of ours must not leave a node without probes
                    logger.exception("a probe failed in an unexpected way")
                    report = None
            if report is not None:
                self.upstream.record_probe(probed.node, report, monotonic(), probed.thresholds)
            if self.on_result is not None:
                result = "ignored" if report is None else "success" if report == Report.SUCCESS else "failure"
                self.on_result(probed.node, result)
            if report is not None and report != Report.SUCCESS:
                # Who waits for the verdict on a silent node waits for every timeout, but not for pauses, too.
                interval = max(0.0, interval - (monotonic() - begin))
            await asyncio.sleep(interval)

    async def probe(self, probed: ProbedNode) -> int | None:
        """One probe now: a ``Report``, or None when it says nothing."""
        connection: NodeConnection | None = None
        settings = probed.settings or self.settings
        try:
            async with asyncio.timeout(settings.timeout_s):
                connection = await probed.pool.open(settings.timeout_s)
                if settings.is_tcp:
                    return int(Report.SUCCESS)
                answer = _Answer(connection)
                connection.start(answer, probed.request, None, False)
                status = await answer.status
                return judge(status, settings)
        except TimeoutError:
            return int(NodeTimeout.failure)
        except NodeError as error:
            # A handshake that hangs is no timeout of the answer: APISIX counts it as TCP, and
            # so does a bad head as HTTP.
            return int(error.failure if error.failure != FailureKind.HTTP else Report.HTTP_FAILURE)
        finally:
            if connection is not None:
                connection.abort()


def probe_request(method: str, path: str, host: bytes, fields: tuple[tuple[str, str], ...]) -> bytes:
    """The bytes of a probe."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"{method} {path} HTTP/1.1\r\nConnection: close\r\n{lines}".encode() + b"Host: %b\r\n\r\n" % host
