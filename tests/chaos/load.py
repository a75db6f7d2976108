"""An open-loop load: requests go out when they are due, however long others wait for their answers.

Latencies count from the moment a request was due, so that a gateway which stalls the load itself gains
nothing by it. Each answer is held against its request (``conversation``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from .conversation import DONE, Ask, Content, generation_of, judge

ANSWER_GUARD_S = 60.0  # no answer takes this long; without one the gateway hangs
_KEPT_BYTES = 600  # of an answer that is not in order, to look at


@dataclass(slots=True)
class Seen:
    """What a client saw of one request. Times are monotonic seconds.

    Attributes:
        due: when it was to be sent.
        status: of the answer; 0: there was none.
        is_whole: the answer ended by its own framing.
        is_done: it has a ``[DONE]``.
        has_error: it has an error event, or is an error object.
        content: of a 200.
        generation: whose content that is; "" if there is none.
        body: the last of it, if anything is wrong.
    """

    ask: Ask
    due: float
    begun: float = 0.0
    ended: float = 0.0
    status: int = 0
    is_whole: bool = False
    is_done: bool = False
    has_error: bool = False
    content: Content = Content.PARTIAL
    generation: str = ""
    body: bytes = b""

    @property
    def is_ok(self) -> bool:
        """A whole success: status, framing, content, and the end of a stream."""
        return (
            self.status == 200
            and self.is_whole
            and self.content is Content.WHOLE
            and self.is_done == self.ask.stream
            and not self.has_error
        )

    @property
    def is_lie(self) -> bool:
        """It looks like a whole success, or has content that is not of one generation, and is none."""
        if self.status != 200 or self.is_ok:
            return False
        return self.content is Content.CORRUPT or self.is_done or self.is_whole

    @property
    def latency_s(self) -> float:
        return self.ended - self.due

    def judge(self, status: int, body: bytes, is_whole: bool) -> None:
        self.ended = monotonic()
        self.status, self.is_whole = status, is_whole
        self.is_done = DONE in body
        self.has_error = b'"error"' in body
        if status == 200:
            self.content = judge(self.ask.id, body)
            self.generation = generation_of(self.ask.id, body)
        if not self.is_ok:
            self.body = body[-_KEPT_BYTES:]


class ClientConnection(asyncio.Protocol):
    """One client connection: a request at a time."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.is_open = False
        self._answer: asyncio.Future[tuple[int, bytes, bool]] | None = None
        self._reset()

    def _reset(self) -> None:
        self._buffer = b""
        self._pieces: list[bytes] = []
        self._status = 0
        self._left = 0  # bytes of the body to come; -1: chunked; -2: until the end of the connection
        self._closes = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.is_open = True

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        self._end(self._left == -2 and self._status > 0 and error is None)

    def ask(self, data: bytes) -> asyncio.Future[tuple[int, bytes, bool]]:
        """Send a request; the future has (status, body, is it whole) in any case."""
        self._reset()
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return self._answer

    def abort(self) -> None:
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while not self._status:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            self._buffer = rest
            self._read_head(head.lower())
        if self._left == -1:
            self._read_chunks()
        elif self._left == -2:
            self._take(len(self._buffer))
        else:
            size = min(self._left, len(self._buffer))
            self._left -= size
            self._take(size)
            if self._left == 0:
                self._end(True)

    def _take(self, size: int) -> None:
        self._pieces.append(self._buffer[:size])
        self._buffer = self._buffer[size:]

    def _read_head(self, head: bytes) -> None:
        line, _, fields = head.partition(b"\r\n")
        status = int(line.split(b" ")[1])
        if status < 200:
            return
        self._status = status
        self._closes = b"connection: close" in fields
        _, found, value = fields.partition(b"content-length:")
        if b"transfer-encoding: chunked" in fields:
            self._left = -1
        else:
            self._left = int(value.split(b"\r\n", 1)[0]) if found else -2

    def _read_chunks(self) -> None:
        while True:
            line, end, rest = self._buffer.partition(b"\r\n")
            if not end:
                return
            size = int(line, 16)
            if len(rest) < size + 2:
                return
            self._buffer = rest
            self._take(size)
            self._buffer = self._buffer[2:]
            if size == 0:
                self._end(True)
                return

    def _end(self, is_whole: bool) -> None:
        answer, self._answer = self._answer, None
        if answer is None or answer.done():
            return
        if self._left == -1 and not is_whole and self._status:
            # An unfinished chunk is content too.
            self._pieces.append(self._buffer.partition(b"\r\n")[2])
        if self._buffer and is_whole:
            self._closes = True  # bytes behind an answer: nothing good
        if self._closes or not is_whole:
            self.transport.close()
            self.is_open = False
        answer.set_result((self._status, b"".join(self._pieces), is_whole))


class Clients:
    """Connections to one gateway, kept open between requests."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self._idle: list[ClientConnection] = []

    async def open(self) -> ClientConnection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(ClientConnection, *self.address)
        return connection

    async def ask(self, ask: Ask, due: float = 0.0) -> Seen:
        """Send a request over some connection, and see what comes of it."""
        seen = Seen(ask, due or monotonic())
        data = ask.encode()
        try:
            async with asyncio.timeout(ANSWER_GUARD_S):
                connection = None
                while self._idle and connection is None:
                    connection = self._idle.pop()
                    if not connection.is_open:
                        connection = None
                if connection is None:
                    connection = await self.open()
                seen.begun = monotonic()
                seen.judge(*await connection.ask(data))
        except (OSError, TimeoutError) as problem:
            seen.ended = monotonic()
            seen.body = repr(problem).encode()
            return seen
        if connection.is_open:
            self._idle.append(connection)
        return seen

    async def run(self, asks: Iterable[Ask], rate: float, start: float = 0.0) -> list[Seen]:
        """Send ``rate`` requests a second from ``start`` (monotonic seconds) on, and wait for all answers."""
        start = start or monotonic()
        tasks = []
        async with asyncio.TaskGroup() as group:
            for number, ask in enumerate(asks):
                due = start + number / rate
                if (early_s := due - monotonic()) > 0:
                    await asyncio.sleep(early_s)
                tasks.append(group.create_task(self.ask(ask, due)))
        return [task.result() for task in tasks]

    def close(self) -> None:
        for connection in self._idle:
            if connection.is_open:
                with contextlib.suppress(OSError):
                    connection.transport.close()
        self._idle.clear()


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which this share of them lies; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
