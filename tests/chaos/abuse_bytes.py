"""Requests that cost the gateway more than they cost who sends them: D04.

Each kind is sent on some connections at a time, a piece on each in turn, so that the pieces are read
apart. What it costs is processor time, not time: other programs do not matter. It is compared byte by
byte of what crosses the wire: whoever sends a byte alone sends a packet with it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvloop
from gateway_process import Process
from raw_http import chat, encode
from rig import wait_until

from .abuse_gateway import KIB, MIB, gateway
from .abuse_load import CHAT, Answering, listening
from .goals import Result, goal

MOST_GROWTH = 8 * MIB
MOST_MEMORY = 100  # bytes that are held for a byte that was sent
MOST_WORK = 20  # times the processor time for a byte of an ordinary request
PACKET_BYTES = 40  # of IP and TCP, at least, around each piece that is sent by itself
START = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: gateway.test\r\n"
CHUNKED = START + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
SDK = {  # what a client of a provider's SDK sends
    "host": "gateway.test",
    "authorization": "Bearer " + "k" * 164,
    "user-agent": "OpenAI/Python 2.8.1",
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "x-stainless-lang": "python",
    "x-stainless-package-version": "2.8.1",
    "x-stainless-os": "Linux",
    "x-stainless-retry-count": "0",
}


def ordinary() -> bytes:
    """A short question, as an SDK sends it."""
    return encode("POST", CHAT, SDK, chat("What is the answer to the question?"))


def chunks(body: bytes, size: int, extension: bytes = b"") -> bytes:
    return b"".join(
        b"%x%b\r\n%b\r\n" % (len(piece), extension, piece)
        for at in range(0, len(body), size)
        if (piece := body[at : at + size])
    )


@dataclass(frozen=True)
class Kind:
    """One kind of request, in pieces of ``piece`` bytes (0: whole), on ``at_once`` connections."""

    name: str
    data: bytes
    piece: int = 0
    at_once: int = 16
    rounds: int = 1
    is_answered: bool = True  # False: it is left before its end

    @property
    def pieces(self) -> list[bytes]:
        size = self.piece or len(self.data)
        return [self.data[at : at + size] for at in range(0, len(self.data), size)]


def kinds(scale: float) -> list[Kind]:
    """The whole zoo; ``scale`` makes it smaller, not tamer."""
    body = chat("x" * 16 * KIB)
    zoo = {
        "lines": START + b"a:\r\n" * 7900,
        "one line": START + b"x-long: " + b"a" * 31 * KIB,
        "endless line": b"GET /" + b"a" * 64 * KIB,
        "long names": START + (b"n" * 300 + b": v\r\n") * 100 + b"\r\n",
        "most fields": START + b"x: y\r\n" * 98 + b"\r\n",
        "longest head": START + (b"a" * 100 + b": " + b"v" * 200 + b"\r\n") * 98 + b"\r\n",
        "connection list": START + b"Connection: " + b"a," * 15_000 + b"\r\n\r\n",
        "1-byte chunks": CHUNKED + chunks(body, 1) + b"0\r\n\r\n",
        "extensions": CHUNKED + chunks(body, 4, b";a=" + b"b" * 200) + b"0\r\n\r\n",
        "one extension": CHUNKED + b"1;" + b"e" * 64 * KIB,
        "trailers": CHUNKED + chunks(body, 4096) + b"0\r\n" + b"t: v\r\n" * 8000 + b"\r\n",
    }
    unfinished = {"lines", "one line"}
    rounds = max(1, int(10 * scale))
    some = max(512, int(8 * KIB * scale))
    crowd = min(64, max(8, int(64 * scale)))  # enough of them that each byte is read apart
    some_more = min(16, max(2, int(32 * scale)))
    found = []
    for name, data in zoo.items():
        is_answered = name not in unfinished
        found.append(Kind(name, data, rounds=rounds, is_answered=is_answered))
        found.append(Kind(f"{name} by 16", data, 16, at_once=some_more, is_answered=is_answered))
        found.append(Kind(f"{name} by 1", data[:some], 1, at_once=crowd, is_answered=False))
    found.append(Kind("ordinary by 1", ordinary(), 1, at_once=crowd, rounds=rounds))
    return found


class Sender:
    """Sends requests and counts the bytes; it blocks."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.sent = 0  # bytes on the wire

    def send(self, kind: Kind) -> None:
        """All rounds of a kind; each ends when the gateway has nothing of it left."""
        for _ in range(kind.rounds):
            with _connections(self.process.port, kind.at_once) as socks:
                left = self._send_pieces(kind.pieces, list(socks))
                for sock in left if kind.is_answered else ():
                    self._read(sock)
            self._settle()

    def _settle(self) -> None:
        """Wait until the gateway closes nothing more."""
        seen: list[int] = []

        def is_still() -> bool:
            seen.append(self.process.open_files())
            return len(seen) > 3 and len(set(seen[-4:])) == 1

        wait_until(is_still, "the number of its descriptors stays the same")

    def _send_pieces(self, pieces: list[bytes], left: list[socket.socket]) -> list[socket.socket]:
        """Send a piece on each in turn; returns those that were not refused meanwhile."""
        for piece in pieces:
            for sock in list(left):
                try:
                    sock.sendall(piece)
                    self.sent += len(piece) + PACKET_BYTES
                except OSError:
                    left.remove(sock)
        return left

    def _read(self, sock: socket.socket) -> None:
        try:
            sock.recv(64 * KIB)  # an answer is short
        except OSError:
            pass  # refused while it was sent

    def ask(self, requests: int) -> None:
        """Ordinary requests, one after the other on each of some connections."""
        data = ordinary()
        with _connections(self.process.port, 16) as socks:
            for _ in range(requests):
                for sock in socks:
                    sock.sendall(data)
                    self.sent += len(data) + PACKET_BYTES
                for sock in socks:
                    assert sock.recv(64 * KIB).startswith(b"HTTP/1.1 200 ")


@contextmanager
def _connections(port: int, count: int) -> Iterator[list[socket.socket]]:
    socks: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", port), timeout=30)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            socks.append(sock)
        yield socks
    finally:
        for sock in socks:
            sock.close()


@dataclass(frozen=True)
class Cost:
    """What one kind cost the gateway: nanoseconds for a byte on the wire, and the most memory, bytes."""

    ns: float
    growth: int
    memory: float  # bytes for a byte that was under way at a time


def _measure(process: Process, scale: float) -> tuple[float, dict[str, Cost]]:
    """Nanoseconds for a byte of an ordinary request on the wire, and what each kind costs."""
    sender = Sender(process)
    sender.ask(30)  # the first of everything
    for kind in kinds(0.01):
        sender.send(kind)
    costs = {}
    begin, before = sender.sent, process.cpu_ns()
    sender.ask(max(20, int(200 * scale)))
    normal = (process.cpu_ns() - before) / (sender.sent - begin)
    for kind in kinds(scale):
        base = process.resident_bytes()
        process.forget_peak()
        begin, before = sender.sent, process.cpu_ns()
        sender.send(kind)
        growth = max(0, process.peak_bytes() - base)
        ns = (process.cpu_ns() - before) / (sender.sent - begin)
        costs[kind.name] = Cost(ns, growth, growth / (len(kind.data) * kind.at_once))
    return normal, costs


async def measured(scale: float) -> tuple[float, dict[str, Cost]]:
    """As ``_measure``, beside a provider."""
    async with listening(Answering) as port:
        with gateway(port) as running:
            return await asyncio.to_thread(_measure, running, scale)


@goal("D04", "head, chunk and trailer floods: peak <= +8 MiB, memory <= 100x the input, CPU <= 20x per byte")
def expensive_bytes(seed: int, scale: float) -> Result:
    normal, costs = uvloop.run(measured(scale))
    dearest = max(costs, key=lambda name: costs[name].ns)
    largest = max(costs, key=lambda name: costs[name].growth)
    hungriest = max(costs, key=lambda name: costs[name].memory)
    figures = {
        "ordinary_ns_per_byte": round(normal, 1),
        "dearest": f"{dearest} {costs[dearest].ns / normal:.1f}x",
        "growth": f"{largest} {costs[largest].growth / MIB:.2f} MiB",
        "memory": f"{hungriest} {costs[hungriest].memory:.1f}x",
    }
    ok = (
        costs[dearest].ns <= MOST_WORK * normal
        and costs[largest].growth <= MOST_GROWTH
        and costs[hungriest].memory <= MOST_MEMORY
    )
    table = [
        f"{name:<28} {cost.ns:8.0f} ns/byte {cost.ns / normal:6.1f}x {cost.growth / KIB:8.0f} KiB"
        for name, cost in costs.items()
    ]
    return Result(figures, ok, table)
