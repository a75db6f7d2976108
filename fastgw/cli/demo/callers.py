"""The callers of the demo: plain HTTP clients that retry nothing and read every answer to the letter.

They use nothing of the gateway. A simulated model repeats what it was asked and fills up with numbered
words, so each answer is known beforehand: one that is cut, mixed or meant for somebody else is wrong.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

import orjson

from fastgw.simulator.conversation import say

PATIENCE_S = 60.0
TOKENS = 12  # of a streamed answer; a plain one is only the echo
TOKEN_MS = 15
PAUSE_S = 0.1
MAX_ERRORS_KEPT = 20
MAX_LINE = 64 * 1024


@dataclass(slots=True)
class Tally:
    """What the callers got, over some time."""

    answers: int = 0
    streams: int = 0
    moved: int = 0  # answered by another node than the first one asked
    wrong: int = 0
    slowest_s: float = 0.0
    nodes: Counter[str] = field(default_factory=Counter)  # answers, by the node that gave them
    errors: list[str] = field(default_factory=list)
    error_count: int = 0

    def add_error(self, text: str) -> None:
        self.error_count += 1
        if len(self.errors) < MAX_ERRORS_KEPT:
            self.errors.append(text)

    def add(self, other: "Tally") -> None:
        """Add another one's figures."""
        self.answers += other.answers
        self.streams += other.streams
        self.moved += other.moved
        self.wrong += other.wrong
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.nodes += other.nodes
        self.error_count += other.error_count
        self.errors = (self.errors + other.errors)[:MAX_ERRORS_KEPT]


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, read whole."""

    status: int
    headers: dict[str, str]
    body: bytes


class Caller:
    """One client on one keep-alive connection, with one request after the other.

    ``tally`` may be replaced at any time; an answer counts where it ends.

    Args:
        may_stream: while it is not set, no new stream is asked for.
    """

    def __init__(
        self,
        number: int,
        address: tuple[str, int],
        tally: Tally,
        may_stream: asyncio.Event,
        *,
        is_streaming: bool,
    ) -> None:
        self.tally = tally
        self.is_in_stream = False
        self._may_stream = may_stream
        self._number = number
        self._host, self._port = address
        self._is_streaming = is_streaming
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Ask until cancelled. Nothing is asked twice."""
        try:
            for serial in count(1):
                if self._is_streaming:
                    await self._may_stream.wait()
                    self.is_in_stream = True
                await self._ask(f"caller {self._number}, question {serial}")
                self.is_in_stream = False
                await asyncio.sleep(PAUSE_S)
        finally:
            self._hang_up()

    async def _ask(self, question: str) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await self._exchange(question)
        except asyncio.CancelledError:
            raise
        except (OSError, EOFError, ValueError, TimeoutError) as error:  # whatever a broken gateway may do
            self._hang_up()
            self.tally.add_error(f"{question}: {type(error).__name__} {error}")
            return
        self._judge(question, answer, time.monotonic() - began)

    def _judge(self, question: str, answer: Answer, took_s: float) -> None:
        tally = self.tally
        tally.answers += 1
        tally.streams += self._is_streaming
        tally.slowest_s = max(tally.slowest_s, took_s)
        if answer.status != 200:
            tally.add_error(f"{question}: {answer.status} {answer.body[:200]!r}")
            return
        tally.nodes[answer.headers.get("x-fastgw-upstream", "?")] += 1
        tally.moved += answer.headers.get("x-fastgw-attempts", "1") != "1"
        try:
            text = streamed_text(answer.body) if self._is_streaming else plain_text(answer.body)
        except (ValueError, LookupError, TypeError) as error:
            tally.add_error(f"{question}: {error!r} in {answer.body[-200:]!r}")
            return
        if text != self._expected(question):
            tally.wrong += 1
            tally.add_error(f"{question}: the answer is {text[:200]!r}")

    def _expected(self, question: str) -> str:
        messages = [{"role": "user", "content": question}]
        return "".join(say(messages, length=TOKENS if self._is_streaming else 0))

    # --- HTTP ---------------------------------------------------------------------------------

    async def _exchange(self, question: str) -> Answer:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=MAX_LINE)
        assert self._reader is not None
        body: dict[str, object] = {
            "model": "gpt-4o-mini",
            "messages": [{"role": "user", "content": question}],
        }
        fields = ""
        if self._is_streaming:
            body["stream"] = True
            fields = f"x-sim-tokens: {TOKENS}\r\nx-sim-delay-ms: {TOKEN_MS}\r\n"
        data = orjson.dumps(body)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\n{fields}Content-Length: {len(data)}\r\n\r\n"
        )
        self._writer.write(head.encode() + data)
        answer = await read_answer(self._reader)
        if answer.headers.get("connection", "").lower() == "close":
            self._hang_up()
        return answer

    def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read one answer whole. Raises EOFError when it is cut, ValueError when it is no HTTP."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ", 2)[1])
    headers = {}
    for line in lines[1:-2]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Answer(status, headers, await _read_chunks(reader))
    return Answer(status, headers, await reader.readexactly(int(headers["content-length"])))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    while True:
        size = int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16)
        if size == 0:
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass  # trailers
            return b"".join(parts)
        parts.append(await reader.readexactly(size))
        if await reader.readexactly(2) != b"\r\n":
            raise ValueError("a chunk does not end where it says")


def plain_text(body: bytes) -> str:
    """The text of a chat completion."""
    text = orjson.loads(body)["choices"][0]["message"]["content"]
    if not isinstance(text, str):
        raise TypeError("the content is no text")
    return text


def streamed_text(body: bytes) -> str:
    """The text of a stream of chunks; ValueError when it has no proper end."""
    parts: list[str] = []
    events = [line[5:].strip() for line in body.split(b"\n") if line.startswith(b"data:")]
    if not events or events[-1] != b"[DONE]":
        raise ValueError("the stream has no end")
    for event in events[:-1]:
        chunk = orjson.loads(event)
        if "error" in chunk:
            raise ValueError("an error event")
        for choice in chunk["choices"]:
            parts.append(choice["delta"].get("content") or "")
    return "".join(parts)
