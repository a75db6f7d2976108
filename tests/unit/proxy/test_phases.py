"""From a request head to its exchange, or to an answer without one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from exchange_bench import Answer as Got
from fake_transport import FakeTransport

from fastgw.errors import Overloaded
from fastgw.proxy.exchanges import Exchanges
from fastgw.proxy.phases import Answer, ClientRequest, Dispatcher
from fastgw.proxy.plan import RoutePlan
from fastgw.routing import Route, RouteTable
from fastgw.wire.client_connection import ClientState, Listener

HEAD = "POST /v1/x?a=1 HTTP/1.1\r\nHost: gw\r\n"


class Plugin:
    name = "test"
    priority = 0

    def __init__(self, do: Callable[[ClientRequest], Answer | None]) -> None:
        self.do = do

    def on_request(self, request: ClientRequest) -> Answer | None:
        return self.do(request)


class Bench:
    """A dispatcher with one route for /v1/*, behind one client connection."""

    def __init__(self, *plugins: Callable[[ClientRequest], Answer | None], **plan: Any) -> None:
        self.exchanges = Exchanges(lambda exchange: None, max_body_bytes=1000)
        self.answered: list[tuple[str, int, str]] = []
        self.plan = RoutePlan("chat", None, (), plugins=tuple(map(Plugin, plugins)), **plan)
        table = RouteTable([Route("1", "chat", ["/v1/*"], self.plan)])
        self.dispatcher = Dispatcher(self.exchanges, table, on_answered=self._on_answered)
        self.listener = Listener(self.dispatcher.accept, self.dispatcher.refuse)
        self.client = self.listener.make_connection()
        self.transport = FakeTransport()
        self.client.connection_made(self.transport)

    def _on_answered(
        self, connection: Any, head: Any, request_id: bytes, route: str, status: int, sent: int, note: str
    ) -> None:
        assert connection is self.client and sent == len(self.transport.sent)
        self.answered.append((route, status, note))

    def ask(self, text: str, body: bytes = b"") -> Got:
        self.client.data_received(text.encode() + b"\r\n" + body)
        return Got(self.transport.take())


# --- Answers without an exchange --------------------------------------------------------------


def test_no_route_is_404_in_openais_shape() -> None:
    bench = Bench()
    got = bench.ask("GET /v2 HTTP/1.1\r\nHost: gw\r\n")
    assert got.status == 404 and got.error["code"] == "route_not_found"
    assert bench.answered == [("", 404, "route_not_found")]
    assert bench.client.state == ClientState.IDLE


def test_no_route_is_404_in_apisixs_shape_where_that_is_asked_for() -> None:
    bench = Bench()
    bench.dispatcher.errors_like_apisix = True
    got = bench.ask("GET /v2 HTTP/1.1\r\nHost: gw\r\n")
    assert orjson.loads(got.body) == {"error_msg": "404 Route Not Found"}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_gateway_is_asked_for_its_health(method: str) -> None:
    got = Bench().ask(f"{method} /healthz HTTP/1.1\r\nHost: gw\r\n")
    assert got.status == 200 and bool(got.rest) is (method == "GET")
    assert Bench().ask("POST /healthz HTTP/1.1\r\nHost: gw\r\n").status == 404


def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    bench = Bench()
    got = bench.ask(HEAD + "Content-Length: 1001\r\nExpect: 100-continue\r\n")
    assert (got.status, got.error["code"]) == (413, "request_too_large")
    assert got.fields["connection"] == "close" and bench.client.state == ClientState.LINGERING
    assert bench.exchanges.started == 0


def test_a_malformed_request_is_answered_and_logged() -> None:
    bench = Bench()
    got = bench.ask("GET / HTTP/1.1\r\n")
    assert got.status == 400 and got.fields["connection"] == "close"
    assert bench.answered == [("", 400, "bad_request")]


def test_a_gateway_that_takes_nothing_for_now_says_so() -> None:
    bench = Bench()
    bench.dispatcher.refusal = Overloaded()
    got = bench.ask(HEAD)
    assert (got.status, got.error["code"]) == (503, "overloaded")
    assert (got.fields["retry-after"], got.fields["x-should-retry"]) == ("1", "true")
    assert bench.exchanges.started == 0
    bench.dispatcher.refusal = None
    bench.ask(HEAD)
    assert bench.exchanges.started == 1


# --- The body is asked for --------------------------------------------------------------------


def test_a_client_that_asks_is_told_to_go_on() -> None:
    bench = Bench()
    bench.client.data_received(HEAD.encode() + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert bench.transport.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    bench.client.data_received(b"abc")
    assert Got(bench.transport.take()).status == 503  # there is no upstream


def test_a_client_that_is_refused_is_not_told_to_go_on() -> None:
    bench = Bench(lambda request: Answer(401))
    got = bench.ask(HEAD + "Content-Length: 3\r\nExpect: 100-continue\r\n")
    assert got.status == 401 and got.fields["connection"] == "close"


# --- Request ids ------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["a", "A-Z_0.9", "x" * 64])
def test_a_sane_request_id_is_the_clients(given: str) -> None:
    got = Bench().ask(f"GET /v2 HTTP/1.1\r\nHost: gw\r\nX-Request-Id: {given}\r\n")
    assert got.fields["x-request-id"] == got.fields["x-fastgw-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "<script>", "a/b", "ä"])
def test_another_one_is_replaced(given: str) -> None:
    bench = Bench()
    seen = set()
    for _ in range(3):
        got = bench.ask(f"GET /v2 HTTP/1.1\r\nHost: gw\r\nX-Request-Id: {given}\r\n")
        seen.add(got.fields["x-request-id"])
    assert len(seen) == 3 and given not in seen


# --- Plugins ----------------------------------------------------------------------------------


def test_the_first_plugin_that_answers_ends_it() -> None:
    ran: list[str] = []

    def first(request: ClientRequest) -> None:
        ran.append("first")

    def second(request: ClientRequest) -> Answer:
        ran.append("second")
        return Answer(403, b"no", [(b"x-why", b"so")], b"text/plain")

    bench = Bench(first, second, lambda request: pytest.fail("ran"))
    got = bench.ask(HEAD)
    assert (got.status, got.body, got.fields["x-why"]) == (403, b"no", "so")
    assert got.fields["content-type"] == "text/plain"
    assert ran == ["first", "second"] and bench.answered == [("chat", 403, "")]
    assert bench.exchanges.started == 0 and bench.client.state == ClientState.IDLE


def test_what_plugins_change_is_what_the_exchange_sends() -> None:
    def change(request: ClientRequest) -> None:
        assert (request.method, request.target) == (b"POST", b"/x?a=1")
        request.method, request.target, request.consumer = b"PUT", b"/y", "jack"
        request.added.append((b"x-added", b"1"))
        request.dropped.add(b"x-dropped")

    bench = Bench(change, strip_prefix=b"/v1")
    bench.client.data_received(HEAD.encode() + b"Content-Length: 3\r\n\r\n")
    (exchange,) = bench.exchanges.live
    assert (exchange.method, exchange.target, exchange.consumer) == (b"PUT", b"/y", "jack")
    assert exchange.extra == [(b"x-added", b"1")]
    assert exchange.extra_drop is not None and b"X-Dropped" in exchange.extra_drop


def test_a_route_without_plugins_changes_nothing() -> None:
    bench = Bench()
    bench.client.data_received(HEAD.encode() + b"Content-Length: 3\r\n\r\n")
    (exchange,) = bench.exchanges.live
    assert (exchange.method, exchange.target) == (b"POST", b"/v1/x?a=1")
    assert exchange.extra is None and exchange.extra_drop is None


@pytest.mark.parametrize("kind", ["raises", "too many names"])
def test_a_plugin_that_fails_costs_its_own_request_only(caplog: pytest.LogCaptureFixture, kind: str) -> None:
    def fail(request: ClientRequest) -> None:
        if kind == "raises":
            raise ZeroDivisionError("a secret")
        request.dropped |= {b"%d" % number for number in range(300)}

    bench = Bench(fail)
    with caplog.at_level(logging.ERROR, "fastgw.phases"):
        got = bench.ask(HEAD)
    assert (got.status, got.error["code"]) == (500, "internal_error") and "secret" not in str(got.error)
    assert len(caplog.records) == 1 and caplog.records[0].exc_info
    assert not bench.exchanges.live and bench.client.state == ClientState.IDLE


def test_a_new_table_serves_the_next_request() -> None:
    bench = Bench()
    assert bench.ask("GET /new HTTP/1.1\r\nHost: gw\r\n").status == 404
    bench.dispatcher.table = RouteTable([Route("2", "new", ["/new"], bench.plan)])
    assert bench.ask("GET /new HTTP/1.1\r\nHost: gw\r\n").status == 503
