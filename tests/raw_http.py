"""A lean HTTP/1.1 client over asyncio streams: what it sends and sees is exact.

It is fast enough to be a load, keeps connections alive, and can hold an answer half read, which
SDKs and httpx hide. Nothing of the gateway is used in it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Answer:
    """One answer. ``is_whole`` is False when its body broke off before its end."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    is_whole: bool = True
    lines: list[str] = field(default_factory=list)  # the head as it came

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


def encode(
    method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> bytes:
    """A request as bytes. A ``host`` of one's own wins; "" leaves Host out."""
    fields = {"host": "127.0.0.1", **(headers or {})}
    if body is not None:
        fields.setdefault("content-type", "application/json")
        fields.setdefault("content-length", str(len(body)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if name != "host" or value)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + (body or b"")


def chat(text: str, *, stream: bool = False, model: str = "gpt-4o") -> bytes:
    """The body of a chat request."""
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}]}
    if stream:
        body["stream"] = True
    return json.dumps(body).encode()


class Connection:
    """One client connection; requests one after another, or an answer piece by piece."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.is_closed = False
        self._answer: Answer | None = None
        self._left = 0  # of a body with a length; -1 chunked, -2 until close

    @classmethod
    async def open(cls, port: int, host: str = "127.0.0.1") -> Connection:
        return cls(*await asyncio.open_connection(host, port, limit=4 * 1024 * 1024))

    async def ask(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Send a request and read its whole answer."""
        self.writer.write(encode(method, path, headers, body))
        return await self.answer(is_head=method == "HEAD")

    async def answer(self, *, is_head: bool = False) -> Answer:
        """Read one whole answer (or what there is of it)."""
        answer = await self.head(is_head=is_head)
        pieces = []
        while piece := await self.piece():
            pieces.append(piece)
        answer.body = b"".join(pieces)
        if answer.closes:
            await self.close()
        return answer

    async def head(self, *, is_head: bool = False) -> Answer:
        """Read the head of an answer only. Raises IncompleteReadError or ConnectionError."""
        raw = await self.reader.readuntil(b"\r\n\r\n")
        lines = raw.decode("latin-1").split("\r\n")[:-2]
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        answer = self._answer = Answer(int(lines[0].split(" ")[1]), headers, lines=lines)
        if is_head or answer.status in (204, 304):
            self._left = 0
        elif headers.get("transfer-encoding", "").lower() == "chunked":
            self._left = -1
        else:
            self._left = int(headers.get("content-length", -2))
        return answer

    async def piece(self) -> bytes:
        """The next part of the body; b"" at its end, and ``is_whole`` says which end it was."""
        answer = self._answer
        assert answer is not None
        try:
            if self._left == -1:
                size = int(await self.reader.readuntil(b"\r\n"), 16)
                data = (await self.reader.readexactly(size + 2))[:-2]
                if not data:
                    self._left = 0
                return data
            if self._left == -2:
                data = await self.reader.read(65536)
                if not data:
                    self._left = 0
                return data
            if self._left == 0:
                return b""
            data = await self.reader.read(self._left)
            if not data:
                raise ConnectionError
            self._left -= len(data)
            return data
        except (asyncio.IncompleteReadError, ConnectionError):
            answer.is_whole = False
            return b""

    async def until(self, text: bytes) -> bytes:
        """Read pieces until ``text`` has come; returns what was read."""
        seen = b""
        while text not in seen:
            piece = await self.piece()
            assert piece, f"the answer ended before {text!r}: {seen!r}"
            seen += piece
        return seen

    async def is_at_end(self) -> bool:
        """Wait until the peer closes; False if it says something instead."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    async def close(self) -> None:
        """Close in order."""
        if not self.is_closed:
            self.is_closed = True
            self.writer.close()
            try:
                await self.writer.wait_closed()
            except (ConnectionError, OSError):
                pass

    def abort(self) -> None:
        """Leave without a word, as a client does that is killed."""
        self.is_closed = True
        self.writer.transport.abort()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    """A connection that is closed at the end."""
    connection = await Connection.open(port)
    try:
        yield connection
    finally:
        await connection.close()
