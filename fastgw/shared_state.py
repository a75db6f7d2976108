"""What the workers of one gateway share: anonymous memory that is made before they are forked.

Nodes with their health, metrics, each worker's sign of life, and the right to probe. A gateway in
one process has the same, for itself alone.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from dataclasses import dataclass, replace
from typing import Self

from ._core import NodeTable
from ._shm import Metrics

MAX_NODES = 1024  # of one configuration
NODE_RECORDS = 2 * MAX_NODES  # a reload builds the new configuration while the old one is in use
METRIC_SERIES = 4096
MAX_WORKERS = 64

CACHE_LINE = 64  # bytes; no two workers write to the same one


class Heartbeats:
    """When each worker last showed that its loop turns: monotonic seconds, one word per worker.

    The clock is the same in all processes of a machine.
    """

    def __init__(self, workers: int) -> None:
        self._words = memoryview(mmap.mmap(-1, workers * CACHE_LINE)).cast("d")
        self.workers = workers

    def beat(self, worker: int, now: float) -> None:
        self._words[worker * CACHE_LINE // 8] = now

    def last(self, worker: int) -> float:
        """0 if there was none yet."""
        return self._words[worker * CACHE_LINE // 8]


class ProbeLock:
    """The right to probe: one process has it until it ends, in whatever way.

    A record lock on a file without a name. Unlike a word in memory it needs nobody to notice that
    its holder has died: the kernel takes it back. A forked process does not inherit it.
    """

    def __init__(self) -> None:
        self._fd = os.memfd_create("fastgw-probes", os.MFD_CLOEXEC)

    def try_acquire(self) -> bool:
        """Take it if it is free; True if this process has it now."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def close(self) -> None:
        os.close(self._fd)


@dataclass(frozen=True, slots=True)
class SharedState:
    """One process's view of what is shared.

    ``nodes`` and ``metrics`` are memory for ``NodeTable`` and ``Metrics``, None: private. Tables
    are made in the process that uses them, never before the fork.
    """

    nodes: mmap.mmap | None = None
    metrics: mmap.mmap | None = None
    heartbeats: Heartbeats | None = None
    probe_lock: ProbeLock | None = None
    worker: int = 0
    workers: int = 1

    @classmethod
    def for_workers(cls, workers: int) -> Self:
        """The memory of a number of workers, as the first of them sees it."""
        return cls(
            mmap.mmap(-1, NodeTable.bytes_needed(NODE_RECORDS, workers)),
            mmap.mmap(-1, Metrics.bytes_needed(METRIC_SERIES, workers)),
            Heartbeats(workers),
            ProbeLock(),
            workers=workers,
        )

    def of_worker(self, worker: int) -> Self:
        return replace(self, worker=worker)

    def node_table(self) -> NodeTable:
        return NodeTable(NODE_RECORDS, self.nodes, worker=self.worker, workers=self.workers)

    def metric_series(self) -> Metrics:
        return Metrics(METRIC_SERIES, self.metrics, worker=self.worker, workers=self.workers)

    def beat(self, now: float) -> None:
        """Show that this worker's loop turns."""
        if self.heartbeats is not None:
            self.heartbeats.beat(self.worker, now)

    def may_probe(self) -> bool:
        """Is it for this worker to probe? Once it is, it stays so."""
        return self.probe_lock is None or self.probe_lock.try_acquire()


class Undertaker:
    """Clears up what dead workers left in the shared memory. For the process that outlives them."""

    def __init__(self, shared: SharedState) -> None:
        self._nodes = shared.node_table()
        self._metrics = shared.metric_series()

    def bury(self, worker: int) -> int:
        """Before its place is taken again; returns how many requests it had under way."""
        self._metrics.recover(worker)
        return self._nodes.recover(worker)
