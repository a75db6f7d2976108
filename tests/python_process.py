"""Programs of ours in Python processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any


def environment() -> dict[str, str]:
    """Ours, with which the same modules are found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


@contextmanager
def python_process(
    *words: str, options: Mapping[str, Any], stderr: IO[str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """Start ``python WORDS OPTIONS``; it is gone at the end, by the end of its standard input at the latest.

    Yields it, and what its first line of output says. Options and line are JSON.
    """
    popen = subprocess.Popen(
        [sys.executable, *words, json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=environment(),
    )
    with popen:
        assert popen.stdout is not None
        try:
            line = popen.stdout.readline()
            assert line, f"it did not start: {' '.join(words)}"
            yield popen, json.loads(line)
        finally:
            popen.kill()
