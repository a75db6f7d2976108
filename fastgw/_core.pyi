"""What mypy and readers see of _core.pyx; the contracts are in the docstrings there."""

from collections.abc import Iterable
from enum import IntEnum
from typing import Any, Final, Self, final

from typing_extensions import disjoint_base

from fastgw._node import TRANSITIONS as TRANSITIONS
from fastgw._node import Cause as Cause
from fastgw._node import HealthState as HealthState
from fastgw._node import Node as Node
from fastgw._node import NodeTable as NodeTable
from fastgw._node import Report as Report

class PickKind(IntEnum):
    """Why a node was picked: available, let in for one trial, or because all nodes are out."""

    NORMAL = 0
    TRIAL = 1
    PANIC = 2

@final
class Tried:
    """The positions in one selector that one exchange has tried, or leaves out for a reason of its own."""

    def add(self, position: int) -> None: ...
    def skip(self, position: int) -> None:
        """Leave a position out although it was not tried: ``len`` does not count it."""
    def copy(self) -> Tried: ...
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
    def settle(self, outcome: int) -> bool:
        """As ``end``, but ``leave`` must follow."""
    def leave(self) -> None: ...

@final
class Selector:
    """Picks nodes: by tier, by weight inside a tier, never one that is out while another is not."""

    nodes: Final[tuple[Node, ...]]
    trials: Final[bool]
    trial_lease_s: Final[float]
    slow_start_s: Final[float]
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
        slow_start_s: float = 0.0,
        stagger: tuple[int, int] | None = None,
    ) -> Self: ...
    def __len__(self) -> int: ...
    def pick(self, now: float, tried: Tried | None = None) -> Node | None:
        """The next node, or None; end it with ``node.release(picked_kind, picked_lease)``."""
    def pick_into(self, pick: Pick, now: float, tried: Tried | None = None) -> bool:
        """As ``pick``, kept in a new Pick and added to ``tried``; False: nothing may be picked."""
    def has_open(self, now: float, tried: Tried | None = None) -> bool:
        """Is there a node that is not out, not full and not left out? A pick takes one of these."""
    def awaits_verdict(self, now: float, tried: Tried | None = None) -> bool:
        """Is it only the requests that try it already which keep a further one off a node that is out?"""
    def next_recovery(self, now: float) -> float:
        """When the first node is expected back; ``now`` if one is available. Panic does not count."""
