"""The phases of a request before its exchange: route, plugins, then the exchange itself.

A ``Dispatcher`` is what listeners call. Its ``table`` is swapped in one assignment on a reload;
a request keeps the plan it began with.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import ClientError, FastgwError, NoRoute
from ..routing import RouteTable
from ..wire.client_connection import ClientConnection
from ..wire.head import FieldFilter, RequestHead, numbered
from . import answers
from .exchange import Exchange
from .exchanges import Exchanges
from .plan import RoutePlan
from .tunnel import OWN_FIELDS as HANDSHAKE_FIELDS
from .tunnel import handshake_fields, is_handshake

logger = logging.getLogger("fastgw.phases")

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_SANE_ID = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


@dataclass(slots=True)
class Answer:
    """What a plugin answers instead of a node. ``fields`` are (name, value) pairs."""

    status: int
    body: bytes = b""
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    content_type: bytes = answers.JSON


@dataclass(slots=True)
class ClientRequest:
    """A request as plugins see it and may change it, before any node is chosen.

    ``added`` are header fields for the node, ``dropped`` names of the client's that do not go
    out; ``target`` and ``method`` are what the node gets.
    """

    head: RequestHead
    connection: ClientConnection
    request_id: bytes
    method: bytes
    target: bytes
    added: list[tuple[bytes, bytes]] = field(default_factory=list)
    dropped: set[bytes] = field(default_factory=set)
    consumer: str | None = None


class Plugin(Protocol):
    """One plugin of a route. ``on_request`` may change the request, or answer it.

    One of an LLM route may have ``on_body(exchange)`` besides: it is called when the body is whole, or
    too large to be held, may change the exchange's method, target, path and deadline, and returns
    the error that the request is refused with, or None.
    """

    name: str
    priority: int

    def on_request(self, request: ClientRequest) -> Answer | None: ...


class Dispatcher:
    """From listeners to exchanges.

    Args:
        exchanges: the live exchanges of the process.
        on_answered: called for each request that ended without an exchange:
            (connection, head or None, request id, route name, status, bytes, note).
    """

    def __init__(
        self,
        exchanges: Exchanges,
        table: RouteTable,
        *,
        on_answered: Callable[[ClientConnection, RequestHead | None, bytes, str, int, int, str], None],
        errors_like_apisix: bool = False,
    ) -> None:
        self.exchanges = exchanges
        self.table = table
        self.on_answered = on_answered
        self.errors_like_apisix = errors_like_apisix
        self.refusal: FastgwError | None = None  # what every request is refused with, for now
        self._requests = 0
        self._id_prefix = os.urandom(8).hex().encode() + b"-"

    # --- From listeners -----------------------------------------------------------------------

    def accept(self, connection: ClientConnection, head: RequestHead) -> Exchange | None:
        """Begin one request: its exchange, or None if it has been answered."""
        now = connection.read_at
        request_id = self._request_id(head)
        route = self.table.match(head.method, head.host, head.path)
        if route is None:
            if head.path == b"/healthz" and head.method in (b"GET", b"HEAD"):
                self._answer(connection, head, request_id, "healthz", Answer(200, b'{"status":"ok"}'))
            else:
                self._answer_error(connection, head, request_id, "", NoRoute())
            return None
        plan: RoutePlan = route.plan
        if self.refusal is not None:
            self._answer_error(connection, head, request_id, plan.name, self.refusal)
            return None
        if head.content_length > self.exchanges.max_body_bytes:
            error = ClientError("the request body is too large")
            error.status, error.code = 413, "request_too_large"
            self._answer_error(connection, head, request_id, plan.name, error)
            return None
        is_upgrade = head.wants_upgrade and is_handshake(head)
        if is_upgrade and not plan.enables_websocket:
            error = ClientError("this route takes no WebSocket connections")
            error.code = "websocket_not_enabled"
            self._answer_error(connection, head, request_id, plan.name, error)
            return None
        target = plan.target_of(head.target) if plan.strip_prefix else head.target
        request = None
        dropped = None
        if plan.plugins:
            request = ClientRequest(head, connection, request_id, head.method, target)
            try:
                answer = self._run_plugins(plan, request)
                dropped = FieldFilter(request.dropped) if request.dropped else None
            except Exception:  # a bug in one of them costs its own request, and not without a word
                logger.exception("a plugin of route %s failed", plan.name)
                failure = FastgwError("the gateway could not handle this request")
                self._answer_error(connection, head, request_id, plan.name, failure)
                return None
            if answer is not None:
                self._answer(connection, head, request_id, plan.name, answer)
                return None
        if head.expects_continue:
            connection.send_interim(CONTINUE)
        exchange = Exchange.__new__(Exchange)
        exchange.begin(self.exchanges, connection, head, plan, request_id, now)
        exchange.target = target
        if request is not None:
            exchange.method = request.method
            exchange.target = request.target
            exchange.consumer = request.consumer
            if request.added:
                exchange.extra = request.added
            exchange.extra_drop = dropped
        if is_upgrade:
            exchange.is_upgrade = exchange.wants_stream = True
            fields = handshake_fields(head, passthrough=plan.passthrough)
            exchange.extra = [*(exchange.extra or ()), *fields]
            names = (*request.dropped, HANDSHAKE_FIELDS) if request is not None else (HANDSHAKE_FIELDS,)
            exchange.extra_drop = FieldFilter(names)
        return exchange

    def _run_plugins(self, plan: RoutePlan, request: ClientRequest) -> Answer | None:
        """Let each plugin change the request; the first answer ends it."""
        for plugin in plan.plugins:
            answer: Answer | None = plugin.on_request(request)
            if answer is not None:
                return answer
        return None

    def refuse(self, connection: ClientConnection, error: ClientError) -> None:
        """Answer bytes that are no well-formed request, and close."""
        head = connection.head
        request_id = self._request_id(head) if head is not None else self._new_id()
        self._answer_error(connection, head, request_id, "", error)

    # --- Answers without an exchange ----------------------------------------------------------

    def _answer_error(
        self,
        connection: ClientConnection,
        head: RequestHead | None,
        request_id: bytes,
        route: str,
        error: FastgwError,
    ) -> None:
        if self.errors_like_apisix:
            message = "404 Route Not Found" if isinstance(error, NoRoute) else str(error)
            body = answers.apisix_error_body(message)
        else:
            body = answers.error_body(str(error), error.kind, error.code)
        answer = Answer(error.status, body, answers.fields_for(error))
        closes = isinstance(error, ClientError) and error.closes
        is_of_head = isinstance(error, ClientError) and error.is_of_head
        self._answer(
            connection, head, request_id, route, answer, note=error.code, closes=closes, is_of_head=is_of_head
        )

    def _answer(
        self,
        connection: ClientConnection,
        head: RequestHead | None,
        request_id: bytes,
        route: str,
        answer: Answer,
        *,
        note: str = "",
        closes: bool = False,
        is_of_head: bool = False,
    ) -> None:
        keep_alive = not closes and connection.keeps_alive()
        out = answers.answer(
            answer.status,
            answer.body,
            [*answer.fields, (b"x-request-id", request_id), (b"x-fastgw-request-id", request_id)],
            keep_alive=keep_alive,
            minor_version=head.minor_version if head is not None else 1,
            is_head=is_of_head or (head is not None and head.is_head),
            content_type=answer.content_type,
        )
        connection.send(out)
        self.on_answered(connection, head, request_id, route, answer.status, len(out), note)
        connection.finish(keep_alive, connection.read_at)

    # --- Request ids --------------------------------------------------------------------------

    def _new_id(self) -> bytes:
        self._requests += 1
        return numbered(self._id_prefix, self._requests)

    def _request_id(self, head: RequestHead) -> bytes:
        """The client's own id if it is sane, else a new one."""
        given = head.get(b"x-request-id")
        if given is not None and 0 < len(given) <= 64 and _SANE_ID.issuperset(given):
            return given
        return self._new_id()
