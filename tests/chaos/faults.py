"""What a faulty host can do wrong: a row per fault, with what it means and how it is done.

A fault strikes a connection when it is accepted (``ACCEPT``), a request when its head is there (``HEAD``),
or when all of it is (``REQUEST``). Its script is a coroutine that plays it on a connection; when it
returns True the answer was in order, otherwise the connection is of no more use.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from conformance.answer_cases import CASES

from . import conversation

FOR_EVER_S = 3600.0
MALFORMED_HEADS = [case.data for case in CASES if case.outcome == "bad" and not case.is_head]


class Strikes(StrEnum):
    """When a fault strikes."""

    ACCEPT = "accept"
    HEAD = "head"
    REQUEST = "request"
    CONTENT = "content"  # at the request too, but all of it comes after the first content


class Means(StrEnum):
    """What a fault says of the request that met it."""

    HARMLESS = "harmless"  # the answer is good, and must reach the client
    NOT_RUN = "not run"  # certainly: it may be sent to another node as often as one likes
    MAY_HAVE_RUN = "may have run"
    CALLER = "caller"  # the client is told, as it would be by any node
    BROKEN = "broken"  # the client has part of the answer


Script = Callable[[Any, Any, random.Random], Awaitable[bool | None]]


@dataclass(frozen=True)
class Fault:
    """One row.

    Attributes:
        rests: afterwards the node is left alone for a while, even with nobody else there: it said so, or
            its key was refused.
        stream: only requests for a stream (True), only others (False), or any.
    """

    name: str
    strikes: Strikes
    means: Means
    script: Script
    rests: bool = False
    stream: bool | None = None


FAULTS: dict[str, Fault] = {}


def _fault(
    name: str, strikes: Strikes, means: Means, *, rests: bool = False, stream: bool | None = None
) -> Callable[[Script], Script]:
    def register(script: Script) -> Script:
        assert name not in FAULTS
        FAULTS[name] = Fault(name, strikes, means, script, rests, stream)
        return script

    return register


# --- Of the connection ------------------------------------------------------------------------


async def _refuse(link: Any, _: Any, __: random.Random) -> None:
    link.reset()  # it slipped in; the listener is closed meanwhile


FAULTS["refuse"] = Fault("refuse", Strikes.ACCEPT, Means.NOT_RUN, _refuse)
FAULTS["bad_certificate"] = Fault("bad_certificate", Strikes.ACCEPT, Means.NOT_RUN, _refuse)  # by the host


@_fault("accept_and_hang", Strikes.ACCEPT, Means.NOT_RUN)
async def _(link: Any, _: Any, __: random.Random) -> None:
    await asyncio.sleep(FOR_EVER_S)


@_fault("accept_and_reset", Strikes.ACCEPT, Means.NOT_RUN)
async def _(link: Any, _: Any, rng: random.Random) -> None:
    await asyncio.sleep(rng.choice((0.0, 0.005)))
    link.reset()


@_fault("accept_and_close", Strikes.ACCEPT, Means.NOT_RUN)
async def _(link: Any, _: Any, rng: random.Random) -> None:
    await asyncio.sleep(rng.choice((0.0, 0.005)))
    link.close(goodbye=False)


@_fault("handshake_alert", Strikes.ACCEPT, Means.NOT_RUN)
async def _(link: Any, _: Any, rng: random.Random) -> None:
    # handshake_failure, protocol_version, internal_error, unrecognized_name
    link.transport.write(b"\x15\x03\x03\x00\x02\x02" + bytes([rng.choice((40, 70, 80, 112))]))
    link.close(goodbye=False)


@_fault("handshake_garbage", Strikes.ACCEPT, Means.NOT_RUN)
async def _(link: Any, _: Any, rng: random.Random) -> None:
    link.transport.write(
        rng.choice((b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", rng.randbytes(64)))
    )
    await asyncio.sleep(0.02)
    link.close(goodbye=False)


# --- Before the head --------------------------------------------------------------------------


@_fault("reset_in_request", Strikes.HEAD, Means.MAY_HAVE_RUN)
async def _(link: Any, request: Any, rng: random.Random) -> None:
    await link.until_got(request, rng.randint(1, request.total))
    link.reset()


@_fault("close_in_request", Strikes.HEAD, Means.MAY_HAVE_RUN)
async def _(link: Any, request: Any, rng: random.Random) -> None:
    await link.until_got(request, rng.randint(1, request.total))
    link.close(goodbye=rng.random() < 0.5)


@_fault("reset_before_head", Strikes.REQUEST, Means.MAY_HAVE_RUN)
async def _(link: Any, _: Any, rng: random.Random) -> None:
    await asyncio.sleep(rng.choice((0.0, 0.01, 0.1)))
    link.reset()


@_fault("close_before_head", Strikes.REQUEST, Means.MAY_HAVE_RUN)
async def _(link: Any, _: Any, rng: random.Random) -> None:
    await asyncio.sleep(rng.choice((0.0, 0.01, 0.1)))
    link.close(goodbye=rng.random() < 0.5)


@_fault("hang_before_head", Strikes.REQUEST, Means.MAY_HAVE_RUN)
async def _(link: Any, _: Any, __: random.Random) -> None:
    await asyncio.sleep(FOR_EVER_S)


# --- In the head ------------------------------------------------------------------------------


@_fault("drip_head", Strikes.REQUEST, Means.MAY_HAVE_RUN)
async def _(link: Any, request: Any, __: random.Random) -> None:
    for byte in link.head_of(request):
        link.send(bytes([byte]))
        await asyncio.sleep(0.1)
    await asyncio.sleep(FOR_EVER_S)


@_fault("reset_in_head", Strikes.REQUEST, Means.MAY_HAVE_RUN)
async def _(link: Any, request: Any, rng: random.Random) -> None:
    head = link.head_of(request)
    link.send(head[: rng.randrange(1, len(head))])
    await asyncio.sleep(0.002)
    link.reset()


@_fault("close_in_head", Strikes.REQUEST, Means.MAY_HAVE_RUN)
async def _(link: Any, request: Any, rng: random.Random) -> None:
    head = link.head_of(request)
    link.send(head[: rng.randrange(1, len(head))])
    link.close(goodbye=rng.random() < 0.5)


@_fault("malformed_head", Strikes.REQUEST, Means.MAY_HAVE_RUN)
async def _(link: Any, _: Any, rng: random.Random) -> None:
    link.send(rng.choice(MALFORMED_HEADS))
    if rng.random() < 0.3:
        link.close()
    await asyncio.sleep(FOR_EVER_S)


@_fault("huge_head", Strikes.REQUEST, Means.MAY_HAVE_RUN)
async def _(link: Any, _: Any, rng: random.Random) -> None:
    field = rng.choice((b"x: %b\r\n" % (b"y" * 1000), b"x-a: b\r\n"))
    link.send(b"HTTP/1.1 200 OK\r\n" + field * (80_000 // len(field)) + b"\r\n")
    await asyncio.sleep(FOR_EVER_S)


# --- Statuses ---------------------------------------------------------------------------------


def _error_body(code: str, text: str = "no") -> bytes:
    return b'{"error":{"message":"%b","type":"x","code":"%b"}}' % (text.encode(), code.encode())


def _status(
    name: str,
    means: Means,
    *statuses: int,
    codes: tuple[str, ...] = ("error",),
    fields: tuple[bytes, ...] = (b"",),
    rests: bool = False,
    is_early: bool = False,
) -> None:
    """A fault that answers with one of these statuses, error codes and field lines."""

    async def answer(link: Any, request: Any, rng: random.Random) -> bool:
        if is_early:  # somewhere in the body, if there is much of it
            await link.until_got(request, rng.randint(1, request.total))
        status = rng.choice(statuses)
        body = _error_body(rng.choice(codes)) if rng.random() < 0.9 or codes != ("error",) else b""
        request.status = status
        link.send(
            b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
            % (status, rng.choice(fields), len(body), body)
        )
        return True

    strikes = Strikes.HEAD if is_early else Strikes.REQUEST
    FAULTS[name] = Fault(name, strikes, means, answer, rests)


_status("server_error", Means.MAY_HAVE_RUN, 500, 502, 504, 520, 521, 522, 523, 524, 525, 526)
_status("timeout_status", Means.NOT_RUN, 408, 421, 425)
_status("overloaded", Means.NOT_RUN, 503, 529, rests=True, fields=(b"", b"Retry-After: 1\r\n"))
_status(
    "rate_limited",
    Means.NOT_RUN,
    429,
    rests=True,
    codes=("rate_limit_exceeded",),
    fields=(b"", b"Retry-After: 1\r\n", b"retry-after-ms: 700\r\n", b"x-ratelimit-reset-requests: 1s\r\n"),
)
_status("early_429", Means.NOT_RUN, 429, rests=True, codes=("rate_limit_exceeded",), is_early=True)
_status("early_408", Means.NOT_RUN, 408, is_early=True)
_status("no_quota", Means.NOT_RUN, 429, 402, rests=True, codes=("insufficient_quota",))
_status("bad_key", Means.NOT_RUN, 401, rests=True, codes=("invalid_api_key",))
_status("forbidden", Means.NOT_RUN, 403, rests=True, codes=("forbidden",))
_status("unknown_model", Means.NOT_RUN, 404, codes=("model_not_found",))
_status("callers_fault", Means.CALLER, 400, 415, 422, codes=("invalid_value",))
_status("early_413", Means.CALLER, 413, codes=("invalid_value",), is_early=True)


# --- In the answer, before its content --------------------------------------------------------


@_fault("comments_only", Strikes.REQUEST, Means.MAY_HAVE_RUN, stream=True)
async def _(link: Any, request: Any, rng: random.Random) -> None:
    link.send(link.head_of(request))
    if rng.random() < 0.5:
        link.send_event(conversation.ROLE)
    breath = rng.choice((b": keep-alive\n\n", b"\n", b":\n\n"))
    while True:
        link.send_event(breath * rng.randint(1, 20))
        await asyncio.sleep(0.05)


@_fault("error_event_first", Strikes.REQUEST, Means.MAY_HAVE_RUN, stream=True)
async def _(link: Any, request: Any, rng: random.Random) -> bool:
    events = conversation.ROLE if rng.random() < 0.5 else b""
    events += b"data: " + _error_body("server_error") + b"\n\n" + rng.choice((b"", conversation.DONE))
    link.send_whole(request, [events])
    return True


@_fault("error_in_200", Strikes.REQUEST, Means.MAY_HAVE_RUN, stream=False)
async def _(link: Any, request: Any, __: random.Random) -> bool:
    link.send_whole(request, [_error_body("server_error")])
    return True


@_fault("empty_200", Strikes.REQUEST, Means.MAY_HAVE_RUN)
async def _(link: Any, request: Any, rng: random.Random) -> bool:
    nothing = rng.choice((b"", conversation.ROLE, conversation.ROLE + conversation.DONE))
    link.send_whole(request, [nothing if request.stream else rng.choice((b"", b" \n", b"{}"))])
    return True


@_fault("html_200", Strikes.REQUEST, Means.MAY_HAVE_RUN)
async def _(link: Any, _: Any, __: random.Random) -> bool:
    page = b"<!doctype html><title>Log in</title>"
    link.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page)
    )
    return True


def _before_content(request: Any, rng: random.Random) -> bytes:
    """What may come before the first content: of an answer that is not streamed, half of it."""
    if request.stream:
        return rng.choice((b"", conversation.ROLE, b": hello\n\n" + conversation.ROLE))
    body = conversation.completion(request.contents())
    return body[: rng.randrange(1, len(body))]


async def _begin(link: Any, request: Any, rng: random.Random) -> None:
    size = len(conversation.completion(request.contents()))
    link.send(link.head_of(request, None if request.stream else size))
    begun = _before_content(request, rng)
    if request.stream:
        link.send_event(begun)
    else:
        link.send(begun)
    await asyncio.sleep(0.002)


@_fault("reset_before_content", Strikes.REQUEST, Means.MAY_HAVE_RUN)
async def _(link: Any, request: Any, rng: random.Random) -> None:
    await _begin(link, request, rng)
    link.reset()


@_fault("close_before_content", Strikes.REQUEST, Means.MAY_HAVE_RUN)
async def _(link: Any, request: Any, rng: random.Random) -> None:
    await _begin(link, request, rng)
    link.close(goodbye=rng.random() < 0.5)


@_fault("stalled_error", Strikes.REQUEST, Means.MAY_HAVE_RUN)
async def _(link: Any, request: Any, __: random.Random) -> None:
    request.status = 500
    link.send(
        b'HTTP/1.1 500 X\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{"error":{"mess'
    )
    await asyncio.sleep(FOR_EVER_S)


@_fault("stall_before_content", Strikes.REQUEST, Means.MAY_HAVE_RUN)
async def _(link: Any, request: Any, rng: random.Random) -> None:
    await _begin(link, request, rng)
    await asyncio.sleep(FOR_EVER_S)


@_fault("bad_chunk", Strikes.REQUEST, Means.MAY_HAVE_RUN)
async def _(link: Any, request: Any, rng: random.Random) -> None:
    link.send(link.head_of(request))
    link.send(rng.choice((b"x\r\n", b"-1\r\n", b"5\r\nhelloworld\r\n", b"fffffffffffffffff\r\n", b"\n\n\n")))
    await asyncio.sleep(FOR_EVER_S)


@_fault("length_too_long", Strikes.REQUEST, Means.MAY_HAVE_RUN, stream=False)
async def _(link: Any, request: Any, rng: random.Random) -> None:
    body = conversation.completion(request.contents())
    link.send(link.head_of(request, len(body) + rng.choice((1, 10, 100_000))) + body)
    if rng.random() < 0.5:
        link.close()
    await asyncio.sleep(FOR_EVER_S)


@_fault("length_too_short", Strikes.REQUEST, Means.MAY_HAVE_RUN, stream=False)
async def _(link: Any, request: Any, rng: random.Random) -> bool:
    body = conversation.completion(request.contents())
    link.send(link.head_of(request, rng.randrange(1, len(body))) + body)
    return False


@_fault("cut_without_goodbye", Strikes.REQUEST, Means.MAY_HAVE_RUN, stream=False)
async def _(link: Any, request: Any, __: random.Random) -> None:
    # The end of the connection is the end of the body: only TLS can tell whether that was all.
    body = conversation.completion(request.contents())
    link.send(link.head_of(request, -1) + body[: len(body) // 2])
    link.close(goodbye=False)


# --- Harmless ---------------------------------------------------------------------------------


@_fault("sliced", Strikes.REQUEST, Means.HARMLESS)
async def _(link: Any, request: Any, rng: random.Random) -> bool:
    data = link.whole(request)
    start = 0
    while start < len(data):
        end = start + rng.choice((1, 2, 7, 50, 200))
        link.send(data[start:end])
        start = end
        if rng.random() < 0.1:
            await asyncio.sleep(0.001)
    return True


@_fault("slow", Strikes.REQUEST, Means.HARMLESS)
async def _(link: Any, request: Any, rng: random.Random) -> bool:
    data = link.whole(request)
    at = rng.randrange(len(data))
    await asyncio.sleep(rng.uniform(0.01, 0.1))
    link.send(data[:at])
    await asyncio.sleep(rng.uniform(0.01, 0.1))
    link.send(data[at:])
    return True


@_fault("closes_after", Strikes.REQUEST, Means.HARMLESS)
async def _(link: Any, request: Any, rng: random.Random) -> bool:
    link.send(link.whole(request, b"Connection: close\r\n"))
    link.close(goodbye=rng.random() < 0.5)
    return True


@_fault("closes_silently", Strikes.REQUEST, Means.HARMLESS)
async def _(link: Any, request: Any, rng: random.Random) -> bool:
    """Says nothing of it, and closes at once or a little later: the next request may meet it."""
    link.send(link.whole(request))
    link.close_when_idle(rng.uniform(0.0, 0.05), how=rng.choice(("fin", "goodbye", "reset")))
    return True


async def _close_idle(link: Any, request: Any, rng: random.Random) -> bool:
    link.send(link.whole(request))
    link.close_when_idle(rng.uniform(0.045, 0.055), how=rng.choice(("fin", "goodbye", "reset", "408")))
    return True


FAULTS["closes_idle"] = Fault("closes_idle", Strikes.REQUEST, Means.HARMLESS, _close_idle)


@_fault("late_408", Strikes.REQUEST, Means.HARMLESS)
async def _(link: Any, request: Any, rng: random.Random) -> bool:
    link.send(link.whole(request))
    link.close_when_idle(rng.uniform(0.0, 0.05), how="408")
    return True


@_fault("extra_bytes", Strikes.REQUEST, Means.HARMLESS)
async def _(link: Any, request: Any, rng: random.Random) -> bool:
    link.send(
        link.whole(request) + rng.choice((b"\r\n", b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"))
    )
    return True


@_fault("interim", Strikes.REQUEST, Means.HARMLESS)
async def _(link: Any, request: Any, rng: random.Random) -> bool:
    for _ in range(rng.randint(1, 5)):
        link.send(
            rng.choice((b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"))
        )
        await asyncio.sleep(0.001)
    link.send(link.whole(request))
    return True


HARMLESS = [name for name, fault in FAULTS.items() if fault.means is Means.HARMLESS]
#: Whatever another node can mend.
BEFORE_CONTENT = [name for name, f in FAULTS.items() if f.means in (Means.NOT_RUN, Means.MAY_HAVE_RUN)]
CALLERS = [name for name, fault in FAULTS.items() if fault.means is Means.CALLER]


# --- After the content ------------------------------------------------------------------------


async def _first_events(link: Any, request: Any, rng: random.Random) -> list[bytes]:
    """Send the beginning of a stream, at least one piece of its content; the events that are left.

    What breaks before the gateway has read that is still broken before its content, and mended; so there is
    some time to read it.
    """
    link.send(link.head_of(request))
    events: list[bytes] = request.events()
    contents = len(events) - 3  # without the role's, the finish's and the end
    count = 1 + rng.randint(1, contents - 1)
    for event in events[:count]:
        link.send_event(event)
    await asyncio.sleep(rng.uniform(0.03, 0.1))
    return events[count:]


def _break(name: str) -> Callable[[Script], Script]:
    return _fault(name, Strikes.CONTENT, Means.BROKEN, stream=True)


@_break("reset_in_stream")
async def _(link: Any, request: Any, rng: random.Random) -> None:
    await _first_events(link, request, rng)
    link.reset()


@_break("close_in_stream")
async def _(link: Any, request: Any, rng: random.Random) -> None:
    await _first_events(link, request, rng)
    link.close(goodbye=True)


@_break("truncated_stream")
async def _(link: Any, request: Any, rng: random.Random) -> None:
    await _first_events(link, request, rng)
    link.close(goodbye=False)


@_break("cut_in_event")
async def _(link: Any, request: Any, rng: random.Random) -> None:
    left = await _first_events(link, request, rng)
    link.send_event(left[0][: rng.randrange(1, len(left[0]))])
    link.close(goodbye=rng.random() < 0.5)


@_break("cut_in_chunk")
async def _(link: Any, request: Any, rng: random.Random) -> None:
    left = await _first_events(link, request, rng)
    link.send(b"%x\r\n%b" % (len(left[0]) + rng.randint(1, 50), left[0]))
    link.close(goodbye=rng.random() < 0.5)


@_break("ended_early")
async def _(link: Any, request: Any, rng: random.Random) -> bool:
    """The body ends in order, but neither a reason to finish nor ``[DONE]`` has come."""
    await _first_events(link, request, rng)
    link.send(b"0\r\n\r\n")
    return True


@_break("stalled_stream")
async def _(link: Any, request: Any, rng: random.Random) -> None:
    await _first_events(link, request, rng)
    await asyncio.sleep(FOR_EVER_S)


@_break("breathing_stream")
async def _(link: Any, request: Any, rng: random.Random) -> None:
    await _first_events(link, request, rng)
    while True:
        link.send_event(b": keep-alive\n\n")
        await asyncio.sleep(0.1)


@_break("error_event_in_stream")
async def _(link: Any, request: Any, rng: random.Random) -> bool:
    await _first_events(link, request, rng)
    link.send_event(b"data: " + _error_body("server_error") + b"\n\n")
    if rng.random() < 0.7:
        link.send_event(conversation.DONE)
    link.send(b"0\r\n\r\n")
    return True


@_break("bad_chunk_in_stream")
async def _(link: Any, request: Any, rng: random.Random) -> None:
    await _first_events(link, request, rng)
    link.send(rng.choice((b"xyz\r\n", b"\r\n\r\n", b"HTTP/1.1 500 X\r\n\r\n", b"-5\r\n")))
    await asyncio.sleep(FOR_EVER_S)


@_break("broken_tls_in_stream")
async def _(link: Any, request: Any, rng: random.Random) -> None:
    await _first_events(link, request, rng)
    link.transport.write(rng.choice((b"\x17\x03\x03\x00\x20" + rng.randbytes(32), rng.randbytes(40))))
    await asyncio.sleep(FOR_EVER_S)


AFTER_CONTENT = [name for name, fault in FAULTS.items() if fault.means is Means.BROKEN]
