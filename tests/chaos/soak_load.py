"""Mixed requests for as long as one wants, and what the gateway holds before and after them.

The gateway runs in a process of its own, so that what it holds is its own. The load and the
simulated providers run here.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path
from random import Random
from statistics import mode
from time import monotonic, sleep
from typing import Any, NamedTuple

import httpx
import uvloop
from gateway_process import Process, gateway_process
from raw_http import Connection, chat, encode
from rig import CONFIG, KEYS, wait_until

from fastgw.simulator import Fault, FaultKind, Simulator
from fastgw.simulator import start as start_simulator

WARM_UP = 2_000
AT_ONCE = 32
FAULT_LASTS = 500  # requests; then the primary fails in another way

BREAK = "break-the-primary"
CUT = "cut-the-stream"
# What the primary does to the requests that ask for it by one of these two texts.
FAULTS: list[dict[str, Any]] = [
    {"kind": FaultKind.STATUS, "status": 500, "match": BREAK},
    {"kind": FaultKind.RESET_BEFORE_HEAD, "match": BREAK},
    {"kind": FaultKind.RESET_AFTER_HEAD, "match": BREAK},
    {"kind": FaultKind.EMPTY_200, "match": BREAK},
    {"kind": FaultKind.HTML_200, "match": BREAK},
]
CUTS: list[dict[str, Any]] = [
    {"kind": FaultKind.RESET_INSIDE, "after": 2, "how": "rst", "match": CUT},
    {"kind": FaultKind.RESET_INSIDE, "after": 1, "how": "fin", "match": CUT},
]
# So many failures eject nobody here, or the backup would serve most requests alone.
PATIENT = CONFIG.replace(
    "unhealthy: {http_failures: 3}", "unhealthy: {http_failures: 200, tcp_failures: 200, timeouts: 200}"
)


# The same service with another node, another key and another route; and back again.
CHANGED = (
    PATIENT.replace("weight: 100", "weight: 90")
    # (An address: no name has to be asked for, whose unanswered queries would be there for a while.)
    .replace("api.deepseek.com\n          port: 443", "127.0.0.1\n          port: 9")
    .replace("      - name: llm\n", "      - {name: more, uris: [/more/*]}\n      - name: llm\n")
)


class Load:
    """Mixed requests, ``AT_ONCE`` at a time over connections that are kept alive.

    Args:
        broken: the share of chat requests for which the primary fails before it has said anything.
        cut: the share of streams that break off, while that is what the primary does.
    """

    def __init__(
        self, simulator: Simulator, port: int, *, seed: int, broken: float = 0.12, cut: float = 0.0
    ) -> None:
        self.simulator = simulator
        self.port = port
        self.broken = broken
        self.cut = cut
        self.random = Random(seed)
        self.faults = FAULTS + (CUTS if cut else [])
        self.numbers = count()
        self.problems: list[str] = []
        self.kinds: dict[str, int] = {}

    async def run(self, requests: int) -> None:
        left = iter(range(requests))
        await asyncio.gather(*(self._client(left) for _ in range(AT_ONCE)))

    async def run_while(self, condition: Callable[[], bool]) -> None:
        """One request after the other, for as long as a condition holds."""
        await self._client(takewhile(lambda _: condition(), count()))

    async def _client(self, left: Any) -> None:
        connection: Connection | None = None
        for _ in left:
            if connection is None or connection.is_closed:
                connection = await Connection.open(self.port)
            number = next(self.numbers)
            if number % FAULT_LASTS == 0:
                self.simulator.openai.fault = Fault(**self.faults[number // FAULT_LASTS % len(self.faults)])
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
            self._count("cancelled")
            await self._cancel(connection, text)
            return
        else:
            kind = "plain" if dice < 0.55 else "stream"
            is_stream = kind == "stream"
            may_break_off = False
            is_to_break = self.random.random() < self.broken
            if is_to_break:
                text += " " + BREAK
            elif is_stream and self.random.random() < self.cut:
                may_break_off = True
                text += f" {CUT} and some words more"
            body = chat(text, stream=is_stream)
            answer = await connection.ask("POST", "/v1/chat/completions", body=body)
            fine = answer.status == 200 and answer.is_whole and answer.body.count(mark.encode()) == 1
            if is_stream:
                fine = fine and answer.body.endswith(b"data: [DONE]\n\n")
            if is_to_break and answer.headers.get("x-fastgw-attempts") != "1":
                kind = "failed over, " + kind  # else the primary was cutting streams just then, or was out
            if may_break_off and not fine:
                kind = "cut"
                fine = not answer.is_whole and b'"stream_interrupted"' in answer.body
                fine = fine and b"[DONE]" not in answer.body
                await connection.close()
        self._count(kind)
        if not fine:
            self.problems.append(f"{kind} {mark}: {answer.status} {answer.body!r} {answer.lines}")

    def _count(self, kind: str) -> None:
        self.kinds[kind] = self.kinds.get(kind, 0) + 1

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


class Held(NamedTuple):
    """What must not become more or less."""

    tasks: int
    timers: int
    files: int

    @classmethod
    def most_often(cls, looks: Iterable[Held]) -> Held:
        return cls(*map(mode, zip(*looks, strict=True)))


class Measured:
    """What the gateway holds when nothing goes on.

    Args:
        like: what it held before. Probes and the log's clock come and go: if there is anything else now,
            it is looked at again for a while.
    """

    LOOKS = 60  # over more than one turn of the probes
    PATIENCE_S = 60.0

    def __init__(self, process: Process, admin: httpx.Client, like: Measured | None = None) -> None:
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
        begin = monotonic()
        looks: list[Held] = []
        while True:
            self.counts = admin.get("/debug/counts").json()
            looks.append(Held(self.counts["tasks"], self.counts["timers"], process.open_files()))
            # A probe has more of them, or less, for a moment: what is seen most often is what stays.
            self.held = Held.most_often(looks[-self.LOOKS :])
            is_settled = False
            if len(looks) >= 2 * self.LOOKS:
                then = Held.most_often(looks[-2 * self.LOOKS : -self.LOOKS]) if like is None else like.held
                is_settled = self.held == then
            if is_settled or monotonic() - begin > self.PATIENCE_S:
                break
            sleep(0.02)
        self.resident = min(process.resident_bytes() for _ in range(5))

    def __repr__(self) -> str:
        mebibytes = self.resident / 2**20
        return f"{self.held} resident={mebibytes:.1f} MiB"


async def reload_and_load(
    process: Process, admin: httpx.Client, config: Path, load: Load, times: int
) -> None:
    """Change the configuration so often, there and back, each time as soon as the last change is in force."""

    def reload(done: int) -> None:
        wanted = admin.get("/debug/counts").json()["reloads"] + 1
        fresh = config.with_suffix(".new")
        fresh.write_text(PATIENT if done % 2 else CHANGED)
        fresh.replace(config)
        process.signal(signal.SIGHUP)
        wait_until(lambda: admin.get("/debug/counts").json()["reloads"] == wanted, "the change is in force")

    async def reload_all() -> None:
        for done in range(times):
            await asyncio.to_thread(reload, done)

    reloading = asyncio.create_task(reload_all())
    await load.run_while(lambda: not reloading.done())
    await reloading


@dataclass
class Soak:
    """One run: before and after it, and what was resident in between."""

    before: Measured
    after: Measured
    load: Load
    asked: int  # warm-up included
    errors: str  # what the gateway said on standard error
    resident: list[tuple[int, int]] = field(default_factory=list)  # (requests so far, bytes), under load


def soak(
    directory: Path,
    requests: int,
    *,
    seed: int,
    ca_dir: Path,
    broken: float = 0.12,
    cut: float = 0.0,
    reloads: int = 0,
    samples: int = 1,
    tell: Callable[[int], None] = lambda done: None,
) -> Soak:
    """Play so many mixed requests after a warm-up; ``samples`` times the memory is looked at under load.

    Args:
        reloads: changes of the configuration during further requests, and a tenth as many in the warm-up.
    """
    config = directory / "gateway.yaml"
    config.write_text(PATIENT)
    errors = directory / "errors"

    async def main() -> Soak:
        async with await start_simulator(ca_dir=ca_dir, keep_requests=10) as simulator:
            options = {
                "config": str(config),
                "connect_to": simulator.connect_to,
                "ca_file": simulator.ca_file,
                "env": KEYS,
                "access_log": str(directory / "access.log"),
            }
            # Starting and measuring wait for the gateway, which waits for the providers: in threads.
            manager = gateway_process(options, errors=errors)
            process = await asyncio.to_thread(manager.__enter__)
            try:
                with httpx.Client(base_url=f"http://127.0.0.1:{process.admin_port}", timeout=30) as admin:
                    load = Load(simulator, process.port, seed=seed, broken=broken, cut=cut)
                    await load.run(WARM_UP)
                    await reload_and_load(process, admin, config, load, reloads // 10)
                    before = await asyncio.to_thread(Measured, process, admin)
                    resident = []
                    for sample in range(samples):
                        await load.run(requests // samples)
                        resident.append(((sample + 1) * (requests // samples), process.resident_bytes()))
                        tell(resident[-1][0])
                    await reload_and_load(process, admin, config, load, reloads)
                    after = await asyncio.to_thread(Measured, process, admin, before)
            finally:
                await asyncio.to_thread(manager.__exit__, None, None, None)
        return Soak(before, after, load, next(load.numbers), errors.read_text(), resident)

    return uvloop.run(main())
