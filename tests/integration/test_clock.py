"""The wall clock is for dates: setting it must not move a deadline, a pause or an idle time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from python_process import environment

PURE = "import build_guard; build_guard.prefer_source()\n" if os.environ.get("FASTGW_PURE") else ""


def test_setting_the_wall_clock_ends_nothing_early_and_nothing_late(ca_dir: Path) -> None:
    script = Path(__file__).parents[1] / "clock_steps.py"
    run = f"{PURE}import runpy, sys\ndel sys.argv[0]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", run, str(script), str(ca_dir)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
