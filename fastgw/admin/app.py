"""The admin listener: its own socket, its own small limits, loopback unless a token guards it.

GET changes nothing. A browser cannot be made to act here: the Host must be known, a request
with an Origin is refused, and what changes state is a POST.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from hmac import compare_digest
from typing import Any

import orjson

from ..errors import ClientError, FastgwError
from ..gateway import Gateway
from ..proxy import answers
from ..server import Address
from ..wire.client_connection import ClientConnection, Listener
from ..wire.events import ExchangeEvents
from ..wire.head import Limits, RequestHead
from . import healthcheck

MAX_CONNECTIONS = 64
OPEN_PATHS = frozenset({"/livez", "/readyz", "/status", "/status/ready"})  # for probes: no token


class AdminRefused(FastgwError):
    """The admin listener would be open to others than this machine, without a token."""


class Reply:
    """What an endpoint answers."""

    def __init__(self, status: int, value: Any, content_type: bytes = answers.JSON) -> None:
        self.status = status
        self.body = value if isinstance(value, bytes) else orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n"
        self.content_type = content_type


class _Discard(ExchangeEvents):
    """Reads a request's body away and then answers."""

    def __init__(self, done: Callable[[], None]) -> None:
        self.done = done
        self.seen = 0

    def on_request_read(self, data: bytes, start: int, end: int, complete: bool) -> None:
        if complete:
            self.done()

    def on_client_gone(self) -> None:
        pass

    def on_client_writable(self) -> None:
        pass


class Admin:
    """The endpoints of one gateway.

    Args:
        token: asked for as ``Authorization: Bearer``; None: none is needed.
    """

    def __init__(self, gateway: Gateway, *, token: str | None = None) -> None:
        self.gateway = gateway
        self.token = token.encode() if token else None
        self.address: Address | None = None
        self.listener = Listener(
            self._accept,
            self._refuse,
            limits=Limits(4096, 16 * 1024, 64),
            max_connections=MAX_CONNECTIONS,
            head_timeout_s=5.0,
            body_stall_s=5.0,
            keepalive_s=30.0,
        )
        self.get: dict[str, Callable[[], Reply]] = {
            "/livez": lambda: Reply(200, {"status": "ok"}),
            "/status": lambda: Reply(200, {"status": "ok"}),
            "/readyz": self._ready,
            "/status/ready": self._ready,
            "/debug/counts": lambda: Reply(200, self.gateway.counts()),
            "/admin/upstreams": lambda: Reply(200, healthcheck.upstreams(self.gateway)),
            "/v1/healthcheck": lambda: Reply(200, healthcheck.everything(self.gateway)),
            "/": self._index,
        }
        self.post: dict[str, Callable[[], Reply]] = {
            "/admin/reload": self._reload,
            "/debug/flush": self._flush,
        }

    async def start(self, address: Address) -> Address:
        """Listen. Raises AdminRefused and ListenFailed."""
        if not address.is_loopback and self.token is None:
            raise AdminRefused(f"the admin address {address} is not loopback: set an admin token")
        self.address = await self.gateway.server.listen(address, self.listener)
        return self.address

    # --- Requests -----------------------------------------------------------------------------

    def _accept(self, connection: ClientConnection, head: RequestHead) -> ExchangeEvents | None:
        def answer() -> None:
            self._send(connection, head, self._reply(head))

        return _Discard(answer)

    def _refuse(self, connection: ClientConnection, error: ClientError) -> None:
        body = answers.error_body(str(error), error.kind, error.code)
        self._send(connection, connection.head, Reply(error.status, body))

    def _send(self, connection: ClientConnection, head: RequestHead | None, reply: Reply) -> None:
        keep_alive = connection.keeps_alive()
        connection.send(
            answers.answer(
                reply.status,
                reply.body,
                [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")],
                keep_alive=keep_alive,
                is_head=head is not None and head.is_head,
                content_type=reply.content_type,
            )
        )
        connection.finish(keep_alive)

    def _reply(self, head: RequestHead) -> Reply:
        path = head.path.decode("latin-1")
        if not self._is_known_host(head.host):
            return self._error(421, "unknown_host", "this Host is not served here")
        if head.get(b"origin") is not None:
            return self._error(403, "cross_origin", "requests of web pages are not served here")
        if path not in OPEN_PATHS and not self._is_authorised(head):
            return self._error(401, "unauthorized", "a bearer token is needed")
        if head.method in (b"GET", b"HEAD"):
            if path.startswith("/v1/healthcheck/"):
                status, value = healthcheck.one(self.gateway, path)
                return Reply(status, value)
            endpoint = self.get.get(path)
        elif head.method == b"POST":
            endpoint = self.post.get(path)
        else:
            endpoint = None
        if endpoint is None:
            return self._error(404, "not_found", "no such endpoint")
        return endpoint()

    def _is_known_host(self, host: bytes | None) -> bool:
        """A name that a web page could have pointed at this machine is refused."""
        if self.address is not None and not self.address.is_loopback:
            return True  # the token guards it
        name = (host or b"").decode("latin-1").lower()
        name = name.partition("]")[0] + "]" if name.startswith("[") else name.partition(":")[0]
        return name in ("localhost", "[::1]", "") or name.startswith("127.")

    def _is_authorised(self, head: RequestHead) -> bool:
        if self.token is None:
            return True
        given = head.get(b"authorization") or b""
        return compare_digest(given, b"Bearer " + self.token)

    @staticmethod
    def _error(status: int, code: str, message: str) -> Reply:
        return Reply(status, answers.error_body(message, "invalid_request_error", code))

    # --- Endpoints ----------------------------------------------------------------------------

    def _index(self) -> Reply:
        return Reply(200, {"get": sorted(self.get), "post": sorted(self.post)})

    def _ready(self) -> Reply:
        if self.gateway.is_ready():
            return Reply(200, {"status": "ok"})
        reason = "draining" if self.gateway.is_draining else "an upstream has no node available"
        return Reply(503, {"status": "error", "error": reason})

    def _reload(self) -> Reply:
        if self.gateway.reload():
            return Reply(200, {"status": "ok", "generation": self.gateway.counts()["generation"]})
        return Reply(400, {"status": "error", "error": self.gateway.last_reload_error})

    def _flush(self) -> Reply:
        closed = self.gateway.flush_pools()
        return Reply(200, {"closed": closed, "collected": gc.collect()})
