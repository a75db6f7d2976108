"""The two clients: wrk for as many requests as a time allows, ``native/load.c`` for counts and streams."""

from __future__ import annotations

import json
import re
import select
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from . import programs
from .processes import LOAD_CORE, Process, Processes, StartFailed
from .requests import Request

SCRIPTS = Path(__file__).resolve().parent / "wrk"


class LoadFailed(Exception):
    """The load could not be driven, or was not answered; the message says what was seen."""


def wrk(
    script: str,
    port: int,
    *,
    connections: int,
    seconds: float,
    core: int | None = LOAD_CORE,
    is_tls: bool = False,
) -> dict[str, float]:
    """Run wrk with a script of ``wrk/`` in one thread.

    Returns requests, seconds, bytes, p50_us, p90_us, p99_us, max_us, other (not 2xx or 3xx), broken
    and timeouts.

    Raises:
        LoadFailed: there is no wrk, it failed, or nothing was answered.
    """
    found = shutil.which("wrk")
    if found is None:
        raise LoadFailed("there is no wrk (Debian: apt install wrk)")
    url = f"{'https' if is_tls else 'http'}://127.0.0.1:{port}"
    command = [found, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    pinned = ["taskset", "-c", str(core)] if core is not None else []
    done = subprocess.run(
        [*pinned, *command, "-s", str(SCRIPTS / f"{script}.lua"), url],
        cwd=SCRIPTS.parent.parent,
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("{")), None)
    if line is None:
        raise LoadFailed(f"wrk: {(done.stderr or done.stdout).strip()[-300:]}")
    figures: dict[str, float] = json.loads(line)
    if not figures["requests"]:
        raise LoadFailed(f"wrk had no answer: {line}")
    return figures


def wrk_version() -> str:
    if shutil.which("wrk") is None:
        return "none"
    done = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False)
    found = re.search(r"wrk (?:debian/)?([\w.\-]+)", done.stdout + done.stderr)
    return found[1] if found else "?"


class Load:
    """The C client while it runs: ``count()`` any time, ``finish()`` or ``stop()`` once."""

    def __init__(self, processes: Processes, process: Process) -> None:
        self.processes = processes
        self.process = process

    @classmethod
    def start(
        cls,
        processes: Processes,
        port: int,
        request: Request,
        *,
        connections: int,
        requests: int = 0,
        spread_us: int = 0,
        core: int | None = LOAD_CORE,
    ) -> Load:
        """Begin to send. ``requests`` 0: until stopped."""
        path = processes.path("request")
        path.write_bytes(request.to_bytes())
        words = [str(port), str(connections), str(requests), str(path), str(spread_us)]
        return cls(processes, processes.start("load", [programs.load(), *words], core=core, is_piped=True))

    def count(self) -> Mapping[str, Any]:
        """Answers, events, bytes ... until now."""
        self.process.stdin.write(b"count\n")
        self.process.stdin.flush()
        return self._read(30)

    def stop(self) -> Mapping[str, Any]:
        """End it in mid-stream; returns its last count, with latencies."""
        self.process.stdin.write(b"stop\n")
        self.process.stdin.flush()
        return self._last(30)

    def finish(self, limit_s: float = 300.0) -> Mapping[str, Any]:
        """Wait until all requests are answered; returns the count, with latencies."""
        return self._last(limit_s)

    def _last(self, limit_s: float) -> Mapping[str, Any]:
        try:
            return self._read(limit_s)
        finally:
            self.processes.end(self.process)

    def _read(self, limit_s: float) -> Mapping[str, Any]:
        deadline = monotonic() + limit_s
        ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - monotonic()))
        if not ready:
            raise LoadFailed(f"the load did not end within {limit_s:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise LoadFailed(f"the load ended: {self.process.last_words()}")
        answer: Mapping[str, Any] = json.loads(line)
        return answer


__all__ = ["Load", "LoadFailed", "StartFailed", "wrk", "wrk_version"]
