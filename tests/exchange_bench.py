"""Exchanges without sockets, tasks or waiting: real parts between fake transports, and a clock by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson
import pytest
from fake_transport import FakeTransport

from fastgw._core import Node
from fastgw.balancing.deadlines import Deadlines
from fastgw.balancing.health import HealthPolicy
from fastgw.balancing.upstream import Upstream
from fastgw.errors import ClientError, NodeError
from fastgw.llm.adapter import Adapter
from fastgw.llm.dialect import DIALECTS, ModelMap
from fastgw.proxy import exchange as exchange_module
from fastgw.proxy import sending as sending_module
from fastgw.proxy.exchange import Exchange
from fastgw.proxy.exchanges import Exchanges
from fastgw.proxy.plan import NodeLink, RoutePlan
from fastgw.redaction import Redactor
from fastgw.secret import Secret
from fastgw.wire import client_connection as client_module
from fastgw.wire import node_connection as node_module
from fastgw.wire.client_connection import ClientConnection, ClientState, Listener
from fastgw.wire.events import ExchangeEvents
from fastgw.wire.head import RequestHead, RequestTemplate
from fastgw.wire.node_connection import NodeConnection
from fastgw.wire.pool import Pool

BODY = b'{"model":"gpt-4o","messages":[]}'
STREAM_BODY = b'{"model":"gpt-4o","stream":true,"messages":[]}'
PATH = "/v1/chat/completions"
COMPATIBLE = DIALECTS["openai-compatible"]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Ticket:
    """A dial that a test completes."""

    def __init__(self, pool: FakePool, exchange: ExchangeEvents, timeout_s: float) -> None:
        self.pool = pool
        self.exchange = exchange
        self.timeout_s = timeout_s
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def connect(self) -> FakeNode:
        assert not self.is_cancelled
        node = FakeNode(self.pool)
        self.pool.busy.add(node.connection)
        self.exchange.on_node_connected(node.connection)
        return node

    def fail(self, error: NodeError) -> None:
        assert not self.is_cancelled
        self.exchange.on_connect_failed(error)


class FakePool(Pool):
    """A pool that dials when the test says so."""

    tickets: list[Ticket]

    def dial(self, exchange: ExchangeEvents, timeout_s: float) -> Any:
        self.tickets.append(Ticket(self, exchange, timeout_s))
        return self.tickets[-1]


class FakeNode:
    """The node's end of a connection."""

    def __init__(self, pool: FakePool) -> None:
        self.connection = NodeConnection(pool, None, pool.limits)
        self.transport = FakeTransport()
        self.connection.connection_made(self.transport)

    def take(self) -> bytes:
        """What the gateway has written since the last call."""
        return self.transport.take()

    def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.connection.data_received(piece)

    def close(self) -> None:
        self.connection.eof_received()
        self.connection.connection_lost(None)

    def reset(self) -> None:
        self.connection.connection_lost(ConnectionResetError())

    @property
    def is_cut(self) -> bool:
        return "abort" in self.transport.calls


class Bench:
    """One client before an upstream of fake nodes, named a, b, c ... in falling priority."""

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        nodes: int = 2,
        *,
        is_llm: bool = True,
        deadlines: Deadlines | None = None,
        models: Iterable[tuple[str, str]] = (),
        adapters: Sequence[Adapter | None] = (),
        health: HealthPolicy | None = None,
        limits: dict[str, int] | None = None,
        limits_per_model: bool = False,
        prefix_target: bytes = b"",
        **plan: Any,
    ) -> None:
        self.clock = Clock()
        for module in (exchange_module, sending_module, client_module, node_module):
            patch.setattr(module, "monotonic", self.clock)
        self.finished: list[Exchange] = []
        self.exchanges = Exchanges(self.finished.append, **(limits or {}))
        names = "abcdefgh"[:nodes]
        self.nodes = [Node("10.0.0.1", 80 + at, 1, -at, name=name) for at, name in enumerate(names)]
        self.upstream = Upstream(self.nodes, health, random=lambda: 0.5)
        self.pools: list[FakePool] = []
        links = []
        for position, node in enumerate(self.nodes):
            pool = FakePool(None, node.host, node.port)  # type: ignore[arg-type]
            pool.tickets = []
            self.pools.append(pool)
            links.append(
                NodeLink(
                    node,
                    pool,
                    RequestTemplate(
                        node.name.encode(), [(b"authorization", b"Bearer " + node.name.encode())]
                    ),
                    position=position,
                    adapter=adapters[position]
                    if position < len(adapters)
                    else Adapter(COMPATIBLE, ModelMap(tuple(models)))
                    if models and position
                    else None,
                    limits_per_model=limits_per_model,
                    prefix_target=prefix_target,
                    redactor=Redactor([Secret(f"Bearer secret-of-{node.name}")], by_shape=is_llm),
                )
            )
        self.plan = RoutePlan(
            "route", self.upstream, tuple(links), is_llm=is_llm, deadlines=deadlines, **plan
        )
        self.live: list[Exchange] = []
        self.listener = Listener(self._accept, self._refuse)
        self.client = self.listener.make_connection()
        self.transport = FakeTransport()
        self.client.connection_made(self.transport)

    def _accept(self, connection: ClientConnection, head: RequestHead) -> Exchange:
        self.live.append(Exchange(self.exchanges, connection, head, self.plan, b"id-1", self.clock.now))
        return self.live[-1]

    def _refuse(self, connection: ClientConnection, error: ClientError) -> None:
        connection.send(b"HTTP/1.1 %d Refused\r\n\r\n" % error.status)
        connection.finish(False, connection.read_at)

    # --- The client ---------------------------------------------------------------------------

    def ask(
        self,
        body: bytes = BODY,
        *fields: str,
        method: str = "POST",
        path: str = PATH,
        version: str = "1.1",
        has_length: bool = True,
    ) -> Exchange:
        """Send a request with its whole body."""
        lines = [f"{method} {path} HTTP/{version}", "Host: gw", *fields]
        if body and has_length:
            lines.append(f"Content-Length: {len(body)}")
        self.client.data_received("".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body)
        return self.live[-1]

    def answer(self) -> Answer:
        """What the client got since the last call."""
        return Answer(self.transport.take())

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.exchanges.sweep(self.clock.now)

    @property
    def client_state(self) -> ClientState:
        return ClientState(self.client.state)

    # --- The nodes ----------------------------------------------------------------------------

    def dialled(self, position: int = 0) -> Ticket:
        """The last dial to a node."""
        return self.pools[position].tickets[-1]

    def connect(self, position: int = 0) -> FakeNode:
        return self.dialled(position).connect()

    def warm(self, position: int = 0) -> FakeNode:
        """An idle connection that has served a request before."""
        pool = self.pools[position]
        node = FakeNode(pool)
        node.connection.served = 1
        node.connection.idle_since = self.clock.now
        pool.idle.append(node.connection)
        return node

    # --- The end ------------------------------------------------------------------------------

    def check_end(self) -> None:
        """Nothing is left of exchanges that have ended, and each of them ended once."""
        assert not self.exchanges.live
        assert self.exchanges.held_bytes == 0
        assert len(self.finished) == len(self.live) == self.exchanges.started
        assert len(set(map(id, self.finished))) == len(self.finished)
        assert all(node.in_flight == 0 for node in self.nodes)
        assert all(not pool.busy for pool in self.pools)


class Answer:
    """The bytes of one answer, taken apart without the code under test."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        head, _, self.rest = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        self.status = int(lines[0].split()[1]) if data else 0
        pairs = [line.partition(b": ") for line in lines[1:]]
        self.fields = {name.lower().decode(): value.decode() for name, _, value in pairs}
        assert len(self.fields) == len(pairs), f"a field twice: {lines}"

    @property
    def body(self) -> bytes:
        """The content, out of its framing."""
        if self.fields.get("transfer-encoding") == "chunked":
            return dechunked(self.rest)[0]
        if "content-length" in self.fields:
            assert len(self.rest) == int(self.fields["content-length"])
        return self.rest

    @property
    def is_whole(self) -> bool:
        if self.fields.get("transfer-encoding") == "chunked":
            return dechunked(self.rest)[1]
        return len(self.rest) == int(self.fields.get("content-length", 0))

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = orjson.loads(self.body)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        return error


def dechunked(data: bytes) -> tuple[bytes, bool]:
    """The content of whole chunks, and whether the last one was among them; nothing may be left over."""
    content = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        assert data[length : length + 2] == b"\r\n", "not at the boundary of a chunk"
        content += data[:length]
        data = data[length + 2 :]
        if length == 0:
            assert not data
            return content, True
    return content, False


# --- What nodes say ---------------------------------------------------------------------------


def response(status: int = 200, body: bytes = b"", *fields: str, reason: str = "X") -> bytes:
    lines = [f"HTTP/1.1 {status} {reason}", *fields, f"Content-Length: {len(body)}"]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


def json_response(value: Any, status: int = 200, *fields: str) -> bytes:
    return response(status, orjson.dumps(value), "Content-Type: application/json", *fields)


def error_response(status: int, code: str = "", *fields: str) -> bytes:
    return json_response({"error": {"message": "no", "type": code, "code": code}}, status, *fields)


COMPLETION = {"id": "c-1", "object": "chat.completion", "choices": [{"message": {"content": "Hi"}}]}
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n'
FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"no","type":"server_error","code":"server_error"}}\n\n'
KEEP_ALIVE = b": keep-alive\n\n"
END = b"0\r\n\r\n"


def content(text: str) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":%b}}]}\n\n' % orjson.dumps(text)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
