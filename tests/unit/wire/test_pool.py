"""The connections of one node: which is taken, which is kept, which is closed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
from fake_transport import FakeTransport

from fastgw.errors import ConnectFailed, ConnectTimeout, NodeError
from fastgw.wire import pool as module
from fastgw.wire.events import ExchangeEvents
from fastgw.wire.node_connection import PEEK_AFTER_S, NodeConnection, NodeState
from fastgw.wire.pool import Pool, PoolSettings
from fastgw.wire.resolver import Resolver


class Recorder(ExchangeEvents):
    def __init__(self) -> None:
        self.connection: NodeConnection | None = None
        self.error: NodeError | None = None
        self.calls = 0

    def on_node_connected(self, connection: NodeConnection) -> None:
        self.calls += 1
        self.connection = connection

    def on_connect_failed(self, error: NodeError) -> None:
        self.calls += 1
        self.error = error


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    made = Resolver()
    yield made
    made.close()


@pytest.fixture
def make(resolver: Resolver) -> Callable[..., Pool]:
    return lambda **settings: Pool(resolver, "node.example", 443, settings=PoolSettings(**settings))


def connect(pool: Pool, **extra: Any) -> NodeConnection:
    """A connection that is busy with its first request."""
    connection = NodeConnection(pool, None, pool.limits)
    connection.connection_made(FakeTransport(**extra))
    connection.state = NodeState.IDLE
    connection.served = 1
    pool.busy.add(connection)
    return connection


def calls_of(connection: NodeConnection) -> list[str]:
    transport: FakeTransport = connection.transport
    return transport.calls


# --- Taking and giving back -------------------------------------------------------------------


def test_an_empty_pool_gives_nothing(make: Callable[..., Pool]) -> None:
    pool = make()
    assert pool.take(0.0) is None
    assert repr(pool) == "<Pool node.example:443 idle=0 busy=0>"
    assert pool.counts() == {
        "idle": 0,
        "busy": 0,
        "dialling": 0,
        "opened": 0,
        "reused": 0,
        "unsolicited": 0,
        "stale": 0,
    }


def test_the_last_one_in_is_the_first_one_out(make: Callable[..., Pool]) -> None:
    pool = make()
    first, second = connect(pool), connect(pool)
    pool.give_back(first, monotonic())
    pool.give_back(second, monotonic())
    assert not pool.busy
    assert pool.take(0.0) is second
    assert pool.take(0.0) is first
    assert pool.busy == {first, second} and pool.reused == 2


def test_no_more_are_kept_than_the_pool_has_room_for(make: Callable[..., Pool]) -> None:
    pool = make(size=1)
    first, second = connect(pool), connect(pool)
    pool.give_back(first, monotonic())
    pool.give_back(second, monotonic())
    assert pool.idle == [first] and calls_of(second) == ["close"] and not pool.busy


def test_a_connection_serves_so_many_requests_and_no_more(make: Callable[..., Pool]) -> None:
    pool = make(requests=2)
    connection = connect(pool)
    pool.give_back(connection, monotonic())
    assert pool.take(0.0) is connection
    connection.served = 2
    pool.give_back(connection, monotonic())
    assert not pool.idle and calls_of(connection) == ["close"]


def test_a_closing_connection_is_passed_over(make: Callable[..., Pool]) -> None:
    pool = make()
    good, bad = connect(pool), connect(pool)
    pool.give_back(good, monotonic())
    pool.give_back(bad, monotonic())
    bad.transport.calls.append("close")  # by its transport
    assert pool.take(0.0) is good
    assert pool.stale == 1 and not pool.idle and pool.busy == {good}


@pytest.mark.parametrize("happened", ["nothing", "bytes", "end"])
def test_a_connection_that_was_idle_for_long_is_looked_at_first(
    make: Callable[..., Pool], happened: str
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pool = make()
        connection = connect(pool, socket=ours)
        pool.give_back(connection, monotonic())
        if happened == "bytes":
            theirs.send(b"HTTP/1.1 408 Too late\r\n\r\n")
        elif happened == "end":
            theirs.close()
        taken = pool.take(connection.idle_since + PEEK_AFTER_S)
        assert taken is (connection if happened == "nothing" else None)
        assert calls_of(connection) == ([] if happened == "nothing" else ["abort"])
        assert pool.stale == (happened != "nothing")


def test_what_was_idle_too_long_is_closed(make: Callable[..., Pool]) -> None:
    pool = make(idle_timeout_s=30.0)
    old, young = connect(pool), connect(pool)
    pool.give_back(old, monotonic())
    pool.give_back(young, monotonic())
    old.idle_since, young.idle_since = 100.0, 120.0
    pool.sweep(130.0)
    assert pool.idle == [old, young]
    pool.sweep(130.1)
    assert pool.idle == [young] and calls_of(old) == ["close"]
    pool.sweep(1000.0)
    assert pool.idle == []


def test_a_flush_closes_everything_idle(make: Callable[..., Pool]) -> None:
    pool = make()
    idle, other, busy = connect(pool), connect(pool), connect(pool)
    pool.give_back(idle, monotonic())
    pool.give_back(other, monotonic())
    pool.flush()
    assert pool.idle == [] and pool.busy == {busy}
    assert calls_of(idle) == calls_of(other) == ["abort"] and calls_of(busy) == []


def test_a_closed_pool_keeps_nothing(make: Callable[..., Pool]) -> None:
    pool = make()
    idle, busy = connect(pool), connect(pool)
    pool.give_back(idle, monotonic())
    pool.close()
    assert calls_of(idle) == ["close"] and calls_of(busy) == []
    pool.give_back(busy, monotonic())
    assert calls_of(busy) == ["close"] and not pool.idle and not pool.busy


def test_an_aborted_pool_has_nothing_left(make: Callable[..., Pool]) -> None:
    pool = make()
    idle, busy = connect(pool), connect(pool)
    pool.give_back(idle, monotonic())
    pool.abort()
    assert calls_of(idle) == ["close"] and calls_of(busy) == ["abort"]
    assert not pool.idle and not pool.busy


# --- Dialling ---------------------------------------------------------------------------------


class Dialler:
    """Stands in for ``dial``: connects when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = asyncio.Event()
        self.error: BaseException | None = None
        self.made: list[NodeConnection] = []
        self.is_dead = False
        monkeypatch.setattr(module, "dial", self.dial)

    async def dial(
        self, resolver: Resolver, host: str, port: int, factory: Callable[[], NodeConnection], **limits: Any
    ) -> tuple[Any, NodeConnection, Any]:
        assert (host, port) == ("node.example", 443)
        assert limits["connect_timeout_s"] == 5.0 and limits["tcp_timeout_s"] == 3.0
        await self.go.wait()
        if self.error is not None:
            raise self.error
        connection = factory()
        connection.connection_made(FakeTransport())
        if self.is_dead:
            connection.connection_lost(ConnectionResetError())
        self.made.append(connection)
        return connection.transport, connection, None


async def settle(pool: Pool) -> None:
    for _ in range(20):
        await asyncio.sleep(0)
    assert not pool.dials


def test_a_dialled_connection_is_handed_to_its_exchange(
    make: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        dialler = Dialler(monkeypatch)
        pool, exchange = make(), Recorder()
        pool.dial(exchange, 5.0)
        await asyncio.sleep(0)
        assert pool.counts()["dialling"] == 1
        dialler.go.set()
        await settle(pool)
        assert exchange.connection is dialler.made[0] and exchange.calls == 1
        assert pool.busy == {dialler.made[0]} and pool.opened == 1

    asyncio.run(run())


def test_a_failed_dial_is_told(make: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        dialler = Dialler(monkeypatch)
        dialler.error = ConnectTimeout()
        dialler.go.set()
        pool, exchange = make(), Recorder()
        pool.dial(exchange, 5.0)
        await settle(pool)
        assert exchange.error is dialler.error and exchange.calls == 1 and not pool.busy

    asyncio.run(run())


@pytest.mark.loop_errors
def test_an_unexpected_failure_leaves_nobody_waiting(
    make: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        dialler = Dialler(monkeypatch)
        dialler.error = ZeroDivisionError()
        dialler.go.set()
        pool, exchange = make(), Recorder()
        pool.dial(exchange, 5.0)
        await settle(pool)
        assert type(exchange.error) is ConnectFailed and exchange.error.__cause__ is dialler.error
        assert [context["exception"] for context in reported] == [dialler.error]

    asyncio.run(run())


def test_a_connection_that_is_lost_as_soon_as_it_is_made_was_never_used(
    make: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        dialler = Dialler(monkeypatch)
        dialler.is_dead = True
        dialler.go.set()
        pool, exchange = make(), Recorder()
        pool.dial(exchange, 5.0)
        await settle(pool)
        assert isinstance(exchange.error, ConnectFailed)  # so the request may always move on
        assert not pool.busy and not pool.idle

    asyncio.run(run())


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_cancelled_dial_tells_nobody(
    make: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch, has_begun: bool
) -> None:
    async def run() -> None:
        dialler = Dialler(monkeypatch)
        pool, exchange = make(), Recorder()
        ticket = pool.dial(exchange, 5.0)
        if has_begun:
            await asyncio.sleep(0)
        ticket.cancel()
        dialler.go.set()
        await settle(pool)
        assert exchange.calls == 0 and not dialler.made

    asyncio.run(run())


def test_an_aborted_pool_cancels_its_dials(
    make: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        Dialler(monkeypatch)
        pool, exchange = make(), Recorder()
        pool.dial(exchange, 5.0)
        await asyncio.sleep(0)
        pool.abort()
        await settle(pool)
        assert exchange.calls == 0

    asyncio.run(run())
