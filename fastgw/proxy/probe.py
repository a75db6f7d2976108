"""Probes: health requests of our own, from start-up on, whether there is traffic or not.

Each probe makes a new connection, so that it sees what a new connection would see: the name, the
port, the certificate. Only the status line of the answer matters.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from functools import partial
from random import random
from time import monotonic
from typing import Any

from .._core import Report
from ..balancing.health import Thresholds
from ..balancing.upstream import Upstream
from ..errors import BadResponse, FailureKind, NodeError, NodeTimeout
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
    request: bytes = field(repr=False)  # it may have a key
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
    """Waits for the answer to one request of our own: (status, body).

    Args:
        max_bytes: of the body; 0: the status line is enough.
    """

    def __init__(self, connection: NodeConnection, max_bytes: int) -> None:
        self.connection = connection
        self.max_bytes = max_bytes
        self.answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._body = bytearray()

    def on_node_read(self, data: bytes, start: int, end: int, complete: bool) -> None:
        head = self.connection.head
        if self.answer.done() or head is None:
            return
        if self.max_bytes:
            self._body += self.connection.framer.decoded(data)
            if len(self._body) > self.max_bytes:
                self.answer.set_exception(BadResponse("an answer that is too long"))
                return
        if complete or not self.max_bytes:
            self.answer.set_result((head.status, bytes(self._body)))

    def on_node_lost(self, error: NodeError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def on_node_writable(self) -> None:
        pass


async def ask(pool: Pool, request: bytes, timeout_s: float, max_bytes: int = 0) -> tuple[int, bytes]:
    """Send one request over a new connection and close it: (status, body).

    Args:
        request: empty: the connection alone is tried, and the answer is (0, b"").
        max_bytes: of the body, a longer one is an error; 0: only the status line is waited for.
    Raises:
        NodeError: no connection, or no valid answer.
        TimeoutError: it took longer than ``timeout_s``.
    """
    connection: NodeConnection | None = None
    try:
        async with asyncio.timeout(timeout_s):
            connection = await pool.open(timeout_s)
            if not request:
                return 0, b""
            waiting = _Answer(connection, max_bytes)
            connection.start(waiting, request, None, False)
            return await waiting.answer
    finally:
        if connection is not None:
            connection.abort()


class Watch:
    """One task for each of several things, from ``start`` to ``stop``; both may be called at any time."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def watches(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        """What each of the tasks runs; it goes on for ever."""
        raise NotImplementedError

    def start(self) -> None:
        if self._tasks:  # elected while a reload changed over: both ask for it
            return
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._run(watch)) for watch in self.watches()]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    @staticmethod
    async def _run(watch: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await watch()
        except asyncio.CancelledError:
            return  # by ``stop``; kept in its task, the error would be a cycle through the frames


class Prober(Watch):
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
        super().__init__()
        self.upstream = upstream
        self.nodes = nodes
        self.settings = settings
        self.on_result = on_result
        self._slots = asyncio.Semaphore(settings.concurrency)

    def watches(self) -> Iterable[Callable[[], Coroutine[Any, Any, None]]]:
        return [partial(self._watch, probed) for probed in self.nodes]

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
        settings = probed.settings or self.settings
        try:
            status, _ = await ask(probed.pool, b"" if settings.is_tcp else probed.request, settings.timeout_s)
            return int(Report.SUCCESS) if settings.is_tcp else judge(status, settings)
        except TimeoutError:
            return int(NodeTimeout.failure)
        except NodeError as error:
            # A handshake that hangs is no timeout of the answer: APISIX counts it as TCP, and
            # so does a bad head as HTTP.
            return int(error.failure if error.failure != FailureKind.HTTP else Report.HTTP_FAILURE)


def probe_request(method: str, path: str, host: bytes, fields: tuple[tuple[str, str], ...]) -> bytes:
    """The bytes of a probe."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"{method} {path} HTTP/1.1\r\nConnection: close\r\n{lines}".encode() + b"Host: %b\r\n\r\n" % host
