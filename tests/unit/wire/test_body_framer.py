"""Where a body ends, and where its content lies."""

from __future__ import annotations

import pytest

from fastgw.wire.framing import BodyFramer
from fastgw.wire.head import CHUNKED_BODY, NO_BODY, UNTIL_CLOSE


def framer(body_bytes: int) -> BodyFramer:
    made = BodyFramer()
    made.expect(body_bytes)
    return made


def test_a_body_of_known_size_ends_there() -> None:
    body = framer(5)
    assert body.feed(b"xxabc", 2) == 5 and not body.complete
    assert body.decoded(b"xxabc") == b"abc"
    assert body.feed(b"denext", 0) == 2 and body.complete
    assert body.decoded(b"denext") == b"de"
    assert body.feed(b"more", 1) == 1 and body.count == 0


@pytest.mark.parametrize("body_bytes", [0, NO_BODY])
def test_no_body_is_complete_at_once(body_bytes: int) -> None:
    body = framer(body_bytes)
    assert body.complete
    assert body.feed(b"next", 0) == 0
    assert body.decoded(b"next") == b""


def test_a_body_until_close_takes_everything() -> None:
    body = framer(UNTIL_CLOSE)
    assert body.feed(b"abc", 1) == 3 and not body.complete
    assert body.decoded(b"abc") == b"bc"
    assert body.feed(b"", 0) == 0 and body.count == 0
    body.complete_at_eof()
    assert body.complete and body.count == 0


def feed_bytewise(body: BodyFramer, data: bytes) -> None:
    for at in range(len(data)):
        body.feed(data[at : at + 1], 0)


CHUNKED = b"5\r\nhello\r\nA;x=y\r\n, 23456789\r\n0\r\nX-Trailer: a\r\nB: c\r\n\r\n"


def test_chunks_are_taken_apart() -> None:
    body = framer(CHUNKED_BODY)
    assert body.is_chunked
    assert body.feed(CHUNKED + b"next", 0) == len(CHUNKED)
    assert body.complete
    assert body.decoded(CHUNKED + b"next") == b"hello, 23456789"
    assert (body.span_start(0), body.span_end(0)) == (3, 8)
    for index in (-1, 2):
        with pytest.raises(IndexError):
            body.span_start(index)
        with pytest.raises(IndexError):
            body.span_end(index)


def test_chunks_cut_anywhere_give_the_same() -> None:
    for first in range(1, len(CHUNKED)):
        body = framer(CHUNKED_BODY)
        content = b""
        for piece in (CHUNKED[:first], CHUNKED[first:]):
            assert body.feed(piece, 0) == len(piece)
            content += body.decoded(piece)
        assert body.complete and content == b"hello, 23456789"


@pytest.mark.parametrize(
    ("pieces", "verbatim"),
    [
        ([b"3\r\nabc\r\n"], [True]),
        ([b"3\r\nabc\r\n2\r\nde\r\n"], [True]),
        ([b"3\r\nabc\r\n", b"2\r\nde\r\n"], [True, True]),
        ([b"3\r\nabc", b"\r\n2\r\nde\r\n", b"1\r\nf\r\n"], [False, False, True]),
        ([b"3\r\nabc\r\n2", b"\r\nde\r\n"], [False, False]),
        ([b"3;a\r\nabc\r\n", b"1\r\nf\r\n"], [False, True]),
        ([b"3\r\nabc\r\n0\r\n", b"A: b\r\n\r\n"], [False, False]),
    ],
)
def test_only_whole_plain_chunks_may_be_passed_on_as_they_are(
    pieces: list[bytes], verbatim: list[bool]
) -> None:
    body = framer(CHUNKED_BODY)
    seen = []
    for piece in pieces:
        body.feed(piece, 0)
        seen.append(body.is_verbatim)
    assert seen == verbatim


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"g\r\n",
        b"-1\r\n",
        b" 1\r\n",
        b"0x1\r\n",
        b"1\nabc",
        b"1\r\r",
        b"1\rX",
        b"1\r\nab",
        b"1\r\na\n",
        b"1\r\na\rX",
        b"f" * 16 + b"\r\n",
        b"0" * 16,
        b"1;a\nb\r\n",
        b"1;a\x00\r\n",
        b"0\r\n\n",
        b"0\r\n: a\r\n",
        b"0\r\nA\r\n\r\n",
        b"0\r\nA b: c\r\n\r\n",
        b"0\r\n a\r\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\nA: b\rX",
        b"0\r\n\rX",
        b"0\r\nA\x01: b",
        b"1;" + b"x" * 17_000,
        b"0\r\n" + b"A: b\r\n" * 5000,
    ],
)
def test_a_broken_coding_is_refused_however_it_comes(data: bytes) -> None:
    with pytest.raises(ValueError):
        framer(CHUNKED_BODY).feed(data, 0)
    with pytest.raises(ValueError):
        feed_bytewise(framer(CHUNKED_BODY), data)


def test_a_framer_is_used_again() -> None:
    body = framer(CHUNKED_BODY)
    body.feed(b"5\r\nhel", 0)
    body.expect(2)
    assert body.feed(b"ab", 0) == 2 and body.complete and not body.is_chunked
    body.expect(CHUNKED_BODY)
    assert body.feed(b"1\r\nx\r\n0\r\n\r\n", 0) == 11 and body.complete


def test_thousands_of_chunks_in_one_read() -> None:
    body = framer(CHUNKED_BODY)
    data = b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n"
    assert body.feed(data, 0) == len(data)
    assert body.count == 5000 and body.decoded(data) == b"x" * 5000
    body.expect(CHUNKED_BODY)
    assert body.feed(data, 0) == len(data) and body.decoded(data) == b"x" * 5000


def test_wrong_use_is_an_error_and_no_crash() -> None:
    body = framer(CHUNKED_BODY)
    for start in (-1, 4):
        with pytest.raises(ValueError):
            body.feed(b"abc", start)
    with pytest.raises(TypeError):
        body.feed(None, 0)  # type: ignore[arg-type]
    data = b"1\r\na\r\n1\r\nb\r\n"
    body.feed(data, 0)
    with pytest.raises(ValueError):
        body.decoded(data[:8])
