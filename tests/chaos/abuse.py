"""More connections than a gateway has use, room or descriptors for: D01 and D05."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import tempfile
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import uvloop
from gateway_process import Process
from rig import wait_until
from wire_ends import Client, Message, answer, node, post, serving

from .abuse_gateway import KIB, gateway
from .abuse_load import ANSWER, CHAT, Answering, GoodClients, chat, listening, percentile
from .abuse_slow_heads import slow_heads
from .goals import Result, goal


def _admin(process: Process, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", process.admin_port, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return json.loads(response.read()) if response.status == 200 else response.status
    finally:
        connection.close()


# --- Slow heads ---------------------------------------------------------------------------------


class SlowHeadsRun:
    """Good clients before, under and after an attack of slow heads."""

    def __init__(self, seed: int, connections: int, *, per_second: float = 200.0) -> None:
        self.seed = seed
        self.connections = connections
        self.per_second = per_second
        self.before: list[float] = []
        self.under: list[float] = []
        self.after: list[float] = []
        self.failures: list[str] = []
        self.attack: dict[str, Any] = {}  # what the attacker says of it
        self.counts: dict[str, Any] = {}  # what the gateway says
        self.growth = 0  # of its memory, bytes

    async def play(
        self,
        *,
        process: str,
        nofile: int,
        calm_s: float,
        attack_s: float,
        opens_per_second: float,
        interval_s: float = 5.0,
        enough: int = 0,
        until: tuple[str, ...] = (),
    ) -> None:
        """The attack goes on for ``attack_s``, and ``until`` it has told this: see ``Attack.wait_told``."""
        async with listening(Answering) as port:
            with gateway(port, process=process, nofile=nofile) as running:
                clients = GoodClients(running.port, self.per_second, self.seed)
                await clients.run(calm_s / 3)  # the first connections, imports, caches
                clients.take()
                await clients.run(calm_s)
                self.before = clients.take()
                base = running.resident_bytes()
                running.forget_peak()
                with slow_heads(
                    running.port,
                    self.connections,
                    per_second=opens_per_second,
                    interval_s=interval_s,
                    enough=enough,
                ) as attack:
                    await clients.run(attack_s)
                    waiting = asyncio.ensure_future(asyncio.to_thread(attack.wait_told, *until))
                    while not waiting.done():
                        await clients.run(0.2)
                    await waiting
                    self.under = clients.take()
                    self.growth = running.peak_bytes() - base
                    self.attack = await asyncio.to_thread(attack.end)
                self.counts = await asyncio.to_thread(_admin, running, "/debug/counts")
                await clients.run(calm_s)
                self.after = clients.take()
                self.failures = clients.failures
                await clients.close()

    def result(self, least_held: int, most_slower: float) -> Result:
        """What came of it.

        Args:
            least_held: so many at a time the attack must have held, or it was none.
            most_slower: how much slower than without it the slowest hundredth of good requests may be.
        """
        calm = max(percentile(self.before, 0.99), percentile(self.after, 0.99))
        p99 = percentile(self.under, 0.99)
        attack = self.attack
        measured = {
            "good requests": len(self.before) + len(self.under) + len(self.after),
            "failures": len(self.failures),
            "p99_ms": round(p99, 2),
            "calm_p99_ms": round(calm, 2),
            "held": attack["most"],
            "ended": attack["ended"],
            "evicted": self.counts["slow_evicted"],
            "longest_s": round(attack["longest_s"], 2),
            "oldest_s": round(attack["oldest_s"], 2),
            "memory_KiB_each": round(self.growth / KIB / self.connections, 2),
        }
        ok = (
            not self.failures
            and p99 <= most_slower * calm
            and p99 <= calm + 5
            and attack["most"] >= least_held
            and max(attack["longest_s"], attack["oldest_s"]) <= 11
            and self.growth <= self.connections * 12 * KIB
        )
        return Result(measured, ok, self.failures[:5])


@goal(
    "D01",
    "10,000 slow heads: 0 good requests fail, p99 <= 1.5x and <= +5 ms, slow ones end in 11 s, 12 KiB each",
)
def slow_heads_with_room(seed: int, scale: float) -> Result:
    run = SlowHeadsRun(seed, int(10_000 * scale))
    room = "max_connections: 14000"
    uvloop.run(run.play(process=room, nofile=12_000, calm_s=15, attack_s=40, opens_per_second=2000))
    return run.result(run.connections, 1.5)


@goal(
    "D01-full",
    "more slow heads than max_connections, 1,800 a second are closed: 0 good requests fail, p99 <= 2x, +5 ms",
)
def slow_heads_without_room(seed: int, scale: float) -> Result:
    run = SlowHeadsRun(seed, int(12_000 * scale))
    most = int(10_000 * scale)
    room = f"max_connections: {most}"
    uvloop.run(run.play(process=room, nofile=12_000, calm_s=15, attack_s=40, opens_per_second=2000))
    return run.result(int(0.75 * most), 2.0)  # from 80 % on each new one closes an older one


# --- Descriptors ----------------------------------------------------------------------------------

HELD = b"GET /v1/models HTTP/1.1\r\nHost: gateway.test\r\nX: "  # a head that never ends


def _answering(request: Message) -> bytes:
    return answer(ANSWER, "Content-Type: application/json")


def _asks(port: int) -> int:
    """The status of a request on a connection of its own."""
    with Client(port) as client:
        return client.ask(post(CHAT, chat("Is there a descriptor?"), "Connection: close")).status


def _logged(log: Path) -> int:
    """How many requests have been answered well, as the log says."""
    return sum(json.loads(line)["status"] == 200 for line in log.read_text().splitlines())


def crowd_without_descriptors(nofile: int, crowd: int, blocked_s: float) -> tuple[dict[str, Any], bool]:
    """Figures of a gateway with ``nofile`` descriptors that a crowd asks for more; and are they good?"""
    found: dict[str, Any] = {"crowd": crowd}
    with tempfile.TemporaryDirectory() as directory, node(serving(_answering)) as provider:
        log = Path(directory) / "access.log"
        with gateway(provider.port, nofile=nofile, access_log=log) as process:
            assert _asks(process.port) == 200
            before = process.open_files()
            socks = []
            for _ in range(crowd):
                sock = socket.create_connection(("127.0.0.1", process.port))
                sock.sendall(HELD)
                socks.append(sock)
            wait_until(lambda: process.open_files() > nofile / 2, "the crowd is in")
            used, begin = process.cpu_ns(), monotonic()
            sleep(blocked_s)
            found["cpu_percent"] = round((process.cpu_ns() - used) / (monotonic() - begin) / 1e7, 1)
            found["most_descriptors"] = process.open_files()
            # Who runs it still sees that it lives, also beside others, and can give it another configuration.
            held = [socket.create_connection(("127.0.0.1", process.admin_port)) for _ in range(3)]
            found["live"] = sum(_admin(process, "/livez") == {"status": "ok"} for _ in range(5))
            process.signal(signal.SIGHUP)
            wait_until(lambda: _admin(process, "/debug/counts")["reloads"] == 1, "it has reloaded")
            socks += held
            for sock in socks:
                sock.close()
            released = monotonic()
            found["status_after"] = _asks(process.port)
            found["recovered_s"] = round(monotonic() - released, 3)
            wait_until(lambda: process.open_files() <= before + 2, "all descriptors are free again")
            wait_until(lambda: _logged(log) == 2, "both requests are in the log")
    is_good = (
        found["cpu_percent"] < 20
        and found["most_descriptors"] < nofile
        and found["live"] == 5
        and found["status_after"] == 200
        and found["recovered_s"] <= 1
    )
    return found, is_good


@goal(
    "D05",
    "1,000 connections, 256 descriptors: no crash, < 20 % CPU, back in 1 s, log and reload and /livez work",
)
def descriptors(seed: int, scale: float) -> Result:
    return Result(*crowd_without_descriptors(256, int(1000 * scale), 3.0))
