"""Figures of several rounds: medians, ranges, and ratios inside a round. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

Rounds = dict[int, float]  # the number of the round, and what was measured in it
BASE = "nginx"  # what ratios are to


@dataclass(frozen=True, slots=True)
class Metric:
    """One column: what is measured, in which unit, with how many digits it is shown."""

    key: str
    title: str
    unit: str
    digits: int = 1


@dataclass(slots=True)
class Outcome:
    """What a workload found: for each peer, for each metric, the value of each round.

    The first metric is the one that ratios are made of.
    """

    workload: str
    title: str
    metrics: tuple[Metric, ...]
    note: str = ""
    compares: bool = True  # a ratio to nginx means something
    values: dict[str, dict[str, Rounds]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # peer -> why

    def add(self, peer: str, number: int, found: Mapping[str, float]) -> None:
        """Note one round of one peer."""
        rounds = self.values.setdefault(peer, {})
        for key, value in found.items():
            rounds.setdefault(key, {})[number] = value

    def rounds(self, peer: str, metric: str | None = None) -> Rounds:
        return self.values.get(peer, {}).get(metric or self.metrics[0].key, {})

    def median(self, peer: str, metric: str | None = None) -> float | None:
        return median_of(self.rounds(peer, metric).values())

    def ratio(self, peer: str, base: str = BASE, metric: str | None = None) -> float | None:
        return ratio(self.rounds(peer, metric), self.rounds(base, metric))

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Outcome:
        """The outcome of which ``to_json`` made this. Raises KeyError and TypeError for what is not one."""
        metrics = tuple(Metric(**metric) for metric in kept["metrics"])
        found = cls(kept["workload"], kept["title"], metrics, kept["note"], kept["compares"])
        for peer, columns in kept["peers"].items():
            for key, column in columns.items():
                for number, value in column["rounds"].items():
                    found.add(peer, int(number), {key: value})
        found.skipped.update(kept["skipped"])
        return found

    def to_json(self) -> dict[str, Any]:
        peers = {}
        for peer, metrics in self.values.items():
            peers[peer] = {
                key: {
                    "median": rounded(median_of(rounds.values())),
                    "range": [rounded(value) for value in range_of(rounds.values()) or ()],
                    "ratio_to_nginx": rounded(ratio(rounds, self.rounds(BASE, key))),
                    "rounds": {str(number): rounded(value) for number, value in sorted(rounds.items())},
                }
                for key, rounds in metrics.items()
            }
        return {
            "workload": self.workload,
            "title": self.title,
            "note": self.note,
            "compares": self.compares,
            "metrics": [asdict(metric) for metric in self.metrics],
            "peers": peers,
            "skipped": self.skipped,
        }


def rounded(value: float | None) -> float | None:
    """As it is kept: no digits that no clock has."""
    return value if value is None else round(value, 4)


def median_of(values: Iterable[float]) -> float | None:
    known = list(values)
    return median(known) if known else None


def range_of(values: Iterable[float]) -> tuple[float, float] | None:
    known = list(values)
    return (min(known), max(known)) if known else None


def ratio(rounds: Rounds, base: Rounds) -> float | None:
    """The median of the ratios inside each round that both were measured in.

    A machine that slows down for a minute slows both down: the ratio inside the round hardly moves, where
    the ratio of two medians may.
    """
    return median_of(rounds[number] / base[number] for number in rounds.keys() & base.keys() if base[number])


def difference(rounds: Rounds, base: Rounds) -> float | None:
    """The median of the differences inside each round."""
    return median_of(rounds[number] - base[number] for number in rounds.keys() & base.keys())


def rounds_of(few: int, many: int) -> frozenset[int]:
    """Which of ``many`` rounds are measured when only ``few`` are wanted: spread over the whole time."""
    if few >= many:
        return frozenset(range(many))
    if few == 1:
        return frozenset({many // 2})
    return frozenset(round(place * (many - 1) / (few - 1)) for place in range(few))
