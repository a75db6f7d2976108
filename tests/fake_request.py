"""A client's request without a socket, as a plugin sees it."""

from __future__ import annotations

from typing import Any

from fake_transport import FakeTransport

from fastgw.proxy.phases import ClientRequest
from fastgw.wire.client_connection import Listener
from fastgw.wire.head import Limits, scan_request


def client_request(line: str, *fields: str, id: bytes = b"id", **more: Any) -> ClientRequest:
    """A request of 10.1.2.3, from its first line (without the version) and its fields but Host."""
    return request_of_head(
        "".join(f"{text}\r\n" for text in (f"{line} HTTP/1.1", "Host: gw", *fields)).encode() + b"\r\n",
        id=id,
        **more,
    )


def request_of_head(head: bytes, *, id: bytes = b"id", **more: Any) -> ClientRequest:
    scanned = scan_request(head, 0, Limits())
    assert scanned is not None
    connection = Listener(lambda *_: None, lambda *_: None).make_connection()
    connection.connection_made(FakeTransport(peername=("10.1.2.3", 4)))
    return ClientRequest(scanned, connection, id, scanned.method, scanned.target, **more)
