"""What a goal is, and where those that a module brings are found.

A module of goals decorates a function of (seed, scale) with ``goal``; ``MODULES`` names the modules.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

MODULES: tuple[str, ...] = ("failover", "leaving", "stale", "abuse", "abuse_bytes", "abuse_streams", "soak")

Figure = int | float | str


@dataclass(frozen=True)
class Result:
    """What came out of one run.

    Attributes:
        measured: the figures by name, as they are printed.
        ok: the goal is reached.
        notes: what somebody who looks for the cause of a miss wants to know, line by line.
    """

    measured: Mapping[str, Figure]
    ok: bool
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Goal:
    """One promise and how it is put to the test.

    Attributes:
        id: as in ``--only``.
        text: what must hold, with its figures.
        run: called with a seed, and a scale of which 1.0 is the full size; the same seed makes the same
            faults and requests, in so far as time does not decide about them.
    """

    id: str
    text: str
    run: Callable[[int, float], Result]


GOALS: dict[str, Goal] = {}


def goal(id: str, text: str) -> Callable[[Callable[[int, float], Result]], Callable[[int, float], Result]]:
    """Register a function as a goal."""

    def register(run: Callable[[int, float], Result]) -> Callable[[int, float], Result]:
        assert id not in GOALS, f"{id} is there twice"
        GOALS[id] = Goal(id, text, run)
        return run

    return register


def all_goals() -> dict[str, Goal]:
    """Every goal of every module, by its id."""
    for name in MODULES:
        importlib.import_module(f".{name}", __package__)
    return dict(sorted(GOALS.items()))
