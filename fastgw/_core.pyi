"""What mypy and readers see of _core.pyx; the contracts are in the docstrings there."""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any, Final, Self, final

from typing_extensions import disjoint_base

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

class PickKind(IntEnum):
    """Why a node was picked: available, let in for one trial, or because all nodes are out."""

    NORMAL = 0
    TRIAL = 1
    PANIC = 2

TRANSITIONS: Final[Mapping[HealthState, frozenset[HealthState]]]

@final
class NodeTable:
    """A block of node records, its own or a caller's (shared) memory."""

    capacity: Final[int]
    def __new__(cls, capacity: int = 1024, memory: Any = None) -> Self: ...
    @staticmethod
    def bytes_needed(capacity: int) -> int: ...
    def __len__(self) -> int: ...

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
    def is_usable(self) -> bool: ...
    def is_available(self, now: float, trials: bool = True) -> bool:
        """May be picked at ``now``, if only for a trial, and is below its in-flight limit."""
    def is_out_by_probes(self) -> bool: ...
    def is_cooling(self) -> bool: ...
    def is_dead(self) -> bool: ...
    def is_failing(self, now: float, min_requests: int, percent: int) -> bool: ...
    def failure_ratio(self, now: float) -> tuple[int, int]: ...
    def report(self, kind: int, limit: int) -> int:
        """Count one report; 1 if the node changed between usable and unusable, else 0."""
    def note_result(self, failed: bool, now: float) -> bool:
        """Count in the 10 s window; True if the record holds anything that a success could clear."""
    def note_traffic_failure(self, now: float) -> None: ...
    def note_probe(self, failing: bool, expires: float) -> None: ...
    def eject(self, until: float, cause: int) -> None: ...
    def eject_for(self, now: float, base_s: float, max_s: float, spread: float) -> float: ...
    def cool(self, until: float) -> None: ...
    def cool_for(self, now: float, base_s: float, max_s: float, spread: float) -> float: ...
    def kill(self, until: float) -> None: ...
    def kill_for(self, now: float, base_s: float, max_s: float) -> float: ...
    def count_forbidden(self) -> int: ...
    def hold_panic(self, until: float) -> None: ...
    def absolve(self, now: float) -> None: ...
    def heal(self, now: float) -> None: ...
    def release(self, kind: int, lease: float = 0.0, outcome: int = 0) -> None: ...

@final
class Tried:
    """The positions in one selector that one exchange has tried."""

    def add(self, position: int) -> None: ...
    def clear(self) -> None: ...
    def __contains__(self, position: int, /) -> bool: ...
    def __len__(self) -> int: ...

@disjoint_base
class Pick:
    """One request on one node, from ``Selector.pick_into`` until ``end``; dropping it ends it."""

    owner: Any
    # Read-only: they raise AttributeError when set.
    @property
    def node(self) -> Node: ...
    @property
    def position(self) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def outcome(self) -> int: ...
    @property
    def has_answered(self) -> bool: ...
    @property
    def started_at(self) -> float: ...
    @property
    def lease(self) -> float: ...
    @property
    def generation(self) -> int: ...
    @property
    def verdict(self) -> int: ...
    def is_out_of_date(self) -> bool:
        """The node became unusable after this pick, even if it is back since."""
    def is_overtaken(self) -> bool:
        """Anything about the node's standing changed after this pick."""
    def answer(self) -> bool: ...
    def end(self, outcome: int) -> bool: ...

@final
class Selector:
    """Picks nodes: by tier, by weight inside a tier, never one that is out while another is not."""

    nodes: Final[tuple[Node, ...]]
    trials: Final[bool]
    trial_lease_s: Final[float]
    panic_in_flight: Final[int]
    @property
    def picked_position(self) -> int: ...
    @property
    def picked_kind(self) -> int: ...
    @property
    def picked_lease(self) -> float: ...
    def __new__(
        cls,
        nodes: Iterable[Node],
        *,
        panic: str = "trials",
        panic_in_flight: int = 8,
        trials: bool = True,
        trial_lease_s: float = 4.0,
    ) -> Self: ...
    def __len__(self) -> int: ...
    def pick(self, now: float, tried: Tried | None = None) -> Node | None:
        """The next node, or None; end it with ``node.release(picked_kind, picked_lease)``."""
    def pick_into(self, pick: Pick, now: float, tried: Tried | None = None) -> bool:
        """As ``pick``, kept in a new Pick and added to ``tried``; False: nothing may be picked."""
    def next_recovery(self, now: float) -> float:
        """When the first node is expected back; ``now`` if one is available. Panic does not count."""
