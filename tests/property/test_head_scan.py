"""Whatever bytes come, in whatever pieces: one verdict, and what is sent on is what was understood."""

from __future__ import annotations

import asyncio

import h11
import pytest
from fake_transport import FakeTransport
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw.errors import BadResponse, ProtocolError
from fastgw.wire.client_connection import ClientConnection, Listener
from fastgw.wire.events import ExchangeEvents
from fastgw.wire.framing import BodyFramer
from fastgw.wire.head import (
    CHUNKED_BODY,
    NO_BODY,
    Limits,
    RequestHead,
    RequestTemplate,
    ResponseTemplate,
    scan_request,
    scan_response,
)

LIMITS = Limits(256, 1024, 12)
HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"content-length",
    b"expect",
}

# --- Streams of bytes that look like HTTP -----------------------------------------------------

METHODS = st.sampled_from([b"GET", b"POST", b"HEAD", b"PUT", b"get", b"FOO", b"CONNECT", b"G@T", b""])
TARGETS = st.sampled_from(
    [b"/", b"/a/b", b"/a?b=c&d", b"/a%20b", b"/..", b"//", b"/a#b", b"*", b"http://gw/", b"/" + b"a" * 300]
) | st.binary(max_size=6).map(lambda tail: b"/" + tail)
VERSIONS = st.sampled_from([b"HTTP/1.1"] * 5 + [b"HTTP/1.0", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 "])
NAMES = st.sampled_from(
    [
        b"Content-Length",
        b"content-length",
        b"Transfer-Encoding",
        b"Connection",
        b"Host",
        b"Expect",
        b"X-A",
        b"Upgrade",
        b"TE",
        b"X_B",
        b"Content-Length ",
        b" X",
        b"",
    ]
)
VALUES = st.sampled_from(
    [
        b"0",
        b"5",
        b"05",
        b"+5",
        b"5, 5",
        b"chunked",
        b"Chunked",
        b"gzip, chunked",
        b"close",
        b"keep-alive, x-a",
        b"gw",
    ]
    + [b"gw:80", b"h2c", b"100-continue", b"", b"a b", b"a\tb", b"\xff", b"a\x00", b"a\rb", b"a\nb", b" x "]
)
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b"\r\n "])
COLONS = st.sampled_from([b": "] * 8 + [b":", b":\t ", b" : "])


@st.composite
def fields(draw: st.DrawFn) -> bytes:
    return b"".join(
        draw(NAMES) + draw(COLONS) + draw(VALUES) + draw(ENDS) for _ in range(draw(st.integers(0, 4)))
    )


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    host = draw(st.sampled_from([b"Host: gw\r\n"] * 8 + [b"", b"Host: a b\r\n"]))
    line = draw(METHODS) + b" " + draw(TARGETS) + b" " + draw(VERSIONS) + draw(ENDS)
    return line + host + draw(fields()) + draw(ENDS)


CHUNK_LINES = st.sampled_from(
    [b"5\r\nhello\r\n", b"1\r\nx\r\n", b"A;a=b\r\n0123456789\r\n", b"0\r\n", b"0\r\n\r\n"]
)
BODIES = st.lists(
    CHUNK_LINES | st.sampled_from([b"hello", b"\r\n", b"A: b\r\n", b"5 \r\n", b"-1\r\n", b"\n"]), max_size=5
).map(b"".join)
STREAMS = st.lists(heads() | BODIES | st.binary(max_size=8), max_size=5).map(b"".join)


@st.composite
def valid_heads(draw: st.DrawFn) -> bytes:
    """Heads that are accepted, mostly."""
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"PROPFIND"]))
    target = draw(st.sampled_from([b"/", b"/v1/chat/completions", b"/a?b=c&d=%20", b"/a;b/...", b"/%C3%A4"]))
    some = draw(
        st.lists(
            st.sampled_from(
                [
                    b"Accept:*/*",
                    b"X-A: 1",
                    b"x-a:\t2 ",
                    b"X-Empty:",
                    b"Connection: keep-alive",
                    b"Connection: x-a",
                    b"Connection: close",
                    b"TE: trailers",
                    b"X-Long: " + b"v" * 120,
                    b"X-Utf: \xc3\xa4",
                    b"Expect: 100-continue",
                ]
            ),
            max_size=5,
        )
    )
    framing = draw(
        st.sampled_from([b"", b"Content-Length: 0", b"Content-Length: 5", b"Transfer-Encoding: chunked"])
    )
    lines = [b"Host: gw:80", *some, *([framing] if framing else [])]
    return (
        method
        + b" "
        + target
        + b" HTTP/1.1\r\n"
        + b"".join(line + b"\r\n" for line in draw(st.permutations(lines)))
        + b"\r\n"
    )


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """``data`` in pieces."""
    marks = sorted(draw(st.sets(st.integers(1, max(1, len(data) - 1)), max_size=6)))
    return [data[a:b] for a, b in zip([0, *marks], [*marks, len(data)], strict=True) if a < b]


# --- A whole client connection ----------------------------------------------------------------


class Taken(ExchangeEvents):
    """Reads a request to its end, and answers."""

    def __init__(self, log: list[object], connection: ClientConnection, head: RequestHead) -> None:
        self.log = log
        self.connection = connection
        self.body = b""
        log.append((head.method, head.target, tuple(head.items())))

    def on_request_read(self, data: bytes, start: int, end: int, complete: bool) -> None:
        self.body += self.connection.framer.decoded(data)
        if complete:
            self.log.append(("body", self.body))
            self.connection.finish(self.connection.keeps_alive(), self.connection.read_at)

    def on_client_gone(self) -> None:
        self.log.append("gone")


class Loop:
    """Calls what should be called soon, when it is asked to."""

    def __init__(self) -> None:
        self.waiting: list[object] = []

    def call_soon(self, callback: object) -> None:
        self.waiting.append(callback)

    def run(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()  # type: ignore[operator]


def verdict(pieces: list[bytes]) -> list[object]:
    """What a client connection makes of a stream: the requests it serves, what it refuses or misses.

    Whether a request whose body is malformed begins before that is seen is up to the pieces.
    """
    log = log_of(pieces)
    if len(log) > 2 and log[-2] == "gone" and isinstance(log[-1], tuple) and log[-1][0] == "refused":
        del log[-3:-1]
    return log


def log_of(pieces: list[bytes]) -> list[object]:
    """All that a client connection does with a stream."""
    log: list[object] = []

    def refuse(connection: ClientConnection, error: Exception) -> None:
        assert isinstance(error, ProtocolError) and 400 <= error.status < 600
        log.append(("refused", error.status))
        connection.finish(False, connection.read_at)

    loop = Loop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "get_running_loop", lambda: loop)
        listener = Listener(lambda connection, head: Taken(log, connection, head), refuse, limits=LIMITS)
        connection = listener.make_connection()
        connection.connection_made(FakeTransport())
        for piece in pieces:
            connection.data_received(piece)
            loop.run()
        connection.connection_lost(None)
    return log


@given(st.data(), STREAMS | st.lists(valid_heads(), max_size=3).map(b"".join))
@example(None, b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: gw\r\n\r\n")
@example(None, b"IND / HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\nno chunk")
def test_a_request_stream_means_the_same_in_any_pieces(data: st.DataObject | None, stream: bytes) -> None:
    pieces = data.draw(cuts(stream)) if data is not None else [stream[:1], stream[1:]]
    whole = verdict([stream] if stream else [])
    assert verdict(pieces) == whole
    assert verdict([stream[at : at + 1] for at in range(len(stream))]) == whole


# --- Against h11 ------------------------------------------------------------------------------


@given(heads() | valid_heads() | STREAMS)
def test_h11_reads_what_we_send_on_as_what_we_read(data: bytes) -> None:
    try:
        head = scan_request(data, 0, LIMITS)
    except ProtocolError:
        return
    if head is None:
        return
    length = CHUNKED_BODY if head.is_chunked else head.content_length if head.content_length >= 0 else NO_BODY
    out = RequestTemplate(None if head.host is not None else b"gw").render(
        head, head.method, head.target, length
    )
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(out)
    event = theirs.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (head.method, head.target)
    named = {
        token.strip().lower()
        for name, value in head.items()
        if name == b"connection"
        for token in value.split(b",")
    }
    dropped = HOP_BY_HOP | (named - {b"host"})
    sent = [(name, value) for name, value in head.items() if name not in dropped and name != b"host"]
    framing = {b"content-length": b"%d" % length} if length >= 0 else {}
    if length == CHUNKED_BODY:
        framing = {b"transfer-encoding": b"chunked"}
    got = list(event.headers)
    assert got == [(b"host", head.host or b"gw"), *sent, *framing.items()]
    assert theirs.trailing_data == (b"", False)


@given(valid_heads())
def test_valid_heads_are_accepted_by_both(data: bytes) -> None:
    head = scan_request(data, 0, LIMITS)
    assert head is not None and head.end == len(data)
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(data)
    event = theirs.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target, list(event.headers)) == (head.method, head.target, head.items())


# --- Answers ----------------------------------------------------------------------------------

STATUS_LINES = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.1 204", b"HTTP/1.0 404 Not Found", b"HTTP/1.1 200\rOK", b"HTTP/1.1 99 x"]
    + [b"HTTP/1.1 200 " + b"r" * 300, b"HTTP/2 200", b"ICY 200 OK", b"HTTP/1.1 503 \xe4", b"HTTP/1.1 2 00"]
)


@st.composite
def response_heads(draw: st.DrawFn) -> bytes:
    return draw(STATUS_LINES) + draw(ENDS) + draw(fields()) + draw(ENDS)


@given(st.data(), response_heads() | STREAMS)
def test_a_response_head_means_the_same_in_any_pieces(data: st.DataObject, stream: bytes) -> None:
    def scan(size: int) -> object:
        try:
            head = scan_response(stream[:size], 0, LIMITS)
        except BadResponse:
            return "refused"
        return None if head is None else (head.status, head.items(), head.end)

    verdicts = [scan(size) for size in range(len(stream) + 1)]
    settled = [seen for seen in verdicts if seen is not None]
    # Once there is a verdict it stays; refusing early or late is the same refusal.
    assert not settled or all(seen == settled[0] for seen in settled)


@given(response_heads())
def test_h11_reads_the_answer_we_pass_on_as_the_one_we_read(data: bytes) -> None:
    try:
        head = scan_response(data, 0, LIMITS)
    except BadResponse:
        return
    if head is None or head.status < 200 or head.status in (204, 304):
        return
    out = ResponseTemplate().render(head, 3, True, 1, b"x-ours: 1\r\n")
    theirs = h11.Connection(h11.CLIENT)
    theirs.send(h11.Request(method="GET", target="/", headers=[("host", "gw")]))
    theirs.receive_data(out + b"abc")
    event = theirs.next_event()
    assert isinstance(event, h11.Response)
    assert event.status_code == head.status
    assert list(event.headers)[-2:] == [(b"x-ours", b"1"), (b"content-length", b"3")]
    assert theirs.next_event() == h11.Data(data=b"abc", chunk_start=False, chunk_end=False)
    assert isinstance(theirs.next_event(), h11.EndOfMessage)


# --- Bodies -----------------------------------------------------------------------------------


@given(st.data(), BODIES | st.binary(max_size=40), st.sampled_from([CHUNKED_BODY, 0, 3, 12]))
def test_a_body_ends_at_the_same_byte_in_any_pieces(data: st.DataObject, stream: bytes, framing: int) -> None:
    def run(pieces: list[bytes]) -> object:
        framer = BodyFramer()
        framer.expect(framing)
        content = b""
        taken = 0
        for piece in pieces:
            try:
                end = framer.feed(piece, 0)
            except ValueError:
                return "refused"
            content += framer.decoded(piece)
            taken += end
            if end < len(piece):
                break
        return content, taken, framer.complete

    whole = run([stream])
    assert run(data.draw(cuts(stream))) == whole
    assert run([stream[at : at + 1] for at in range(len(stream))]) == whole
    if framing == CHUNKED_BODY and isinstance(whole, tuple) and whole[2]:
        theirs = h11.Connection(h11.SERVER)
        theirs.receive_data(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + stream)
        assert isinstance(theirs.next_event(), h11.Request)
        body = b""
        while isinstance(event := theirs.next_event(), h11.Data):
            body += bytes(event.data)
        assert isinstance(event, h11.EndOfMessage)
        assert (body, theirs.trailing_data[0]) == (whole[0], stream[whole[1] :])
