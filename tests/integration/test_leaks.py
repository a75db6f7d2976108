"""Nothing is left behind: not a descriptor, a task, a timer, a cycle, nor memory.

The gateway runs in a process of its own, so that what it holds is its own. The load and the
simulated providers run here.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import uvloop
from gateway_process import Process, gateway_process
from raw_http import Connection, chat, encode
from rig import CONFIG, KEYS, wait_until

from fastgw.simulator import Fault, FaultKind, Simulator
from fastgw.simulator import start as start_simulator

WARM_UP = 2_000
REQUESTS = 20_000
AT_ONCE = 32
MAX_GROWTH_BYTES = 4 * 1024 * 1024

# What the primary does to the one request in ten that asks for it.
FAULTS: list[dict[str, Any]] = [
    {"kind": FaultKind.STATUS, "status": 500},
    {"kind": FaultKind.RESET_BEFORE_HEAD},
    {"kind": FaultKind.RESET_AFTER_HEAD},
    {"kind": FaultKind.EMPTY_200},
    {"kind": FaultKind.HTML_200},
]
BREAK = "break-the-primary"
# One failure in ten ejects nobody here, or the backup would serve most requests alone.
PATIENT = CONFIG.replace(
    "unhealthy: {http_failures: 3}", "unhealthy: {http_failures: 200, tcp_failures: 200, timeouts: 200}"
)


class Load:
    """Mixed requests, ``AT_ONCE`` at a time over connections that are kept alive."""

    def __init__(self, simulator: Simulator, port: int) -> None:
        self.simulator = simulator
        self.port = port
        self.random = Random(20)
        self.numbers = count()
        self.problems: list[str] = []
        self.kinds: dict[str, int] = {}

    async def run(self, requests: int) -> None:
        left = iter(range(requests))
        await asyncio.gather(*(self._client(left) for _ in range(AT_ONCE)))

    async def _client(self, left: Any) -> None:
        connection: Connection | None = None
        for _ in left:
            if connection is None or connection.is_closed:
                connection = await Connection.open(self.port)
            number = next(self.numbers)
            if number % 500 == 0:
                fault = FAULTS[number // 500 % len(FAULTS)]
                self.simulator.openai.fault = Fault(**fault, match=BREAK)
            await self._one(connection, number)
        if connection is not None:
            await connection.close()

    async def _one(self, connection: Connection, number: int) -> None:
        dice = self.random.random()
        mark = f"request-{number:06d}"
        text = f"please echo {mark}"
        if dice < 0.05:
            kind = "no route"
            answer = await connection.ask("GET", f"/nowhere/{number}")
            fine = answer.status == 404
        elif dice < 0.15:
            self.kinds["cancelled"] = self.kinds.get("cancelled", 0) + 1
            await self._cancel(connection, text)
            return
        else:
            kind = "plain" if dice < 0.55 else "stream"
            if self.random.random() < 0.12:
                kind = "failed over, " + kind
                text += " " + BREAK
            body = chat(text, stream=kind.endswith("stream"))
            answer = await connection.ask("POST", "/v1/chat/completions", body=body)
            fine = answer.status == 200 and answer.is_whole and answer.body.count(mark.encode()) == 1
            if kind.endswith("stream"):
                fine = fine and answer.body.endswith(b"data: [DONE]\n\n")
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if not fine:
            self.problems.append(f"{kind} {mark}: {answer.status} {answer.body!r} {answer.lines}")

    async def _cancel(self, connection: Connection, text: str) -> None:
        """Leave: before the answer, or in the middle of a stream."""
        slow = {"x-sim-tokens": "50", "x-sim-delay-ms": "20"}
        request = chat(text, stream=self.random.random() < 0.7)
        connection.writer.write(encode("POST", "/v1/chat/completions", slow, request))
        if b'"stream"' in request and self.random.random() < 0.7:
            await connection.head()
            await connection.piece()
        elif self.random.random() < 0.5:
            await asyncio.sleep(0.005)
        connection.abort()


class Measured:
    """What the gateway holds when nothing goes on."""

    def __init__(self, process: Process, admin: httpx.Client) -> None:
        admin.post("/debug/flush")

        def is_quiet() -> bool:
            counts = admin.get("/debug/counts").json()
            connections = counts["node_connections"]
            return (
                counts["exchanges"] == 0
                and counts["client_connections"] == 0
                and not any(connections.values())
            )

        wait_until(is_quiet, "every exchange and connection has ended")
        admin.post("/debug/flush")
        # Probes come and go: the fewest there are is what is there without them.
        seen = [admin.get("/debug/counts").json() for _ in range(20)]
        self.tasks = min(counts["tasks"] for counts in seen)
        self.timers = min(counts["timers"] for counts in seen)
        self.files = min(process.open_files() for _ in range(20))
        self.resident = min(process.resident_bytes() for _ in range(5))
        self.counts = seen[-1]

    def __repr__(self) -> str:
        mebibytes = self.resident / 2**20
        return f"tasks={self.tasks} timers={self.timers} files={self.files} resident={mebibytes:.1f} MiB"


@pytest.mark.timeout(300)  # a hang guard: alone on two cores it takes a few seconds
def test_twenty_thousand_mixed_requests_leave_nothing_behind(ca_dir: Path, tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(PATIENT)
    errors = tmp_path / "errors"

    async def main() -> tuple[Measured, Measured, Load]:
        async with await start_simulator(ca_dir=ca_dir, keep_requests=10) as simulator:
            options = {
                "config": str(config),
                "connect_to": simulator.connect_to,
                "ca_file": simulator.ca_file,
                "env": KEYS,
                "access_log": str(tmp_path / "access.log"),
            }
            # Starting and measuring wait for the gateway, which waits for the providers: in threads.
            manager = gateway_process(options, errors=errors)
            process = await asyncio.to_thread(manager.__enter__)
            try:
                with httpx.Client(base_url=f"http://127.0.0.1:{process.admin_port}", timeout=30) as admin:
                    load = Load(simulator, process.port)
                    await load.run(WARM_UP)
                    before = await asyncio.to_thread(Measured, process, admin)
                    await load.run(REQUESTS)
                    after = await asyncio.to_thread(Measured, process, admin)
            finally:
                await asyncio.to_thread(manager.__exit__, None, None, None)
            return before, after, load

    before, after, load = uvloop.run(main())
    assert not load.problems, (len(load.problems), "\n".join(load.problems[:3]), load.kinds)
    asked = WARM_UP + REQUESTS
    assert sum(load.kinds.values()) == asked
    assert load.kinds["cancelled"] > 0.08 * asked
    assert load.kinds["failed over, plain"] + load.kinds["failed over, stream"] > 0.08 * asked
    assert after.counts["retries"] > 0.05 * asked
    assert after.counts["held_bytes"] == 0
    assert after.counts["log_dropped"] == 0
    assert errors.read_text() == ""
    assert before.timers > 0  # the clock's own
    assert (after.tasks, after.timers, after.files) == (before.tasks, before.timers, before.files)
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
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
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
