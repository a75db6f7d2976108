"""From an answer and a fault to the exact bytes, pauses and endings that go out.

A `Script` is a list of steps that a connection plays without knowing why.  The undisturbed answer is one
step and one write; every fault is another arrangement of the same parts, one function each.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import orjson

from fastgw.simulator.faults import Fault, FaultKind


class Op(IntEnum):
    """What one step does, after its wait."""

    SEND = 0
    END = 1  # the answer is over; last step: the connection goes on with the next request
    CLOSE = 2  # close_notify, FIN
    DROP = 3  # FIN without close_notify
    RESET = 4  # RST
    HANG = 5  # silence until the peer leaves


class Step(NamedTuple):
    """``wait_s``, then ``op``; ``progress`` counts the content events in ``data``."""

    wait_s: float
    op: Op
    data: bytes = b""
    progress: int = 0
    times: int = 1  # of this step, each with its wait; -1: for ever


Script = list[Step]

_END = Step(0.0, Op.END)
_CLOSE = Step(0.0, Op.CLOSE)

_REASONS: Mapping[int, bytes] = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    402: b"Payment Required",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Payload Too Large",
    421: b"Misdirected Request",
    422: b"Unprocessable Entity",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}

#: Kinds that disturb the body: an answer to HEAD has none.
_OF_BODIES = frozenset(
    {
        FaultKind.RESET_INSIDE,
        FaultKind.STALL,
        FaultKind.KEEPALIVE_FLOOD,
        FaultKind.TRUNCATE_TLS,
        FaultKind.CLOSE_DELIMITED,
    }
)

JSON = (b"content-type", b"application/json")
EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
HTML = (b"content-type", b"text/html; charset=utf-8")

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

_BODILESS = (204, 304)
_PAGE = "<!doctype html><html><head><title>Just a moment</title></head><body>Checking.</body></html>"
_SERVER_ERROR = {
    "error": {"message": "The server had an error.", "type": "server_error", "param": None, "code": None}
}
_BODIES: Mapping[int, dict[str, str | None]] = {
    400: {"message": "The request is invalid.", "type": "invalid_request_error", "code": None},
    401: {"message": "The key is not valid.", "type": "invalid_request_error", "code": "invalid_api_key"},
    402: {"message": "Insufficient Balance", "type": "unknown_error", "code": "invalid_request_error"},
    403: {
        "message": "Country, region, or territory not supported",
        "type": "request_forbidden",
        "code": "unsupported_country_region_territory",
    },
    404: {
        "message": "The model does not exist.",
        "type": "invalid_request_error",
        "code": "model_not_found",
    },
    429: {"message": "Rate limit reached.", "type": "requests", "code": "rate_limit_exceeded"},
    503: {
        "message": "The server is overloaded.",
        "type": "service_unavailable_error",
        "code": "server_is_overloaded",
    },
}


def error_body(status: int) -> bytes:
    """A body in OpenAI's error shape that suits ``status``."""
    error = {"param": None, **_BODIES[status]} if status in _BODIES else _SERVER_ERROR["error"]
    return orjson.dumps({"error": error})


def _data_event(data: bytes) -> bytes:
    return b"data: %b\n\n" % data


@dataclass(slots=True)
class Answer:
    """What a provider says, before anything goes wrong with it.

    ``events`` of a stream are whole SSE events in order: ``lead`` ones without content (role,
    lifecycle), then ``progress`` ones with content, then the tail (finish, usage, done). A plain answer
    has ``events`` None and tells in ``progress`` how many tokens its making takes.
    ``headers`` hold no framing; ``error_event`` shapes an error in the middle of this kind of stream.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    events: list[bytes] | None = None
    lead: int = 0
    progress: int = 0
    error_event: Callable[[bytes], bytes] = field(default=_data_event)


@dataclass(frozen=True, slots=True)
class Framing:
    """How the connection of this request can be used."""

    keep_alive: bool = True
    may_chunk: bool = True  # False for HTTP/1.0
    is_head: bool = False
    served: int = 1  # requests on this connection, this one included


@dataclass(frozen=True, slots=True)
class Pace:
    """``first_s`` before the first content, ``token_s`` before each further token."""

    first_s: float = 0.0
    token_s: float = 0.0


NO_PACE = Pace()


def compose(answer: Answer, framing: Framing, fault: Fault | None = None, pace: Pace = NO_PACE) -> Script:
    """The script of ``answer`` under ``fault``."""
    composer = _Composer(answer, framing, pace)
    if fault is None:
        return composer.whole()
    if framing.is_head and fault.kind in _OF_BODIES:
        script = composer.whole()
    else:
        script = _FAULTS[fault.kind](composer, fault)
    if fault.delay_s:
        first = script[0]
        script[0] = first._replace(wait_s=first.wait_s + fault.delay_s)
    return script


class _Composer:
    """The parts of one answer, ready to be arranged."""

    __slots__ = ("answer", "chunks", "closes", "framing", "pace")

    def __init__(self, answer: Answer, framing: Framing, pace: Pace) -> None:
        self.answer = answer
        self.framing = framing
        self.pace = pace
        self.chunks = answer.events is not None and framing.may_chunk
        self.closes = not framing.keep_alive or (answer.events is not None and not framing.may_chunk)

    # --- Parts --------------------------------------------------------------------------------

    def head(self, length: int | None = None) -> bytes:
        """The head; ``length`` None frames by chunks, or by the end of the connection."""
        answer = self.answer
        lines = [b"HTTP/1.1 %d %b\r\n" % (answer.status, _REASONS.get(answer.status, b"Status"))]
        lines += [b"%b: %b\r\n" % header for header in answer.headers]
        if length is not None:
            lines.append(b"content-length: %d\r\n" % length)
        elif self.chunks:
            lines.append(b"transfer-encoding: chunked\r\n")
        if self.closes:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def frame(self, data: bytes) -> bytes:
        """One piece of a body, framed as the head said."""
        return b"%x\r\n%b\r\n" % (len(data), data) if self.chunks and data else data

    def last(self) -> bytes:
        """What ends the body."""
        return b"0\r\n\r\n" if self.chunks else b""

    def ending(self) -> Script:
        """A proper end."""
        return [_END, _CLOSE] if self.closes else [_END]

    def events(self) -> list[bytes]:
        """The events of a stream."""
        return self.answer.events or []

    def paced(self, events: list[bytes], begin: int = 0) -> Script:
        """``events``, which begin at position ``begin`` of the answer's, as steps."""
        if not events:
            return []
        answer, pace = self.answer, self.pace
        lead, tail = answer.lead, answer.lead + answer.progress
        frame = self.frame
        positions = range(begin, begin + len(events))
        if not pace.first_s and not pace.token_s:
            contents = sum(1 for position in positions if lead <= position < tail)
            return [Step(0.0, Op.SEND, b"".join([frame(event) for event in events]), contents)]
        steps = []
        for position, event in zip(positions, events, strict=True):
            is_content = lead <= position < tail
            wait_s = (pace.first_s if position == lead else pace.token_s) if is_content else 0.0
            steps.append(Step(wait_s, Op.SEND, frame(event), int(is_content)))
        return steps

    def thinking_s(self) -> float:
        """How long a plain answer takes to make."""
        return self.pace.first_s + self.pace.token_s * self.answer.progress

    # --- Arrangements -------------------------------------------------------------------------

    def whole(self) -> Script:
        """The answer as it should be."""
        answer = self.answer
        if answer.events is None:
            body = b"" if self.framing.is_head else answer.body
            data = self.head(None if answer.status in _BODILESS else len(answer.body)) + body
            return [Step(self.thinking_s(), Op.SEND, data, answer.progress), *self.ending()]
        return self.stream(answer.events)

    def stream(self, events: list[bytes]) -> Script:
        """A stream of ``events`` that is begun and ended in order."""
        if not self.pace.first_s and not self.pace.token_s:
            data = b"".join([self.head(), *[self.frame(event) for event in events], self.last()])
            return [Step(0.0, Op.SEND, data, self.answer.progress), *self.ending()]
        return [Step(0.0, Op.SEND, self.head()), *self.paced(events), *self.finish()]

    def finish(self) -> Script:
        """The last chunk and the proper end."""
        return [Step(0.0, Op.SEND, self.last()), *self.ending()]

    def split(self, fault: Fault, default: int = 1) -> tuple[Script, Script]:
        """What goes out before the point the fault names, and what would have followed."""
        answer = self.answer
        if answer.events is None:
            body = answer.body
            at = len(body) // 2 if fault.after_bytes is None else min(fault.after_bytes, len(body))
            before = [Step(self.thinking_s(), Op.SEND, self.head_of_plain() + self.frame(body[:at]))]
            rest = self.frame(body[at:]) + self.last()
            return before, [Step(0.0, Op.SEND, rest, answer.progress), *self.ending()]
        after = default if fault.after is None else fault.after
        at = answer.lead + min(after, answer.progress)
        before = [Step(0.0, Op.SEND, self.head()), *self.paced(answer.events[:at])]
        return before, [*self.paced(answer.events[at:], at), *self.finish()]

    def head_of_plain(self) -> bytes:
        """The head of a plain answer: by its length, unless it was decided to chunk."""
        return self.head(None if self.chunks else len(self.answer.body))

    def cut(self, how: str) -> Script:
        """The three ways a connection ends too early."""
        if how == "rst":
            return [Step(0.0, Op.RESET)]
        if how == "clean" and self.chunks:
            return self.finish()
        return [_CLOSE]

    def by_closing(self) -> None:
        """Frame the body by the end of the connection."""
        self.chunks = False
        self.closes = True


# --- One arrangement per kind ---------------------------------------------------------------------


def _hang_before_head(composer: _Composer, fault: Fault) -> Script:
    if fault.duration_s is None:
        return [Step(0.0, Op.HANG)]
    script = composer.whole()
    return [script[0]._replace(wait_s=script[0].wait_s + fault.duration_s), *script[1:]]


def _slow_head(composer: _Composer, fault: Fault) -> Script:
    whole = composer.whole()
    data = whole[0].data
    end = data.index(b"\r\n\r\n") + 4
    steps = [Step(fault.interval_s, Op.SEND, data[at : at + 1]) for at in range(end)]
    return [*steps, Step(0.0, Op.SEND, data[end:], whole[0].progress), *whole[1:]]


def _reset_before_head(composer: _Composer, fault: Fault) -> Script:
    return composer.cut(fault.manner)


def _reset_after_head(composer: _Composer, fault: Fault) -> Script:
    if composer.answer.events is not None:
        return [Step(0.0, Op.SEND, composer.head()), *composer.cut(fault.manner)]
    if fault.manner == "clean":
        composer.chunks = composer.framing.may_chunk
    return [Step(0.0, Op.SEND, composer.head_of_plain()), *composer.cut(fault.manner)]


def _reset_inside(composer: _Composer, fault: Fault) -> Script:
    if fault.manner == "clean":
        composer.chunks = composer.framing.may_chunk
    return [*composer.split(fault)[0], *composer.cut(fault.manner)]


def _stall(composer: _Composer, fault: Fault) -> Script:
    before, rest = composer.split(fault)
    if fault.duration_s is None:
        return [*before, Step(0.0, Op.HANG)]
    return [*before, rest[0]._replace(wait_s=rest[0].wait_s + fault.duration_s), *rest[1:]]


def _keepalive_flood(composer: _Composer, fault: Fault) -> Script:
    is_stream = composer.answer.events is not None
    composer.chunks = composer.framing.may_chunk
    composer.closes = composer.closes or not composer.chunks
    times = -1 if fault.duration_s is None else math.ceil(fault.duration_s / fault.interval_s)
    breath = composer.frame(KEEP_ALIVE if is_stream else b"\n")
    script = [Step(0.0, Op.SEND, composer.head())]
    if times:
        script.append(Step(fault.interval_s, Op.SEND, breath, 0, times))
    if times < 0:
        return script
    if is_stream:
        return [*script, *composer.paced(composer.events()), *composer.finish()]
    body = composer.frame(composer.answer.body)
    return [*script, Step(composer.thinking_s(), Op.SEND, body, composer.answer.progress), *composer.finish()]


def _status(composer: _Composer, fault: Fault) -> Script:
    answer = composer.answer
    body = error_body(fault.status) if fault.body is None else fault.body.encode()
    own = [(name.encode(), value.encode()) for name, value in fault.headers]
    names = {name.lower() for name, _ in own}
    kept = [header for header in answer.headers if header[0] not in names and header[0] != b"content-type"]
    if b"content-type" not in names:
        kept.append(JSON)
    if fault.status in _BODILESS:
        body = b""
    return _other(composer, Answer(fault.status, [*kept, *own], body), close=fault.early)


def _empty_200(composer: _Composer, fault: Fault) -> Script:
    if composer.answer.events is not None:
        composer.answer.status = 200
        composer.answer.progress = 0
        return composer.stream([])
    return _other(composer, Answer(200, composer.answer.headers))


def _html_200(composer: _Composer, fault: Fault) -> Script:
    headers = [header for header in composer.answer.headers if header[0] != b"content-type"]
    page = _PAGE if fault.body is None else fault.body
    return _other(composer, Answer(200, [*headers, HTML], page.encode()))


def _other(composer: _Composer, answer: Answer, *, close: bool = False) -> Script:
    """Another, plain answer instead; it takes no time to make."""
    other = _Composer(answer, composer.framing, NO_PACE)
    other.closes = other.closes or close
    return other.whole()


def _raw(composer: _Composer, fault: Fault) -> Script:
    ending = {
        "fin": [_END, _CLOSE],
        "rst": [Step(0.0, Op.RESET)],
        "hang": [Step(0.0, Op.HANG)],
        "keep": [_END],
    }
    return [Step(0.0, Op.SEND, (fault.body or "").encode("latin-1")), *ending[fault.manner]]


def _error_event(composer: _Composer, fault: Fault) -> Script:
    answer = composer.answer
    data = orjson.dumps(_SERVER_ERROR) if fault.body is None else fault.body.encode()
    if answer.events is None:
        return _other(composer, Answer(200, answer.headers, data))
    at = 0 if fault.after is None else answer.lead + min(fault.after, answer.progress)
    event = Step(0.0, Op.SEND, composer.frame(answer.error_event(data)))
    script = [Step(0.0, Op.SEND, composer.head()), *composer.paced(answer.events[:at]), event]
    if not fault.done:
        return [*script, _CLOSE]
    if answer.events[-1] == DONE:
        script.append(Step(0.0, Op.SEND, composer.frame(DONE)))
    return [*script, *composer.finish()]


def _malformed_event(composer: _Composer, fault: Fault) -> Script:
    answer = composer.answer
    if answer.events is None:
        body = answer.body[:-1] if fault.body is None else fault.body.encode()
        return _other(composer, Answer(answer.status, answer.headers, body))
    data = b'{"id": "chatcmpl-broken", "choi' if fault.body is None else fault.body.encode()
    before, rest = composer.split(fault)
    return [*before, Step(0.0, Op.SEND, composer.frame(_data_event(data))), *rest]


def _missing_done(composer: _Composer, fault: Fault) -> Script:
    if composer.answer.events is None:
        return composer.whole()
    return composer.stream([event for event in composer.answer.events if event != DONE])


def _truncate_tls(composer: _Composer, fault: Fault) -> Script:
    composer.by_closing()
    if composer.answer.events is not None:
        return [*composer.split(fault)[0], Step(0.0, Op.DROP)]
    body = composer.answer.body
    at = len(body) // 2 if fault.after_bytes is None else fault.after_bytes
    return [
        Step(composer.thinking_s(), Op.SEND, composer.head() + body[:at]),
        Step(0.0, Op.DROP),
    ]


def _close_delimited(composer: _Composer, fault: Fault) -> Script:
    composer.by_closing()
    answer = composer.answer
    if answer.events is not None:
        return composer.stream(answer.events)
    data = composer.head() + answer.body
    return [Step(composer.thinking_s(), Op.SEND, data, answer.progress), *composer.ending()]


def _close_after(composer: _Composer, fault: Fault) -> Script:
    if composer.framing.served < (fault.after or 1) or composer.closes:
        return composer.whole()
    if fault.announce:
        composer.closes = True
        return composer.whole()
    return [*composer.whole(), _CLOSE]


_FAULTS: Mapping[FaultKind, Callable[[_Composer, Fault], Script]] = {
    FaultKind.HANG_BEFORE_HEAD: _hang_before_head,
    FaultKind.SLOW_HEAD: _slow_head,
    FaultKind.RESET_BEFORE_HEAD: _reset_before_head,
    FaultKind.STATUS: _status,
    FaultKind.EMPTY_200: _empty_200,
    FaultKind.HTML_200: _html_200,
    FaultKind.RAW: _raw,
    FaultKind.RESET_AFTER_HEAD: _reset_after_head,
    FaultKind.RESET_INSIDE: _reset_inside,
    FaultKind.STALL: _stall,
    FaultKind.KEEPALIVE_FLOOD: _keepalive_flood,
    FaultKind.ERROR_EVENT: _error_event,
    FaultKind.MALFORMED_EVENT: _malformed_event,
    FaultKind.MISSING_DONE: _missing_done,
    FaultKind.TRUNCATE_TLS: _truncate_tls,
    FaultKind.CLOSE_DELIMITED: _close_delimited,
    FaultKind.CLOSE_AFTER: _close_after,
}
