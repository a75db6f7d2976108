"""What one path through the gateway leaves to the garbage collector: ``garbage_of_path.py PATH LOOP CA_DIR``.

Every object of the gateway must die by its last reference: what only the collector finds is a
cycle, and under load a cycle is memory. Prints what was found as JSON; problems that a loop or the
interpreter reports go to standard error, which the test wants to be empty.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from types import CoroutineType
from typing import Any

import uvloop
from quick_probes import quick_probes
from raw_http import Connection, chat, connected, encode
from rig import CONFIG, config_of

from fastgw.admin import Admin
from fastgw.config.model import Config
from fastgw.gateway import Gateway, Settings
from fastgw.server import Address
from fastgw.simulator import Fault, FaultKind, Simulator
from fastgw.simulator import start as start_simulator

TIMES = 10
CHAT = "/v1/chat/completions"
# No probes, but where they are what is looked at.
QUIET = CONFIG[: CONFIG.index("      checks:")]
OTHER = QUIET.replace("weight: 100", "weight: 50")


class Bench:
    """A gateway, its providers, and a client."""

    def __init__(self, simulator: Simulator, gateway: Gateway) -> None:
        self.simulator = simulator
        self.gateway = gateway
        self.port = gateway.addresses[0].port
        self.configs: list[Config | None] = []

    async def ask(self, *, stream: bool = False, status: int = 200) -> None:
        async with connected(self.port) as connection:
            answer = await connection.ask("POST", CHAT, body=chat("hello", stream=stream))
            assert answer.status == status, answer

    async def leave(self, *, inside: bool) -> None:
        connection = await Connection.open(self.port)
        headers = {"x-sim-tokens": "100", "x-sim-delay-ms": "50", "x-sim-first-ms": "0" if inside else "500"}
        connection.writer.write(encode("POST", CHAT, headers, chat("hello", stream=True)))
        if inside:
            await connection.head()
            await connection.piece()
        else:
            while not self.gateway.exchanges.live:
                await asyncio.sleep(0.001)
        connection.abort()

    def fault(self, kind: FaultKind | None, *, both: bool = False, **parameters: Any) -> None:
        fault = Fault(kind, **parameters) if kind is not None else None
        self.simulator.openai.fault = fault
        if both:
            self.simulator.deepseek.fault = fault


async def ok(bench: Bench) -> None:
    await bench.ask()


async def stream(bench: Bench) -> None:
    await bench.ask(stream=True)


async def abort(bench: Bench) -> None:
    await bench.leave(inside=False)
    await bench.leave(inside=True)


async def retry(bench: Bench) -> None:
    faults: list[tuple[FaultKind, dict[str, Any]]] = [
        (FaultKind.STATUS, {"status": 500}),
        (FaultKind.RESET_BEFORE_HEAD, {}),
        (FaultKind.RESET_AFTER_HEAD, {}),
        (FaultKind.ERROR_EVENT, {}),
        (FaultKind.STATUS, {"status": 429}),
    ]
    for kind, parameters in faults:
        bench.fault(kind, **parameters)
        await bench.ask(stream=kind is FaultKind.ERROR_EVENT)


async def refused(bench: Bench) -> None:
    for kind in (FaultKind.REFUSE, FaultKind.BAD_CERTIFICATE):
        bench.fault(kind)
        await bench.ask()
    bench.fault(None)


async def upstream_error(bench: Bench) -> None:
    bench.fault(FaultKind.STATUS, both=True, status=500)
    async with connected(bench.port) as connection:
        answer = await connection.ask("POST", CHAT, body=chat("hello"))
        assert answer.status in (500, 503), answer


async def cut_stream(bench: Bench) -> None:
    for how in ("rst", "fin", "clean"):
        bench.fault(FaultKind.RESET_INSIDE, both=True, after=2, how=how)
        async with connected(bench.port) as connection:
            answer = await connection.ask("POST", CHAT, body=chat("a b c d e f", stream=True))
            assert b"[DONE]" not in answer.body


async def no_route(bench: Bench) -> None:
    async with connected(bench.port) as connection:
        assert (await connection.ask("GET", "/nowhere")).status == 404
        assert (await connection.ask("GET", "/healthz")).status == 200
        connection.writer.write(b"GARBAGE\r\n\r\n")
        assert (await connection.answer()).status == 400


async def reload(bench: Bench) -> None:
    for text in (OTHER, QUIET):
        bench.configs.append(config_of(text))
        assert bench.gateway.reload()
        await bench.ask()
    bench.configs.append(None)
    assert not bench.gateway.reload()


async def probes(bench: Bench) -> None:
    """Three results of probes, then a reload that ends their generation."""
    seen = bench.simulator.openai.counters.requests
    await bench.simulator.openai.wait_until(lambda: bench.simulator.openai.counters.requests >= seen + 2)
    bench.fault(FaultKind.STATUS, status=500)
    await bench.simulator.openai.wait_until(lambda: bench.simulator.openai.counters.requests >= seen + 4)
    bench.fault(FaultKind.REFUSE)
    await asyncio.sleep(0.1)  # some probes more
    bench.fault(None)
    bench.configs.append(quick_probes(config_of(CONFIG)))
    assert bench.gateway.reload()


PATHS: dict[str, Callable[[Bench], Any]] = {
    "ok": ok,
    "stream": stream,
    "abort": abort,
    "retry": retry,
    "refused": refused,
    "upstream error": upstream_error,
    "cut stream": cut_stream,
    "no route": no_route,
    "reload": reload,
    "probes": probes,
}


def garbage() -> dict[str, int]:
    """What the collector found of the gateway, by type. The simulation is not the gateway."""
    gc.collect()
    found: Counter[str] = Counter()
    for found_object in gc.garbage:
        kind = type(found_object)
        if kind.__module__.startswith("fastgw.") and not kind.__module__.startswith("fastgw.simulator"):
            found[f"{kind.__module__}.{kind.__qualname__}"] += 1
        elif isinstance(found_object, BaseException):
            found[repr(found_object)] += 1
        elif isinstance(found_object, CoroutineType) and "fastgw" in found_object.cr_code.co_filename:
            found[found_object.__qualname__] += 1
    gc.garbage.clear()
    return dict(found)


async def main(path: str, ca_dir: Path) -> None:
    run = PATHS[path]
    asyncio.get_running_loop().slow_callback_duration = 60.0  # what takes long says something of the machine
    async with await start_simulator(ca_dir=ca_dir) as simulator:
        configs: list[Config | None] = []

        def reload_config() -> Config:
            config = configs.pop()
            if config is None:
                raise ValueError("a broken configuration")
            return config

        gateway = Gateway(
            quick_probes(config_of(CONFIG)) if path == "probes" else config_of(QUIET),
            Settings(
                listen=("127.0.0.1:0",),
                connect_to=simulator.connect_to,
                ca_file=simulator.ca_file,
                forwards_simulator_fields=True,
            ),
            reload_config=reload_config,
        )
        await gateway.start()
        admin = Admin(gateway)
        await admin.start(Address.parse("127.0.0.1:0"))
        bench = Bench(simulator, gateway)
        bench.configs = configs

        async def settle() -> None:
            while gateway.exchanges.live or gateway.server.connections():
                await asyncio.sleep(0.005)
            bench.fault(None, both=True)
            gateway.flush_pools()
            for _ in range(5):
                await asyncio.sleep(0.005)

        await run(bench)  # imports, caches, first connections
        await settle()
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.garbage.clear()
        for _ in range(TIMES):
            await run(bench)
        await settle()
        found = garbage()
        gc.set_debug(0)
        gc.enable()
        requests = gateway.exchanges.started + gateway.answered + simulator.openai.counters.requests
        del run
        await gateway.close()
    begin = monotonic()
    while len(asyncio.all_tasks()) > 1 and monotonic() - begin < 30:  # what was cancelled may end
        await asyncio.sleep(0.01)
    left = [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    print(json.dumps({"garbage": found, "tasks_left": left, "requests": requests}))


if __name__ == "__main__":
    logging.getLogger("fastgw").setLevel(logging.CRITICAL)
    chosen, loop_kind, directory = sys.argv[1:]
    factory = uvloop.new_event_loop if loop_kind == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(chosen, Path(directory)))
    gc.collect()
