"""``python -m benchmarks.gate``: user instructions and system calls per request, against ``limits.toml``.

There is no clock in these figures, so they are the same on a busy machine. Ends with 0 if every figure is
within its limit, 1 if one is not, 2 if a figure could not be counted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .bench import Failed
from .counting import Count, instructions, system_calls, works
from .peers.fastgw import Fastgw
from .processes import Processes
from .upstreams import Upstreams

LIMITS = Path(__file__).resolve().parent / "limits.toml"
REQUESTS, CHUNKS = 2000, 60
TRIES = 3  # how many chunks one wake-up finds, and whether one more connection is needed, is not ours to say
COUNTERS = {"instructions": instructions, "system_calls": system_calls}
TITLES = {"instructions": "user instructions", "system_calls": "system calls"}


@dataclass(frozen=True, slots=True)
class Line:
    """One figure beside its limit."""

    kind: str
    workload: str
    unit: str
    count: Count
    limit: float

    @property
    def is_within(self) -> bool:
        return self.count.per_unit <= self.limit

    def __str__(self) -> str:
        digits = 0 if self.limit >= 100 else 2
        figure, limit = (
            f"{value:,.{digits}f}".replace(",", " ") for value in (self.count.per_unit, self.limit)
        )
        share = (self.count.per_unit / self.limit - 1) * 100
        word = "ok" if self.is_within else f"above the limit by {share:.0f} %"
        title = f"{self.workload}: {TITLES[self.kind]}/{self.unit}"
        calls = ", ".join(f"{name} {share:.2f}" for name, share in self.count.by_name.items())
        return f"{title:36}{figure:>10}   limit {limit:>8}   {word}" + (f"   ({calls})" if calls else "")


def read_limits(text: str) -> dict[str, dict[str, float]]:
    """Kind -> workload -> limit. Raises ValueError for what is no such table."""
    limits = tomllib.loads(text)
    if limits.keys() != COUNTERS.keys():
        raise ValueError(f"limits.toml has the tables {', '.join(COUNTERS)}")
    for kind, table in limits.items():
        for name, value in table.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ValueError(f"limits.toml: {kind}.{name} is a number above 0")
    return limits


def count_all(limits: Mapping[str, Mapping[str, float]]) -> bool:
    """Count and print; True if every figure is within its limit."""
    is_within = True
    with tempfile.TemporaryDirectory(prefix="fastgw-gate-") as scratch, Processes(Path(scratch)) as processes:
        peer = Fastgw(processes)
        for work in works(Upstreams(processes), REQUESTS, CHUNKS):
            for kind, counter in COUNTERS.items():
                limit = limits[kind].get(work.name)
                if limit is None:
                    continue
                for _ in range(TRIES):
                    line = Line(kind, work.name, work.unit, counter(processes, peer, work), limit)
                    if line.is_within:
                        break
                print(line, flush=True)
                is_within = is_within and line.is_within
    return is_within


def main(arguments: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__).parse_args(arguments)
    try:
        return 0 if count_all(read_limits(LIMITS.read_text())) else 1
    except Failed as error:
        print(f"gate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
