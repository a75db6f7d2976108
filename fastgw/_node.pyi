"""What mypy and readers see of _node.pyx; the contracts are in the docstrings there."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final, Self, final

from fastgw._shm import SlotTable

class HealthState(IntEnum):
    """APISIX's four states; the first two are usable."""

    HEALTHY = 0
    MOSTLY_HEALTHY = 1
    MOSTLY_UNHEALTHY = 2
    UNHEALTHY = 3

class Report(IntEnum):
    """What one live outcome or probe said."""

    SUCCESS = 0
    HTTP_FAILURE = 1
    TCP_FAILURE = 2
    TIMEOUT = 3

class Cause(IntEnum):
    """Who made a node unhealthy: live traffic (passive) or probes (active)."""

    NONE = 0
    PASSIVE = 1
    ACTIVE = 2

TRANSITIONS: Final[Mapping[HealthState, frozenset[HealthState]]]

@final
class NodeTable(SlotTable):
    """A block of node records, its own or in memory that it shares with the tables of other workers."""

    def __new__(
        cls, capacity: int = 1024, memory: Any = None, *, worker: int = 0, workers: int = 1
    ) -> Self: ...
    @staticmethod
    def bytes_needed(capacity: int, workers: int = 1) -> int: ...
    def recover(self, worker: int) -> int:
        """Clear up after a dead worker; returns how many requests it had under way."""

@final
class Node:
    """One server of an upstream and its state. The same node may be in several selectors.

    All times are monotonic seconds, 0 = not set.
    """

    host: Final[str]
    port: Final[int]
    name: Final[str]
    weight: Final[int]
    priority: Final[int]
    data: Any
    def __new__(
        cls,
        host: str,
        port: int,
        weight: int = 1,
        priority: int = 0,
        *,
        name: str | None = None,
        max_in_flight: int = 0,
        table: NodeTable | None = None,
        key: str | None = None,
        record_of: Node | None = None,
    ) -> Self: ...
    @property
    def state(self) -> HealthState: ...
    @property
    def status(self) -> str: ...
    @property
    def counters(self) -> dict[str, int]: ...
    @property
    def cause(self) -> Cause: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def max_in_flight(self) -> int: ...
    @max_in_flight.setter
    def max_in_flight(self, limit: int) -> None: ...
    @property
    def picks(self) -> int: ...
    @property
    def outcomes(self) -> tuple[int, ...]: ...
    @property
    def generation(self) -> int: ...
    @property
    def verdict(self) -> int: ...
    @property
    def ejected_until(self) -> float: ...
    @property
    def cooling_until(self) -> float: ...
    @property
    def dead_until(self) -> float: ...
    @property
    def probe_failing(self) -> bool: ...
    @property
    def traffic_failed_at(self) -> float: ...
    @property
    def ramp_from(self) -> float:
        """When it came back after an outage, while its share still grows; 0: it has all of it."""
    def is_usable(self) -> bool: ...
    def is_available(self, now: float, trials: bool = True) -> bool:
        """May be picked at ``now``, if only for a trial, and is below its in-flight limit."""
    def recovery(self, now: float, trials: bool = True) -> float:
        """When it may be picked again, as far as anybody can say; ``now`` if it is available."""
    def is_out_by_probes(self) -> bool: ...
    def is_cooling(self) -> bool: ...
    def is_dead(self) -> bool: ...
    def is_failing(self, now: float, min_requests: int, percent: int) -> bool: ...
    def failure_ratio(self, now: float) -> tuple[int, int]: ...
    def enter(self) -> bool:
        """Keep other workers from changing this node until ``leave``, which is given the result."""
    def leave(self, entered: bool) -> None: ...
    def report(self, kind: int, limit: int) -> int:
        """Count one report; 1 if the node changed between usable and unusable, else 0."""
    def fail(
        self,
        kind: int,
        limit: int,
        enough: bool,
        now: float,
        base_s: float,
        max_s: float,
        spread: float,
    ) -> bool:
        """``report`` a failure, and ``eject_for`` if that was one too many or is ``enough``, in one step."""
    def note_result(self, failed: bool, now: float) -> bool:
        """Count in the 10 s window; True if the record holds anything that a success could clear."""
    def note_traffic_failure(self, now: float) -> None: ...
    def note_probe(self, failing: bool, expires: float) -> None: ...
    def eject(self, until: float, cause: int) -> None: ...
    def eject_for(self, now: float, base_s: float, max_s: float, spread: float) -> float: ...
    def cool(self, until: float) -> None: ...
    def cool_for(
        self, now: float, base_s: float, max_s: float, spread: float, told: float = 0.0
    ) -> float: ...
    def kill(self, until: float) -> None: ...
    def kill_for(self, now: float, base_s: float, max_s: float) -> float: ...
    def revive(self, until: float, now: float) -> bool:
        """Its credential was found good: end the dead term; a trial decides unless it ends at ``until``."""
    def count_forbidden(self) -> int: ...
    def hold_panic(self, now: float, first_s: float, most_s: float) -> None: ...
    def end_panic_pauses(self) -> None: ...
    def note_outage(self, now: float) -> None: ...
    def absolve(self, now: float, ramp_after_s: float = 0.0) -> None: ...
    def heal(self, now: float, ramp_after_s: float = 0.0) -> None: ...
    def release(self, kind: int, lease: float = 0.0, outcome: int = 0) -> None: ...
