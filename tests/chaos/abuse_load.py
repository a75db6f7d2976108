"""Honest clients beside the abuse, the provider that answers them, and what they notice of it.

The load is open: requests are sent at times that were fixed before, however long others take, and a
request's time counts from the moment at which it should have been sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from time import monotonic
from typing import Any

from raw_http import Connection, chat

ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"Yes."},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}'
)
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(ANSWER),
    ANSWER,
)
PATIENCE_S = 30.0  # a client that waits longer counts a failure
CHAT = "/v1/chat/completions"


class Answering(asyncio.Protocol):
    """A provider's connection: every request gets the same answer as soon as it is whole."""

    def __init__(self) -> None:
        self.buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            _, _, told = head.partition(b"\r\ncontent-length:")
            whole = end + 4 + (int(told.split(b"\r\n", 1)[0]) if told else 0)
            if b"\r\ntransfer-encoding:" in head:
                at = self.buffer.find(b"0\r\n\r\n", end + 4)
                if at < 0:
                    return
                whole = at + 5
            if len(self.buffer) < whole:
                return
            self.buffer = self.buffer[whole:]
            self.transport.write(WHOLE)


@asynccontextmanager
async def listening(factory: Any) -> AsyncIterator[int]:
    """A provider on a free port; ``factory`` makes the protocol of a connection."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, backlog=1024)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class GoodClients:
    """Chat requests at a fixed rate, on connections that are kept alive or, one in four, on new ones."""

    def __init__(self, port: int, per_second: float, seed: int) -> None:
        self.port = port
        self.per_second = per_second
        self.random = Random(seed)
        self.body = chat("Is it still there?")
        self.idle: list[Connection] = []
        self.failures: list[str] = []
        self.times: list[float] = []  # seconds, of each request that was answered
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self, seconds: float) -> None:
        """Ask for so long, and wait for the answers."""
        begin = monotonic() + 0.01
        for number in range(int(seconds * self.per_second)):
            due = begin + number / self.per_second
            if (wait := due - monotonic()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.ensure_future(self._one(due, self.random.random() < 0.25))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        if self._under_way:
            await asyncio.gather(*self._under_way)

    async def _one(self, due: float, is_new: bool) -> None:
        connection: Connection | None = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                connection = await self._connection(is_new)
                answer = await connection.ask("POST", CHAT, body=self.body)
                self.times.append(monotonic() - due)
        except (OSError, EOFError, TimeoutError) as problem:
            self.failures.append(repr(problem))
            if connection is not None:
                connection.abort()
            return
        if answer.status != 200 or not answer.is_whole or answer.body != ANSWER:
            self.failures.append(f"{answer.status} {answer.body[:200]!r}")
        if is_new:
            await connection.close()
        elif not connection.is_closed:
            self.idle.append(connection)

    async def _connection(self, is_new: bool) -> Connection:
        while self.idle and not is_new:
            connection = self.idle.pop()
            if not connection.reader.at_eof():  # as every client's pool looks before it uses one
                return connection
            await connection.close()
        return await Connection.open(self.port)

    async def close(self) -> None:
        for connection in self.idle:
            await connection.close()

    def take(self) -> list[float]:
        """The times since the last call."""
        times, self.times = self.times, []
        return times


def percentile(times: list[float], share: float) -> float:
    """Of seconds, as milliseconds."""
    return sorted(times)[int((len(times) - 1) * share)] * 1000 if times else 0.0
