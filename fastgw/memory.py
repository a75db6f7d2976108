"""How near the process is to the memory it may take. Linux; elsewhere a limit has no effect."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from enum import IntEnum

HIGH, CRITICAL = 0.8, 0.95  # of the limit
SLACK = 0.05  # of it, by which one must have fallen below a mark that was passed
TRIM_S = 1.0  # how often what is free is given back, at most


class Pressure(IntEnum):
    """What is to be done about it."""

    NONE = 0
    HIGH = 1  # take no new work
    CRITICAL = 2  # give up some of the work there is


class MemoryLimit:
    """Compares what is resident with a limit.

    Args:
        limit: bytes; 0: there is none.
        resident: says how much is resident, bytes; None: of this process.
        trim: gives free memory back to the system; None: glibc's.
    """

    def __init__(
        self,
        limit: int,
        *,
        resident: Callable[[], int] | None = None,
        trim: Callable[[], None] | None = None,
    ) -> None:
        self.limit = limit
        self.pressure = Pressure.NONE
        self.resident_bytes = 0
        self._resident = resident or _Resident().look
        self._trim = trim or _trim_of_libc()
        self._trimmed_at = float("-inf")

    def look(self, now: float) -> Pressure:
        """Read and judge. ``now``: monotonic seconds."""
        if not self.limit:
            self.pressure = Pressure.NONE
            return self.pressure
        self.resident_bytes = self._resident()
        if self._judged() and now - self._trimmed_at >= TRIM_S:
            # The allocator keeps what was freed: that is no reason to refuse anybody.
            self._trimmed_at = now
            self._trim()
            self.resident_bytes = self._resident()
        self.pressure = self._judged()
        return self.pressure

    def _judged(self) -> Pressure:
        share = self.resident_bytes / self.limit
        if share >= CRITICAL - SLACK * (self.pressure == Pressure.CRITICAL):
            return Pressure.CRITICAL
        if share >= HIGH - SLACK * (self.pressure != Pressure.NONE):
            return Pressure.HIGH
        return Pressure.NONE


class _Resident:
    """Reads what is resident; the file is kept open, for there may be no descriptor left later on."""

    def __init__(self) -> None:
        self._file = -1
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")

    def look(self) -> int:
        """Bytes; 0 where the system does not say."""
        try:
            if self._file < 0:
                self._file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
            return int(os.pread(self._file, 128, 0).split()[1]) * self._page_bytes
        except OSError:
            return 0

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)


def _trim_of_libc() -> Callable[[], None]:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return (lambda: None) if trim is None else lambda: trim(0)
