"""``key-auth``: only clients with a known key get in; the key says which consumer they are.

The key comes in a header (``apikey`` by default) or a query argument. OpenAI's clients send
``Authorization: Bearer KEY``: with ``header: Authorization`` the word Bearer is passed over.
Keys are compared by digest, so that the time it takes says nothing about them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, urlencode

import orjson

from ..errors import ConfigError
from ..proxy import answers
from ..proxy.phases import Answer, ClientRequest
from ..secret import Secret
from ..wire.head import check_value


class KeyAuth:
    """One plugin object.

    Args:
        conf: validated.
        consumers: (username, keys) pairs of all consumers.
        hides: take the key out of the request where the conf does not say whether to.
        tells_node: the node learns the consumer's name.
        errors_like_apisix: the error body's shape.
    """

    name = "key-auth"
    priority = 2500

    def __init__(
        self,
        conf: Mapping[str, Any],
        consumers: Iterable[tuple[str, tuple[Secret, ...]]],
        *,
        hides: bool = False,
        tells_node: bool = True,
        errors_like_apisix: bool = False,
    ) -> None:
        self.header = conf.get("header", "apikey").lower().encode()
        self.query = conf.get("query", "apikey")
        self.realm = conf.get("realm", "key")
        self.tells_node = tells_node
        self.hides = conf.get("hide_credentials", hides)
        self.anonymous = conf.get("anonymous_consumer")
        self.errors_like_apisix = errors_like_apisix
        self._consumers = {
            _digest(key.reveal().encode()): username for username, keys in consumers for key in keys
        }
        try:
            for username in {*self._consumers.values(), self.anonymous or ""}:
                check_value(username.encode())
        except ValueError as error:
            raise ConfigError("a consumer's name with a control character cannot be told to nodes") from error

    def on_request(self, request: ClientRequest) -> Answer | None:
        given = request.head.get(self.header)
        in_header = given is not None
        if given is None:
            given = self._from_query(request)
        elif self.header == b"authorization" and given[:7].lower() == b"bearer ":
            given = given[7:].strip()
        consumer = self._consumers.get(_digest(given)) if given else None
        if consumer is None:
            if not self.anonymous:
                return self._refuse("Invalid API key in request" if given else "Missing API key in request")
            consumer = self.anonymous
        request.consumer = consumer
        request.dropped.add(b"x-consumer-username")
        if self.tells_node:
            request.added.append((b"x-consumer-username", consumer.encode()))
        if self.hides:
            if in_header:
                request.dropped.add(self.header)
            if not in_header or self._has_key_in_query(request):
                self._strip_query(request)
        return None

    def _from_query(self, request: ClientRequest) -> bytes | None:
        return next(self._arguments(request), None)

    def _has_key_in_query(self, request: ClientRequest) -> bool:
        """A client may send its key in both places; an argument with another value is none of ours."""
        return any(_digest(value) in self._consumers for value in self._arguments(request))

    def _arguments(self, request: ClientRequest) -> Iterator[bytes]:
        _, _, query = request.head.target.decode("latin-1").partition("?")
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name == self.query:
                yield value.encode()

    def _strip_query(self, request: ClientRequest) -> None:
        path, _, query = request.target.decode("latin-1").partition("?")
        kept = [(n, v) for n, v in parse_qsl(query, keep_blank_values=True) if n != self.query]
        request.target = (path + ("?" + urlencode(kept) if kept else "")).encode("latin-1")

    def _refuse(self, message: str) -> Answer:
        challenge = (b"www-authenticate", f'apikey realm="{self.realm}"'.encode())
        if self.errors_like_apisix:
            body = orjson.dumps({"message": message})
        else:
            body = answers.error_body(message, "invalid_request_error", "invalid_api_key")
        return Answer(401, body, [challenge])


def _digest(key: bytes) -> bytes:
    return sha256(key).digest()
