"""Nothing is left behind, however long it goes on: S01, S02 and S05."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

from .goals import Result, goal
from .soak_load import Soak, soak

MIB = 2**20
# 2,000,000 requests in 8 hours, as in production: 1 MiB in an hour is so much in 100,000 requests.
SLOPE_MIB = 8 * 100_000 / 2_000_000


def slope(points: list[tuple[int, int]]) -> float:
    """MiB in 100,000 requests, by Theil and Sen: the median of the slopes between any two points."""
    slopes = [
        (later - earlier) / (end - begin)
        for index, (begin, earlier) in enumerate(points)
        for end, later in points[index + 1 :]
    ]
    return median(slopes) * 100_000 / MIB if slopes else 0.0


def _played(seed: int, requests: int, **options: float) -> tuple[Soak, dict[str, float]]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        samples = max(1, min(200, requests // 1000))
        done = soak(directory, requests, seed=seed, ca_dir=directory, samples=samples, **options)  # type: ignore[arg-type]
    before, after = done.before, done.after
    figures = {
        "requests": done.asked,
        "problems": len(done.load.problems),
        "descriptors": after.held.files - before.held.files,
        "tasks": after.held.tasks - before.held.tasks,
        "timers": after.held.timers - before.held.timers,
        "memory_MiB": round((after.resident - before.resident) / MIB, 2),
        "of_MiB": round(before.resident / MIB, 1),
    }
    return done, figures


def _is_clean(done: Soak) -> bool:
    before, after = done.before, done.after
    return (
        not done.load.problems
        and not done.errors
        and after.held == before.held
        and after.counts["held_bytes"] == 0
    )


@goal("S01", "20,000 mixed requests: descriptors, tasks, timers as before, memory <= +4 MiB")
def twenty_thousand(seed: int, scale: float) -> Result:
    done, figures = _played(seed, int(20_000 * scale))
    ok = _is_clean(done) and done.after.resident - done.before.resident <= 4 * MIB
    return Result(figures, ok, done.load.problems[:3] + done.errors.splitlines()[:5])


@goal("S02", "500,000 requests, 30 % with faults: as S01, memory <= +5 %, slope <= 0.4 MiB in 100,000")
def half_a_million(seed: int, scale: float) -> Result:
    done, figures = _played(seed, int(500_000 * scale), broken=0.35, cut=0.1)
    tail = done.resident[len(done.resident) // 4 :]
    figures["slope_MiB"] = round(slope(tail), 3)
    kinds = done.load.kinds
    faulty = sum(number for kind, number in kinds.items() if "failed" in kind or kind in ("cut", "cancelled"))
    figures["faulty_percent"] = round(100 * faulty / done.asked, 1)
    growth = done.after.resident - done.before.resident
    ok = (
        _is_clean(done)
        and figures["slope_MiB"] <= SLOPE_MIB
        and growth <= 0.05 * done.before.resident
        and figures["faulty_percent"] >= 30
    )
    return Result(figures, ok, done.load.problems[:3] + done.errors.splitlines()[:5])


@goal("S05", "10,000 changes of the configuration under load: 0 requests fail, S01, memory <= +5 %")
def ten_thousand_reloads(seed: int, scale: float) -> Result:
    reloads = int(10_000 * scale) // 20 * 20  # it ends as it began, in the warm-up too
    done, figures = _played(seed, 0, broken=0.0, reloads=reloads)
    figures["reloads"] = done.after.counts["reloads"] - done.before.counts["reloads"]
    growth = done.after.resident - done.before.resident
    ok = _is_clean(done) and figures["reloads"] == reloads and growth <= 0.05 * done.before.resident
    return Result(figures, ok, done.load.problems[:3] + done.errors.splitlines()[:5])
