"""Both kinds of connection without a socket: what one made of the bytes of its peer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from fake_transport import FakeTransport

from fastgw.errors import BadResponse, ClientError, ConnectionLost, NodeError
from fastgw.wire.client_connection import ClientConnection, ClientState, Listener
from fastgw.wire.events import ConnectionOwner, ExchangeEvents
from fastgw.wire.head import (
    CHUNKED_BODY,
    NO_BODY,
    Limits,
    RequestHead,
    RequestTemplate,
    ResponseTemplate,
    chunk_of,
)
from fastgw.wire.node_connection import NodeConnection

from .request_cases import NODE_HOST

REQUEST_LIMITS = Limits()
ANSWER_LIMITS = Limits(16 * 1024, 64 * 1024, 256)
TO_NODE = RequestTemplate(NODE_HOST)
TO_CLIENT = ResponseTemplate()


class Loop:
    """Calls what should be called soon when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.waiting.append(callback)

    def run(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()


@contextmanager
def no_loop() -> Iterator[Loop]:
    """Within it, connections find this loop instead of a running one."""
    loop = Loop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "get_running_loop", lambda: loop)
        yield loop


# --- Requests ---------------------------------------------------------------------------------


@dataclass
class RequestVerdict:
    """What a connection made of its client's bytes; the fields are those of ``RequestCase``."""

    statuses: list[int] = field(default_factory=list)
    node: list[bytes] = field(default_factory=list)
    is_kept: bool = False


class _Held(ExchangeEvents):
    """Holds a request until it is whole, writes it as for a node, and answers 200."""

    def __init__(
        self, connection: ClientConnection, head: RequestHead, verdict: RequestVerdict, as_chunks: bool
    ) -> None:
        self.connection = connection
        self.head = head
        self.verdict = verdict
        self.as_chunks = as_chunks
        self.body = b""

    def on_request_read(self, data: bytes, start: int, end: int, complete: bool) -> None:
        self.body += self.connection.framer.decoded(data)
        if complete:
            head = self.head
            has_body = head.is_chunked or head.content_length >= 0
            length, body = (len(self.body), self.body) if has_body else (NO_BODY, None)
            if body is not None and self.as_chunks:
                length, body = CHUNKED_BODY, chunk_of(body, True)
            self.verdict.node.append(TO_NODE.render(head, head.method, head.target, length, None, None, body))
            self.verdict.statuses.append(200)
            self.connection.finish(self.connection.keeps_alive(), self.connection.read_at)

    def on_client_gone(self) -> None:
        pass


def read_requests(loop: Loop, pieces: list[bytes], *, as_chunks: bool = False) -> RequestVerdict:
    """Let a client connection read ``pieces``; ``loop`` is that of ``no_loop``.

    Args:
        as_chunks: bodies go to the node in chunks.
    """
    verdict = RequestVerdict()

    def refuse(connection: ClientConnection, error: ClientError) -> None:
        verdict.statuses.append(error.status)
        connection.finish(False, connection.read_at)

    listener = Listener(
        lambda connection, head: _Held(connection, head, verdict, as_chunks), refuse, limits=REQUEST_LIMITS
    )
    connection = listener.make_connection()
    transport = FakeTransport()
    connection.connection_made(transport)
    for piece in pieces:
        if transport.is_open or connection.state == ClientState.LINGERING:
            connection.data_received(piece)
            loop.run()
    verdict.is_kept = connection.state == ClientState.IDLE and transport.is_open
    connection.connection_lost(None)
    return verdict


# --- Answers ----------------------------------------------------------------------------------


@dataclass
class AnswerVerdict:
    """What a connection made of its node's bytes; the fields are those of ``AnswerCase``."""

    outcome: str = "waiting"
    client: bytes | None = None
    is_pooled: bool = False


class Owner(ConnectionOwner):
    """The pool of one connection."""

    def __init__(self) -> None:
        super().__init__()
        self.is_idle = False

    def give_back(self, connection: Any, now: float) -> None:
        self.is_idle = True

    def forget(self, connection: Any) -> None:
        self.is_idle = False


class AnswerReader(ExchangeEvents):
    """Holds an answer until it is whole, and writes it as for a client."""

    def __init__(self, connection: NodeConnection, *, is_head: bool, as_chunks: bool) -> None:
        self.connection = connection
        self.is_head = is_head
        self.as_chunks = as_chunks
        self.body = b""
        self.verdict = AnswerVerdict()

    def on_node_read(self, data: bytes, start: int, end: int, complete: bool) -> None:
        if start < end:
            self.body += self.connection.framer.decoded(data)
        if complete:
            head = self.connection.head
            assert head is not None
            length, body = len(self.body), self.body
            if self.is_head or head.status in (204, 304):
                assert not body
                length = head.content_length if self.is_head else NO_BODY
            elif self.as_chunks:
                length, body = CHUNKED_BODY, chunk_of(body, True)
            self.verdict.outcome = "answer"
            self.verdict.client = TO_CLIENT.render(head, length, True, 1, b"", None, 0, body)

    def on_node_lost(self, error: NodeError) -> None:
        assert isinstance(error, BadResponse | ConnectionLost), error
        self.verdict.outcome = "bad" if isinstance(error, BadResponse) else "lost"


def read_answer(
    pieces: list[bytes], *, is_head: bool = False, end: str = "", as_chunks: bool = False
) -> AnswerVerdict:
    """Let a connection to a node read ``pieces``, and the end of the stream if there is one.

    Args:
        end: as in ``AnswerCase``.
        as_chunks: the body goes to the client in chunks.
    """
    owner = Owner()
    connection = NodeConnection(owner, None, ANSWER_LIMITS)
    connection.connection_made(FakeTransport())
    reader = AnswerReader(connection, is_head=is_head, as_chunks=as_chunks)
    connection.start(reader, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", None, is_head)
    for piece in pieces:
        connection.data_received(piece)
    if end == "fin":
        connection.eof_received()
        connection.connection_lost(None)
    elif end == "reset":
        connection.connection_lost(ConnectionResetError())
    reader.verdict.is_pooled = owner.is_idle
    return reader.verdict


# --- Pieces -----------------------------------------------------------------------------------


def splits(data: bytes, *, most: int = 2048) -> Iterator[list[bytes]]:
    """``data`` whole, byte by byte, in sevens, and cut in two at every byte.

    Of data larger than ``most`` bytes only some cuts: near both ends, and every 97th.
    """
    yield [data] if data else []
    yield [data[at : at + 1] for at in range(len(data))]
    yield [data[at : at + 7] for at in range(0, len(data), 7)]
    for at in range(1, len(data)):
        if len(data) <= most or at < 64 or at > len(data) - 64 or at % 97 == 0:
            yield [data[:at], data[at:]]
