"""A stream in any chunks and any reads is passed on byte by byte; cut anywhere, it ends honestly."""

from __future__ import annotations

import orjson
import pytest
from exchange_bench import (
    DONE,
    END,
    ERROR,
    FINISH,
    KEEP_ALIVE,
    ROLE,
    STREAM_BODY,
    Bench,
    FakeNode,
    chunk,
    content,
    dechunked,
)
from hypothesis import given
from hypothesis import strategies as st

from fastgw.proxy import relay as relay_module

EVENTS = st.sampled_from(
    [
        ROLE,
        KEEP_ALIVE,
        b"\n",
        b": one\r\n",
        content("a"),
        content("ä€𝄞"),
        content("data: [DONE]\n\n"),
        content("x" * 300),
        b'id: 7\nevent: message\ndata:{"choices":[{"delta":{"content":"b"}}]}\n\n',
        b'data: {"choices":[{"delta":\r\ndata: {"content":"c"}}]}\r\n\r\n',
        b'data: {"choices":[{"delta":{"content":"d"}}]}\r\r',
        b': before\ndata: {"choices":[{"delta":{"content":"e"}}]}\n: inside\n\n',
        b'data: {"type":"response.output_text.delta","delta":"f"}\n\n',
        b'data: {"choices":[],"usage":{"total_tokens":3}}\n\n',
        b"event: ping\n\n",
    ]
)
STREAMS = st.lists(EVENTS, max_size=8)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


@st.composite
def pieces(draw: st.DrawFn, data: bytes, most: int = 12) -> list[bytes]:
    """``data`` cut anywhere, or into single bytes."""
    if not data or draw(st.integers(0, 15)) == 0:
        return [data[at : at + 1] for at in range(len(data))]
    marks = sorted(draw(st.sets(st.integers(1, max(1, len(data) - 1)), max_size=most)))
    return [data[a:b] for a, b in zip([0, *marks], [*marks, len(data)], strict=True) if a < b]


@st.composite
def chunked(draw: st.DrawFn, stream: bytes) -> bytes:
    """The stream in chunks of any size, without the last one."""
    out = b""
    for piece in draw(pieces(stream, 6)):
        extension = draw(st.sampled_from([b""] * 6 + [b";a=b"]))
        size = draw(st.sampled_from([b"%x", b"%X", b"%04x"])) % len(piece)
        out += size + extension + b"\r\n" + piece + b"\r\n"
    return out


class Play:
    """One stream between a node and a client; after every read the client stands between two chunks."""

    def __init__(self, patch: pytest.MonkeyPatch, version: str = "1.1") -> None:
        self.bench = Bench(patch)
        self.version = version
        self.bench.ask(STREAM_BODY, version=version)
        self.node: FakeNode = self.bench.connect()

    def say(self, reads: list[bytes]) -> None:
        for read in reads:
            self.node.say(read)
            self.got()

    def got(self) -> tuple[bytes, bool]:
        """The content that the client has, and whether it was told that this is all."""
        sent = self.bench.transport.sent
        if not sent:
            return b"", False
        head, _, body = sent.partition(b"\r\n\r\n")
        if self.version == "1.0":
            assert b"transfer-encoding" not in head
            return body, self.bench.transport.calls == ["close"]
        assert b"transfer-encoding: chunked" in head
        return dechunked(body)


def error_event_of(event: bytes) -> str:
    assert event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n") == 2
    code: str = orjson.loads(event[6:])["error"]["code"]
    return code


# --- Whole streams ----------------------------------------------------------------------------


@given(st.data(), STREAMS, st.sampled_from(["chunked", "length", "close"]), st.sampled_from(["1.1", "1.0"]))
def test_a_whole_stream_is_passed_on_to_the_byte(
    data: st.DataObject, events: list[bytes], framing: str, version: str
) -> None:
    before = data.draw(STREAMS)
    stream = b"".join([*before, content("!"), *events, FINISH, DONE])
    if framing == "chunked":
        answer = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + data.draw(chunked(stream)) + END
    elif framing == "length":
        answer = HEAD + b"Content-Length: %d\r\n\r\n" % len(stream) + stream
    else:
        answer = HEAD + b"\r\n" + stream
    with pytest.MonkeyPatch.context() as patch:
        play = Play(patch, version)
        play.say(data.draw(pieces(answer)))
        if framing == "close":
            play.node.close()
        passed, is_whole = play.got()
        assert is_whole
        # What only breathes before the first content may be absorbed, and nothing else.
        rest = b"".join([content("!"), *events, FINISH, DONE])
        assert passed == stream or (passed.endswith(rest) and spoken(passed) == spoken(stream))
        assert play.bench.finished[0].records[-1][1] == "succeeded"
        play.bench.check_end()


@given(st.data(), STREAMS)
def test_events_that_are_longer_than_what_is_kept_are_passed_on_too(
    data: st.DataObject, events: list[bytes]
) -> None:
    stream = b"".join([content("!"), *events, FINISH, DONE])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay_module, "TAIL_BYTES", 20)
        play = Play(patch)
        play.say([HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(content("!"))])
        wire = data.draw(chunked(stream[len(content("!")) :])) + END
        play.say(data.draw(pieces(wire)))
        assert play.got() == (stream, True)
        play.bench.check_end()


def spoken(stream: bytes) -> list[bytes]:
    """The lines of a stream that are no comments."""
    return [line for line in lines_of(stream) if line and not line.startswith(b":")]


# --- Cut streams ------------------------------------------------------------------------------


@given(st.data(), STREAMS, st.sampled_from(["reset", "close", "clean end"]), st.sampled_from(["1.1", "1.0"]))
def test_a_stream_cut_anywhere_ends_in_whole_events_and_an_error(
    data: st.DataObject, events: list[bytes], how: str, version: str
) -> None:
    events = [content("!"), *events, content("?")]
    stream = b"".join(events)
    # A clean end is a lie of the node: its coding is whole, and its answer is not.
    kept = stream[: data.draw(st.integers(0, len(stream)))] if how == "clean end" else stream
    wire = data.draw(chunked(kept))
    wire = wire + END if how == "clean end" else wire[: data.draw(st.integers(0, len(wire)))]
    with pytest.MonkeyPatch.context() as patch:
        play = Play(patch, version)
        play.say(data.draw(pieces(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + wire)))
        if how != "clean end":
            getattr(play.node, how)()
        got, is_whole = play.got()
        if not got:
            assert play.bench.pools[1].tickets  # nothing was seen of it: the next node answers
            return
        assert not is_whole or version == "1.0"
        assert play.bench.transport.calls == ["close"]
        got, mark, code = got.rpartition(b'data: {"error"')
        assert error_event_of(mark + code) == "stream_interrupted"
        if how == "clean end" and got.endswith(b"\n\n") and not stream.startswith(got):
            got = got.removesuffix(b"\n\n")  # behind a comment that was not ended
            assert stream.startswith(got)
        else:
            assert got in whole_events(events)
        play.bench.check_end()


def whole_events(events: list[bytes]) -> set[bytes]:
    """Every beginning of a stream that ends between two events (or two comments, or inside a CR LF)."""
    beginnings = {b"".join(events[:number]) for number in range(len(events) + 1)}
    for whole in list(beginnings):
        if whole.endswith(b"\r\n"):
            beginnings.add(whole[:-1])
    before = b"".join(events)
    for comment in (b": before\n", b": keep-alive\n"):
        at = before.find(comment)
        while at >= 0:
            beginnings.add(before[: at + len(comment)])
            at = before.find(comment, at + 1)
    return beginnings


@given(st.data(), STREAMS)
def test_half_of_a_long_event_is_closed_before_the_error(data: st.DataObject, events: list[bytes]) -> None:
    stream = b"".join([*events, content("x" * 500)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay_module, "TAIL_BYTES", 20)
        play = Play(patch)
        play.say([HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(content("!"))])
        wire = data.draw(chunked(stream))
        play.say(data.draw(pieces(wire[: data.draw(st.integers(0, len(wire)))])))
        play.node.reset()
        got, is_whole = play.got()
        assert not is_whole
        got, mark, code = got.rpartition(b'data: {"error"')
        assert error_event_of(mark + code) == "stream_interrupted"
        passed = got.removeprefix(content("!"))
        assert stream.startswith((passed, passed.removesuffix(b"\n\n")))
        assert got.endswith((b"\n", b"\r"))


# --- Streams with faults in them --------------------------------------------------------------

BAD = st.sampled_from([b"data: {bad\n\n", b"data: {bad\n: with a comment\n\n", b'data: {"a":\r\n\r\n'])


@given(st.data(), STREAMS, st.lists(BAD, min_size=1, max_size=3))
def test_a_few_malformed_events_are_dropped_and_nothing_else(
    data: st.DataObject, events: list[bytes], bad: list[bytes]
) -> None:
    events = [
        event for event in events if not event.startswith(b"\n")
    ]  # which could end a dropped event's CR
    mixed: list[tuple[bytes, bool]] = [(event, True) for event in events]
    for event in bad:
        mixed.insert(data.draw(st.integers(0, len(mixed))), (event, False))
    stream = b"".join([event for event, _ in mixed])
    good = b"".join([content("!"), *(event for event, is_good in mixed if is_good), FINISH, DONE])
    with pytest.MonkeyPatch.context() as patch:
        play = Play(patch)
        play.say([HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(content("!"))])
        play.say(data.draw(pieces(data.draw(chunked(stream + FINISH + DONE)) + END)))
        got, is_whole = play.got()
        assert is_whole
        # Of a dropped event at most the second half of its last CR LF is left: an empty line more.
        assert lines_of(got) == lines_of(good)
        assert play.bench.exchanges.malformed_events == len(bad)
        play.bench.check_end()


def lines_of(stream: bytes) -> list[bytes]:
    """The lines of a stream, without the empty ones that end nothing."""
    lines = stream.splitlines()
    return [line for line, before in zip(lines, [b"", *lines], strict=False) if line or before[:1] > b":"]


@given(st.data(), STREAMS, STREAMS)
def test_nothing_follows_an_error_event(data: st.DataObject, before: list[bytes], after: list[bytes]) -> None:
    stream = b"".join([*before, ERROR, *after, DONE])
    with pytest.MonkeyPatch.context() as patch:
        play = Play(patch)
        play.say([HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(content("!"))])
        play.say(data.draw(pieces(data.draw(chunked(stream)) + END)))
        got, is_whole = play.got()
        assert not is_whole
        assert got == b"".join([content("!"), *before, ERROR])
        assert play.bench.finished[0].note == "stream_error"
        play.bench.check_end()
