"""The admin listener: its own socket, its own small limits, loopback unless a token guards it.

GET changes nothing. A browser cannot be made to act here: the Host must be known, a request
with an Origin is refused, and what changes state is a POST.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import Awaitable, Callable
from hmac import compare_digest
from time import monotonic
from typing import Any
from urllib.parse import parse_qsl

import orjson

from ..config.addresses import is_loopback
from ..errors import BodyTooLarge, ClientError, FastgwError
from ..gateway import Gateway
from ..proxy import answers
from ..proxy.phases import CONTINUE
from ..secret import Secret
from ..server import Address
from ..wire.client_connection import ClientConnection, Listener
from ..wire.events import ExchangeEvents
from ..wire.head import Limits, RequestHead
from . import exposition, healthcheck
from .configuration import effective
from .explain import Question, explain
from .readiness import accounts_in, labelled, readiness_of

logger = logging.getLogger("fastgw.admin")

MAX_CONNECTIONS = 64
MAX_BODY_BYTES = 64 * 1024  # no endpoint reads one: this much is read away, politely
OPEN_PATHS = frozenset({"/livez", "/readyz", "/status", "/status/ready"})  # for probes: no token
OWN_FIELDS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


class AdminRefused(FastgwError):
    """The admin listener would be open to others than this machine, without a token."""


class Reply:
    """What an endpoint answers. ``value`` becomes JSON, unless it is bytes already."""

    __slots__ = ("body", "content_type", "fields", "status")

    def __init__(
        self,
        status: int,
        value: Any,
        fields: tuple[tuple[bytes, bytes], ...] = (),
        content_type: bytes = answers.JSON,
    ) -> None:
        self.status = status
        self.content_type = content_type
        self.body = value if isinstance(value, bytes) else _json(value)
        self.fields = fields


class _Request(ExchangeEvents):
    """One request: reads its body away and then answers."""

    def __init__(self, admin: Admin, connection: ClientConnection, head: RequestHead) -> None:
        self.admin = admin
        self.connection = connection
        self.head = head
        self.body_bytes = 0

    def on_request_read(self, data: bytes, start: int, end: int, complete: bool) -> None:
        self.body_bytes += end - start
        if self.body_bytes > MAX_BODY_BYTES:
            self.admin.refuse(self.connection, BodyTooLarge())
        elif complete:
            self.admin.answer(self.connection, self.head)

    def on_client_gone(self) -> None:
        pass

    def on_client_writable(self) -> None:
        pass


class Admin:
    """The endpoints of one gateway.

    Args:
        token: asked for as ``Authorization: Bearer``; None: none is needed.
    """

    def __init__(self, gateway: Gateway, *, token: Secret | None = None) -> None:
        self.gateway = gateway
        self.token = token or None
        self.address: Address | None = None
        self.listener = Listener(
            self.accept,
            self.refuse,
            limits=Limits(4096, 16 * 1024, 64),
            max_connections=MAX_CONNECTIONS,
            head_timeout_s=5.0,
            body_stall_s=5.0,
            keepalive_s=30.0,
        )
        self.get: dict[str, Callable[[], Reply]] = {
            "/livez": self._live,
            "/status": self._live,
            "/readyz": self._ready,
            "/status/ready": self._ready,
            "/debug/counts": lambda: Reply(200, self.gateway.counts()),
            "/admin/upstreams": lambda: Reply(200, healthcheck.upstreams(self.gateway)),
            "/v1/healthcheck": lambda: Reply(200, healthcheck.everything(self.gateway)),
            "/": self._index,
        }
        # What looks at the request, or takes long enough that others could feel it: in turns of its own.
        self.slow: dict[str, Callable[[RequestHead], Awaitable[Reply]]] = {
            "/metrics": self._metrics,
            "/apisix/prometheus/metrics": self._metrics,
            "/admin/explain": self._explain,
            "/admin/config": self._configuration,
        }
        self._answering: set[asyncio.Task[None]] = set()
        self.post: dict[str, Callable[[], Reply]] = {
            "/admin/reload": self._reload,
            "/debug/flush": self._flush,
        }

    async def start(self, address: Address) -> Address:
        """Listen. Raises AdminRefused and ListenFailed."""
        if not address.is_loopback and self.token is None:
            raise AdminRefused(f"the admin address {address} is not loopback: set an admin token")
        self.address = await self.gateway.server.listen(address, self.listener, outlasts_drain=True)
        return self.address

    # --- Requests -----------------------------------------------------------------------------

    def accept(self, connection: ClientConnection, head: RequestHead) -> ExchangeEvents | None:
        """Begin one request."""
        if head.content_length > MAX_BODY_BYTES:
            self.refuse(connection, BodyTooLarge())
            return None
        if head.expects_continue:
            connection.send_interim(CONTINUE)
        return _Request(self, connection, head)

    def refuse(self, connection: ClientConnection, error: ClientError) -> None:
        """Answer what is no request that could be served."""
        body = answers.error_body(str(error), error.kind, error.code)
        reply = Reply(error.status, body)
        self._send(connection, connection.head, reply, closes=error.closes, is_of_head=error.is_of_head)

    def answer(self, connection: ClientConnection, head: RequestHead) -> None:
        """Answer a request that is whole."""
        try:
            reply = self._reply(head)
        except Exception as error:
            reply = _failed(error)
        if isinstance(reply, Reply):
            self._send(connection, head, reply)
            return
        task = asyncio.get_running_loop().create_task(self._answer_later(connection, head, reply))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer_later(
        self, connection: ClientConnection, head: RequestHead, coming: Awaitable[Reply]
    ) -> None:
        try:
            reply = await coming
        except Exception as error:
            reply = _failed(error)
        self._send(connection, head, reply)

    def _send(
        self,
        connection: ClientConnection,
        head: RequestHead | None,
        reply: Reply,
        *,
        closes: bool = False,
        is_of_head: bool = False,
    ) -> None:
        keep_alive = not closes and connection.keeps_alive()
        shared = self.gateway.shared
        whose = [(b"x-fastgw-worker", b"%d" % shared.worker)] if shared.workers > 1 else []
        connection.send(
            answers.answer(
                reply.status,
                reply.body,
                [*OWN_FIELDS, *whose, *reply.fields],
                keep_alive=keep_alive,
                minor_version=head.minor_version if head is not None else 1,
                is_head=is_of_head or (head is not None and head.is_head),
                content_type=reply.content_type,
            )
        )
        connection.finish(keep_alive, monotonic())

    def _reply(self, head: RequestHead) -> Reply | Awaitable[Reply]:
        path = head.path.decode("latin-1")
        if not self._is_known_host(head.host):
            return _error(421, "unknown_host", "this Host is not served here")
        if head.get(b"origin") is not None or head.get(b"sec-fetch-site") in (b"cross-site", b"same-site"):
            return _error(403, "cross_origin", "requests of web pages are not served here")
        if path not in OPEN_PATHS and not self._is_authorised(head):
            challenge = ((b"www-authenticate", b'Bearer realm="admin"'),)
            return _error(401, "unauthorized", "a bearer token is needed", challenge)
        if path.startswith("/v1/healthcheck/"):
            if head.method not in (b"GET", b"HEAD"):
                return _not_allowed(b"GET, HEAD")
            return Reply(*healthcheck.one(self.gateway, path))
        if path in self.get:
            return self.get[path]() if head.method in (b"GET", b"HEAD") else _not_allowed(b"GET, HEAD")
        if path in self.slow:
            return self.slow[path](head) if head.method in (b"GET", b"HEAD") else _not_allowed(b"GET, HEAD")
        if path in self.post:
            return self.post[path]() if head.method == b"POST" else _not_allowed(b"POST")
        return _error(404, "not_found", "no such endpoint")

    def _is_known_host(self, host: bytes | None) -> bool:
        """A name that a web page could have pointed at this machine is refused."""
        if self.address is not None and not self.address.is_loopback:
            return True  # the token guards it
        name = (host or b"").decode("latin-1").lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        return not name or is_loopback(name)

    def _is_authorised(self, head: RequestHead) -> bool:
        if self.token is None:
            return True
        scheme, _, given = (head.get(b"authorization") or b"").partition(b" ")
        return scheme.lower() == b"bearer" and compare_digest(given.strip(), self.token.reveal().encode())

    # --- Endpoints ----------------------------------------------------------------------------

    def _index(self) -> Reply:
        return Reply(200, {"get": sorted([*self.get, *self.slow]), "post": sorted(self.post)})

    @staticmethod
    def _live() -> Reply:
        return Reply(200, {"status": "ok"})

    def _ready(self) -> Reply:
        if self.gateway.is_ready():
            return Reply(200, {"status": "ok"})
        reason = "draining" if self.gateway.is_draining else "an upstream has no node available"
        return Reply(503, {"status": "error", "error": reason})

    async def _metrics(self, head: RequestHead) -> Reply:
        accept = (head.get(b"accept") or b"").decode("latin-1")
        body, content_type = await exposition.render(self.gateway, accept)
        return Reply(200, body, content_type=content_type)

    async def _configuration(self, head: RequestHead) -> Reply:
        assert self.gateway.generation is not None
        return Reply(200, await asyncio.to_thread(effective, self.gateway.generation))

    async def _explain(self, head: RequestHead) -> Reply:
        try:
            given = dict(parse_qsl(head.target.partition(b"?")[2].decode("latin-1"), max_num_fields=20))
        except ValueError:
            return _error(400, "invalid_question", "too many arguments")
        unknown = sorted(given.keys() - {"method", "path", "host", "model", "stream", "replayable"})
        if unknown or not {"method", "path"} <= given.keys():
            message = f"no such argument: {unknown[0]}" if unknown else "method and path are needed"
            return _error(400, "invalid_question", message)
        replayable = given.get("replayable")
        question = Question(
            given["method"].upper(),
            given["path"],
            given.get("host"),
            given.get("model"),
            given.get("stream") == "true",
            replayable == "true" if replayable is not None else None,
        )
        if problem := question.problem():
            return _error(400, "invalid_question", problem)
        gateway = self.gateway
        generation = gateway.generation
        assert generation is not None
        now = monotonic()
        accounts = accounts_in(gateway.recorder.metrics.collect())
        ready = {
            built.upstream: readiness_of(built, label, accounts, now) for label, built in labelled(gateway)
        }
        return Reply(200, {"health": "now", **explain(generation, question, now, ready)})

    def _reload(self) -> Reply:
        gateway = self.gateway
        if gateway.reload():
            number = gateway.generation.number if gateway.generation is not None else 0
            return Reply(200, {"status": "ok", "generation": number})
        return Reply(400, {"status": "error", "error": gateway.last_reload_error})

    def _flush(self) -> Reply:
        closed = self.gateway.flush_pools()
        return Reply(200, {"closed": closed, "collected": gc.collect()})


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n"
    except TypeError:  # a text that is not in UTF-8: a file's name may be any bytes
        return json.dumps(value, indent=2).encode() + b"\n"


def _error(status: int, code: str, message: str, fields: tuple[tuple[bytes, bytes], ...] = ()) -> Reply:
    return Reply(status, answers.error_body(message, "invalid_request_error", code), fields)


def _failed(error: Exception) -> Reply:
    logger.error("an admin request failed", exc_info=error)
    return _error(500, "internal_error", "this is a bug; the gateway's log says more")


def _not_allowed(methods: bytes) -> Reply:
    return _error(405, "method_not_allowed", f"only {methods.decode()} here", ((b"allow", methods),))
