"""`fastgw bench`: the benchmarks of the checkout that this fastgw runs from."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fastgw.cli.options import Exit

ROOT = Path(__file__).resolve().parents[2]


def run(arguments: Sequence[str]) -> Exit:
    """Become ``python -m benchmarks`` with these arguments; returns only if there is no checkout."""
    if (ROOT / "benchmarks" / "__main__.py").is_file():
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path}
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks", *arguments], environment)
    sys.stderr.write("fastgw: no benchmarks here: run `fastgw bench` or `make bench` in a checkout\n")
    return Exit.FAILURE
