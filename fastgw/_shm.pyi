"""What mypy and readers see of _shm.pyx; the contracts are in the docstrings there."""

from collections.abc import Iterable
from enum import IntEnum
from typing import Any, Self, final

from typing_extensions import disjoint_base

class MetricKind(IntEnum):
    """How a series is counted, and what becomes of a dead worker's part in it."""

    COUNTER = 0
    GAUGE = 1
    HISTOGRAM = 2

@disjoint_base
class Block:
    """A piece of memory, its own or a caller's, that up to 64 workers lay out alike."""

    @property
    def capacity(self) -> int: ...
    @property
    def worker(self) -> int: ...
    @property
    def workers(self) -> int: ...

@disjoint_base
class SlotTable(Block):
    """Hands out slots: the same key gives every worker the same one, while any of them uses it."""

    def __len__(self) -> int: ...

@final
class Metrics(Block):
    """Counters, gauges and histograms of all workers, by family and label values."""

    def __new__(
        cls, capacity: int = 4096, memory: Any = None, *, worker: int = 0, workers: int = 1
    ) -> Self: ...
    @staticmethod
    def bytes_needed(capacity: int, workers: int = 1) -> int: ...
    def __len__(self) -> int:
        """How many series are registered, by anybody."""
    def register(
        self, name: str, kind: int, labels: Iterable[str] = (), buckets: Iterable[float] = ()
    ) -> int:
        """The number of a series, for ``add``, ``set`` and ``observe``: the same for the same labels."""
    def add(self, slot: int, amount: int = 1) -> None:
        """Add to a counter, or to this worker's part of a gauge."""
    def set(self, slot: int, value: int) -> None:
        """Set this worker's part of a gauge."""
    def observe(self, slot: int, value: float) -> None:
        """Count a value in a histogram; one that is not a number counts nothing."""
    def buckets(self, name: str) -> tuple[float, ...]:
        """The upper bounds of a family; empty if it is no histogram."""
    def collect(self) -> list[tuple[str, MetricKind, tuple[str, ...], int | tuple[list[int], float]]]:
        """Every series, summed over the workers; a histogram is its buckets' counts and the sum."""
    def recover(self, worker: int) -> None:
        """Clear up after a dead worker: its gauges go, what it has counted stays."""
