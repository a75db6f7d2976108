"""`fastgw bench`: the benchmarks of the checkout that this fastgw runs from."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fastgw.cli.options import Exit

ROOT = Path(__file__).resolve().parents[2]


def run(arguments: Sequence[str]) -> Exit:
    """Become ``python -m benchmarks`` with these arguments; returns only if there is no checkout."""
    if not (ROOT / "benchmarks" / "__main__.py").is_file():
        sys.stderr.write(
            "fastgw: the benchmarks are not installed: run `fastgw bench` or `make bench` in a checkout\n"
        )
        return Exit.FAILURE
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path}
    os.execve(sys.executable, [sys.executable, "-m", "benchmarks", *arguments], environment)
