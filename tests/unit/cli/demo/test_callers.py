"""The demo's callers: they must see every wrong answer, or the demo proves nothing."""

import asyncio
import json

import pytest

from fastgw.cli.demo.callers import TOKENS, Answer, Caller, Tally, plain_text, read_answer, streamed_text
from fastgw.simulator.conversation import say

QUESTION = "caller 1, question 1"


def expected(length: int) -> str:
    return "".join(say([{"role": "user", "content": QUESTION}], length=length))


def read(data: bytes) -> Answer:
    async def main() -> Answer:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await read_answer(reader)

    return asyncio.run(main())


def judged(answer: Answer, *, is_streaming: bool) -> Tally:
    async def main() -> Tally:
        caller = Caller(1, ("", 0), Tally(), asyncio.Event(), is_streaming=is_streaming)
        caller._judge(QUESTION, answer, 0.5)
        return caller.tally

    return asyncio.run(main())


def completion(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def stream(*deltas: str, end: str = "data: [DONE]\n\n") -> bytes:
    chunks = [{"choices": [{"delta": {"content": delta}}]} for delta in deltas]
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode() + end.encode()


def test_answers_of_both_framings_are_read_whole() -> None:
    assert read(b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 3\r\n\r\nabc") == Answer(
        200, {"a": "b", "content-length": "3"}, b"abc"
    )
    chunked = (
        b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n1\r\nd\r\n0\r\nT: v\r\n\r\n"
    )
    assert read(chunked).body == b"abcd"
    assert read(chunked).status == 503


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
    ],
)
def test_a_cut_answer_is_an_error(data: bytes) -> None:
    with pytest.raises(EOFError):
        read(data)


def test_the_text_of_both_kinds_is_found() -> None:
    assert plain_text(completion("hello")) == "hello"
    assert streamed_text(stream("hel", "lo")) == "hello"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        stream("hello", end=""),
        stream("a", end='data: {"error": {}}\n\ndata: [DONE]\n\n'),
        b"data: {\n\n",
    ],
)
def test_a_stream_without_a_proper_end_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError):
        streamed_text(body)


def test_the_right_answer_counts_for_the_node_that_gave_it() -> None:
    headers = {"x-fastgw-upstream": "b", "x-fastgw-attempts": "2"}
    tally = judged(Answer(200, headers, completion(expected(0))), is_streaming=False)
    assert (tally.answers, tally.moved, tally.wrong, tally.error_count) == (1, 1, 0, 0)
    assert tally.nodes == {"b": 1}
    assert tally.slowest_s == 0.5
    tally = judged(Answer(200, {}, stream(expected(TOKENS))), is_streaming=True)
    assert (tally.streams, tally.error_count) == (1, 0)


@pytest.mark.parametrize(
    ("status", "body", "is_wrong"),
    [
        (200, completion("You said: something else"), True),
        (200, completion(expected(0) + expected(0)), True),
        (200, completion(expected(0)[:-1]), True),
        (200, b'{"error": {}}', False),
        (200, b"<html>", False),
        (500, completion(expected(0)), False),
    ],
)
def test_any_other_answer_is_seen(status: int, body: bytes, is_wrong: bool) -> None:
    tally = judged(Answer(status, {}, body), is_streaming=False)
    assert tally.error_count == 1
    assert tally.wrong == is_wrong
    assert tally.errors[0].startswith(QUESTION)


def test_figures_add_up_and_errors_kept_are_bounded() -> None:
    total = Tally()
    for _ in range(3):
        part = Tally(answers=10, streams=5, moved=1, wrong=2, slowest_s=0.3)
        part.nodes["a"] = 9
        for number in range(15):
            part.add_error(str(number))
        total.add(part)
    assert (total.answers, total.streams, total.moved, total.wrong) == (30, 15, 3, 6)
    assert total.nodes == {"a": 27}
    assert total.error_count == 45
    assert len(total.errors) == 20
