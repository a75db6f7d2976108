"""Nothing is left behind: not a descriptor, a task, a timer, a cycle, nor memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from chaos.soak_load import soak
from python_process import environment

MAX_GROWTH_BYTES = 4 * 1024 * 1024


@pytest.mark.timeout(600)  # a hang guard: alone on two cores it takes some ten seconds
def test_twenty_thousand_mixed_requests_leave_nothing_behind(ca_dir: Path, tmp_path: Path) -> None:
    done = soak(tmp_path, 20_000, seed=20, ca_dir=ca_dir)
    before, after, load = done.before, done.after, done.load
    assert not load.problems, (len(load.problems), "\n".join(load.problems[:3]), load.kinds)
    assert sum(load.kinds.values()) == done.asked
    assert load.kinds["cancelled"] > 0.08 * done.asked
    assert load.kinds["failed over, plain"] + load.kinds["failed over, stream"] > 0.08 * done.asked
    assert after.counts["retries"] > 0.05 * done.asked
    assert after.counts["held_bytes"] == 0
    assert after.counts["log_dropped"] == 0
    assert done.errors == ""
    assert before.held.timers > 0  # the clock's own
    assert after.held == before.held, (before, after)
    assert after.resident - before.resident <= MAX_GROWTH_BYTES, (before, after)


# --- One path at a time, in a fresh interpreter -----------------------------------------------


@pytest.mark.parametrize("loop_kind", ["uvloop", "asyncio"])
@pytest.mark.parametrize(
    "path",
    [
        "ok",
        "stream",
        "abort",
        "retry",
        "refused",
        "upstream error",
        "cut stream",
        "no route",
        "reload",
        "probes",
    ],
)
def test_path_makes_no_garbage_and_loses_no_error(ca_dir: Path, path: str, loop_kind: str) -> None:
    script = Path(__file__).parents[1] / "garbage_of_path.py"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", str(script), path, loop_kind, str(ca_dir)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["requests"] > 0
    assert found["garbage"] == {}
    assert found["tasks_left"] == []
