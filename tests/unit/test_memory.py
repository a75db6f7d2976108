"""How near the process is to its limit of memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastgw.memory import TRIM_S, MemoryLimit, Pressure

LIMIT = 1000


class Memory:
    """What is resident, and what giving back what is free would leave of it."""

    def __init__(self) -> None:
        self.resident = 0
        self.left: int | None = None
        self.trims = 0

    def trim(self) -> None:
        self.trims += 1
        if self.left is not None:
            self.resident = self.left

    def limit(self, limit: int = LIMIT) -> MemoryLimit:
        return MemoryLimit(limit, resident=lambda: self.resident, trim=self.trim)


@pytest.mark.parametrize(
    ("resident", "pressure"),
    [(799, Pressure.NONE), (800, Pressure.HIGH), (949, Pressure.HIGH), (950, Pressure.CRITICAL)],
)
def test_a_mark_is_passed(resident: int, pressure: Pressure) -> None:
    memory = Memory()
    memory.resident = resident
    limit = memory.limit()
    assert limit.look(0.0) == limit.pressure == pressure


def test_a_mark_is_left_only_some_way_below_it() -> None:
    memory = Memory()
    limit = memory.limit()
    seen = []
    for memory.resident in (960, 901, 899, 751, 749, 799):
        seen.append(limit.look(0.0))
    critical, high, none = Pressure.CRITICAL, Pressure.HIGH, Pressure.NONE
    assert seen == [critical, critical, high, high, none, none]


def test_what_the_allocator_only_keeps_does_not_count() -> None:
    memory = Memory()
    memory.resident, memory.left = 990, 500
    limit = memory.limit()
    assert limit.look(0.0) == Pressure.NONE
    assert limit.resident_bytes == 500
    memory.resident, memory.left = 990, None
    assert limit.look(TRIM_S / 2) == Pressure.CRITICAL  # it was given back a moment ago
    assert memory.trims == 1
    limit.look(TRIM_S)
    assert memory.trims == 2


def test_without_a_limit_nobody_looks() -> None:
    memory = Memory()
    memory.resident = 10**12
    limit = memory.limit(0)
    assert limit.look(0.0) == Pressure.NONE
    assert limit.resident_bytes == 0


def test_the_process_itself_is_read() -> None:
    limit = MemoryLimit(1 << 40)
    assert limit.look(0.0) == Pressure.NONE
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert limit.resident_bytes == pytest.approx(pages * os.sysconf("SC_PAGE_SIZE"), rel=0.2)
    small = MemoryLimit(1)
    assert small.look(0.0) == Pressure.CRITICAL  # and libc has given back what it could
