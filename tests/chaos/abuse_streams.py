"""Providers that flood: D08. What they send must reach the client to the byte, and fill no memory."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from time import monotonic
from typing import Any

import httptools
import uvloop
from raw_http import chat, encode

from .abuse_gateway import KIB, MIB, gateway
from .abuse_load import CHAT, listening
from .goals import Result, goal

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
PER_SECOND = 50_000  # comments of a flood
COMMENT = b": keep-alive\n\n"
COMMENTS = re.compile(b"(?:%b)*" % COMMENT)
HANG_GUARD_S = 120.0

# Each item is a piece of the stream and how often it comes; every time it is a chunk.
Pieces = Callable[[], AsyncIterator[tuple[bytes, int]]]


def event(text: str, finish: str | None = None) -> bytes:
    """One event of a chat stream."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
    return b"data: " + json.dumps({**chunk, "choices": [choice]}).encode() + b"\n\n"


END = event("", "stop") + DONE


# --- Streams --------------------------------------------------------------------------------------


def flood(seconds: float, *, comes_first: bool) -> Pieces:
    """Comments, 50,000 in a second, before the first content or behind it."""

    async def pieces() -> AsyncIterator[tuple[bytes, int]]:
        if not comes_first:
            yield event("Yes."), 1
        wanted = int(seconds * PER_SECOND)
        begin = monotonic()
        sent = 0
        while sent < wanted:
            due = min(int((monotonic() - begin) * PER_SECOND), wanted) - sent
            if due:
                yield COMMENT, due
            sent += due
            await asyncio.sleep(0.001)
        yield event("Yes."), 1
        yield END, 1

    return pieces


def long_event(size: int) -> Pieces:
    """One event with so much content, and nothing before it."""

    async def pieces() -> AsyncIterator[tuple[bytes, int]]:
        text = event("x" * size)
        for at in range(0, len(text), 16 * KIB):
            yield text[at : at + 16 * KIB], 1
        yield END, 1

    return pieces


def cut(offsets: range, size: int) -> Pieces:
    """Events of this size, each in two pieces: cut behind the next of these offsets."""
    content = size - len(event("00000"))

    async def pieces() -> AsyncIterator[tuple[bytes, int]]:
        for offset in offsets:
            text = event(f"{offset:05d}" + "x" * content)
            yield text[:offset], 1
            await asyncio.sleep(0)  # a write of its own
            yield text[offset:], 1
            await asyncio.sleep(0)
        yield END, 1

    return pieces


# --- The provider ---------------------------------------------------------------------------------


class Provider:
    """What streams: every request gets ``pieces``. ``sent`` has the digest and size of each whole stream."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self.sent: list[tuple[str, int]] = []
        self.pauses = 0  # how often the gateway took nothing for a while
        self._tasks: set[asyncio.Task[None]] = set()

    def connection(self) -> Streaming:
        return Streaming(self)

    def begin(self, stream: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(stream)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Streaming(asyncio.Protocol):
    """One connection to the provider."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.parser = httptools.HttpRequestParser(self)
        self.may_write = asyncio.Event()
        self.may_write.set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.provider.begin(self._stream())

    async def _stream(self) -> None:
        self.transport.write(HEAD)
        digest, size = hashlib.sha256(), 0
        async for piece, times in self.provider.pieces():
            if self.transport.is_closing():
                return
            if size or piece is not COMMENT:  # before content they only say that there will be some
                digest.update(piece * times)
                size += len(piece) * times
            self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) * times)
            await self.may_write.wait()
        self.transport.write(b"0\r\n\r\n")
        self.provider.sent.append((digest.hexdigest(), size))

    def pause_writing(self) -> None:
        self.provider.pauses += 1
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.may_write.set()


# --- The client -----------------------------------------------------------------------------------


class Reading(asyncio.Protocol):
    """A client that asks for one stream after another and keeps only what it was."""

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s  # nothing is read for so long after the first bytes
        self.parser = httptools.HttpResponseParser(self)
        self.ended: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()
        self.closed = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    async def ask(self) -> tuple[str, int]:
        """Digest and size of the whole stream."""
        self.digest, self.size = hashlib.sha256(), 0
        self.before: bytes | None = b""
        self.ended = asyncio.get_running_loop().create_future()
        self.transport.write(encode("POST", CHAT, body=chat("Stream it.", stream=True)))
        return await asyncio.wait_for(self.ended, HANG_GUARD_S)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)
        if self.pause_s:
            pause_s, self.pause_s = self.pause_s, 0.0
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(pause_s, self.transport.resume_reading)

    def on_body(self, data: bytes) -> None:
        if self.before is not None:
            # Comments before content may be passed on or not: that depends on what is read together with it.
            data = self.before + data
            data = data[COMMENTS.match(data).end() :]  # type: ignore[union-attr]
            if COMMENT.startswith(data):
                self.before = data
                return
            self.before = None
        self.digest.update(data)
        self.size += len(data)

    def on_message_complete(self) -> None:
        if self.parser.get_status_code() == 200:
            self.ended.set_result((self.digest.hexdigest(), self.size))
        else:
            self.ended.set_exception(AssertionError(f"status {self.parser.get_status_code()}"))

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set()
        if not self.ended.done():
            self.ended.set_exception(ConnectionError("the stream broke off"))


# --- The goal -------------------------------------------------------------------------------------


class Run:
    """What came of one kind of stream."""

    def __init__(self, growth: int, streams: int, exact: int, size: int, pauses: int, cpu_s: float) -> None:
        self.growth = growth  # of the most memory that was resident, bytes
        self.streams = streams
        self.exact = exact  # of these, byte for byte what was sent
        self.size = size  # of all of them
        self.pauses = pauses
        self.cpu_s = cpu_s


async def stream_through(pieces: list[Pieces], *, pause_s: float = 0.0, at_once: int = 1) -> Run:
    """Relay each of these streams, on ``at_once`` connections each."""
    provider = Provider(pieces[0])
    loop = asyncio.get_running_loop()
    async with listening(provider.connection) as port:
        with gateway(port) as running:
            clients = []
            for _ in range(at_once):
                sock = socket.socket()
                if pause_s:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * KIB)
                sock.setblocking(False)
                await loop.sock_connect(sock, ("127.0.0.1", running.port))
                _, client = await loop.create_connection(lambda: Reading(0.0), sock=sock)
                clients.append(client)
            provider.pieces = flood(0.02, comes_first=False)
            for client in clients:  # the first of everything
                await client.ask()
            provider.sent.clear()
            provider.pauses = 0
            base = running.resident_bytes()
            running.forget_peak()
            used = running.cpu_ns()
            got: list[tuple[str, int]] = []
            for provider.pieces in pieces:
                for client in clients:
                    client.pause_s = pause_s
                got += await asyncio.gather(*(client.ask() for client in clients))
            growth = running.peak_bytes() - base
            cpu_s = (running.cpu_ns() - used) / 1e9
            for client in clients:
                client.transport.abort()
                await client.closed.wait()
    left = list(provider.sent)
    exact = 0
    for one in got:
        if one in left:
            left.remove(one)
            exact += 1
    size = sum(size for _, size in got)
    return Run(growth, len(pieces) * at_once, exact, size, provider.pauses, cpu_s)


def streams_of(scale: float) -> dict[str, tuple[list[Pieces], dict[str, Any], int]]:
    """The kinds of stream, how they are read, and how much memory each may take at most."""
    flood_s = 10 * scale
    step = max(1, int(1 / scale))
    offsets = range(1, 4 * KIB, step)
    singles: list[Pieces] = [cut(range(offset, offset + 1), 4 * KIB) for offset in offsets]
    return {
        "flood": ([flood(flood_s, comes_first=False)], {}, MIB),
        "flood first": ([flood(flood_s, comes_first=True)], {}, MIB),
        "flood, slow client": ([flood(flood_s, comes_first=False)], {"pause_s": flood_s}, MIB),
        "1 MiB event": ([long_event(MIB)] * 8, {"at_once": 4}, 8 * MIB),
        "cut events": ([cut(offsets, 4 * KIB)], {}, 2 * MIB),
        "first event cut": (singles, {}, 2 * MIB),
    }


@goal(
    "D08",
    "50,000 comments/s, 1 MiB events, 4 KiB events cut everywhere: relayed to the byte in bounded memory",
)
def floods(seed: int, scale: float) -> Result:
    measured: dict[str, int | float | str] = {}
    ok = True
    for name, (pieces, how, most) in streams_of(scale).items():
        run = uvloop.run(stream_through(pieces, **how))
        measured[name] = f"{run.exact}/{run.streams} exact, {run.growth / KIB:.0f} KiB, {run.cpu_s:.2f} s CPU"
        ok = ok and run.exact == run.streams and run.growth <= most
    return Result(measured, ok)
