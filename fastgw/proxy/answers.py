"""Answers the gateway makes itself: errors in OpenAI's shape (or APISIX's), and small bodies.

They are whole messages with a Content-Length. They never name an address, a key or a path of
this machine.
"""

from __future__ import annotations

from math import ceil

import orjson

from ..errors import FastgwError, NoNodeAvailable, Overloaded
from ..llm.outcome import Outcome, Verdict
from ..wire.head import field_block

REASONS = {
    200: b"OK",
    204: b"No Content",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    409: b"Conflict",
    413: b"Content Too Large",
    414: b"URI Too Long",
    415: b"Unsupported Media Type",
    417: b"Expectation Failed",
    421: b"Misdirected Request",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}
JSON = b"application/json"
# Why an answer that had begun was broken off, by the code of its error event.
INTERRUPTIONS = {
    "stream_stalled": "The provider fell silent in the middle of its answer.",
    "stream_interrupted": "The provider's answer broke off.",
    "deadline_exceeded": "The request's time is over.",
    "shutting_down": "The gateway is shutting down.",
    "overloaded": "The gateway is short of memory, and ends the slowest answers.",
    "request_too_large": "The request body is too large.",
}
# Refusals that are the request's own: no other attempt, now or later, would end otherwise.
CALLERS_OWN = frozenset({Verdict.CALLER, Verdict.REFUSED, Verdict.MISFIT})


def error_body(message: str, kind: str, code: str | None, param: str | None = None) -> bytes:
    """An error in OpenAI's shape."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def apisix_error_body(message: str) -> bytes:
    """An error in APISIX's shape."""
    return orjson.dumps({"error_msg": message}) + b"\n"


def error_event(message: str, code: str) -> bytes:
    """The event that ends a stream which had begun: OpenAI's SDKs raise APIError on it."""
    return b"data: " + error_body(message, "server_error", code) + b"\n\n"


def retry_after(seconds: float) -> bytes:
    """A truthful Retry-After: whole seconds, at least one."""
    return b"%d" % max(1, ceil(min(seconds, 86_400.0)))


def answer(
    status: int,
    body: bytes,
    fields: list[tuple[bytes, bytes]],
    *,
    keep_alive: bool,
    minor_version: int = 1,
    is_head: bool = False,
    content_type: bytes = JSON,
) -> bytes:
    """A whole answer, ready to be sent. ``fields`` are validated here."""
    lines = [(b"content-type", content_type)] if body else []
    lines += fields
    if status != 204:  # which has no body, and must not say how long it is
        lines.append((b"content-length", b"%d" % len(body)))
    if not keep_alive:
        lines.append((b"connection", b"close"))
    elif minor_version == 0:
        lines.append((b"connection", b"keep-alive"))
    head = b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, REASONS.get(status, b"Status"), field_block(lines))
    return head if is_head else head + body


def fields_for(error: FastgwError) -> list[tuple[bytes, bytes]]:
    """The header fields that belong to an error."""
    if isinstance(error, NoNodeAvailable):
        return [(b"retry-after", retry_after(error.retry_after))]
    if isinstance(error, Overloaded):
        return retry_fields(1.0, 0)
    return []


def retry_fields(wait: float, attempts: int) -> list[tuple[bytes, bytes]]:
    """What a failed caller should know: when to come back, and that we have tried for it.

    OpenAI's SDKs repeat failed requests themselves unless ``x-should-retry`` is false: their
    attempts would multiply ours.
    """
    return [(b"retry-after", retry_after(wait)), (b"x-should-retry", b"false" if attempts else b"true")]


def _is_error(body: bytes) -> bool:
    """Is it an error in OpenAI's shape?"""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    error = document.get("error") if isinstance(document, dict) else None
    return isinstance(error, dict) and isinstance(error.get("message"), str)


def refusal(status: int, content_type: bytes, body: bytes, outcome: Outcome) -> tuple[int, bytes]:
    """A node's last word as (status, body) for the caller.

    The provider's own words where they are an error in OpenAI's shape.

    Args:
        status: the node's, or what an error inside a 200 would have been.
        body: the node's error body, in which keys are masked.
    """
    verdict = outcome.verdict
    if verdict in (Verdict.DEAD, Verdict.FORBIDDEN) and outcome.reason != "no_quota":
        # The caller's own key is fine: it is ours that was refused.
        message = "The provider refused the gateway's credentials."
        return 502, error_body(message, "api_error", "upstream_auth")
    if verdict == Verdict.FAILED or (verdict == Verdict.BUSY and status != 429):
        # Statuses that say something of the node alone, or that no client knows, are a bad gateway's.
        seen = 503 if status == 529 else status if status in (500, 503, 504) else 502
        if _is_error(body):
            return seen, body
        seen = 502 if seen == 500 else seen
        return seen, error_body("The provider failed to answer.", "api_error", "upstream_error")
    if not content_type.startswith(JSON):
        return status, error_body("The provider refused the request.", "api_error", "upstream_error")
    return status, body
